"""Pools of reference models: trained in parallel processes, cached by what they were trained on.

A pool is named by the digest of what entered its training: inputs in their scale, labels, segments,
recipe and code. The pool that was retrained *without* the records of one batch is therefore found
again as the pool of *original* models of the next batch, and no pool outlives its records
unnoticed: its name says what is in it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn

from governance.declaration import Declaration
from governance.digests import canonical_json, digest_bytes, write_json
from governance.forgetting import PoolMargins
from r2u_tasks.checkpoint import load_weights, save_weights
from r2u_tasks.config import readiness_config, training_config
from r2u_tasks.data import Records
from r2u_tasks.metrics import accuracy, margins
from r2u_tasks.model import build_model
from r2u_tasks.provenance import code_digest
from r2u_tasks.resume import data_digest
from r2u_tasks.seeding import derive_seed
from r2u_tasks.training import SegmentedRecords, train_segments

_SPAWN_S = 10.0
"""A new process imports torch for seconds: less work than this is done here, model by model."""

PoolProgress = Callable[[str, int, int], None]
"""Called with the pool's role, models done and models wanted."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Trained reference models.

    Attributes:
        digest: What they were trained on and how.
        declaration: Their recipe.
        paths: Files of their weights.
        models: The models, in the order of their seeds.
        seconds: Processor seconds that training took now (0 for what came from the cache).
    """

    digest: str
    declaration: Declaration
    paths: Sequence[Path]
    models: list[nn.Module]
    seconds: float

    def before_segment(self, index: int, segment: int) -> nn.Module:
        """Return one model as it was before a segment k >= 1."""
        path = _checkpoints(self.paths[index]) / f"{segment}.safetensors"
        return load_weights(build_model(self.declaration, 0), path)


def pool_digest(declaration: Declaration, data: SegmentedRecords) -> str:
    """Return the name of a pool: encoded records, segments, recipe and code; no ids in clear."""
    recipe = declaration.model_dump(mode="json", include={"model", "training", "readiness"})
    content = canonical_json(
        {"recipe": recipe, "code": code_digest(), "columns": _columns(declaration)}
    )
    rows = data_digest(data.records, torch.from_numpy(data.segment))
    return digest_bytes(content + rows.encode())


def train_pool(
    declaration: Declaration,
    data: SegmentedRecords,
    *,
    role: str,
    size: int,
    folder: Path,
    workers: int | None = None,
    progress: PoolProgress | None = None,
) -> Pool:
    """Return ``size`` models trained on the data, from the cache where they are there.

    Args:
        declaration: Recipe.
        data: Training records.
        role: ``first`` or ``second``: independent seeds for a second, independent pool.
        size: Number of models, at least 1.
        folder: Cache folder of all pools.
        workers: Processes; default one for each core.
        progress: Called after each model.
    """
    digest = pool_digest(declaration, data)
    home = folder / digest.removeprefix("sha256:")[:24]
    paths = [home / f"{role}-{index}.safetensors" for index in range(size)]
    seconds = 0.0
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    done = size - len(missing)
    if missing:
        write_json(home / "pool.json", {"digest": digest, "n_records": len(data)})
        arrays = _Arrays.from_data(data)
        for spent in _run_jobs(declaration, arrays, role, missing, paths, workers):
            seconds += spent
            done += 1
            if progress is not None:
                progress(role, done, size)
    models = [load_weights(build_model(declaration, 0), path) for path in paths]
    return Pool(digest, declaration, paths, models, seconds)


def measure_pool(
    models: Sequence[nn.Module], *, forget: Records, retain: Records, test: Records
) -> PoolMargins:
    """Return margins on the forget records and accuracies on retained and test records."""
    return PoolMargins(
        margins=np.stack([margins(model, forget) for model in models]),
        retain_accuracy=np.array([accuracy(model, retain) for model in models]),
        test_accuracy=np.array([accuracy(model, test) for model in models]),
        test_margin=np.array([margins(model, test).mean() for model in models]),
    )


def drop_pools(folder: Path, *, keep: Sequence[str] = ()) -> int:
    """Delete every cached pool whose digest is not in ``keep``; return how many went."""
    wanted = {digest.removeprefix("sha256:")[:24] for digest in keep}
    gone = [path for path in sorted(folder.glob("*")) if path.name not in wanted]
    for path in gone:
        shutil.rmtree(path)
    return len(gone)


@dataclass(frozen=True, slots=True)
class _Arrays:
    """Training records as plain arrays, which travel to other processes without shared memory."""

    inputs: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    segment: np.ndarray
    n_segments: int

    @classmethod
    def from_data(cls, data: SegmentedRecords) -> _Arrays:
        records = data.records
        return cls(
            records.inputs.numpy(),
            records.labels.numpy(),
            records.ids,
            data.segment,
            data.n_segments,
        )

    def to_data(self) -> SegmentedRecords:
        records = Records(torch.from_numpy(self.inputs), torch.from_numpy(self.labels), self.ids)
        return SegmentedRecords(records, self.segment, self.n_segments)


def _run_jobs(
    declaration: Declaration,
    arrays: _Arrays,
    role: str,
    missing: Sequence[int],
    paths: Sequence[Path],
    workers: int | None,
) -> Iterator[float]:
    n_workers = min(workers or os.cpu_count() or 1, len(missing))
    first, *rest = missing
    spent = _train_one(declaration, arrays, role, first, paths[first])
    yield spent
    if n_workers == 1 or spent * len(rest) < _SPAWN_S:
        for index in rest:
            yield _train_one(declaration, arrays, role, index, paths[index])
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as executor:
        jobs = [executor.submit(_train_one, declaration, arrays, role, i, paths[i]) for i in rest]
        for job in as_completed(jobs):
            yield job.result()


def _train_one(
    declaration: Declaration, arrays: _Arrays, role: str, index: int, path: Path
) -> float:
    seed = derive_seed(declaration.training.seed, "pool", role, index)
    started = time.process_time()
    model = build_model(declaration, seed)
    train_segments(
        model,
        arrays.to_data(),
        training=replace(training_config(declaration.training), seed=seed),
        readiness=readiness_config(declaration.readiness),
        checkpoints=_checkpoints(path),
    )
    save_weights(model, path)
    return time.process_time() - started


def _checkpoints(path: Path) -> Path:
    return path.with_suffix("")


def _columns(declaration: Declaration) -> object:
    return declaration.columns.model_dump(mode="json")
