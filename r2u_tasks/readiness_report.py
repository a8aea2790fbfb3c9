"""The guard of the name *ready*: an ordinary model, trained beside it, says what readiness buys.

A model is called ready only if it is as good as the ordinary model before any unlearning, on stable
and on revocable records, and if a simulated request takes it fewer steps. A model that never
learned the revocable data forgets fast too; this report is what tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from governance.declaration import Declaration
from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig, readiness_config, training_config
from r2u_tasks.data import Records
from r2u_tasks.metrics import accuracy
from r2u_tasks.model import build_model
from r2u_tasks.records import Splits
from r2u_tasks.seeding import derive_seed
from r2u_tasks.training import train_segments
from r2u_tasks.unlearning.contract import reference_level, run_unlearning
from r2u_tasks.unlearning.registry import find_method

_SIMULATED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training, measured.

    Attributes:
        stable_accuracy: Fraction 0-1 on stable training records, before unlearning.
        revocable_accuracy: The same on revocable training records.
        unlearning_steps: Steps of the simulated request; None when no step was possible.
        accuracy_after: Validation accuracy after the simulated request.
        train_s: Training time in seconds.
    """

    stable_accuracy: float
    revocable_accuracy: float
    unlearning_steps: int | None
    accuracy_after: float | None
    train_s: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain JSON."""
        return {
            "stable_accuracy": self.stable_accuracy,
            "revocable_accuracy": self.revocable_accuracy,
            "unlearning_steps": self.unlearning_steps,
            "accuracy_after": self.accuracy_after,
            "train_s": self.train_s,
        }


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """Whether the model may be called ready, and why."""

    is_ready: bool
    findings: tuple[str, ...]
    ready: Arm
    ordinary: Arm

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return {
            "is_ready": self.is_ready,
            "findings": list(self.findings),
            "ready": self.ready.to_dict(),
            "ordinary": self.ordinary.to_dict(),
        }


def compare_readiness(
    declaration: Declaration,
    ready_model: nn.Module,
    before_revocable: nn.Module,
    splits: Splits,
    *,
    ready_seconds: float,
    unlearning: UnlearningConfig,
) -> ReadinessReport:
    """Train the ordinary model with the same seed and compare.

    Args:
        declaration: Recipe; ``readiness.max_accuracy_drop`` is the tolerance.
        ready_model: The model under test.
        before_revocable: The end of phase A, which both arms share: it saw no revocable record
            and sets the stopping level of the simulated request.
        splits: Its data.
        ready_seconds: Its training time.
        unlearning: Settings of the simulated request (a tenth of the revocable records).
    """
    ordinary = build_model(declaration, declaration.training.seed)
    readiness = readiness_config(declaration.readiness)
    cost = train_segments(
        ordinary,
        splits.training,
        training=training_config(declaration.training),
        readiness=readiness.ordinary(),
    )
    arms = [
        _measure(model, before_revocable, splits, seconds, unlearning)
        for model, seconds in ((ready_model, ready_seconds), (ordinary, cost.seconds))
    ]
    tolerance = declaration.readiness.max_accuracy_drop
    findings = _find(arms[0], arms[1], tolerance, active=readiness.is_active)
    return ReadinessReport(not findings, tuple(findings), arms[0], arms[1])


def _find(ready: Arm, ordinary: Arm, tolerance: float, *, active: bool) -> list[str]:
    findings = []
    if not active:
        findings.append("all readiness weights are 0: this is ordinary training")
    for name in ("stable", "revocable"):
        ours: float = getattr(ready, f"{name}_accuracy")
        theirs: float = getattr(ordinary, f"{name}_accuracy")
        if theirs - ours > tolerance:
            findings.append(
                f"{name} accuracy before unlearning is {ours:.3f}, ordinary training reaches "
                f"{theirs:.3f}; tolerance {tolerance:.3f}"
            )
    if ready.unlearning_steps is None or ordinary.unlearning_steps is None:
        findings.append("a simulated request needed no step or failed: no gain can be shown")
    elif ready.unlearning_steps >= ordinary.unlearning_steps:
        findings.append(
            f"a simulated request takes {ready.unlearning_steps} steps, "
            f"{ordinary.unlearning_steps} after ordinary training: no gain"
        )
    return findings


def _measure(
    model: nn.Module,
    reference: nn.Module,
    splits: Splits,
    seconds: float,
    config: UnlearningConfig,
) -> Arm:
    records = splits.training.records
    stable = splits.training.segment == 0
    steps, after = _simulate_request(model, reference, splits, config)
    return Arm(
        stable_accuracy=_known(accuracy(model, records.select(stable))),
        revocable_accuracy=_known(accuracy(model, records.select(~stable))),
        unlearning_steps=steps,
        accuracy_after=after,
        train_s=seconds,
    )


def _simulate_request(
    model: nn.Module, reference: nn.Module, splits: Splits, config: UnlearningConfig
) -> tuple[int | None, float | None]:
    forget, retain = _pretend_request(splits, config.seed)
    if len(forget) == 0:
        return None, None
    method = find_method(config.method)
    level = reference_level(model, reference, retain, forget, splits.validation)
    config = replace(config, target_margins=level.margins)
    try:
        result = run_unlearning(method, model, retain, forget, splits.validation, config=config)
    except UnlearningError:
        return None, None
    return result.steps, accuracy(result.model, splits.validation)


def _pretend_request(splits: Splits, seed: int) -> tuple[Records, Records]:
    records = splits.training.records
    revocable = np.flatnonzero(splits.training.segment > 0)
    size = max(1, int(len(revocable) * _SIMULATED_SHARE)) if len(revocable) else 0
    generator = np.random.default_rng(derive_seed(seed, "simulated request"))
    mask = np.zeros(len(records), dtype=bool)
    mask[generator.choice(revocable, size, replace=False)] = True
    return records.select(mask), records.select(~mask)


def _known(value: float) -> float:
    return value if np.isfinite(value) else 0.0
