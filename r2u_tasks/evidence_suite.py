"""The metrics E2-E8 of one batch: the models of its pools, measured for the suite.

The verdict comes first and from elsewhere (``r2u_tasks.evidence.judge``); what is added here shows
what it is worth, and costs a few seconds more than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from governance.declaration import Declaration
from governance.forgetting_suite.curves import draw_curves
from governance.forgetting_suite.measures import PoolMeasures
from governance.forgetting_suite.suite import SuiteMeasures, run_suite
from r2u_tasks.data import Records
from r2u_tasks.evidence import BatchData, Pools
from r2u_tasks.measuring import (
    RecoverySettings,
    choose_learning_rate,
    mean_loss_of,
    measure_models,
)
from r2u_tasks.model import build_model
from r2u_tasks.seeding import derive_seed
from r2u_tasks.training import STABLE
from r2u_tasks.unlearning.contract import StepRecord

_RANDOM = "random control"


def add_suite(
    evidence: dict[str, Any],
    declaration: Declaration,
    data: BatchData,
    pools: Pools,
    *,
    candidate: nn.Module,
    unlearned_pool: Sequence[nn.Module] | None,
    salt: bytes,
    curve: Sequence[StepRecord] = (),
) -> None:
    """Add ``suite``, ``records`` and ``curves`` to an evidence document.

    Args:
        evidence: From ``judge``.
        declaration: Recipe, for the network with random weights.
        data: Records of the batch.
        pools: O, R and R'.
        candidate: The model that would be released.
        unlearned_pool: U; None where there is only the candidate.
        salt: Of the labels of records, at least 16 bytes.
        curve: Steps of the approximate lane.

    Raises:
        DataError: A metric failed; none is left out.
    """
    sets, sets_of_original = data.for_test, data.for_original.for_test
    known = mean_loss_of(pools.original.models[0], data.for_original.forget)
    recovery = choose_learning_rate(
        known, pools.reference.models[0], data.forget, RecoverySettings()
    )
    untrained = build_model(declaration, derive_seed(declaration.training.seed, _RANDOM))

    def measured(models: Sequence[nn.Module], records: dict[str, Records]) -> PoolMeasures:
        return measure_models(models, **records, recovery=recovery)  # type: ignore[arg-type]

    measures = SuiteMeasures(
        original=measured(pools.original.models, sets_of_original),
        unlearned=measured(unlearned_pool or [candidate], sets),
        reference=measured(pools.reference.models, sets),
        second_retrain=measured(pools.second.models, sets),
        untrained=measured([untrained], sets),
        ids=list(data.forget.ids),
        high_risk=_revocable(data),
        canaries=np.zeros(len(data.forget), dtype=bool),
        salt=salt,
        classes=data.forget.labels.numpy(),
    )
    steps = [
        {
            "step": entry.step,
            "forget_accuracy": entry.forget_accuracy,
            "retain_accuracy": entry.retain_accuracy,
            "distance_nats": entry.distance,
        }
        for entry in curve
    ]
    suite = run_suite(measures)
    evidence["records"] = suite.pop("records")
    evidence["suite"] = suite
    evidence["curves"] = draw_curves(measures, steps)


def _revocable(data: BatchData) -> np.ndarray:
    """Return which forget records were trained in a revocable segment: those of high risk."""
    revocable = data.before.records.ids[data.before.segment > STABLE]
    return np.asarray(np.isin(data.forget.ids, revocable))
