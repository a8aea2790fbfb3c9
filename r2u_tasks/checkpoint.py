"""Checkpoints: weights on disk as safetensors (no code runs on loading), written atomically."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load, save
from torch import nn

from governance.digests import write_atomic
from governance.errors import DigestMismatchError
from r2u_tasks.model import weights_digest


def save_weights(model: nn.Module, path: Path) -> str:
    """Write the weights and return their digest.

    Raises:
        OSError: The disk is full; an earlier file is untouched.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    write_atomic(path, save(tensors))
    return weights_digest(model)


def load_weights(model: nn.Module, path: Path, *, expected_digest: str | None = None) -> nn.Module:
    """Load weights into the model and return it.

    Raises:
        DigestMismatchError: The bytes are not those that were committed to, or cannot be read.
    """
    try:
        model.load_state_dict(load(path.read_bytes()))
    except Exception as error:  # safetensors raises its own, undocumented types
        message = f"{path.name}: expected the model's weights, got an unreadable file"
        raise DigestMismatchError(message) from error
    got = weights_digest(model)
    if expected_digest is not None and got != expected_digest:
        message = f"{path.name}: expected weights {expected_digest}, got {got}"
        raise DigestMismatchError(message)
    return model
