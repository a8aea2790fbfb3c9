"""Training in segments: phase A on stable data, phase B adds the revocable slices one by one.

Each segment starts with a fresh optimiser from a checkpoint and draws from its own seeds, so the
weights alone are a complete checkpoint, and running the rest from a checkpoint gives the same bits
as the whole run. That is what the exact ``replay`` lane rests on: the records of slice k were
never seen before segment k.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from governance.errors import DataError, UnlearningError
from r2u_tasks.config import Form, Order, Precision, ReadinessConfig, Resistance, TrainingConfig
from r2u_tasks.data import Records, iterate_batches
from r2u_tasks.episodes import SimulatedRequests
from r2u_tasks.functional_loss import FunctionalLoss, autocast
from r2u_tasks.objectives import TaskLoss, find_loss
from r2u_tasks.parameters import Parameters, norm, parameters_in_scope
from r2u_tasks.readiness import readiness_gradient
from r2u_tasks.readiness_terms import ReadinessTerms
from r2u_tasks.resume import (
    claim_folder,
    keep_checkpoint,
    load_finished,
    resume_point,
    run_identity,
    save_finished,
)
from r2u_tasks.seeding import derive_seed, make_generator, seeded
from r2u_tasks.team import Team, current_team

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
    """What a training run cost.

    Attributes:
        seconds: Wall time of the segments that this process trained.
        gradient_evaluations: Gradients of a batch; a gradient through a gradient counts as two.
        segment_seconds: Wall time by segment.
        resumed_from: Segment that an interrupted run was continued with; None for a whole run.
            The figures then leave out what was done before.
        n_processes: Processes that trained together.
    """

    seconds: float = 0.0
    gradient_evaluations: int = 0
    segment_seconds: dict[str, float] = field(default_factory=dict)
    resumed_from: str | None = None
    n_processes: int = 1

    @property
    def is_comparable(self) -> bool:
        """Whether the figures are those of a whole run in one process."""
        return self.resumed_from is None and self.n_processes == 1


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
    loss: TaskLoss | None = None,
    resume: bool = False,
    keep_finished: bool = False,
    ask: Callable[[], None] = lambda: None,
) -> TrainingCost:
    """Train the model in place from ``first_segment`` to the last.

    Under ``torchrun`` every process calls this with the same arguments; the first one writes.

    Args:
        model: Weights at the start of ``first_segment``; comes back on the CPU.
        data: Records and their segments; a segment sees its own and all earlier records.
        training: Optimiser, epochs, seed, device and precision.
        readiness: Readiness terms for the revocable segments; weights 0 is ordinary training.
        first_segment: 0 for a whole run, k to replay from the checkpoint before slice k.
        checkpoints: Folder for ``<k>.safetensors``, the weights *before* segment k >= 1.
        progress: Called after each epoch.
        loss: Loss of the task; the network's own or cross entropy where absent.
        resume: Go on from the last checkpoint of this very run in ``checkpoints``.
        keep_finished: Also keep the final weights in ``checkpoints``, for a process that resumes
            (and then publishes) what this one trained.
        ask: Called before and after a checkpoint is written and before finished weights are, in the
            first process; raises where the training must not go on.

    Raises:
        DataError: There is no record to train on, or the device is not there.
        UnlearningError: The loss became NaN or infinite.
    """
    if len(data) == 0:
        message = "training: expected at least one record, got none; is everything erased?"
        raise DataError(message)
    team = current_team()
    cost = TrainingCost(n_processes=team.size)
    if checkpoints is not None:
        identity = _identify(model, data, training, readiness, first_segment)
        finished = load_finished(model, checkpoints, identity) if resume else None
        if finished is not None:
            return TrainingCost(**finished)  # type: ignore[arg-type]
        start = first_segment
        if resume:
            start = resume_point(model, checkpoints, identity, first_segment=first_segment)
        if start > first_segment:
            cost.resumed_from = segment_name(start)
        team.wait()  # nobody still reads what the leader may delete
        if team.is_leader:
            claim_folder(checkpoints, identity)
        first_segment = start
    task = find_loss(model) if loss is None else loss
    run = _Run(model, data, training, readiness, task, team, cost, progress)
    for number in range(first_segment, data.n_segments):
        if checkpoints is not None and number > STABLE and team.is_leader:
            ask()
            keep_checkpoint(model, checkpoints, number)
            ask()
        started = time.perf_counter()
        run.train(number)
        cost.segment_seconds[segment_name(number)] = time.perf_counter() - started
    cost.seconds = sum(cost.segment_seconds.values())
    if checkpoints is not None and keep_finished and team.is_leader:
        ask()
        save_finished(model, checkpoints, asdict(cost))
    return cost


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of ``train_segments``: what all segments share."""

    model: nn.Module
    data: SegmentedRecords
    training: TrainingConfig
    readiness: ReadinessConfig
    task: TaskLoss
    team: Team
    cost: TrainingCost
    progress: ProgressCallback | None

    def train(self, number: int) -> None:
        """Run the epochs of one segment; reads straight down, hence longer than most."""
        name = segment_name(number)
        if number != STABLE and not np.any(self.data.segment == number):
            return  # an emptied slice adds nothing to what the model already saw
        visible = torch.from_numpy(np.flatnonzero(self.data.segment <= number))
        if len(visible) == 0:
            return
        is_stable = number == STABLE
        n_epochs = self.training.stable_epochs if is_stable else self.training.revocable_epochs
        device = self.training.torch_device
        self.model.to(device).train()
        forward = self._forward()
        optimizer = _make_optimizer(self.model, self.training)
        requests = self._simulated_requests(number)
        steps = _meta_steps(len(visible), n_epochs, self.training, self.readiness)
        seed, step = self.training.seed, 0
        dropout = ("dropout",) if self.team.is_leader else ("dropout", self.team.rank)
        with seeded(seed, name, *dropout):
            for epoch in range(n_epochs):
                shuffle = make_generator(seed, name, "epoch", epoch)
                total, terms = 0.0, None
                for part in iterate_batches(
                    len(visible), self.training.batch_size, generator=shuffle
                ):
                    optimizer.zero_grad(set_to_none=True)
                    total += self._task_gradient(forward, visible[part], device)
                    if requests is not None and step in steps:
                        terms = self._add_readiness(requests, derive_seed(seed, name, step), device)
                    optimizer.step()
                    step += 1
                mean = self.team.sum(total) / len(visible)
                _require_finite(mean, name, epoch)
                if self.progress is not None and self.team.is_leader:
                    shown = {} if terms is None else terms.to_dict()
                    self.progress(name, epoch + 1, n_epochs, {"loss": mean, **shown})
        self.model.to("cpu")

    def _forward(self) -> Callable[..., Any]:
        if self.team.size == 1:
            return self.model
        return DistributedDataParallel(self.model)

    def _task_gradient(
        self, forward: Callable[..., Any], index: torch.Tensor, device: torch.device
    ) -> float:
        """Add the gradient of the task loss and return this process's summed loss."""
        mine = self.team.share(index)
        inputs = self.data.records.inputs[mine].to(device)
        labels = self.data.records.labels[mine].to(device)
        with autocast(device, self.training.precision):
            loss = self.task.mean(forward(inputs), labels)
        weight = self.team.weight(len(index))
        scaled = loss if self.team.size == 1 else loss * (weight * self.team.size)
        scaled.backward()  # type: ignore[no-untyped-call]
        self.cost.gradient_evaluations += 1
        return float(loss.detach()) * weight * len(index)

    def _simulated_requests(self, number: int) -> SimulatedRequests | None:
        if number == STABLE or not self.readiness.is_active:
            return None
        segment = self.data.segment
        requests = SimulatedRequests(
            self.data.records,
            revocable=np.flatnonzero((segment > STABLE) & (segment <= number)),
            stable=np.flatnonzero(segment == STABLE),
            config=self.readiness,
            batch_size=self.training.batch_size,
            seed=derive_seed(self.training.seed, segment_name(number), "meta"),
        )
        return requests if requests.is_possible else None

    def _add_readiness(
        self, requests: SimulatedRequests, seed: int, device: torch.device
    ) -> ReadinessTerms:
        theta = parameters_in_scope(self.model, self.readiness.parameters)
        loss = FunctionalLoss(
            self.model,
            seed,
            task=self.task,
            precision=_readiness_precision(self.training, self.readiness),
            team=self.team,
        )
        batches = requests.next().to(device)
        gradient, terms = readiness_gradient(loss, theta, batches, self.readiness)
        _add_bounded(theta, gradient, self.readiness.max_gradient_norm)
        self.cost.gradient_evaluations += gradients_per_meta_step(self.readiness)
        return terms


