"""Forgetting evidence of one batch: pools, controls, conditions and verdict.

The statistics are in ``governance.forgetting``; here models are made and measured. The result is
the ``evidence.json`` document (schema ``r2u-evidence/3``, described in docs/evidence-format.md);
``r2u_tasks.evidence_suite`` adds the metrics E2-E8 and the curves, which decide nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from governance.declaration import Declaration
from governance.errors import UnlearningError
from governance.forgetting import (
    Condition,
    Controls,
    PoolMargins,
    Reference,
    check_controls,
    describe_pools,
    judge_model,
    record_statuses,
)
from r2u_tasks.config import UnlearningConfig, unlearning_config
from r2u_tasks.data import Records
from r2u_tasks.model import build_model
from r2u_tasks.pools import Pool, PoolProgress, measure_pool, pool_digest, train_pool
from r2u_tasks.seeding import derive_seed
from r2u_tasks.training import STABLE, SegmentedRecords
from r2u_tasks.unlearning.contract import StepRecord, reference_level, run_unlearning
from r2u_tasks.unlearning.registry import find_method

SCHEMA = "r2u-evidence/3"
EXACT_ERROR_FACTOR = 0.1
"""An exact claim rests on how the model was made; its test alarms only at a tenth of the level."""

TARGETS = {
    "forget_accuracy": ("retrained", "two-sided", "share of the erased records still predicted"),
    "retain_accuracy": ("retrained", "not below", "accuracy on records that stay"),
    "test_accuracy": ("retrained", "not below", "accuracy on records never trained on"),
    "shift": ("0", "two-sided", "mean z of the margins against models that never saw the records"),
    "spread": ("retrained", "two-sided", "log mean square of z"),
    "likelihood": ("retrained", "not above", "log ratio of 'was trained on' to 'never saw'"),
    "batch_auc_shift": ("0.5", "two-sided", "can the batch be told from retrained models by shift"),
    "batch_auc_likelihood": ("0.5", "not above", "the same by the likelihood ratio"),
}

LIMITS = (
    "The test compares with models retrained by the same recipe; it says nothing about copies of "
    "the data or of older models elsewhere.",
    "A test that does not reject is no proof of absence: it could have seen an effect of the size "
    "that the original model shows, because the original model was rejected by the same test.",
    "The operator is assumed to be honest: the evidence binds algorithm, lineage and statistics "
    "together, it cannot show that no other model was trained.",
)


@dataclass(frozen=True, slots=True)
class BatchData:
    """Records of one batch as the evidence needs them.

    Attributes:
        before: Training records of the original model.
        forget: Those that must be forgotten.
        validation: Records never trained on, for the stopping rule.
        holdout: Records never trained on, for the test.
        in_scale_of_original: The same records in the scale that the original model was trained
            with; None where the candidate has the same one.
    """

    before: SegmentedRecords
    forget: Records
    validation: Records
    holdout: Records
    in_scale_of_original: BatchData | None = None

    @property
    def after(self) -> SegmentedRecords:
        """Training records that stay."""
        return self.before.without(self.forget.ids)

    @property
    def for_original(self) -> BatchData:
        """The records as the original model and its pool take them."""
        return self.in_scale_of_original or self

    @property
    def for_test(self) -> dict[str, Records]:
        """The records that every model is measured on, by use."""
        return {"forget": self.forget, "retain": self.after.records, "test": self.holdout}

    @property
    def first_segment(self) -> int:
        """Earliest segment that saw one of the records to forget."""
        touched = np.isin(self.before.records.ids, self.forget.ids)
        return int(self.before.segment[touched].min())


@dataclass(frozen=True, slots=True)
class Pools:
    """O, R and R' as models."""

    original: Pool
    reference: Pool
    second: Pool


def train_pools(
    declaration: Declaration,
    data: BatchData,
    *,
    folder: Path,
    workers: int | None = None,
    progress: PoolProgress | None = None,
) -> Pools:
    """Train or load the three pools of a batch, each on inputs in the scale of its models."""
    size = declaration.evidence.pool_size
    after = data.after
    require_absent(data.forget.ids, after.records.ids)

    def pool(records: SegmentedRecords, role: str) -> Pool:
        return train_pool(
            declaration,
            records,
            role=role,
            size=size,
            folder=folder,
            workers=workers,
            progress=progress,
        )

    original = pool(data.for_original.before, "first")
    return Pools(original, pool(after, "first"), pool(after, "second"))


