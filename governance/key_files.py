"""Key files: 32 secret bytes, readable by their owner alone, and a name that tells nothing."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from governance.errors import PermanentError

KEY_BYTES = 32


def key_name(key: bytes) -> str:
    """Return a name of a key that tells nothing about it; it is stored with its pseudonyms."""
    return hmac.new(key, b"name of this key", hashlib.sha256).hexdigest()[:12]


def load_or_make_key(folder: Path, name: str) -> bytes:
    """Return the key of a file, made on first use.

    Raises:
        PermanentError: The file is readable by others, or is not 32 bytes.
    """
    path = folder / name
    if not path.exists():
        _make_key(path)
    return read_key(path)


def read_key(path: Path) -> bytes:
    """Return the key of a file.

    Raises:
        PermanentError: The file is missing, readable by others, or is not 32 bytes.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            message = f"key {path.name}: expected mode 600, got {mode:o}; run chmod 600 on it"
            raise PermanentError(message)
        key = path.read_bytes()
    except OSError as error:
        message = f"key {path.name}: expected a key file, got {type(error).__name__}"
        raise PermanentError(message) from error
    if len(key) != KEY_BYTES:
        message = f"key {path.name}: expected {KEY_BYTES} bytes, got {len(key)}"
        raise PermanentError(message)
    return key


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_key(path: Path) -> None:
    """Write a key under another name, then link it: a killed process leaves no half key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was faster; its key counts
    finally:
        temporary.unlink()
    sync_folder(path.parent)
