"""``evaluate``: models and records in, evidence and page out."""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from governance.errors import DataError
from governance.forgetting_suite.curves import draw_curves
from governance.forgetting_suite.measures import PoolMeasures
from governance.forgetting_suite.rows import mean_of
from governance.forgetting_suite.sequence import BatchPoint, point_of, sequence_of
from governance.forgetting_suite.suite import SuiteMeasures, refuse_suite, run_suite
from governance.report import render_evidence
from r2u_tasks.evidence import LIMITS, SCHEMA, judge_pools, require_absent
from r2u_tasks.forgetting_report.data import ForgettingData
from r2u_tasks.forgetting_report.pools import (
    ModelPools,
    Progress,
    Train,
    Unlearn,
    fill_pools,
)
from r2u_tasks.measuring import (
    RecoverySettings,
    choose_learning_rate,
    mean_loss_of,
    measure_models,
)
from r2u_tasks.model import weights_digest
from r2u_tasks.seeding import seeded

JSON = dict[str, Any]

Build = Callable[[], nn.Module]
"""Returns the network with new random weights; it is called under a fixed seed."""

RECOMMENDED_MODELS = 16

_SINGLE = (
    "Only one unlearned model was given: the evidence is about this model, not about the method "
    "that made it, and every test between pools is unknown."
)
_FEW = (
    "The pools have {n} models; {advised} or more are advised. With fewer, small effects stay "
    "unseen and rows are easily void."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """Levels, sizes and seeds.

    Attributes:
        error_level: Joint over all conditions, 0-1.
        max_accuracy_drop: Tolerated loss of accuracy against retrained models, fraction 0-1.
        pool_size: Models of each pool that is trained here.
        seed: Of the pools that are trained here, and of the network with random weights.
        recovery: How models are trained further; None leaves that out, and the rows say so.
        exact: Whether the candidate was made without the records, from a state that never saw
            them. It is the caller's word: nothing here can show it.
    """

    error_level: float = 0.05
    max_accuracy_drop: float = 0.01
    pool_size: int = 32
    seed: int = 0
    recovery: RecoverySettings | None = field(default_factory=RecoverySettings)
    exact: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgettingReport:
    """What ``evaluate`` returns.

    Attributes:
        evidence: The document (schema ``r2u-evidence/3``).
        page: The same as one self-contained HTML page.
        salt: Of the record labels: with it, ``governance.forgetting_suite.records.find_record``
            finds the line of an id. It is in neither document nor page.
    """

    evidence: JSON
    page: str
    salt: bytes

    @property
    def verdict(self) -> str:
        """``accept``, ``retrain`` or ``refuse``."""
        return str(self.evidence["verdict"])


def evaluate(
    data: ForgettingData,
    pools: ModelPools,
    *,
    build: Build,
    train: Train | None = None,
    unlearn: Unlearn | None = None,
    settings: EvaluationSettings | None = None,
    salt: bytes | None = None,
    steps: Sequence[Mapping[str, float]] = (),
    history: Sequence[JSON] = (),
    cost: Mapping[str, float] | None = None,
    title: str = "",
    progress: Progress | None = None,
) -> ForgettingReport:
    """Judge an unlearned model, or a pool of them, against retrained models.

    Pools that are smaller than ``settings.pool_size`` are filled by ``train`` and ``unlearn`` where
    they are given, else used as they are. Without second retrains, half of the retrained models
    are it.

    Args:
        data: Records; see ``ForgettingData``.
        pools: The models that there are: at least one original and one unlearned model.
        build: The network, for the control with random weights.
        train: How a model is trained from scratch.
        unlearn: The unlearning method.
        settings: Levels and sizes.
        salt: Of the record labels, at least 16 bytes; None draws a new one.
        steps: Unlearning curve: ``step``, ``forget_accuracy``, ``retain_accuracy`` of each point.
        history: Evidence documents of the approximate batches before, oldest first.
        cost: ``unlearn_s`` and ``retrain_s`` in seconds.
        title: Of the page, without personal data.
        progress: Called after each model that is trained here.

    Returns:
        Evidence, page and salt. The verdict is ``refuse`` where the pools are too small to tell how
        retrained models vary; what can be said of the models stands beside it.

    Raises:
        DataError: Unknown, doubled or missing records; a model that stands in two pools; a number
            that is not finite; a metric that failed.
        UnlearningError: There is no model, or the unlearned model is the original.
    """
    settings = settings or EvaluationSettings()
    data.require_sound()
    require_absent(data.forget.ids, data.retain.ids)
    pools.require_distinct()
    started = time.perf_counter()
    pools = fill_pools(
        data,
        pools,
        size=settings.pool_size,
        seed=settings.seed,
        train=train,
        unlearn=unlearn,
        progress=progress,
    )
    pools_s = time.perf_counter() - started
    salt = salt or secrets.token_bytes(32)
    lane = "retrain" if settings.exact else "approximate"
    document: JSON = {"schema": SCHEMA, "lane": lane, "title": title, "limits": list(LIMITS)}
    too_small = pools.too_small()
    if too_small:
        document |= _refusal(data, pools, too_small)
    else:
        document |= _judged(data, pools, build, settings, salt, steps)
        if not settings.exact:
            points = [*_points(history), point_of(document, "this batch")]
            document["sequence"] = sequence_of(points, budget=settings.max_accuracy_drop)
    document["cost"] = _cost(cost or {}, pools_s, time.perf_counter() - started - pools_s)
    document["lineage"] = {
        "parent_weights_digest": weights_digest(pools.original[0]),
        "weights_digest": weights_digest(pools.unlearned[0]),
    }
    return ForgettingReport(evidence=document, page=render_evidence(document), salt=salt)


def _judged(
    data: ForgettingData,
    pools: ModelPools,
    build: Build,
    settings: EvaluationSettings,
    salt: bytes,
    steps: Sequence[Mapping[str, float]],
) -> JSON:
    forget, retain = data.forget, data.retain
    recovery = settings.recovery
    if recovery is not None:
        known = mean_loss_of(pools.original[0], forget)
        recovery = choose_learning_rate(known, pools.retrained[0], forget, recovery)

    def measured(
        models: Sequence[nn.Module], further: RecoverySettings | None = recovery
    ) -> PoolMeasures:
        return measure_models(
            models, forget=forget, retain=retain, test=data.test, recovery=further
        )

    with seeded(settings.seed, "random control"):
        untrained = build()
    measures = SuiteMeasures(
        original=measured(pools.original),
        unlearned=measured(pools.unlearned),
        reference=measured(pools.retrained),
        second_retrain=measured(pools.second_retrain),
        untrained=measured([untrained], None),
        ids=[str(one) for one in forget.ids],
        high_risk=data.forget_mask(data.high_risk_ids),
        canaries=data.forget_mask(data.canary_ids),
        salt=salt,
        classes=forget.labels.numpy() if forget.labels.ndim == 1 else None,
    )
    document = _verdict(measures, settings)
    suite = run_suite(measures)
    records = suite.pop("records")
    named = (
        ("original", pools.original),
        ("unlearned", pools.unlearned),
        ("retrained", pools.retrained),
        ("second_retrain", pools.second_retrain),
    )
    return document | {
        "records": records,
        "suite": suite,
        "curves": draw_curves(measures, steps),
        "pools": {name: {"n": len(models)} for name, models in named},
        "notes": _notes(pools),
    }


def _verdict(measures: SuiteMeasures, settings: EvaluationSettings) -> JSON:
    pools = {
        "original": measures.original,
        "retrained": measures.reference,
        "second_retrain": measures.second_retrain,
    }
    margins = {name: pool.to_pool_margins() for name, pool in pools.items()}
    unlearned = measures.unlearned.to_pool_margins()
    document = judge_pools(
        margins,
        original=margins["original"].model(0),
        candidate=unlearned.model(0),
        random=measures.untrained.to_pool_margins(),
        unlearned=unlearned if len(unlearned) > 1 else None,
        error_level=settings.error_level,
        max_accuracy_drop=settings.max_accuracy_drop,
        exact=settings.exact,
    )
    # Of a sequence, the accuracy is that of its tokens and does not follow from its margin.
    for name, pool in {**pools, "unlearned": measures.unlearned}.items():
        estimate = mean_of(pool.forget_accuracy.mean(axis=1)).to_dict()
        value = estimate["value"]
        ends = {end: value if estimate[end] is None else estimate[end] for end in ("low", "high")}
        document["columns"][name]["forget_accuracy"] = {"value": value, **ends, "n": len(pool)}
    document["candidate"]["forget_accuracy"] = float(measures.unlearned.forget_accuracy[0].mean())
    return document


def _refusal(data: ForgettingData, pools: ModelPools, reasons: Sequence[str]) -> JSON:
    """Return what can be said without a pool: the outcomes of each model, and no verdict."""
    forget, retain = data.forget, data.retain
    every = [*pools.retrained, *pools.second_retrain]
    named = {"original": pools.original, "unlearned": pools.unlearned, "second_retrain": every}
    measured = {
        name: measure_models(models, forget=forget, retain=retain, test=data.test)
        for name, models in named.items()
        if models
    }
    return {
        "verdict": "refuse",
        "claim": None,
        "reasons": list(reasons),
        "n_forget": len(data.forget),
        "statuses": {"underpowered": len(data.forget)},
        "suite": refuse_suite(measured, "the pools are too small"),
        "notes": ["The third column has the retrained models that were given; it is no control."],
    }


def _points(history: Sequence[JSON]) -> list[BatchPoint]:
    """Return the point of each batch before.

    Raises:
        DataError: A document has no verdict to learn from, as one that was refused.
    """
    try:
        return [point_of(one, f"batch {i + 1}") for i, one in enumerate(history)]
    except (KeyError, TypeError) as error:
        message = "history: expected evidence documents of judged batches, oldest first"
        raise DataError(message) from error


def _notes(pools: ModelPools) -> list[str]:
    notes = []
    if len(pools.unlearned) == 1:
        notes.append(_SINGLE)
    n = min(len(pools.original), len(pools.retrained), len(pools.second_retrain))
    if n < RECOMMENDED_MODELS:
        notes.append(_FEW.format(n=n, advised=RECOMMENDED_MODELS))
    return notes


def _cost(given: Mapping[str, float], pools_s: float, evidence_s: float) -> dict[str, float]:
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cost = {**given, "pools_s": pools_s, "evidence_s": evidence_s, "peak_mib": peak_mib}
    if given.get("retrain_s"):
        cost["share_of_retrain"] = given.get("unlearn_s", 0.0) / given["retrain_s"]
    return cost
