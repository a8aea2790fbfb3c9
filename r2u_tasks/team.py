"""The processes that train one model together: who takes which records, and how they agree.

Every process draws the same global batches and computes the loss of its share. Losses become
global means and gradients global sums by collectives that autograd can differentiate twice, so the
inner steps of the simulated unlearning are those of a single process, whatever their order.

Why the sums are right: with L = sum over processes of w_r l_r, held by every process, autograd on
process r returns the derivative of *all* copies of L by its own parameters, that is n w_r dl_r (n
processes). The mean of these over the processes is sum w_r dl_r, the gradient of L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True, slots=True)
class Team:
    """One process among ``size``; a team of one does no communication at all."""

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, index: torch.Tensor) -> torch.Tensor:
        """Return this process's records of a global batch; never empty.

        Where there are fewer records than processes, a process without one takes the first record,
        and ``weight`` counts it as nothing.
        """
        mine = index[self.rank :: self.size]
        return mine if len(mine) else index[:1]

    def weight(self, n_records: int) -> float:
        """Return this process's share of a global batch as a fraction."""
        return len(range(self.rank, n_records, self.size)) / n_records

    def global_mean(self, mean: torch.Tensor, n_records: int) -> torch.Tensor:
        """Return the mean over the global batch from the mean over this process's share."""
        if self.size == 1:
            return mean
        return _sum_of_all(mean * self.weight(n_records))

    def global_gradients(self, gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return the gradients of a global mean; one flat message for all parameters."""
        if self.size == 1:
            return gradients
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) / self.size
        parts = torch.split(_sum_of_all(flat), [gradient.numel() for gradient in gradients])
        return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]

    def sum(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.size == 1:
            return value
        together = torch.tensor(value, dtype=torch.float64, device=_message_device())
        distributed.all_reduce(together)
        return float(together)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Team()
"""Ordinary training in one process."""


def current_team() -> Team:
    """Return the team of this process: that of ``torch.distributed`` where it is initialised."""
    if distributed.is_available() and distributed.is_initialized():
        return Team(distributed.get_rank(), distributed.get_world_size())
    return ALONE


class _SumOfAll(torch.autograd.Function):
    """Sum over processes; its derivative is the sum of what arrives, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        del ctx
        summed = tensor.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        del ctx
        return _sum_of_all(gradients[0].contiguous())


def _sum_of_all(tensor: torch.Tensor) -> torch.Tensor:
    summed: torch.Tensor = _SumOfAll.apply(tensor)  # type: ignore[no-untyped-call]
    return summed


def _message_device() -> torch.device:
    """Return where a message must lie: NCCL carries no tensors of the CPU."""
    is_nccl = distributed.get_backend() == "nccl"
    return torch.device("cuda" if is_nccl else "cpu")
