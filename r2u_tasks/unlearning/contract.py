"""The contract of an unlearning method, its target level, and the checks around every run.

A method is ``unlearn(model, retain, forget, validation, *, config) -> UnlearnedModel`` (signature
of the NeurIPS 2023 unlearning challenge). It never changes the model it is given.
``run_unlearning`` calls it and refuses, loudly, a result that did not change, diverged or
collapsed: packages that return such a model in silence are how "forgotten" models keep everything.
A copy whose buffers alone differ (the statistics of a normalisation) counts as not changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.model import weights_digest
from r2u_tasks.unlearning.scores import score_records

TOLERANCE_NATS = 0.05
"""A method may stop within this distance of the target level."""

_POINTS = 16
"""Quantiles that stand for one record's part of a distribution."""

_LEVEL_RECORDS = 1000
_COLLAPSE_RECORDS = 500
"""Validation records that are looked at, at most: more cost time and change nothing."""


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
    """What a method returns.

    Attributes:
        model: A new model; the original stays as it is.
        method: Registered name; ``auto`` adds the name of its choice.
        steps: Steps that this model took; those that were undone do not count.
        stopped_because: In words, also when the target was not reached.
        curve: State after each step that was looked at, from step 0; it may go beyond ``steps``.
        seconds: Wall time, filled in by ``run_unlearning``.
    """

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

    A record of a class that stays in the data should end up like unseen records of that class. A
    class that vanishes has no unseen counterpart, and a retrained model never predicts it: its
    target is ``-VANISHED_MARGIN``, a probability of 0.7 %, and from there on down it is forgotten,
    because further down nothing is won and what stays is hurt.
    """

    margins: torch.Tensor

    VANISHED_MARGIN = 5.0

    def distance(self, margins: torch.Tensor) -> float:
        """Return the mean margin above the target: positive = still visible, negative = over.

        A record of a vanished class counts as at its target where it is below.
        """
        above = margins - self.margins
        has_vanished = self.margins <= -self.VANISHED_MARGIN
        return float(torch.where(has_vanished, above.clamp(min=0), above).mean())

    def is_reached(self, model: nn.Module, forget: Records) -> bool:
        """Return whether the model's forget margins are at the target or below."""
        return self.distance(score_records(model, forget).margins) <= TOLERANCE_NATS


def target_level(
    model: nn.Module, retain: Records, forget: Records, validation: Records
) -> TargetLevel:
    """Measure the target from validation records; needs no other model.

    The margins of the forget records of a class should be distributed like those of its validation
    records. Which record gets which margin follows their order now: the record with the lowest
    margin is the hardest, and gets the lowest. Sequences have no class: all records are one group.
    No target is above the margin that a record has: to forget never is to learn.

    Raises:
        UnlearningError: There are no validation records.
    """
    validation = thinned(validation, _LEVEL_RECORDS)
    unseen = _validation_margins(model, validation)
    own = score_records(model, forget).margins
    expected = torch.empty_like(own)
    for members, alike in _groups(forget, validation):
        found = unseen[alike] if bool(alike.any()) else unseen
        expected[members] = _by_rank(own[members], found)
    return TargetLevel(_lower_vanished(torch.minimum(expected, own), retain, forget))


