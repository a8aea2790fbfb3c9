"""The loss of a model as a pure function of parameters and a batch, and its gradient.

Rules enforced here: every parameter in scope gets a gradient or autograd raises (never
``allow_unused``); simulated passes see copies of the buffers, so that they leave BatchNorm
statistics alone; all passes of one meta-step share the dropout mask; attention kernels without a
second derivative are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from r2u_tasks.config import Precision
from r2u_tasks.objectives import CLASSIFICATION, TaskLoss
from r2u_tasks.parameters import Parameters, leaf
from r2u_tasks.team import ALONE, Team

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets; the first dimension counts records."""


class FunctionalLoss:
    """``loss(parameters, batch)`` in nats, free of side effects; global where a team trains."""

    def __init__(
        self,
        model: nn.Module,
        seed: int,
        *,
        task: TaskLoss = CLASSIFICATION,
        precision: Precision = Precision.FLOAT32,
        team: Team = ALONE,
    ) -> None:
        """Bind the loss to a model.

        Args:
            model: Network; parameters that a call does not name keep their values.
            seed: Of the dropout mask of all calls.
            task: Loss of the task.
            precision: Of the forward pass.
            team: Processes that share each batch.
        """
        self._model = model
        self._seed = seed
        self._task = task
        self._precision = precision
        self._team = team

    def __call__(self, at: Parameters, batch: Batch) -> torch.Tensor:
        """Return the mean loss of the records, a scalar."""
        output, targets = self._forward(at, batch)
        return self._team.global_mean(self._task.mean(output, targets), len(batch[1]))

    def hinge(self, at: Parameters, batch: Batch, cap_nats: float) -> torch.Tensor:
        """Return the mean over records of what their loss lacks to the cap, at least 0."""
        output, targets = self._forward(at, batch)
        missing = torch.relu(cap_nats - self._task.each(output, targets)).mean()
        return self._team.global_mean(missing, len(batch[1]))

    def gradient(
        self, value: torch.Tensor, at: Parameters, *, create_graph: bool = False
    ) -> Parameters:
        """Return the gradient of a value of this loss, the same in every process of the team.

        Raises:
            RuntimeError: A parameter has no path to the value.
        """
        gradients = torch.autograd.grad(value, list(at.values()), create_graph=create_graph)
        return dict(zip(at, self._team.global_gradients(gradients), strict=True))

    def value_and_gradient(
        self, at: Parameters, batch: Batch, cap_nats: float | None = None
    ) -> tuple[torch.Tensor, Parameters]:
        """Return the mean loss (with a cap: the hinge) at given parameters, and its gradient."""
        here = leaf(at)
        value = self(here, batch) if cap_nats is None else self.hinge(here, batch, cap_nats)
        return value.detach(), self.gradient(value, here)

    @torch.no_grad()
    def value(self, at: Parameters, batch: Batch) -> torch.Tensor:
        """Return the mean loss without its history."""
        return self(at, batch)

    def _forward(self, at: Parameters, batch: Batch) -> tuple[object, torch.Tensor]:
        inputs, targets = self._share(batch)
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        with (
            _dropout_mask(self._seed, self._team),
            autocast(inputs.device, self._precision),
            sdpa_kernel(SDPBackend.MATH),
        ):
            output = functional_call(self._model, (at, buffers), (inputs,))
        return output, targets

    def _share(self, batch: Batch) -> Batch:
        if self._team.size == 1:
            return batch
        index = self._team.share(torch.arange(len(batch[1])))
        return batch[0][index], batch[1][index]


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run matrix products in the given precision; float32 changes nothing."""
    if precision is Precision.FLOAT32:
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16):
        yield


@contextmanager
def _dropout_mask(seed: int, team: Team) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed + team.rank)
        yield
