"""What is measured of one arm: before, the request, after, rebound."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from benchmarks.readiness.settings import Setting
from benchmarks.readiness.tasks import Task
from benchmarks.readiness.unlearners import Target, Unlearned, usable_window
from r2u_tasks.data import BatchStream, Records
from r2u_tasks.metrics import accuracy, loss_nats, margins
from r2u_tasks.objectives import mean_loss

_REBOUND_LR = 0.01
_RETAIN_STEPS = 60
_RELEARN_STEPS = 20
WINDOW_DROP = 0.01
"""The window counts step counts that lose at most this validation accuracy to the retrained."""


def accuracies(task: Task, setting: Setting, model: nn.Module, part: str) -> dict[str, float]:
    """Return accuracies as fractions on what stays and what goes; ``part``: validation or test."""
    records: Records = getattr(task, part)
    forget = task.train.select(setting.forget)
    return {
        f"{part}_stays": accuracy(model, setting.stays(records)),
        f"{part}_goes": accuracy(model, setting.goes(records)),
        "forget_accuracy": accuracy(model, forget),
        "forget_loss": loss_nats(model, forget),
    }


def target_of(task: Task, setting: Setting, retrained: nn.Module) -> Target:
    """Return the target: 1 % accuracy where a class vanishes, the retrained loss elsewhere."""
    forget = task.train.select(setting.forget)
    if setting.gone is not None:
        return Target(max(0.01, accuracy(retrained, forget)), None)
    return Target(None, loss_nats(retrained, forget))


def measure_request(
    task: Task, setting: Setting, run: Unlearned, target: Target, floor: float
) -> dict[str, Any]:
    """Return the outcome of a request."""
    measured: dict[str, Any] = {
        "steps": run.steps,
        "unlearn_cpu_s": run.cpu_s,
        "window": usable_window(run, target, floor),
        "after": accuracies(task, setting, run.model, "test"),
    }
    if setting.gone is None:
        forget = task.train.select(setting.forget)
        measured["margins"] = [round(float(m), 3) for m in margins(run.model, forget)]
    return measured


def rebound(task: Task, setting: Setting, model: nn.Module, seed: int) -> dict[str, Any]:
    """Return forget accuracy after retain-only training and relearning steps to 50 %."""
    forget = task.train.select(setting.forget)
    kept = task.train.select(~setting.forget)
    return {
        "rebound_retain_only": train_on(model, kept, forget, _RETAIN_STEPS, seed)[-1],
        **{
            f"relearn_steps_{n}": _first_above(
                train_on(model, _first(forget, n), forget, _RELEARN_STEPS, seed, every=1), 0.5
            )
            for n in (10, 50)
        },
    }


def train_on(
    model: nn.Module, records: Records, watch: Records, steps: int, seed: int, every: int = 60
) -> list[float]:
    """Train a copy on some records; return the accuracy on others, from before the first step."""
    student = copy.deepcopy(model)
    optimizer = torch.optim.SGD(student.parameters(), lr=_REBOUND_LR, momentum=0.9)
    stream = BatchStream(torch.arange(len(records)), 128, seed, "rebound")
    curve = [accuracy(student, watch)]
    student.train()
    for step in range(1, steps + 1):
        index = stream.next()
        optimizer.zero_grad(set_to_none=True)
        mean_loss(student(records.inputs[index]), records.labels[index]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % every == 0:
            curve.append(accuracy(student, watch))
    return curve


def _first(records: Records, n: int) -> Records:
    return Records(records.inputs[:n], records.labels[:n], records.ids[:n])


def _first_above(curve: list[float], level: float) -> int | None:
    return next((step for step, value in enumerate(curve) if value >= level), None)
