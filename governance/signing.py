"""Signing keys: a file in the workspace, an environment variable, or a hook to a key service.

Certificates and ledger are signed with Ed25519. Where the private key lies is one decision
(``docs/keys.md``), taken by environment variables and nowhere else:

``R2U_SIGNER``        ``module:callable``; called without arguments, returns a ``Signer``. The
                      private key stays in the key service or the hardware module.
``R2U_SIGNING_KEY``   the private key itself, PEM; for executors that inject secrets.
neither               ``<root>/keys/signing.pem``, made on first use, mode 600.

Whichever it is, the public key lies in ``<root>/keys/signing.pub.pem``: hand it to auditors apart
from the certificates.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from governance.digests import write_atomic
from governance.errors import PermanentError
from governance.hooks import call_hook

PRIVATE_NAME = "signing.pem"
PUBLIC_NAME = "signing.pub.pem"
NEXT_NAME = "signing.next.pem"
HOOK_VARIABLE = "R2U_SIGNER"
KEY_VARIABLE = "R2U_SIGNING_KEY"


@runtime_checkable
class Signer(Protocol):
    """What ledger and certificates need of a key; a key service implements these two."""

    @property
    def public_pem(self) -> bytes:
        """Public key as PEM (SubjectPublicKeyInfo)."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature, 64 bytes, over the message."""
        ...


class KeySigner:
    """A signer that holds its private key in this process."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Keep the key."""
        self._key = key
        self._public = key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def public_pem(self) -> bytes:
        """Public key as PEM."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return the signature over the message."""
        return self._key.sign(message)


def open_signer(folder: Path, environment: Mapping[str, str]) -> Signer:
    """Return the signer of a workspace and see that its public key lies in the folder.

    Args:
        folder: ``<root>/keys``.
        environment: ``os.environ``, or what a test gives.

    Raises:
        PermanentError: Two sources are named, the hook or the key cannot be used, the private key
            file is readable by others, or the workspace has another key.
    """
    signer = signer_in_use(folder, environment)
    _publish(folder, signer)
    return signer


def signer_in_use(folder: Path, environment: Mapping[str, str]) -> Signer:
    """Return the signer that environment or folder name, whatever key is published.

    Raises:
        PermanentError: As ``open_signer``.
    """
    hook, secret = environment.get(HOOK_VARIABLE), environment.get(KEY_VARIABLE)
    if hook and secret:
        message = f"signing key: expected one of {HOOK_VARIABLE} and {KEY_VARIABLE}, got both"
        raise PermanentError(message)
    if hook:
        return load_hook(hook)
    if secret:
        return KeySigner(_parse_private(secret.encode(), KEY_VARIABLE))
    if not (folder / PRIVATE_NAME).exists():
        _make_key(folder, PRIVATE_NAME)
    return read_key_file(folder / PRIVATE_NAME)


def load_or_make_signing_key(folder: Path) -> KeySigner:
    """Return the signer whose key is a file of the workspace; the public key lies beside it.

    Raises:
        PermanentError: The private key is readable by others, or is no Ed25519 key.
    """
    if not (folder / PRIVATE_NAME).exists():
        _make_key(folder, PRIVATE_NAME)
    signer = read_key_file(folder / PRIVATE_NAME)
    _publish(folder, signer)
    return signer


def make_next_key(folder: Path) -> KeySigner:
    """Return the key that is to follow the file key, made when there is none yet."""
    if not (folder / NEXT_NAME).exists():
        _make_key(folder, NEXT_NAME)
    return read_key_file(folder / NEXT_NAME)


def adopt_key(folder: Path, signer: Signer) -> None:
    """Make a key the one of the workspace, after the ledger has introduced it; twice is safe."""
    write_atomic(folder / PUBLIC_NAME, signer.public_pem)
    following = folder / NEXT_NAME
    if following.exists() and read_key_file(following).public_pem == signer.public_pem:
        os.replace(following, folder / PRIVATE_NAME)


def load_hook(name: str) -> Signer:
    """Return the signer that ``module:callable`` gives, after it has signed something.

    Raises:
        PermanentError: It cannot be imported or called, or its signatures do not hold.
    """
    signer = call_hook(name, what="signer", returns="a signer")
    probe = b"r2u: does this signer sign?"
    try:
        public_key_of(signer.public_pem).verify(signer.sign(probe), probe)
    except (InvalidSignature, ValueError, TypeError, AttributeError) as error:
        message = (
            f"signer {name}: expected public_pem (PEM, Ed25519) and sign(bytes) that fit together, "
            f"got {type(error).__name__}"
        )
        raise PermanentError(message) from error
    checked: Signer = signer
    return checked


def read_key_file(path: Path) -> KeySigner:
    """Return the signer of a private key file.

    Raises:
        PermanentError: It is missing, readable by others, or no Ed25519 key.
    """
    if not path.is_file():
        message = f"key {path.name}: expected a PEM private key, got no file"
        raise PermanentError(message)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        message = f"key {path.name}: expected mode 600, got {mode:o}; run chmod 600 on it"
        raise PermanentError(message)
    return KeySigner(_parse_private(path.read_bytes(), path.name))


def public_key_of(pem: bytes) -> Ed25519PublicKey:
    """Return the public key of a PEM.

    Raises:
        ValueError: It is no Ed25519 public key.
    """
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        message = f"expected an Ed25519 public key, got {type(key).__name__}"
        raise ValueError(message)
    return key


def key_id(public_pem: bytes) -> str:
    """Return what certificates call a key: the digest of its PEM."""
    return "sha256:" + hashlib.sha256(public_pem).hexdigest()


def _parse_private(pem: bytes, what: str) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        message = f"key {what}: expected a PEM private key, got something unreadable"
        raise PermanentError(message) from error
    if not isinstance(key, Ed25519PrivateKey):
        message = f"key {what}: expected an Ed25519 key, got {type(key).__name__}"
        raise PermanentError(message)
    return key


def _publish(folder: Path, signer: Signer) -> None:
    path = folder / PUBLIC_NAME
    if not path.exists():
        write_atomic(path, signer.public_pem)
    elif path.read_bytes() != signer.public_pem:
        message = (
            f"signing key: expected the key {key_id(path.read_bytes())} of {path.name}, got "
            f"{key_id(signer.public_pem)}; a new key is introduced by `r2u keys rotate`"
        )
        raise PermanentError(message)


def _make_key(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    private = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    # Written whole under another name, then linked: a killed process leaves no half key.
    temporary = folder / f".{name}.{os.getpid()}"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(private)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, folder / name)
    except FileExistsError:
        pass  # another process was faster; its key counts
    finally:
        temporary.unlink()
