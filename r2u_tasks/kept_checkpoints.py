"""Checkpoints that a model kept, and which of them an exact lane may start from; free of torch.

A checkpoint is the state that an exact model owes nothing of the erased records to, so it counts
only with the digest that training noted for it: in ``model.json``, in the training manifest that
the ledger and the certificates commit to, and in the bytes on the disk. Any other is left alone,
and the lane starts earlier.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from governance.digests import read_json
from governance.errors import DigestMismatchError
from governance.verifier import CheckFailedError, weights_digest


def parse_kept(content: Mapping[str, str | None] | Sequence[int]) -> dict[int, str | None]:
    """Return the digest of each kept checkpoint from ``model.json``; None where nobody noted one.

    >>> parse_kept({"1": "sha256:ab"}), parse_kept([1, 2])  # a record of an older version
    ({1: 'sha256:ab'}, {1: None, 2: None})
    """
    if isinstance(content, Mapping):
        return {int(segment): digest for segment, digest in content.items()}
    return dict.fromkeys(content)


def checkpoint_path(folder: Path, segment: int) -> Path:
    """Return the path of the weights before a segment in a model's folder."""
    return folder / "checkpoints" / f"{segment}.safetensors"


def checkpoint_problems(folder: Path, kept: Mapping[int, str | None]) -> dict[int, str]:
    """Return why checkpoints of a model cannot be started from, by segment; the others can.

    Args:
        folder: Of the model.
        kept: Digest of each checkpoint, from the model's record.
    """
    committed = read_json(folder / "manifest.json").get("checkpoints", {})
    problems = {
        segment: _problem(checkpoint_path(folder, segment), digest, committed.get(str(segment)))
        for segment, digest in kept.items()
    }
    return {segment: why for segment, why in problems.items() if why is not None}


def copy_checkpoints(
    source: Path, target: Path, kept: Mapping[int, str | None], segments: Iterable[int]
) -> dict[int, str]:
    """Copy checkpoints to another model's folder and return their digests.

    Args:
        source: Folder of the model that made them.
        target: Folder of the other model.
        kept: Digest of each checkpoint, from the record of the one that made them.
        segments: Those to copy.

    Raises:
        DigestMismatchError: A copy has not the noted digest.
    """
    digests = {}
    for segment in segments:
        path = checkpoint_path(target, segment)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint_path(source, segment), path)
        expected, got = kept[segment], _digest(path)
        if expected is None or got != expected:
            message = f"checkpoint {path.name}: expected weights {expected}, got {got}"
            raise DigestMismatchError(message)
        digests[segment] = expected
    return digests


def _problem(path: Path, noted: str | None, committed: str | None) -> str | None:
    if noted is None:
        return "no digest of it was noted when it was made"
    if noted != committed:
        return "the training manifest does not name its digest"
    if not path.is_file():
        return "it is gone"
    if _digest(path) != noted:
        return "its bytes are not those that training wrote"
    return None


def _digest(path: Path) -> str | None:
    """Return the digest of the weights in a file; None where they cannot be read."""
    try:
        return weights_digest(path)
    except (CheckFailedError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
