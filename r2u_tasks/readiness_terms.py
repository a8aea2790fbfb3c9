"""What one meta-step of Ready2Unlearn works on, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch

from r2u_tasks.config import ReadinessConfig
from r2u_tasks.functional_loss import Batch

Scalar = TypeVar("Scalar", float, torch.Tensor)

TINY_NORM = 1e-12
"""Added to a gradient norm before a division: a vanished gradient gives no step instead of NaN."""


@dataclass(frozen=True, slots=True)
class ReadinessBatches:
    """Batches of one meta-step: ``inner`` (K of them) and ``forget`` are disjoint and revocable."""

    inner: Sequence[Batch]
    forget: Batch
    retain: Batch
    relearn: Batch

    def to(self, device: torch.device) -> ReadinessBatches:
        """Return the batches on a device."""

        def move(batch: Batch) -> Batch:
            return batch[0].to(device), batch[1].to(device)

        inner = [move(batch) for batch in self.inner]
        return ReadinessBatches(inner, move(self.forget), move(self.retain), move(self.relearn))


@dataclass(frozen=True, slots=True)
class ReadinessTerms:
    """Values of one meta-step in nats, before their weights.

    Attributes:
        gain: Rise of the revocable loss by the simulated unlearning; the cap is the aim.
        efficiency: What is missing to the cap, at least 0.
        retention: Rise of the stable loss by the simulated unlearning, at least 0 (absolute form:
            that loss itself).
        resistance: Fall of the revocable loss by relearning (H1; absolute form: what is missing to
            the cap after relearning), or loss on look-alikes (H2).
    """

    gain: float
    efficiency: float
    retention: float
    resistance: float

    @classmethod
    def of(cls, *values: torch.Tensor) -> ReadinessTerms:
        """Return the terms of four scalars, in the order of the fields."""
        return cls(*(float(value.detach()) for value in values))

    def to_dict(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


def is_length_fixed(gradient_norm: float, config: ReadinessConfig) -> bool:
    """Return whether the step's length does not depend on the gradient's (normalised, clipped)."""
    clip = config.inner_clip_norm
    return config.normalized_step or (clip is not None and gradient_norm > clip)


def step_factor(gradient_norm: Scalar, config: ReadinessConfig) -> Scalar | float:
    """Return the factor that makes an ascent step of a gradient."""
    value = gradient_norm if isinstance(gradient_norm, float) else float(gradient_norm.detach())
    if not is_length_fixed(value, config):
        return config.inner_lr
    length = config.inner_lr if config.normalized_step else config.inner_lr * _clip(config)
    return length / (gradient_norm + TINY_NORM)


def _clip(config: ReadinessConfig) -> float:
    return 1.0 if config.inner_clip_norm is None else config.inner_clip_norm
