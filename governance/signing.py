"""Ed25519 signing keys: made on first use, private half readable by the owner only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from governance.digests import write_atomic
from governance.errors import PermanentError

PRIVATE_NAME = "signing.pem"
PUBLIC_NAME = "signing.pub.pem"


def load_or_make_signing_key(folder: Path) -> Ed25519PrivateKey:
    """Return the signing key of a workspace; the public key lies beside it.

    Raises:
        PermanentError: The private key is readable by others, or is no Ed25519 key.
    """
    path = folder / PRIVATE_NAME
    if not path.exists():
        _make_key(folder)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        message = f"key {path.name}: expected mode 600, got {mode:o}; run chmod 600 on it"
        raise PermanentError(message)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        message = f"key {path.name}: expected a PEM private key, got something unreadable"
        raise PermanentError(message) from error
    if not isinstance(key, Ed25519PrivateKey):
        message = f"key {path.name}: expected an Ed25519 key, got {type(key).__name__}"
        raise PermanentError(message)
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the public half as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _make_key(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        handle = os.open(folder / PRIVATE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return  # another process was faster; its key counts
    with os.fdopen(handle, "wb") as file:
        file.write(private)
        file.flush()
        os.fsync(file.fileno())
    write_atomic(folder / PUBLIC_NAME, public_pem(key))
