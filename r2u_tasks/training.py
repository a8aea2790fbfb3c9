"""Training in segments: phase A on stable data, phase B adds the revocable slices one by one.

Each segment starts with a fresh optimiser from a checkpoint and draws from its own seeds, so the
weights alone are a complete checkpoint, and running the rest from a checkpoint gives the same bits
as the whole run. That is what the exact ``replay`` lane rests on: the records of slice k were
never seen before segment k.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from governance.errors import DataError, UnlearningError
from r2u_tasks.checkpoint import save_weights
from r2u_tasks.config import ReadinessConfig, TrainingConfig
from r2u_tasks.data import BatchStream, Records, iterate_batches
from r2u_tasks.objectives import mean_loss
from r2u_tasks.readiness import (
    Batch,
    ReadinessBatches,
    ReadinessTerms,
    make_loss,
    readiness_gradient,
    take_batch,
    trainable_parameters,
)
from r2u_tasks.seeding import derive_seed, make_generator, seeded

ProgressCallback = Callable[[str, int, int, dict[str, float]], None]
"""Called with segment name, epoch (from 1), number of epochs and values to show."""

STABLE = 0
"""Segment number of stable records; slice k of the revocable ones has number k, from 1."""


@dataclass(frozen=True, slots=True)
class SegmentedRecords:
    """Training records with the first segment that sees each of them.

    Attributes:
        records: Encoded records.
        segment: int8 ``[B]``: 0 stable, k = revocable slice k.
        n_segments: Number of segments, stable included; kept when a slice becomes empty.
    """

    records: Records
    segment: np.ndarray
    n_segments: int

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def without(self, ids: Sequence[str] | np.ndarray) -> SegmentedRecords:
        """Return the same without some records; segments keep their numbers."""
        keep = ~np.isin(self.records.ids, np.asarray(ids, dtype=self.records.ids.dtype))
        return SegmentedRecords(self.records.select(keep), self.segment[keep], self.n_segments)


@dataclass(slots=True)
class TrainingCost:
    """What a training run cost."""

    seconds: float = 0.0
    gradient_evaluations: int = 0
    segment_seconds: dict[str, float] = field(default_factory=dict)


def segment_name(number: int) -> str:
    """Return ``stable`` or ``slice-k``."""
    return "stable" if number == STABLE else f"slice-{number}"


def assign_slices(revocable: np.ndarray, order: np.ndarray, n_slices: int) -> np.ndarray:
    """Cut the revocable records into slices, least likely to be erased first.

    Args:
        revocable: bool ``[B]``.
        order: int ``[B]``, rank by erasure probability, low first.
        n_slices: Number of slices of equal size (the first ones get what is left over).

    Returns:
        int8 ``[B]``: 0 for stable records, 1 ... n_slices for revocable ones.
    """
    segment = np.zeros(len(revocable), dtype=np.int8)
    index = np.flatnonzero(revocable)
    ranked = index[np.argsort(order[index], kind="stable")]
    for number, part in enumerate(np.array_split(ranked, n_slices), start=1):
        segment[part] = number
    return segment


def train_segments(
    model: nn.Module,
    data: SegmentedRecords,
    *,
    training: TrainingConfig,
    readiness: ReadinessConfig,
    first_segment: int = STABLE,
    checkpoints: Path | None = None,
    progress: ProgressCallback | None = None,
) -> TrainingCost:
    """Train the model in place from ``first_segment`` to the last.

    Args:
        model: Weights at the start of ``first_segment``.
        data: Records and their segments; a segment sees its own and all earlier records.
        training: Optimiser, epochs and seed.
        readiness: Readiness terms for the revocable segments; weights 0 is ordinary training.
        first_segment: 0 for a whole run, k to replay from the checkpoint before slice k.
        checkpoints: Folder for ``<k>.safetensors``, the weights *before* segment k >= 1.
        progress: Called after each epoch.

    Raises:
        DataError: There is no record to train on.
        UnlearningError: The loss became NaN or infinite.
    """
    if len(data) == 0:
        message = "training: expected at least one record, got none; is everything erased?"
        raise DataError(message)
    cost = TrainingCost()
    for number in range(first_segment, data.n_segments):
        if checkpoints is not None and number > STABLE:
            save_weights(model, checkpoints / f"{number}.safetensors")
        started = time.perf_counter()
        _train_segment(model, data, number, training, readiness, cost, progress)
        cost.segment_seconds[segment_name(number)] = time.perf_counter() - started
    cost.seconds = sum(cost.segment_seconds.values())
    return cost


def _train_segment(
    model: nn.Module,
    data: SegmentedRecords,
    number: int,
    training: TrainingConfig,
    readiness: ReadinessConfig,
    cost: TrainingCost,
    progress: ProgressCallback | None,
) -> None:
    """Run the epochs of one segment; reads straight down, hence longer than most."""
    name = segment_name(number)
    if number != STABLE and not np.any(data.segment == number):
        return  # an emptied slice adds nothing to what the model already saw
    visible = torch.from_numpy(np.flatnonzero(data.segment <= number))
    if len(visible) == 0:
        return
    n_epochs = training.stable_epochs if number == STABLE else training.revocable_epochs
    optimizer = _make_optimizer(model, training)
    meta = _MetaBatches(data, number, training) if number != STABLE else None
    use_readiness = readiness.is_active and meta is not None and meta.is_possible
    seed = training.seed
    model.train()
    step = 0
    with seeded(seed, name, "dropout"):
        for epoch in range(n_epochs):
            shuffle = make_generator(seed, name, "epoch", epoch)
            total, terms = 0.0, None
            for part in iterate_batches(len(visible), training.batch_size, generator=shuffle):
                batch = take_batch(data.records, visible[part])
                optimizer.zero_grad(set_to_none=True)
                loss = mean_loss(model(batch[0]), batch[1])
                loss.backward()  # type: ignore[no-untyped-call]
                cost.gradient_evaluations += 1
                if use_readiness and meta is not None and step % readiness.every == 0:
                    terms = _add_readiness(model, meta, readiness, derive_seed(seed, name, step))
                    cost.gradient_evaluations += gradients_per_meta_step(readiness)
                optimizer.step()
                total += float(loss.detach()) * len(part)
                step += 1
            _require_finite(total, name, epoch)
            if progress is not None:
                values = {"loss": total / len(visible)}
                if terms is not None:
                    values |= {"gain": terms.gain, "retention": terms.retention}
                    values |= {"resistance": terms.resistance}
                progress(name, epoch + 1, n_epochs, values)


def gradients_per_meta_step(config: ReadinessConfig) -> int:
    """Return how many gradients of a batch one meta-step takes (double backward counts as two)."""
    h1 = config.resistance_weight > 0 and config.resistance_reading == "H1"
    terms = 2 + 2 * (config.retention_weight > 0) + (config.resistance_weight > 0) + h1
    curvature = 0 if config.order == "first" else 2 * config.inner_steps + 2 * h1
    return config.inner_steps + terms + curvature


class _MetaBatches:
    """Endless batches for the simulated request of one segment."""

    def __init__(self, data: SegmentedRecords, number: int, training: TrainingConfig) -> None:
        self._records = data.records
        revocable = np.flatnonzero((data.segment > STABLE) & (data.segment <= number))
        stable = np.flatnonzero(data.segment == STABLE)
        self.is_possible = len(revocable) > 1 and len(stable) > 0
        if self.is_possible:
            size = max(1, min(training.batch_size, len(revocable) // 2))
            seed = derive_seed(training.seed, segment_name(number), "meta")
            self._forget = BatchStream(torch.from_numpy(revocable), size, seed, "forget")
            self._retain = BatchStream(torch.from_numpy(stable), size, seed, "retain")
            self._relearn = BatchStream(torch.from_numpy(stable), size, seed, "relearn")

    def next(self, inner_steps: int) -> ReadinessBatches:
        """Return the batches of one meta-step."""

        def take(stream: BatchStream) -> Batch:
            return take_batch(self._records, stream.next())

        return ReadinessBatches(
            inner=[take(self._forget) for _ in range(inner_steps)],
            forget=take(self._forget),
            retain=take(self._retain),
            relearn=take(self._relearn),
        )


def _add_readiness(
    model: nn.Module, meta: _MetaBatches, config: ReadinessConfig, seed: int
) -> ReadinessTerms:
    parameters = trainable_parameters(model)
    batches = meta.next(config.inner_steps)
    gradient, terms = readiness_gradient(make_loss(model, seed), parameters, batches, config)
    norm = float(torch.sqrt(torch.stack([(g**2).sum() for g in gradient.values()]).sum()))
    scale = min(1.0, config.max_gradient_norm / norm) if norm > 0 else 1.0
    for name, parameter in parameters.items():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.add_(gradient[name], alpha=scale)
    return terms


def _make_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=training.learning_rate,
            momentum=0.9,
            weight_decay=training.weight_decay,
        )
    return torch.optim.AdamW(
        parameters, lr=training.learning_rate, weight_decay=training.weight_decay
    )


def _require_finite(total: float, name: str, epoch: int) -> None:
    if not np.isfinite(total):
        message = (
            f"training segment {name}, epoch {epoch + 1}: expected a finite loss, got {total}; "
            "lower training.learning_rate or the readiness weights"
        )
        raise UnlearningError(message)
