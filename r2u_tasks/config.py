"""Settings of the learning code, as frozen records that refuse what makes no sense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from governance import declaration as declared


class Order(StrEnum):
    """How the meta-gradient is differentiated through the simulated unlearning."""

    SECOND = "second"
    FIRST = "first"
    FINITE_DIFFERENCE = "finite-difference"


class Resistance(StrEnum):
    """Reading of the resistance term (the paper's own is not known)."""

    H1 = "H1"
    H2 = "H2"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadinessConfig:
    """Weights and inner loop of the Ready2Unlearn objective, form D.

    Attributes:
        efficiency_weight: lambda_1, at least 0.
        retention_weight: lambda_2, at least 0.
        resistance_weight: lambda_3, at least 0.
        resistance_reading: H1 (one relearning step must not bring the data back) or H2 (unlearning
            must not raise the loss on look-alikes).
        order: second, first or finite-difference.
        inner_steps: Simulated gradient-ascent steps K, at least 1.
        inner_lr: alpha, the step size (the step's length when ``normalized_step``).
        relearn_lr: beta, the step size of simulated relearning.
        normalized_step: Divide the ascent direction by its norm.
        efficiency_cap_nats: c; the efficiency term is silent once one simulation gains c nats.
        every: Add the readiness terms on every k-th optimiser step.
        max_gradient_norm: The readiness gradient is scaled down to this norm before it is added,
            so that no meta-step outweighs the task.
    """

    efficiency_weight: float = 1.0
    retention_weight: float = 1.0
    resistance_weight: float = 0.1
    resistance_reading: Resistance = Resistance.H1
    order: Order = Order.SECOND
    inner_steps: int = 1
    inner_lr: float = 0.5
    relearn_lr: float = 0.5
    normalized_step: bool = False
    efficiency_cap_nats: float = 0.5
    every: int = 1
    max_gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse weights below 0 and step counts below 1."""
        weights = (self.efficiency_weight, self.retention_weight, self.resistance_weight)
        if min(weights) < 0:
            message = f"readiness weights: expected at least 0, got {weights}"
            raise ValueError(message)
        if self.inner_steps < 1 or self.every < 1:
            message = f"inner_steps, every: expected >= 1, got {self.inner_steps}, {self.every}"
            raise ValueError(message)

    @property
    def is_active(self) -> bool:
        """Whether any readiness term has weight; if none has, training is ordinary training."""
        return self.efficiency_weight + self.retention_weight + self.resistance_weight > 0

    def ordinary(self) -> ReadinessConfig:
        """Return the same settings with all weights 0."""
        return replace(self, efficiency_weight=0.0, retention_weight=0.0, resistance_weight=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Ordinary training settings; an epoch visits every record of its segment once."""

    seed: int = 0
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    stable_epochs: int = 20
    revocable_epochs: int = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class UnlearningConfig:
    """Bounds of one unlearning run; the step count is chosen by the stopping rule.

    Attributes:
        method: Registered name.
        step_size: Length of one normalised step, as a fraction of the norm of all weights.
        max_steps: Upper bound of steps.
        retain_weight: Weight of the retain gradient against the forget gradient.
        batch_size: Records in a retain batch.
        seed: Seed of the batches.
        target_margins: Margin in nats that each forget record ``[B]`` should come down to; from
            validation records where absent.
    """

    method: str = "neg_grad_plus"
    step_size: float = 0.05
    max_steps: int = 60
    retain_weight: float = 1.0
    batch_size: int = 256
    seed: int = 0
    target_margins: torch.Tensor | None = None


def readiness_config(part: declared.Readiness) -> ReadinessConfig:
    """Return the readiness settings of a declaration."""
    return ReadinessConfig(
        efficiency_weight=part.efficiency_weight,
        retention_weight=part.retention_weight,
        resistance_weight=part.resistance_weight,
        resistance_reading=Resistance(part.resistance_reading),
        order=Order(part.order),
        inner_steps=part.inner_steps,
        inner_lr=part.inner_lr,
        relearn_lr=part.relearn_lr,
        normalized_step=part.normalized_step,
        efficiency_cap_nats=part.efficiency_cap_nats,
        every=part.every,
        max_gradient_norm=part.max_gradient_norm,
    )


def training_config(part: declared.Training) -> TrainingConfig:
    """Return the training settings of a declaration."""
    return TrainingConfig(
        seed=part.seed,
        batch_size=part.batch_size,
        optimizer=part.optimizer,
        learning_rate=part.learning_rate,
        weight_decay=part.weight_decay,
        stable_epochs=part.stable_epochs,
        revocable_epochs=part.revocable_epochs,
    )


def unlearning_config(part: declared.Unlearning, *, seed: int) -> UnlearningConfig:
    """Return the unlearning settings of a declaration."""
    return UnlearningConfig(
        method=part.method,
        step_size=part.step_size,
        max_steps=part.max_steps,
        retain_weight=part.retain_weight,
        seed=seed,
    )
