"""Ways of training: ordinary, reweighted, longer, and the variants of readiness."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import nn

from benchmarks.readiness.settings import Setting
from benchmarks.readiness.tasks import Task
from r2u_tasks.config import Form, Order, ReadinessConfig, TrainingConfig
from r2u_tasks.data import Records
from r2u_tasks.objectives import TaskLoss, record_losses
from r2u_tasks.training import SegmentedRecords, TrainingCost, train_segments

ORDINARY = ReadinessConfig().ordinary()
BATCH_SIZE = 64

_D = ReadinessConfig(
    form=Form.DIFFERENCE, resistance_weight=0.0, inner_lr=0.5, max_gradient_norm=5.0
)
_A = ReadinessConfig(
    form=Form.ABSOLUTE,
    efficiency_weight=0.5,
    retention_weight=1.0,
    resistance_weight=0.0,
    revocable_weight=1.0,
    inner_lr=0.1,
    relearn_lr=0.1,
    inner_clip_norm=1.0,
    efficiency_cap_nats=2.3,
    max_gradient_norm=5.0,
)
CANDIDATES: dict[str, ReadinessConfig] = {
    "D": replace(_D, normalized_step=True, inner_lr=0.1),
    "A": _A,
    "A-light": replace(_A, efficiency_weight=0.2, revocable_weight=0.3),
    "A-bounded": replace(_A, efficiency_weight=0.2, revocable_weight=0.3, max_gradient_norm=1.0),
}
"""Readiness settings to choose from on validation seeds, once for each task and setting."""


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        changes: Changes to the chosen readiness settings; None for training without readiness.
        revocable_loss: Factor of the loss on revocable records.
        epochs_factor: Epochs against ordinary training.
        stable_first: Share of the epochs that sees stable records only (phase A).
    """

    name: str
    changes: dict[str, object] | None = None
    revocable_loss: float = 1.0
    epochs_factor: float = 1.0
    stable_first: float = 0.0


def _as_changes(config: ReadinessConfig) -> dict[str, object]:
    """Return settings as changes, so that an arm has them whatever candidate was chosen."""
    return {part.name: getattr(config, part.name) for part in fields(config)}


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("ordinary"),
        Arm("second", {}),
        Arm("first", {"order": Order.FIRST}),
        Arm("second-every-4", {"every": 4}),
        Arm("second-last-20", {"last_fraction": 0.2}),
        Arm("first-last-20", {"order": Order.FIRST, "last_fraction": 0.2}),
        Arm("first-last-10", {"order": Order.FIRST, "last_fraction": 0.1}),
        Arm(
            "first-last-20-half-batch",
            {"order": Order.FIRST, "last_fraction": 0.2, "batch_size": BATCH_SIZE // 2},
        ),
        Arm("phases", {}, stable_first=0.8),
        Arm("ordinary-phases", None, stable_first=0.8),
        Arm("reweighting-0.1", None, revocable_loss=0.1),
        Arm("ordinary-4x", None, epochs_factor=4.0),
        Arm("absolute", _as_changes(_A)),
        Arm(
            "absolute-first-last-20",
            _as_changes(_A) | {"order": Order.FIRST, "last_fraction": 0.2},
        ),
        Arm("second-no-efficiency", {"efficiency_weight": 0.0}),
        Arm("second-no-retention", {"retention_weight": 0.0}),
        Arm("second-resistance", {"resistance_weight": 0.5}),
        Arm("finite-difference", {"order": Order.FINITE_DIFFERENCE}),
    )
}


@dataclass(frozen=True)
class Trained:
    """A trained model and what it cost."""

    model: nn.Module
    cost: TrainingCost
    cpu_s: float


def train_arm(
    task: Task, setting: Setting, arm: Arm, candidate: ReadinessConfig, seed: int
) -> Trained:
    """Train one arm on all training records."""
    segment = setting.revocable.astype("int8")
    readiness = ORDINARY if arm.changes is None else replace(candidate, **arm.changes)  # type: ignore[arg-type]
    epochs = round(task.epochs * arm.epochs_factor)
    stable = round(epochs * arm.stable_first)
    records, loss = task.train, None
    if arm.revocable_loss != 1.0:
        marked = task.train.labels + task.n_classes * torch.from_numpy(setting.revocable).long()
        records = Records(task.train.inputs, marked, task.train.ids)
        loss = _weighted_loss(task.n_classes, arm.revocable_loss)
    return _train(
        task,
        SegmentedRecords(records, segment, 2),
        readiness,
        seed,
        epochs=(stable, epochs - stable),
        loss=loss,
    )


def retrain(task: Task, setting: Setting, seed: int) -> Trained:
    """Train ordinarily without the records of the request."""
    kept = task.train.select(~setting.forget)
    data = SegmentedRecords(kept, np.ones(len(kept), np.int8), 2)
    return _train(task, data, ORDINARY, seed, epochs=(0, task.epochs), loss=None)


def training_config(task: Task, seed: int, epochs: tuple[int, int]) -> TrainingConfig:
    """Return the recipe of a task."""
    return TrainingConfig(
        seed=seed,
        batch_size=BATCH_SIZE,
        learning_rate=task.learning_rate,
        stable_epochs=epochs[0],
        revocable_epochs=epochs[1],
    )


def _train(
    task: Task,
    data: SegmentedRecords,
    readiness: ReadinessConfig,
    seed: int,
    *,
    epochs: tuple[int, int],
    loss: TaskLoss | None,
) -> Trained:
    model = task.build(seed)
    started = time.process_time()
    cost = train_segments(
        model,
        data,
        training=training_config(task, seed, epochs),
        readiness=readiness,
        loss=loss,
    )
    return Trained(model.eval(), cost, time.process_time() - started)


def _weighted_loss(n_classes: int, weight: float) -> TaskLoss:
    """Return cross entropy where labels of n_classes and above mark revocable records."""

    def each(output: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
        factor = torch.where(marked >= n_classes, weight, 1.0)
        return factor * record_losses(output, marked % n_classes)

    return TaskLoss.from_records(each)
