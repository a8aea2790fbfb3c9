"""The guard of the name *ready*: an ordinary model, trained beside it, says what readiness buys.

A model is called ready only if it is as good as the ordinary model before any unlearning, on stable
and on revocable records, in accuracy and in loss, and if simulated requests show a gain: in none of
them more steps, and either fewer in most of them at no worse an outcome, or a better outcome,
where two standard errors of the ordinary accuracy count as equal. A model that never learned the
revocable data forgets fast too; this report is what tells the two apart.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, replace

import numpy as np
from torch import nn

from governance.declaration import Declaration
from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig, readiness_config, training_config
from r2u_tasks.data import Records
from r2u_tasks.metrics import accuracy, loss_nats
from r2u_tasks.model import build_model
from r2u_tasks.readiness_cost import ReadinessCost, compare_costs
from r2u_tasks.records import Splits
from r2u_tasks.seeding import derive_seed
from r2u_tasks.step_memory import peak_step_bytes
from r2u_tasks.training import TrainingCost, train_segments
from r2u_tasks.unlearning.contract import reference_level, run_unlearning
from r2u_tasks.unlearning.registry import find_method

_SIMULATED_SHARE = 0.1
_N_SIMULATED = 3


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training, measured.

    Attributes:
        stable_accuracy: Fraction 0-1 on stable training records, before unlearning.
        revocable_accuracy: The same on revocable training records.
        stable_loss: Mean loss in nats on stable training records, before unlearning.
        revocable_loss: The same on revocable training records.
        request_steps: Steps of each simulated request; empty when one of them failed.
        unlearning_steps: Their mean; None when one of them failed.
        unlearning_s: Mean seconds of a simulated request.
        accuracy_after: Mean validation accuracy after a simulated request.
        train_s: Training time in seconds.
        gradient_evaluations: Of the training.
        peak_step_bytes: Peak memory of a training step beyond model and data.
    """

    stable_accuracy: float
    revocable_accuracy: float
    stable_loss: float
    revocable_loss: float
    request_steps: tuple[int, ...]
    unlearning_steps: float | None
    unlearning_s: float | None
    accuracy_after: float | None
    train_s: float
    gradient_evaluations: int
    peak_step_bytes: int

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse than ordinary training a ready model may be, before any unlearning.

    Attributes:
        accuracy_drop: Fraction 0-1.
        loss_rise: In nats.
        n_validation: Validation records, for the standard error of an accuracy.
    """

    accuracy_drop: float
    loss_rise: float
    n_validation: int


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """Whether the model may be called ready, why, and what it costs."""

    is_ready: bool
    findings: tuple[str, ...]
    ready: Arm
    ordinary: Arm
    cost: ReadinessCost

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return {
            "is_ready": self.is_ready,
            "findings": list(self.findings),
            "ready": self.ready.to_dict(),
            "ordinary": self.ordinary.to_dict(),
            "cost": self.cost.to_dict(),
        }


def compare_readiness(
    declaration: Declaration,
    ready_model: nn.Module,
    before_revocable: nn.Module,
    splits: Splits,
    *,
    ready_cost: TrainingCost,
    unlearning: UnlearningConfig,
) -> ReadinessReport:
    """Train the ordinary model with the same seed and compare.

    Args:
        declaration: Recipe and tolerances.
        ready_model: The model under test.
        before_revocable: The end of phase A, which both arms share: it saw no revocable record
            and sets the stopping level of the simulated requests.
        splits: Its data.
        ready_cost: What its training cost.
        unlearning: Settings of the simulated requests (a tenth of the revocable records each).
    """
    ordinary = build_model(declaration, declaration.training.seed)
    readiness = readiness_config(declaration.readiness)
    training = training_config(declaration.training)
    ordinary_cost = train_segments(
        ordinary, splits.training, training=training, readiness=readiness.ordinary()
    )
    arms = [
        measure_arm(
            model,
            before_revocable,
            splits,
            cost,
            unlearning,
            peak_step_bytes(model, splits.training, training=training, readiness=terms),
        )
        for model, cost, terms in (
            (ready_model, ready_cost, readiness),
            (ordinary, ordinary_cost, readiness.ordinary()),
        )
    ]
    tolerance = Tolerance(
        declaration.readiness.max_accuracy_drop,
        declaration.readiness.max_loss_rise,
        len(splits.validation),
    )
    findings = find_reasons(arms[0], arms[1], tolerance, active=readiness.is_active)
    cost = compare_costs(
        ready_train_s=arms[0].train_s if ready_cost.is_comparable else None,
        ordinary_train_s=arms[1].train_s,
        ready_unlearning_s=arms[0].unlearning_s,
        ordinary_unlearning_s=arms[1].unlearning_s,
        gradients=(
            arms[0].gradient_evaluations if ready_cost.is_comparable else None,
            arms[1].gradient_evaluations,
        ),
        peak_bytes=(arms[0].peak_step_bytes, arms[1].peak_step_bytes),
    )
    return ReadinessReport(not findings, tuple(findings), arms[0], arms[1], cost)


def find_reasons(ready: Arm, ordinary: Arm, tolerance: Tolerance, *, active: bool) -> list[str]:
    """Return why the model may not be called ready; nothing if it may."""
    reasons = []
    if not active:
        reasons.append("all readiness weights are 0: this is ordinary training")
    for part in ("stable", "revocable"):
        drop = getattr(ordinary, f"{part}_accuracy") - getattr(ready, f"{part}_accuracy")
        if drop > tolerance.accuracy_drop:
            reasons.append(
                f"{part} accuracy before unlearning is {drop:.3f} below that of ordinary "
                f"training; tolerance {tolerance.accuracy_drop:.3f}"
            )
        rise = getattr(ready, f"{part}_loss") - getattr(ordinary, f"{part}_loss")
        if rise > tolerance.loss_rise:
            reasons.append(
                f"{part} loss before unlearning is {rise:.3f} nats above that of ordinary "
                f"training; tolerance {tolerance.loss_rise:.3f}"
            )
    return reasons + _missing_gain(ready, ordinary, tolerance.n_validation)


def _missing_gain(ready: Arm, ordinary: Arm, n_validation: int) -> list[str]:
    """Compare the simulated requests; a request that fails on the ordinary model only is a gain."""
    if ready.unlearning_steps is None or ready.accuracy_after is None:
        return ["a simulated request failed on the ready model: no gain can be shown"]
    if ordinary.unlearning_steps is None or ordinary.accuracy_after is None:
        return []
    if ready.unlearning_steps == 0 and ordinary.unlearning_steps == 0:
        return [
            "simulated requests are at the level of unseen records before any step, in both "
            "models: no gain can be shown"
        ]
    noise = 2 * math.sqrt(ordinary.accuracy_after * (1 - ordinary.accuracy_after) / n_validation)
    gained_accuracy = ready.accuracy_after - ordinary.accuracy_after
    pairs = list(zip(ready.request_steps, ordinary.request_steps, strict=True))
    is_slower = any(ours > theirs for ours, theirs in pairs)
    n_faster = sum(ours < theirs for ours, theirs in pairs)
    is_faster = n_faster > len(pairs) / 2 and gained_accuracy >= -noise
    is_better = gained_accuracy > noise
    if not is_slower and (is_faster or is_better):
        return []
    return [
        f"simulated requests take {ready.unlearning_steps:.1f} steps and end at validation "
        f"accuracy {ready.accuracy_after:.3f}; after ordinary training "
        f"{ordinary.unlearning_steps:.1f} steps and {ordinary.accuracy_after:.3f}; fewer in "
        f"{n_faster} of {len(pairs)} requests: no gain"
    ]


def measure_arm(
    model: nn.Module,
    reference: nn.Module,
    splits: Splits,
    cost: TrainingCost,
    config: UnlearningConfig,
    peak_bytes: int,
) -> Arm:
    """Measure a model before, and over the simulated requests."""
    records = splits.training.records
    stable = splits.training.segment == 0
    parts = {"stable": records.select(stable), "revocable": records.select(~stable)}
    requests = [
        _simulate_request(model, reference, splits, replace(config, seed=config.seed + number))
        for number in range(_N_SIMULATED)
    ]
    done = [request for request in requests if request is not None]
    is_complete = len(done) == _N_SIMULATED
    steps, seconds, after = (
        [statistics.mean(values) for values in zip(*done, strict=True)]
        if is_complete
        else (None, None, None)
    )
    return Arm(
        stable_accuracy=_known(accuracy(model, parts["stable"])),
        revocable_accuracy=_known(accuracy(model, parts["revocable"])),
        stable_loss=_known(loss_nats(model, parts["stable"])),
        revocable_loss=_known(loss_nats(model, parts["revocable"])),
        request_steps=tuple(int(request[0]) for request in done) if is_complete else (),
        unlearning_steps=steps,
        unlearning_s=seconds,
        accuracy_after=after,
        train_s=cost.seconds,
        gradient_evaluations=cost.gradient_evaluations,
        peak_step_bytes=peak_bytes,
    )


def _simulate_request(
    model: nn.Module, reference: nn.Module, splits: Splits, config: UnlearningConfig
) -> tuple[float, float, float] | None:
    """Return steps, seconds and validation accuracy of one request; None where it failed."""
    forget, retain = _pretend_request(splits, config.seed)
    if len(forget) == 0:
        return None
    method = find_method(config.method)
    level = reference_level(model, reference, retain, forget, splits.validation)
    config = replace(config, target_margins=level.margins)
    try:
        result = run_unlearning(method, model, retain, forget, splits.validation, config=config)
    except UnlearningError:
        if level.is_reached(model, forget):
            return 0.0, 0.0, accuracy(model, splits.validation)
        return None
    return float(result.steps), result.seconds, accuracy(result.model, splits.validation)


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