def gradients_per_meta_step(config: ReadinessConfig) -> int:
    """Return how many gradients of a batch one meta-step takes (double backward counts as two)."""
    h1 = config.resistance_weight > 0 and config.resistance_reading is Resistance.H1
    both = 2 if config.form is Form.DIFFERENCE else 1
    n = config.inner_steps
    n += both * (config.retention_weight > 0) + (config.resistance_weight > 0) + h1
    if config.form is Form.DIFFERENCE:
        n += 2
    else:
        n += (config.efficiency_weight > 0) + (config.revocable_weight > 0)
    return n if config.order is Order.FIRST else n + 2 * config.inner_steps + 2 * h1


def _identify(
    model: nn.Module,
    data: SegmentedRecords,
    training: TrainingConfig,
    readiness: ReadinessConfig,
    first_segment: int,
) -> str:
    return run_identity(
        model,
        data.records,
        torch.from_numpy(data.segment),
        training=replace(training, device="any"),
        readiness=readiness,
        first_segment=first_segment,
    )


def _meta_steps(
    n_visible: int, n_epochs: int, training: TrainingConfig, readiness: ReadinessConfig
) -> range:
    """Return the steps of a segment that have readiness terms: the last ones, every k-th."""
    n_steps = n_epochs * -(-n_visible // training.batch_size)
    first = n_steps - max(1, round(n_steps * readiness.last_fraction))
    return range(first, n_steps, readiness.every)


def _readiness_precision(training: TrainingConfig, readiness: ReadinessConfig) -> Precision:
    """Return the precision of simulated passes; a difference of gradients needs all digits."""
    if readiness.order is Order.FINITE_DIFFERENCE:
        return Precision.FLOAT32
    return training.precision


def _add_bounded(theta: Parameters, gradient: Parameters, max_norm: float) -> None:
    length = norm(gradient)
    factor = min(1.0, max_norm / length) if length > 0 else 1.0
    for name, parameter in theta.items():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.add_(gradient[name].detach(), alpha=factor)


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