def require_absent(forget_ids: np.ndarray, ids: np.ndarray) -> None:
    """Refuse training data that still holds a record to forget.

    Raises:
        UnlearningError: At least one record to forget is in the data.
    """
    found = int(np.isin(forget_ids, ids).sum())
    if found:
        message = (
            f"lineage: expected none of the {len(forget_ids)} erased records in the data of a "
            f"retrained model, got {found}; erase them from every table first"
        )
        raise UnlearningError(message)


def unlearn_model(
    declaration: Declaration,
    model: nn.Module,
    reference: nn.Module | None,
    data: BatchData,
    *,
    method: str | None = None,
) -> tuple[nn.Module, float, list[StepRecord], str]:
    """Run the declared method on one model.

    Args:
        declaration: Method and bounds.
        model: Original model.
        reference: The model before the records' first segment, if it never saw them.
        data: Records.
        method: Another method than the declared one.

    Returns:
        The unlearned model, seconds, the curve over steps and why it stopped.

    Raises:
        UnlearningError: The method changed nothing, diverged or collapsed.
    """
    retain = data.after.records
    config: UnlearningConfig = unlearning_config(
        declaration.unlearning, seed=declaration.training.seed
    )
    started = time.perf_counter()
    if reference is not None:
        level = reference_level(model, reference, retain, data.forget, data.validation)
        config = replace(config, target_margins=level.margins)
    result = run_unlearning(
        find_method(method or config.method),
        model,
        retain,
        data.forget,
        data.validation,
        config=config,
    )
    seconds = time.perf_counter() - started
    return result.model, seconds, result.curve, result.stopped_because


def unlearn_pool(declaration: Declaration, pool: Pool, data: BatchData) -> list[nn.Module]:
    """Run the declared method on every original model of a pool.

    A model on which the method finds nothing to do or fails stays in the pool as it is: dropping
    it would choose the successes.
    """
    segment = data.first_segment
    unlearned = []
    for index, model in enumerate(pool.models):
        reference = pool.before_segment(index, segment) if segment > STABLE else None
        try:
            unlearned.append(unlearn_model(declaration, model, reference, data)[0])
        except UnlearningError:
            unlearned.append(model)
    return unlearned


def judge(
    declaration: Declaration,
    data: BatchData,
    pools: Pools,
    *,
    original: nn.Module,
    candidate: nn.Module,
    lane: str,
    unlearned_pool: Sequence[nn.Module] | None,
) -> dict[str, Any]:
    """Return verdict, conditions and controls of one candidate, without suite, lineage and cost.

    Each model is measured on inputs in the scale that it was trained with.

    Args:
        declaration: Error level and tolerances.
        data: Records of the batch.
        pools: O, R and R'.
        original: The model that was trained on the records.
        candidate: The model that would be released.
        lane: ``approximate``, ``replay`` or ``retrain``.
        unlearned_pool: U for the approximate lane; None for an exact lane.
    """
    settings = declaration.evidence
    sets, sets_of_original = data.for_test, data.for_original.for_test
    seed = derive_seed(declaration.training.seed, "random control")
    exact = lane != "approximate"
    document = judge_pools(
        {
            "original": measure_pool(pools.original.models, **sets_of_original),
            "retrained": measure_pool(pools.reference.models, **sets),
            "second_retrain": measure_pool(pools.second.models, **sets),
        },
        original=measure_pool([original], **sets_of_original),
        candidate=measure_pool([candidate], **sets),
        random=measure_pool([build_model(declaration, seed)], **sets),
        unlearned=None if unlearned_pool is None else measure_pool(unlearned_pool, **sets),
        error_level=settings.error_level,
        max_accuracy_drop=settings.max_accuracy_drop,
        exact=exact,
    )
    return {
        "schema": SCHEMA,
        "lane": lane,
        **document,
        "pools": {
            name: {"n": len(pool.models), "seconds": round(pool.seconds, 3)}
            for name, pool in (
                ("original", pools.original),
                ("retrained", pools.reference),
                ("second_retrain", pools.second),
            )
        },
        "limits": list(LIMITS),
    }


