"""The ledger: append-only, hash-chained, signed; written before anything is destroyed.

One canonical JSON object a line: ``seq, at, kind, body, previous, digest, signature``. The digest
is over all fields before it, the Ed25519 signature over the digest. Bodies hold ids, counts and
digests, never personal data, so the ledger may be kept as long as the longest retention period.

Crash safety: a line counts when its newline is on disk. An unterminated last line is what a crash
leaves; it is moved to ``<name>.torn`` before the next append.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from governance.digests import canonical_json, digest_bytes
from governance.errors import DigestMismatchError

GENESIS = "sha256:" + "0" * 64
"""The previous digest of the first entry."""

KINDS = frozenset(
    {
        "model_trained",
        "model_promoted",
        "batch_planned",
        "erasure_started",
        "rows_erased",
        "model_unlearned",
        "evidence_recorded",
        "bundle_sealed",
        "request_closed",
        "batch_closed",
    }
)

_FIELDS = ("seq", "at", "kind", "body", "previous", "digest", "signature")


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """Result of checking a whole ledger."""

    ok: bool
    n_entries: int
    head: str
    problem: str | None


class Ledger:
    """A ledger file and the key that signs it."""

    def __init__(self, path: Path, signing_key: Ed25519PrivateKey) -> None:
        """Open a ledger; the file is made by the first append."""
        self._path = path
        self._key = signing_key

    def append(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Add an entry durably and return it.

        Args:
            kind: One of ``KINDS``.
            body: Ids, counts and digests.

        Raises:
            ValueError: The kind is unknown.
            DigestMismatchError: The last line is not an entry: the file was changed.
        """
        if kind not in KINDS:
            message = f"ledger: expected one of {', '.join(sorted(KINDS))}, got {kind}"
            raise ValueError(message)
        with self._locked():
            last = _last_entry(self._path)
            entry: dict[str, Any] = {
                "seq": 0 if last is None else last["seq"] + 1,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "kind": kind,
                "body": body,
                "previous": GENESIS if last is None else last["digest"],
            }
            entry["digest"] = digest_bytes(canonical_json(entry))
            entry["signature"] = self._key.sign(entry["digest"].encode()).hex()
            with self._path.open("ab") as file:
                file.write(canonical_json(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        return entry

    def head(self) -> str:
        """Return the digest of the last entry; repeat it elsewhere, so that truncation shows."""
        last = _last_entry(self._path) if self._path.exists() else None
        return GENESIS if last is None else str(last["digest"])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with (self._path.with_name(f"{self._path.name}.lock")).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _set_torn_line_aside(self._path)
            yield


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Return all entries without checking them; an unterminated last line is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def verify_chain(path: Path, public_key: Path | Ed25519PublicKey) -> ChainCheck:
    """Check numbering, links, digests and signatures of a whole ledger."""
    if isinstance(public_key, Path):
        loaded = load_pem_public_key(public_key.read_bytes())
        if not isinstance(loaded, Ed25519PublicKey):
            return ChainCheck(False, 0, GENESIS, "the public key is no Ed25519 key")
        public_key = loaded
    previous, count = GENESIS, 0
    if not path.exists():
        return ChainCheck(True, 0, GENESIS, None)
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
        problem = _check_line(line, number, previous, public_key)
        if problem is not None:
            return ChainCheck(False, count, previous, f"line {number + 1}: {problem}")
        previous = json.loads(line)["digest"]
        count += 1
    return ChainCheck(True, count, previous, None)


def _check_line(line: bytes, number: int, previous: str, key: Ed25519PublicKey) -> str | None:
    try:
        entry = json.loads(line)
        same = canonical_json(entry) == line and set(entry) == set(_FIELDS)
    except (ValueError, TypeError):
        return "not a ledger entry"
    if not same:
        return "not in canonical form"
    if entry["seq"] != number or entry["previous"] != previous:
        return "entries were removed, repeated or reordered"
    signed = {name: entry[name] for name in _FIELDS[:5]}
    if digest_bytes(canonical_json(signed)) != entry["digest"]:
        return "content does not match its digest"
    try:
        signature = bytes.fromhex(entry["signature"])
        if signature.hex() != entry["signature"]:
            return "signature is not in canonical form"
        key.verify(signature, entry["digest"].encode())
    except (InvalidSignature, ValueError):
        return "signature does not hold"
    return None


def _last_entry(path: Path) -> dict[str, Any] | None:
    """Return the last entry, reading the file from its end."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    with path.open("rb") as file:
        size, block = path.stat().st_size, 4096
        while True:
            file.seek(max(0, size - block))
            tail = file.read().rstrip(b"\n")
            if b"\n" in tail or block >= size:
                break
            block *= 2
    try:
        entry: dict[str, Any] = json.loads(tail.rpartition(b"\n")[2])
    except ValueError as error:
        message = f"ledger {path.name}: the last line is no entry; the file was changed"
        raise DigestMismatchError(message) from error
    return entry


def _set_torn_line_aside(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes() if path.stat().st_size < 1 << 16 else _tail(path)
    if not data or data.endswith(b"\n"):
        return
    torn = data.rpartition(b"\n")[2]
    with path.with_name(f"{path.name}.torn").open("ab") as file:
        file.write(torn + b"\n")
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - len(torn))


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-(1 << 16), os.SEEK_END)
        return file.read()
