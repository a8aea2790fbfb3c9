"""Peak memory of a training step: live bytes of tensors, counted from allocations.

Not the resident memory of the process: the libraries outweigh a small model, and an allocator keeps
what it once had.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from r2u_tasks.config import ReadinessConfig, TrainingConfig
from r2u_tasks.objectives import TaskLoss
from r2u_tasks.training import STABLE, SegmentedRecords, train_segments


def peak_step_bytes(
    model: nn.Module,
    data: SegmentedRecords,
    *,
    training: TrainingConfig,
    readiness: ReadinessConfig,
    loss: TaskLoss | None = None,
) -> int:
    """Return the peak of the bytes that a step allocates beyond model and data, on the CPU.

    A copy of the model takes a few steps with readiness terms on a few batches of the records.
    """
    sample = _sample(data, training.batch_size)
    recipe = replace(training, device="cpu", stable_epochs=0, revocable_epochs=1)
    student = copy.deepcopy(model)
    live = _LiveBytes()
    with live:
        train_segments(
            student,
            sample,
            training=recipe,
            readiness=replace(readiness, every=1, last_fraction=1.0),
            loss=loss,
        )
    return live.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every storage that an operator made and that is still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._made: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in filter(_is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                self._made[storage._cdata] = (_weak(storage), storage.nbytes())
        self._made = {k: v for k, v in self._made.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(n_bytes for _, n_bytes in self._made.values()))
        return result


def _weak(storage: torch.UntypedStorage) -> Any:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _sample(data: SegmentedRecords, batch_size: int) -> SegmentedRecords:
    """Return up to two batches of stable and two of revocable records, in one segment each."""
    stable = np.flatnonzero(data.segment == STABLE)[: 2 * batch_size]
    revocable = np.flatnonzero(data.segment > STABLE)[: 2 * batch_size]
    chosen = np.zeros(len(data), dtype=bool)
    chosen[np.concatenate([stable, revocable])] = True
    segment = np.minimum(data.segment[chosen], 1)
    return SegmentedRecords(data.records.select(chosen), segment, 2)
