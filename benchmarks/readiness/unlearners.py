"""Gradient ascent at request time, in three kinds, run far enough to see the usable window.

Every arm gets the best of a grid: a raw rate, a normalised step, a clipped one. Batches of the
records to forget, no retain data: the unlearner that Ready2Unlearn is made for.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.readiness.settings import Setting
from benchmarks.readiness.tasks import Task
from r2u_tasks.data import BatchStream, Records
from r2u_tasks.metrics import accuracy
from r2u_tasks.model import compute_logits
from r2u_tasks.objectives import mean_loss

MAX_STEPS = 60
FORGET_BATCH = 128
BEYOND = 12
"""Steps taken beyond the target, to see how wide the usable window is."""

_COLLAPSED = 0.3
"""Curves end where validation accuracy of what stays falls below this fraction of the start."""


@dataclass(frozen=True)
class Ascent:
    """One unlearner: how a gradient becomes a step."""

    kind: str
    size: float

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"{self.kind}-{self.size:g}"

    def factor(self, norm: float) -> float:
        """Return what the gradient is multiplied by."""
        if self.kind == "raw":
            return self.size
        if self.kind == "normalized":
            return self.size / max(norm, 1e-12)
        return self.size * min(1.0, 1.0 / max(norm, 1e-12))


GRID = tuple(
    Ascent(kind, size)
    for kind, sizes in (
        ("raw", (0.003, 0.01, 0.03, 0.1, 0.3)),
        ("normalized", (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)),
        ("clipped", (0.02, 0.05, 0.1, 0.2, 0.5)),
    )
    for size in sizes
)


@dataclass(frozen=True)
class Target:
    """Where forgetting is done: at the retrained model's level.

    Attributes:
        accuracy: Largest accuracy on the records to forget, where their class vanishes.
        loss: Smallest mean loss on them, where it stays.
    """

    accuracy: float | None
    loss: float | None

    def is_met(self, forget_accuracy: float, forget_loss: float) -> bool:
        """Return whether a state is at the target or beyond."""
        if self.accuracy is not None:
            return forget_accuracy <= self.accuracy
        return self.loss is not None and forget_loss >= self.loss


@dataclass
class Unlearned:
    """One unlearning run.

    Attributes:
        steps: Steps to the target; None when it was not met.
        model: At the target, or at the end.
        curve: After each step from 0: forget accuracy and loss, validation accuracy of what stays.
        cpu_s: Processor time of the steps to the target, measurements left out.
    """

    steps: int | None
    model: nn.Module
    curve: list[tuple[float, float, float]]
    cpu_s: float


def unlearn(
    task: Task,
    setting: Setting,
    model: nn.Module,
    ascent: Ascent,
    target: Target,
    *,
    seed: int,
    beyond: int = 0,
) -> Unlearned:
    """Ascend until the target and some steps beyond; the given model stays as it is."""
    student = copy.deepcopy(model)
    forget = task.train.select(setting.forget)
    watch = setting.stays(task.validation)
    stream = BatchStream(torch.arange(len(forget)), FORGET_BATCH, seed, "ascent")
    curve = [_state(student, forget, watch)]
    found: int | None = 0 if target.is_met(*curve[0][:2]) else None
    best = copy.deepcopy(student) if found == 0 else student
    spent = 0.0
    if found == 0 and beyond == 0:
        return Unlearned(0, best, curve, spent)
    for step in range(1, MAX_STEPS + 1):
        started = time.process_time()
        _ascend(student, forget, stream.next(), ascent)
        spent += time.process_time() - started if found is None else 0.0
        curve.append(_state(student, forget, watch))
        if found is None and target.is_met(*curve[-1][:2]):
            found, best = step, copy.deepcopy(student)
        is_over = found is not None and step >= found + beyond
        if is_over or not curve[-1][2] >= _COLLAPSED * curve[0][2]:
            break
    return Unlearned(found, best, curve, spent)


def usable_window(run: Unlearned, target: Target, floor: float) -> int:
    """Return how many step counts meet the target with validation accuracy at the floor."""
    return sum(target.is_met(a, loss) and stays >= floor for a, loss, stays in run.curve)


def _ascend(model: nn.Module, forget: Records, index: torch.Tensor, ascent: Ascent) -> None:
    parameters = list(model.parameters())
    model.train()
    loss = mean_loss(model(forget.inputs[index]), forget.labels[index])
    gradients = torch.autograd.grad(loss, parameters)
    norm = float(torch.sqrt(torch.stack([(g * g).sum() for g in gradients]).sum()))
    factor = ascent.factor(norm)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=factor)


def _state(model: nn.Module, forget: Records, watch: Records) -> tuple[float, float, float]:
    logits = compute_logits(model, forget)
    hits = (logits.argmax(dim=1) == forget.labels).float().mean()
    loss = torch.nan_to_num(mean_loss(logits, forget.labels), nan=1e9)
    return float(hits), float(loss), accuracy(model, watch)
