"""Settings of the learning code, as frozen records that refuse what makes no sense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from governance import declaration as declared
from governance.errors import DataError


class Order(StrEnum):
    """How the meta-gradient is differentiated through the simulated unlearning."""

    SECOND = "second"
    FIRST = "first"
    FINITE_DIFFERENCE = "finite-difference"


class Resistance(StrEnum):
    """Reading of the resistance term (the paper's own is not known)."""

    H1 = "H1"
    H2 = "H2"


class Form(StrEnum):
    """Bounded form of the objective: differences to the present losses, or absolute hinges."""

    DIFFERENCE = "difference"
    ABSOLUTE = "absolute"


class Episodes(StrEnum):
    """Which records the simulated requests of training ask for.

    ``fixed``: all revocable records, retain batches from stable ones. ``records``: every episode a
    random part of the revocable records, ``classes``: every episode one class of them; retain
    batches from everything else, so that no forget set need be known while the model is trained.
    """

    FIXED = "fixed"
    RECORDS = "records"
    CLASSES = "classes"


class Precision(StrEnum):
    """Number format of matrix products in training; weights and optimiser stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadinessConfig:
    """Weights and inner loop of the Ready2Unlearn objective.

    Attributes:
        form: difference (D) or absolute (A); a cap belongs to its form.
        efficiency_weight: lambda_1, at least 0.
        retention_weight: lambda_2, at least 0.
        resistance_weight: lambda_3, at least 0.
        revocable_weight: w_v, added weight of the loss on revocable records, so that the model
            learns them although it is trained to lose them; at least 0.
        resistance_reading: H1 (one relearning step must not bring the data back) or H2 (unlearning
            must not raise the loss on look-alikes).
        order: second, first or finite-difference.
        inner_steps: Simulated gradient-ascent steps K, at least 1.
        inner_lr: alpha, the step size (the step's length when ``normalized_step``).
        relearn_lr: beta, the step size of simulated relearning.
        normalized_step: Divide the ascent direction by its norm.
        inner_clip_norm: Longest ascent gradient; a longer one is scaled down to it.
        efficiency_cap_nats: c; difference form: the efficiency term is silent once one simulation
            gains c nats; absolute form: a record is silent once its loss is c nats.
        every: Add the readiness terms on every k-th optimiser step.
        last_fraction: Share of a segment's steps, at its end, that have readiness terms.
        parameters: Shell-style patterns of the parameter names that simulated unlearning moves and
            that get readiness gradients; all others are trained on the task alone.
        batch_size: Records in each batch of a meta-step; as in training where absent.
        episodes: Which records a simulated request asks for.
        episode_fraction: Share of the revocable records in one episode of ``records``.
        episode_steps: Meta-steps of one episode.
        max_gradient_norm: The readiness gradient is scaled down to this norm before it is added,
            so that no meta-step outweighs the task.
    """

    form: Form = Form.DIFFERENCE
    efficiency_weight: float = 1.0
    retention_weight: float = 1.0
    resistance_weight: float = 0.1
    revocable_weight: float = 0.0
    resistance_reading: Resistance = Resistance.H1
    order: Order = Order.SECOND
    inner_steps: int = 1
    inner_lr: float = 0.5
    relearn_lr: float = 0.5
    normalized_step: bool = False
    inner_clip_norm: float | None = None
    efficiency_cap_nats: float = 0.5
    every: int = 1
    last_fraction: float = 1.0
    max_gradient_norm: float = 1.0
    parameters: tuple[str, ...] = ("*",)
    batch_size: int | None = None
    episodes: Episodes = Episodes.FIXED
    episode_fraction: float = 0.1
    episode_steps: int = 1

    def __post_init__(self) -> None:
        """Refuse weights below 0, counts below 1, fractions outside (0, 1] and two step rules."""
        weights = (*self.weights, self.revocable_weight)
        if min(weights) < 0:
            message = f"readiness weights: expected at least 0, got {weights}"
            raise ValueError(message)
        counts = (self.inner_steps, self.every, self.episode_steps)
        if min(counts) < 1:
            message = f"inner_steps, every, episode_steps: expected >= 1, got {counts}"
            raise ValueError(message)
        fractions = (self.last_fraction, self.episode_fraction)
        if min(fractions) <= 0 or max(fractions) > 1:
            message = f"last_fraction, episode_fraction: expected in (0, 1], got {fractions}"
            raise ValueError(message)
        if self.inner_clip_norm is not None and (self.normalized_step or self.inner_clip_norm <= 0):
            message = "inner_clip_norm: expected above 0 and no normalized_step beside it"
            raise ValueError(message)

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weights of efficiency, retention and resistance."""
        return (self.efficiency_weight, self.retention_weight, self.resistance_weight)

    @property
    def is_active(self) -> bool:
        """Whether any readiness term has weight; if none has, training is ordinary training."""
        return sum(self.weights) + self.revocable_weight > 0

    def ordinary(self) -> ReadinessConfig:
        """Return the same settings with all weights 0."""
        return replace(
            self,
            efficiency_weight=0.0,
            retention_weight=0.0,
            resistance_weight=0.0,
            revocable_weight=0.0,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Ordinary training settings; an epoch visits every record of its segment once.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...; ``auto`` takes an accelerator if there
            is one. Runs are repeatable bit for bit on ``cpu`` only.
        precision: Number format of matrix products.
    """

    seed: int = 0
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    stable_epochs: int = 20
    revocable_epochs: int = 6
    device: str = "cpu"
    precision: Precision = Precision.FLOAT32

    @property
    def torch_device(self) -> torch.device:
        """Device to train on.

        Raises:
            DataError: This machine does not have it.
        """
        name = self.device
        if name == "auto":
            found = torch.accelerator.current_accelerator(check_available=True)
            return torch.device("cpu") if found is None else found
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            message = f"training.device: expected a device of this machine, got '{name}'"
            raise DataError(message) from error
        return device


@dataclass(frozen=True, kw_only=True, slots=True)
class UnlearningConfig:
    """Bounds of one unlearning run; the step count is chosen by the stopping rule.

    Attributes:
        method: Registered name.
        step_size: Length of one normalised step, as a fraction of the norm of all weights; found
            by rule while the method runs where absent.
        max_steps: Upper bound of steps.
        retain_weight: Weight of the retain gradient against the forget gradient.
        batch_size: Records in a retain batch, and at most in a forget batch.
        seed: Seed of the batches and of random labels.
        parameters: Shell-style patterns of the parameter names that unlearning may move.
        target_margins: Margin in nats that each forget record ``[B]`` should come down to; from
            validation records where absent.
    """

    method: str = "neg_grad_plus"
    step_size: float | None = None
    max_steps: int = 60
    retain_weight: float = 1.0
    batch_size: int = 128
    seed: int = 0
    parameters: tuple[str, ...] = ("*",)
    target_margins: torch.Tensor | None = None


def readiness_config(part: declared.Readiness) -> ReadinessConfig:
    """Return the readiness settings of a declaration."""
    return ReadinessConfig(
        form=Form(part.form),
        efficiency_weight=part.efficiency_weight,
        retention_weight=part.retention_weight,
        resistance_weight=part.resistance_weight,
        revocable_weight=part.revocable_weight,
        resistance_reading=Resistance(part.resistance_reading),
        order=Order(part.order),
        inner_steps=part.inner_steps,
        inner_lr=part.inner_lr,
        relearn_lr=part.relearn_lr,
        normalized_step=part.normalized_step,
        inner_clip_norm=part.inner_clip_norm,
        efficiency_cap_nats=part.efficiency_cap_nats,
        every=part.every,
        last_fraction=part.last_fraction,
        max_gradient_norm=part.max_gradient_norm,
        parameters=part.parameters,
        batch_size=part.batch_size,
        episodes=Episodes(part.episodes),
        episode_fraction=part.episode_fraction,
        episode_steps=part.episode_steps,
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
        device=part.device,
        precision=Precision(part.precision),
    )


def unlearning_config(part: declared.Unlearning, *, seed: int) -> UnlearningConfig:
    """Return the unlearning settings of a declaration."""
    return UnlearningConfig(
        method=part.method,
        step_size=part.step_size,
        max_steps=part.max_steps,
        retain_weight=part.retain_weight,
        parameters=part.parameters,
        seed=seed,
    )