def judge_pools(
    measured: Mapping[str, PoolMargins],
    *,
    original: PoolMargins,
    candidate: PoolMargins,
    random: PoolMargins,
    unlearned: PoolMargins | None,
    error_level: float,
    max_accuracy_drop: float,
    exact: bool,
) -> dict[str, Any]:
    """Return the verdict of measured models, and the numbers that it follows from.

    Args:
        measured: Pools ``original``, ``retrained`` and ``second_retrain``.
        original: Pool of one: the model that was trained on the records.
        candidate: Pool of one: the model that would be released.
        random: Pool of one: a network with random weights.
        unlearned: U; None tests the candidate alone.
        error_level: Joint over all conditions, 0-1.
        max_accuracy_drop: Tolerated loss of accuracy against retrained models, fraction 0-1.
        exact: Whether the claim would be exact.
    """
    reference = Reference(
        measured["retrained"], measured["original"], max_accuracy_drop=max_accuracy_drop
    )
    controls = check_controls(
        reference,
        original_model=original,
        second_retrain=measured["second_retrain"],
        random_model=random,
        error_level=error_level,
    )
    level = error_level * (EXACT_ERROR_FACTOR if exact else 1.0)
    conditions = judge_model(
        reference,
        candidate,
        error_level=level,
        pool=None if exact else unlearned,
        second_retrain=measured["second_retrain"],
    )
    verdict, reasons = decide(controls, conditions, exact=exact)
    columns = describe_pools(
        reference,
        {
            "original": measured["original"],
            "unlearned": candidate if unlearned is None else unlearned,
            "second_retrain": measured["second_retrain"],
            "retrained": measured["retrained"],
        },
    )
    return {
        "verdict": verdict,
        "claim": ("exact" if exact else "approximate") if verdict == "accept" else None,
        "reasons": reasons,
        "alpha": level,
        "n_forget": candidate.margins.shape[1],
        "columns": columns,
        "candidate": {
            **reference.statistics(candidate.relative[0]),
            "forget_accuracy": float((candidate.margins > 0).mean()),
            "retain_accuracy": float(candidate.retain_accuracy[0]),
            "test_accuracy": float(candidate.test_accuracy[0]),
        },
        "targets": {
            name: {"target": target, "direction": direction, "text": text}
            for name, (target, direction, text) in TARGETS.items()
        },
        "controls": controls.to_dict(),
        "control_numbers": dict(controls.numbers),
        "conditions": [condition.to_dict() for condition in conditions],
        "statuses": record_statuses(reference, candidate),
    }


def decide(
    controls: Controls, conditions: Sequence[Condition], *, exact: bool
) -> tuple[str, list[str]]:
    """Return the verdict ``accept | retrain | refuse`` and its reasons in words.

    An approximate model is accepted only if every control behaves and no condition is rejected. An
    exact model was made without the records; a void power control then only weakens the test, but
    a rejected condition means that something is wrong with the model and a person must look.
    """
    reasons = [
        f"rejected: {condition.text} (p = {condition.adjusted_p:.2g})"
        for condition in conditions
        if not condition.passed
    ]
    if not controls.original_fails:
        reasons.append(
            "control: the test does not tell the original model from retrained ones, "
            "so it cannot show that anything was forgotten (underpowered)"
        )
    if not controls.second_retrain_passes:
        reasons.append("control: the test rejects models that never saw the records")
    if not controls.random_fails:
        reasons.append("control: the test does not reject a randomly initialised model")
    rejected = any(not condition.passed for condition in conditions)
    if exact:
        if rejected or not controls.second_retrain_passes or not controls.random_fails:
            return "refuse", reasons
        made = "made without the records, from a state that never saw them"
        return "accept", [made, *reasons]
    if rejected or not controls.valid:
        return "retrain", reasons
    return "accept", [
        "not told apart from models that never saw the records, by a test that does tell the "
        "original model apart"
    ]


def pools_to_keep(declaration: Declaration, data: BatchData) -> list[str]:
    """Return the digests of the pools that hold none of the records."""
    return [pool_digest(declaration, data.after)]
