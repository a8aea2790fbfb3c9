"""The contract of an unlearning method, its target level, and the checks around every run.

A method is ``unlearn(model, retain, forget, validation, *, config) -> UnlearnedModel`` (signature
of the NeurIPS 2023 unlearning challenge). It never changes the model it is given.
``run_unlearning`` calls it and refuses, loudly, a result that did not change, diverged or
collapsed: packages that return such a model in silence are how "forgotten" models keep everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.metrics import accuracy
from r2u_tasks.model import compute_logits, weights_digest
from r2u_tasks.objectives import logit_margins

TOLERANCE_NATS = 0.05
"""A method may stop within this distance of the target level."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """State after one unlearning step.

    Attributes:
        step: Number of steps taken.
        forget_accuracy: Fraction 0-1 on the records to forget.
        retain_accuracy: Fraction 0-1 on a fixed sample of retained records.
        distance: Mean margin above the target level (positive: still visible), in nats.
    """

    step: int
    forget_accuracy: float
    retain_accuracy: float
    distance: float


@dataclass(slots=True)
class UnlearnedModel:
    """What a method returns."""

    model: nn.Module
    method: str
    steps: int
    stopped_because: str
    curve: list[StepRecord] = field(default_factory=list)
    seconds: float = 0.0


UnlearnFunction = Callable[..., UnlearnedModel]
"""``(model, retain, forget, validation, *, config)`` to ``UnlearnedModel``."""


@dataclass(frozen=True, slots=True)
class TargetLevel:
    """Where forgetting should stop: at the margin of records that the model never saw.

    Attributes:
        margins: Target margin of each forget record ``[B]``, in nats.

    A record of a class that stays in the data should end up like unseen records of that class: the
    mean margin of validation records with its label. A class that vanishes has no unseen
    counterpart; a retrained model never predicts it, so its target is a margin of at most
    ``-VANISHED_MARGIN``.
    """

    margins: torch.Tensor

    VANISHED_MARGIN = 4.0

    def distance(self, margins: torch.Tensor) -> float:
        """Return the mean margin above the target: positive = still visible, negative = over."""
        return float((margins - self.margins).mean())

    def is_reached(self, model: nn.Module, forget: Records) -> bool:
        """Return whether the model's forget margins are at the target or below."""
        found = logit_margins(compute_logits(model, forget), forget.labels)
        return self.distance(found) <= TOLERANCE_NATS


def target_level(
    model: nn.Module, retain: Records, forget: Records, validation: Records
) -> TargetLevel:
    """Measure the target from validation records; needs no other model.

    Raises:
        UnlearningError: There are no validation records.
    """
    unseen = _validation_margins(model, validation)
    overall = float(unseen.mean())
    levels = {}
    for label in sorted(set(forget.labels.tolist())):
        same = unseen[validation.labels == label]
        levels[label] = float(same.mean()) if len(same) else overall
    expected = torch.tensor([levels[label] for label in forget.labels.tolist()])
    return TargetLevel(_lower_vanished(expected, retain, forget))


def reference_level(
    model: nn.Module,
    reference: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
) -> TargetLevel:
    """Measure the target of each record with a model that never saw it.

    The reference is the checkpoint before the records' slice. Training went on after it, and what
    that did to unseen records shows in the validation data, so the target is a difference in
    differences: phi_reference(record) + mean over validation of (phi_model - phi_reference).

    Raises:
        UnlearningError: There are no validation records.
    """
    later = _validation_margins(model, validation) - _validation_margins(reference, validation)
    expected = logit_margins(compute_logits(reference, forget), forget.labels) + later.mean()
    return TargetLevel(_lower_vanished(expected, retain, forget))


def _validation_margins(model: nn.Module, validation: Records) -> torch.Tensor:
    if len(validation) == 0:
        message = "unlearning: expected validation records to set the stopping level, got none"
        raise UnlearningError(message)
    return logit_margins(compute_logits(model, validation), validation.labels)


def _lower_vanished(expected: torch.Tensor, retain: Records, forget: Records) -> torch.Tensor:
    """Lower the target of records whose class does not stay in the data."""
    stays = torch.isin(forget.labels, retain.labels)
    vanished = torch.full_like(expected, -TargetLevel.VANISHED_MARGIN)
    return torch.where(stays, expected, torch.minimum(expected, vanished))


def run_unlearning(
    method: UnlearnFunction,
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
    max_accuracy_drop: float = 0.5,
) -> UnlearnedModel:
    """Run a method and refuse a result that is no unlearning.

    Args:
        method: The unlearner.
        model: Original model, left as it is.
        retain: Records that stay.
        forget: Records to forget.
        validation: Records never trained on.
        config: Bounds of the run.
        max_accuracy_drop: Largest fall of validation accuracy before it counts as collapse, 0-1.

    Raises:
        UnlearningError: Nothing to forget, nothing changed, weights not finite, or collapse.
    """
    if len(forget) == 0:
        message = "unlearning: expected records to forget, got none; close the batch instead"
        raise UnlearningError(message)
    before_digest = weights_digest(model)
    before_accuracy = accuracy(model, validation)
    started = time.perf_counter()
    result = method(model, retain, forget, validation, config=config)
    result.seconds = time.perf_counter() - started
    if weights_digest(model) != before_digest:
        message = f"method {result.method} changed the original model; it must work on a copy"
        raise UnlearningError(message)
    if weights_digest(result.model) == before_digest:
        message = (
            f"method {result.method} changed nothing ({result.stopped_because}); "
            "the weights are those of the original model, so nothing is forgotten"
        )
        raise UnlearningError(message)
    if not all(bool(torch.isfinite(p).all()) for p in result.model.state_dict().values()):
        message = f"method {result.method} diverged: weights are not finite; lower the step size"
        raise UnlearningError(message)
    after_accuracy = accuracy(result.model, validation)
    if before_accuracy - after_accuracy > max_accuracy_drop:
        message = (
            f"method {result.method} collapsed the model: validation accuracy "
            f"{before_accuracy:.3f} -> {after_accuracy:.3f}; lower the step size"
        )
        raise UnlearningError(message)
    return result