def _groups(forget: Records, validation: Records) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return masks of forget records, each with the mask of validation records like them."""
    if forget.labels.ndim != 1:
        everyone = (torch.ones(len(part), dtype=torch.bool) for part in (forget, validation))
        return [(next(everyone), next(everyone))]
    return [
        (forget.labels == label, validation.labels == label)
        for label in sorted(set(forget.labels.tolist()))
    ]


def _by_rank(own: torch.Tensor, unseen: torch.Tensor) -> torch.Tensor:
    """Return for each of ``own`` the part of ``unseen`` at its rank.

    The n records share the distribution in n parts of equal weight; the margin of a part is the one
    with its mean loss, so that the mean loss over all records is that of ``unseen``.
    """
    points = (torch.arange(len(own) * _POINTS, dtype=unseen.dtype) + 0.5) / (len(own) * _POINTS)
    losses = functional.softplus(-torch.quantile(unseen, points))
    levels = -torch.log(torch.expm1(losses.view(len(own), _POINTS).mean(dim=1).double()))
    rank = own.argsort(stable=True).argsort(stable=True)
    return levels[rank].to(own.dtype)


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
    validation = thinned(validation, _LEVEL_RECORDS)
    later = _validation_margins(model, validation) - _validation_margins(reference, validation)
    expected = score_records(reference, forget).margins + later.mean()
    return TargetLevel(_lower_vanished(expected, retain, forget))


def _validation_margins(model: nn.Module, validation: Records) -> torch.Tensor:
    """Return the margins of validation records."""
    if len(validation) == 0:
        message = "unlearning: expected validation records to set the stopping level, got none"
        raise UnlearningError(message)
    return score_records(model, validation).margins


def _lower_vanished(expected: torch.Tensor, retain: Records, forget: Records) -> torch.Tensor:
    """Lower the target of records whose class does not stay in the data."""
    if forget.labels.ndim != 1:
        return expected
    stays = torch.isin(forget.labels, retain.labels)
    return torch.where(stays, expected, -TargetLevel.VANISHED_MARGIN)


def thinned(records: Records, size: int) -> Records:
    """Return at most ``size`` records, evenly spread over all."""
    if len(records) <= size:
        return records
    mask = np.zeros(len(records), dtype=bool)
    mask[np.linspace(0, len(records) - 1, size).astype(int)] = True
    return records.select(mask)


def staying(records: Records, retain: Records) -> Records:
    """Return the records of classes that stay in the data; all of them where none or all stay."""
    if records.labels.ndim != 1:
        return records
    stays = torch.isin(records.labels, retain.labels).numpy()
    return records.select(stays) if stays.any() else records


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
        max_accuracy_drop: Largest fall of accuracy before it counts as collapse, 0-1, on
            at most 500 validation records of classes that stay.

    Raises:
        UnlearningError: Nothing to forget or to validate with, nothing changed, another
            architecture, weights not finite, or collapse.
    """
    if len(forget) == 0:
        message = "unlearning: expected records to forget, got none; close the batch instead"
        raise UnlearningError(message)
    if len(validation) == 0:
        message = "unlearning: expected validation records, got none; a collapse would go unseen"
        raise UnlearningError(message)
    before_digest = weights_digest(model)
    watched = thinned(staying(validation, retain), _COLLAPSE_RECORDS)
    before_accuracy = score_records(model, watched).accuracy
    started = time.perf_counter()
    result = method(model, retain, forget, validation, config=config)
    if not isinstance(result, UnlearnedModel):
        message = f"unlearning: expected an UnlearnedModel, got {type(result).__name__}"
        raise UnlearningError(message)
    result.seconds = time.perf_counter() - started
    if weights_digest(model) != before_digest:
        message = f"method {result.method} changed the original model; it must work on a copy"
        raise UnlearningError(message)
    _require_other_parameters(result, model)
    after_accuracy = score_records(result.model, watched).accuracy
    if not before_accuracy - after_accuracy <= max_accuracy_drop:
        message = (
            f"method {result.method} collapsed the model: validation accuracy "
            f"{before_accuracy:.3f} -> {after_accuracy:.3f}; lower the step size"
        )
        raise UnlearningError(message)
    return result


def _require_other_parameters(result: UnlearnedModel, original: nn.Module) -> None:
    """Refuse a result with the parameters of the original, others than its, or not finite ones."""
    before, after = original.state_dict(), result.model.state_dict()
    if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()}:
        message = f"method {result.method}: expected a model with the original's parameters"
        raise UnlearningError(message)
    if not all(bool(torch.isfinite(value).all()) for value in after.values()):
        message = f"method {result.method} diverged: weights are not finite; lower the step size"
        raise UnlearningError(message)
    if all(torch.equal(p, after[name]) for name, p in original.named_parameters()):
        message = (
            f"method {result.method} changed nothing ({result.stopped_because}); "
            "the parameters are those of the original model, so nothing is forgotten"
        )
        raise UnlearningError(message)
