"""Recovery: what comes back when a model is trained further, and what its features still hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from governance.errors import DataError
from governance.forgetting_metrics.estimates import Estimate, require_finite, too_few_models
from governance.forgetting_metrics.intervals import bootstrap_models

ALPHA = 0.1


@dataclass(frozen=True, slots=True)
class Relearning:
    """When a model has relearned.

    Attributes:
        steps: First step at the level; the number of steps taken where it was not reached.
        is_censored: Whether it was not reached.
    """

    steps: int
    is_censored: bool


def relearn_level(original_loss: float, retrained_loss: float, *, alpha: float = ALPHA) -> float:
    """Return the loss that counts as relearned, in nats.

    It is ``alpha`` of the way from the original's loss on the forget records up to the retrained
    model's: the same level for every model. (The source takes alpha of the original's accuracy,
    which cannot be told apart from a retrained model's where both are near 1.)

    Raises:
        DataError: The retrained loss is not above the original's: nothing to relearn.
    """
    if not retrained_loss > original_loss:
        message = (
            "relearning: expected a retrained loss above the original's on the forget records, got "
            f"{retrained_loss:.4f} and {original_loss:.4f}; there is nothing to relearn"
        )
        raise DataError(message)
    return original_loss + alpha * (retrained_loss - original_loss)


def relearn_steps(losses: Sequence[float] | np.ndarray, level: float) -> Relearning:
    """Return after how many steps the loss on the forget records is at the level or below.

    Args:
        losses: Mean loss before the first step (position 0) and after each, in nats.
        level: From ``relearn_level``.

    Raises:
        DataError: An empty curve, or one that is not finite.
    """
    curve = require_finite("relearning curve", np.asarray(losses), n_dimensions=1)
    reached = np.flatnonzero(curve <= level)
    if len(reached):
        return Relearning(int(reached[0]), False)
    return Relearning(len(curve) - 1, True)


@dataclass(frozen=True, slots=True)
class AnamnesisIndex:
    """AIN and what limits it.

    Attributes:
        index: Mean relearning steps of the models over those of retrained ones; target 1, below:
            residue; above: over-suppressed.
        n_censored: Models that did not relearn within the steps: with any, ``index`` is a lower
            bound.
    """

    index: Estimate
    n_censored: int


def anamnesis_index(
    models: Sequence[Relearning], retrained: Sequence[Relearning]
) -> AnamnesisIndex:
    """Return AIN = steps of the models / steps of retrained models, over whole models.

    Raises:
        DataError: No models.

    Source: Chundawat et al. 2022 (*Zero-shot machine unlearning*, 2201.05629).
    """
    if not models or not retrained:
        message = f"AIN: expected models in both pools, got {len(models)} and {len(retrained)}"
        raise DataError(message)
    n, n_censored = min(len(models), len(retrained)), sum(m.is_censored for m in models)
    lost = sum(m.is_censored for m in retrained)
    ours, theirs = (np.array([m.steps for m in pool], float) for pool in (models, retrained))
    reason = None
    if lost:
        reason = f"{lost} of {len(retrained)} retrained models did not relearn: raise the steps"
    elif theirs.min() == 0:
        reason = "a retrained model is at the level before any step: nothing to relearn"
    if reason:
        return AnamnesisIndex(Estimate.missing(reason, n), n_censored)
    value = float(ours.mean() / theirs.mean())
    if n == 1:
        return AnamnesisIndex(Estimate.exact(value, 1), n_censored)
    low, high = bootstrap_models(
        lambda i, j: float(ours[i].mean() / theirs[j].mean()), len(ours), len(theirs)
    )
    return AnamnesisIndex(Estimate(value, low, high, n), n_censored)


def rebound(models: np.ndarray, retrained: np.ndarray) -> Estimate:
    """Return how far the accuracy on forget records rises above that of retrained models.

    Both pools are trained further on retained records only; of each model counts the highest
    accuracy on the way. Target 0: the lower end of the interval must not be above it.

    Args:
        models: Accuracy ``[N, steps + 1]``, 0-1.
        retrained: Accuracy ``[M, steps + 1]``, 0-1.

    Raises:
        DataError: Empty or not finite.

    Source: 2505.22310 (*From Dormant to Deleted*).
    """
    ours = require_finite("rebound of models", models, n_dimensions=2).max(axis=1)
    theirs = require_finite("rebound of retrained models", retrained, n_dimensions=2).max(axis=1)
    value, n = float(ours.mean() - theirs.mean()), min(len(ours), len(theirs))
    if too_few_models(n, 2):
        return Estimate.exact(value, n)
    low, high = bootstrap_models(
        lambda i, j: float(ours[i].mean() - theirs[j].mean()), len(ours), len(theirs)
    )
    return Estimate(value, low, high, n)


def linear_probe(
    features: np.ndarray, labels: np.ndarray, forget_features: np.ndarray, forget_labels: np.ndarray
) -> float:
    """Return the accuracy, 0-1, on forget records of a linear classifier on frozen features.

    It is fitted on retained records, so it shows whether features still separate records that the
    last layer pretends not to know. The target is the value of a retrained model.

    Args:
        features: ``[B, F]`` of retained records.
        labels: ``[B]``; at least two classes.
        forget_features: ``[n, F]``.
        forget_labels: ``[n]``.

    Raises:
        DataError: Bad features, or one class.

    Source: 2604.08271 (*Illusion of unlearning*); logistic regression on standardised features.
    """
    x = require_finite("features of retained records", features, n_dimensions=2)
    z = require_finite("features of forget records", forget_features, n_dimensions=2)
    y = np.asarray(labels)
    if len(np.unique(y)) < 2:
        message = "linear probe: expected retained records of at least 2 classes, got 1"
        raise DataError(message)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(x, y)
    return float((probe.predict(z) == np.asarray(forget_labels)).mean())
