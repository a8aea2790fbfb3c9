"""Resume an interrupted training run from its last checkpoint, or refuse to.

Segments are the unit: each starts from weights alone, with a fresh optimiser and its own seeds, so
a run that was killed inside segment k repeats segment k from ``<k>.safetensors`` and ends with the
same bits as a run that was never interrupted (on a CPU). Nothing inside a segment is kept.

A folder belongs to one run: the same records, recipe and initial weights. Checkpoints of another
run, for example from before a record was erased, are deleted and never continued.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from governance.digests import digest_json, read_json, write_json
from r2u_tasks.checkpoint import load_weights, save_weights
from r2u_tasks.config import ReadinessConfig, TrainingConfig
from r2u_tasks.data import Records
from r2u_tasks.model import weights_digest

_RUN = "run.json"
_FINISHED = "finished.safetensors"


def run_identity(
    model: nn.Module,
    records: Records,
    segment: torch.Tensor,
    *,
    training: TrainingConfig,
    readiness: ReadinessConfig,
    first_segment: int,
) -> str:
    """Return the digest of everything that decides the bits of a run, except the code."""
    return digest_json(
        {
            "initial_weights": weights_digest(model),
            "data": data_digest(records, segment),
            "training": asdict(training),
            "readiness": asdict(readiness),
            "first_segment": first_segment,
        }
    )


def data_digest(records: Records, segment: torch.Tensor) -> str:
    """Return the digest of records as they enter a training: scaled inputs, labels, segments."""
    data = hashlib.sha256("\n".join(records.ids.tolist()).encode())
    for tensor in (records.inputs, records.labels, segment):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        data.update(f"{flat.dtype}{tuple(tensor.shape)}".encode())
        data.update(flat.view(torch.uint8).numpy().tobytes())
    return data.hexdigest()


def resume_point(model: nn.Module, folder: Path, identity: str, *, first_segment: int) -> int:
    """Load the last checkpoint of this very run and return the segment to go on with.

    Args:
        model: Gets the weights; untouched when there is nothing to resume.
        folder: Checkpoints of the run.
        identity: From ``run_identity``.
        first_segment: Returned when the folder has no checkpoint of this run.

    Raises:
        DigestMismatchError: The last checkpoint is not the one that the run wrote.
    """
    if not belongs_to(folder, identity):
        return first_segment
    digests = checkpoint_digests(folder)
    kept = [number for number in digests if (folder / f"{number}.safetensors").exists()]
    last = max((number for number in kept if number > first_segment), default=first_segment)
    if last > first_segment:
        load_weights(model, folder / f"{last}.safetensors", expected_digest=digests[last])
    return last


def belongs_to(folder: Path, identity: str) -> bool:
    """Return whether the folder's checkpoints are those of this run."""
    path = folder / _RUN
    return path.exists() and bool(read_json(path).get("identity") == identity)


def claim_folder(folder: Path, identity: str) -> None:
    """Bind a folder to a run: checkpoints of any other run are deleted first."""
    if belongs_to(folder, identity):
        return
    for path in folder.glob("*.safetensors"):
        path.unlink()
    write_json(folder / _RUN, {"identity": identity})


def keep_checkpoint(model: nn.Module, folder: Path, number: int) -> None:
    """Write the weights before a segment, then their digest beside the identity of the run."""
    digest = save_weights(model, folder / f"{number}.safetensors")
    run = read_json(folder / _RUN)
    digests = {**run.get("checkpoints", {}), str(number): digest}
    write_json(folder / _RUN, {**run, "checkpoints": digests})


def checkpoint_digests(folder: Path) -> dict[int, str]:
    """Return the digest of each checkpoint, noted by the run when it wrote the checkpoint."""
    path = folder / _RUN
    noted = read_json(path).get("checkpoints", {}) if path.exists() else {}
    return {int(number): digest for number, digest in noted.items()}


def save_finished(model: nn.Module, folder: Path, cost: dict[str, object]) -> None:
    """Keep the weights at the end of a run for the process that will publish them."""
    save_weights(model, folder / _FINISHED)
    write_json(folder / _RUN, {**read_json(folder / _RUN), "cost": cost})


def load_finished(model: nn.Module, folder: Path, identity: str) -> dict[str, object] | None:
    """Load the weights of this run where another process has finished it; return its cost."""
    path = folder / _FINISHED
    if not (path.exists() and belongs_to(folder, identity)):
        return None
    cost: dict[str, object] | None = read_json(folder / _RUN).get("cost")
    if cost is not None:
        load_weights(model, path)
    return cost
