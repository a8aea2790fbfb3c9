"""Canonical JSON and SHA-256 digests: one way to turn a value into bytes, used everywhere.

Canonical form (RFC 8785 restricted to what we store): UTF-8, sorted keys, no white space, integers
and strings as they are, floats as Python's shortest repr, NaN and infinities refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

JSONValue = Any
"""A value made of dict, list, str, int, float, bool and None."""


def canonical_json(value: JSONValue) -> bytes:
    """Return the one byte string that stands for a JSON value.

    Raises:
        ValueError: The value holds NaN or an infinity.
        TypeError: The value is not JSON.

    >>> canonical_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def digest_bytes(data: bytes) -> str:
    """Return ``sha256:<hex>`` of the bytes.

    >>> digest_bytes(b"")[:14]
    'sha256:e3b0c44'
    """
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(value: JSONValue) -> str:
    """Return the digest of the canonical form of a JSON value."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """Return the digest of a file's bytes, read in blocks of 1 MiB."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return "sha256:" + state.hexdigest()


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    The bytes reach the disk (fsync) before the name does.

    Raises:
        OSError: The disk is full or the folder is not writable; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: JSONValue) -> None:
    """Write a JSON value for people and machines: sorted, indented, atomic."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode("utf-8") + b"\n")


def read_json(path: Path) -> JSONValue:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
