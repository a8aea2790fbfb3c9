"""Choose the readiness settings by rule, so that nobody has to tune them (``readiness: auto``).

Rule. Phase A is trained once, and an ordinary phase B after it. Then phase B is trained with the
declared settings, with the absolute preset, and with both at half, a quarter, an eighth of the
efficiency and resistance weights, in this order. The first one to pass the guard of the name
*ready* is taken: no worse than ordinary training before unlearning, and a gain in simulated
requests, whose stopping level and outcome are measured on validation records. When the budget of
gradient evaluations is used up, or nothing passes, the choice is ordinary training, and the report
will not call that model ready. Holdout records are never looked at.

Only weights and preset are chosen; order, ``every``, ``last_fraction``, scope and episodes are what
a user pays and stay as declared.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from governance.declaration import Declaration
from r2u_tasks.config import ReadinessConfig, UnlearningConfig, readiness_config, training_config
from r2u_tasks.model import build_model
from r2u_tasks.readiness_report import Arm, Tolerance, find_reasons, measure_arm
from r2u_tasks.records import Splits
from r2u_tasks.training import ProgressCallback, SegmentedRecords, TrainingCost, train_segments

STRENGTHS = (1.0, 0.5, 0.25, 0.125)

ABSOLUTE_PRESET: dict[str, Any] = {
    "form": "absolute",
    "efficiency_weight": 0.5,
    "retention_weight": 1.0,
    "resistance_weight": 0.0,
    "revocable_weight": 1.0,
    "normalized_step": False,
    "inner_clip_norm": 1.0,
    "inner_lr": 0.1,
    "efficiency_cap_nats": 2.3,
    "max_gradient_norm": 5.0,
}
"""The absolute form with a clipped step; the guard, not this list, decides whether it serves."""

ORDINARY: dict[str, Any] = {
    "efficiency_weight": 0.0,
    "retention_weight": 0.0,
    "resistance_weight": 0.0,
    "revocable_weight": 0.0,
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was tried.

    Attributes:
        name: ``declared`` or ``absolute``, and the strength.
        readiness: Changes to the declared settings.
        reasons: Why it may not be called ready; empty for the one that is taken.
        unlearning_steps: Mean steps of the simulated requests.
        accuracy_after: Mean validation accuracy after them.
        spent: Gradient evaluations of all trials so far, in ordinary trainings.
    """

    name: str
    readiness: dict[str, Any]
    reasons: tuple[str, ...]
    unlearning_steps: float | None
    accuracy_after: float | None
    spent: float


@dataclass(frozen=True, slots=True)
class ReadinessChoice:
    """The chosen changes to the declared settings, and everything that was tried."""

    readiness: dict[str, Any]
    why: str
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return asdict(self)


def settings_to_try(declaration: Declaration) -> list[tuple[str, dict[str, Any]]]:
    """Return names and changes of all settings, in the order in which they are tried."""
    part = declaration.readiness
    forms: list[tuple[str, dict[str, Any]]] = [("declared", {}), ("absolute", ABSOLUTE_PRESET)]
    tried = []
    for strength in STRENGTHS:
        for name, preset in forms:
            weights = {
                key: strength * preset.get(key, getattr(part, key))
                for key in ("efficiency_weight", "resistance_weight")
            }
            tried.append((f"{name} x {strength:g}", {**preset, **weights}))
    return tried


def choose_readiness(
    declaration: Declaration,
    splits: Splits,
    *,
    unlearning: UnlearningConfig,
    progress: ProgressCallback | None = None,
) -> ReadinessChoice:
    """Try settings until one passes the guard or the budget is used up.

    Args:
        declaration: Recipe, tolerances and ``readiness.choice_budget``, in ordinary trainings.
        splits: Training and validation records.
        unlearning: Settings of the simulated requests.
        progress: Called after each epoch of each trial.
    """
    part = declaration.readiness
    tolerance = Tolerance(part.max_accuracy_drop, part.max_loss_rise, len(splits.validation))
    bench = _Bench(declaration, splits, unlearning, progress)
    ordinary, unit = bench.measure(readiness_config(part).ordinary())
    trials: list[Trial] = []
    spent = 1.0
    for name, changes in settings_to_try(declaration):
        if spent >= part.choice_budget:
            return ReadinessChoice(ORDINARY, "the budget was used up", tuple(trials))
        config = readiness_config(part.chosen(changes))
        arm, gradients = bench.measure(config)
        spent += gradients / max(1, unit)
        reasons = find_reasons(arm, ordinary, tolerance, active=config.is_active)
        trial = Trial(
            name, changes, tuple(reasons), arm.unlearning_steps, arm.accuracy_after, spent
        )
        trials.append(trial)
        if not reasons:
            return ReadinessChoice(changes, f"{name} passes the guard", tuple(trials))
    return ReadinessChoice(ORDINARY, "no setting passes the guard", tuple(trials))


class _Bench:
    """Phase A, trained once, and what phase B with some settings makes of it."""

    def __init__(
        self,
        declaration: Declaration,
        splits: Splits,
        unlearning: UnlearningConfig,
        progress: ProgressCallback | None,
    ) -> None:
        self._training = training_config(declaration.training)
        self._splits, self._unlearning, self._progress = splits, unlearning, progress
        self._phase_a = build_model(declaration, declaration.training.seed)
        stable_only = replace(splits.training, n_segments=1)
        settings = readiness_config(declaration.readiness)
        cost = self._train(self._phase_a, stable_only, settings, 0)
        self._phase_a_gradients = cost.gradient_evaluations

    def measure(self, settings: ReadinessConfig) -> tuple[Arm, int]:
        """Return the arm and the gradient evaluations of its phase B (with A for ordinary)."""
        model = copy.deepcopy(self._phase_a)
        cost = self._train(model, self._splits.training, settings, 1)
        arm = measure_arm(model, self._phase_a, self._splits, cost, self._unlearning, 0)
        extra = 0 if settings.is_active else self._phase_a_gradients
        return arm, cost.gradient_evaluations + extra

    def _train(
        self, model: nn.Module, data: SegmentedRecords, settings: ReadinessConfig, first: int
    ) -> TrainingCost:
        return train_segments(
            model,
            data,
            training=self._training,
            readiness=settings,
            first_segment=first,
            progress=self._progress,
        )
