"""What the page draws: curves and distributions of pools, never of a single record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from governance.forgetting_metrics.likelihood import (
    MIN_MODELS,
    fit_gaussians,
    log_likelihood_ratio,
)
from governance.forgetting_metrics.recovery import relearn_level
from governance.forgetting_suite.measures import PoolMeasures
from governance.forgetting_suite.suite import SuiteMeasures

JSON = dict[str, Any]

_GRID = np.logspace(-3, 0, 31)
_POINTS = np.linspace(0, 1, 101)
_TOLERANCE = 0.02


def draw_curves(measures: SuiteMeasures, steps: Sequence[Mapping[str, float]] = ()) -> JSON:
    """Return ROC, distributions, relearning, rebound and unlearning steps with their window.

    Args:
        measures: Pools of the suite.
        steps: Each with ``step``, ``forget_accuracy`` and ``retain_accuracy``; may be none.
    """
    pools = {
        "original": measures.original,
        "unlearned": measures.unlearned,
        "retrained": measures.reference,
    }
    losses = {name: np.logaddexp(0, -pool.forget_margins) for name, pool in pools.items()}
    return {
        "roc": roc(measures),
        "margins": {name: _quantiles(pool.forget_margins) for name, pool in pools.items()},
        "losses": {name: _quantiles(values) for name, values in losses.items()},
        "relearn": {
            name: _band(pool.relearn_losses)
            for name, pool in pools.items()
            if pool.relearn_losses is not None
        },
        "relearn_level": _level(measures),
        "rebound": {
            name: _band(pool.rebound_accuracy)
            for name, pool in pools.items()
            if pool.rebound_accuracy is not None
        },
        "steps": [dict(step) for step in steps],
        "usable_steps": usable_steps(steps, measures.reference),
    }


def roc(measures: SuiteMeasures) -> JSON | None:
    """Return the ROC of 'was trained on it' per record, against second retrains.

    Gaussians are fitted on O and R; the null are the records under R', which no fit has seen. None
    where R' is too small.
    """
    if min(len(measures.second_retrain), len(measures.reference)) < MIN_MODELS:
        return None
    fits = [
        fit_gaussians(pool.relative, shrinkage=0.5)
        for pool in (measures.original, measures.reference)
    ]

    def scores(pool: PoolMeasures) -> np.ndarray:
        return log_likelihood_ratio(pool.relative, *fits).ravel()

    thresholds = np.quantile(scores(measures.second_retrain), 1 - _GRID)
    return {
        "fpr": [float(value) for value in _GRID],
        **{
            f"tpr_{name}": [float((scores(pool) > t).mean()) for t in thresholds]
            for name, pool in (("original", measures.original), ("unlearned", measures.unlearned))
        },
    }


def usable_steps(
    steps: Sequence[Mapping[str, float]], reference: PoolMeasures, tolerance: float = _TOLERANCE
) -> JSON | None:
    """Return which unlearning steps leave a model like a retrained one; None without steps.

    A step is usable where forget accuracy is within the tolerance of retrained models, either side,
    and retain accuracy not below theirs by more. A narrow window is a method on a knife edge.

    Returns:
        ``first`` and ``last`` step of the longest run of usable points (None where there is none),
        ``n`` of them, and the ``tolerance``.
    """
    if not steps:
        return None
    forget = float(reference.forget_accuracy.mean())
    retain = float(reference.retain_accuracy.mean())
    best: list[float] = []
    run: list[float] = []
    for step in steps:
        near = abs(step["forget_accuracy"] - forget) <= tolerance
        run = [*run, step["step"]] if near and step["retain_accuracy"] >= retain - tolerance else []
        best = max(best, run, key=len)
    return {
        "first": best[0] if best else None,
        "last": best[-1] if best else None,
        "n": len(best),
        "tolerance": tolerance,
        "forget_accuracy": forget,
        "retain_accuracy": retain,
    }


def _level(measures: SuiteMeasures) -> float | None:
    ours, theirs = measures.original.relearn_losses, measures.reference.relearn_losses
    if ours is None or theirs is None:
        return None
    known, unknown = float(ours[:, 0].mean()), float(theirs[:, 0].mean())
    return relearn_level(known, unknown) if unknown > known else None


def _band(curves: np.ndarray) -> JSON:
    """Return mean, smallest and largest value at each step."""
    return {
        name: [round(float(value), 6) for value in function(curves, axis=0)]
        for name, function in (("mean", np.mean), ("low", np.min), ("high", np.max))
    }


def _quantiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in np.quantile(values, _POINTS)]
