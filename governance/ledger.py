"""The ledger: append-only, hash-chained, signed; written before anything is destroyed.

One canonical JSON object a line: ``seq, at, kind, body, previous, digest, signature``. The digest
is over all fields before it, the Ed25519 signature over the digest. Bodies hold ids, counts and
digests, never personal data, so the ledger may be kept as long as the longest retention period.

* **Crash safety**: a line counts when its newline is on disk. An unterminated last line is what a
  crash leaves; it is moved to ``<name>.torn`` before the next append.
* **Several processes**: an append holds an exclusive lock on ``<name>.lock``.
* **Keys**: only the key in use may append. A new one is introduced by an entry that the old key
  signs (``rotate_key``), so that old certificates still verify and a stolen workspace cannot go on
  under a key of its own.
* **Truncation**: lines cut off the end leave a whole chain. Heads are noted elsewhere (MLflow,
  reports), and ``verify_chain`` looks for them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature

from governance.digests import canonical_json, digest_bytes
from governance.errors import DigestMismatchError
from governance.signing import Signer, key_id, public_key_of
from governance.verifier import (
    GENESIS,
    ROTATION,
    CheckFailedError,
    read_chain,
    rotation_message,
)

KINDS = frozenset(
    {
        "model_trained",
        "model_promoted",
        "batch_planned",
        "erasure_started",
        "rows_erased",
        "model_unlearned",
        "evidence_recorded",
        "purge_started",
        "leftovers_purged",
        "child_registered",
        "model_retired",
        "recipient_told",
        "recipient_answered",
        "bundle_sealed",
        "request_closed",
        "batch_closed",
        ROTATION,
        "replay_verified",
        "override_added",
        "override_withdrawn",
        "policy_accepted",
        "pseudonym_key_rotated",
        "pseudonym_key_dropped",
    }
)

_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """Result of checking a whole ledger.

    Attributes:
        ok: The chain is whole, and every noted head is in it.
        n_entries: Entries that hold; 0 when the chain is broken.
        head: Digest of the last of them.
        problem: What is wrong, in one line.
        lost_heads: Places whose noted head is not in the chain: lines were cut off the end.
    """

    ok: bool
    n_entries: int
    head: str
    problem: str | None
    lost_heads: tuple[str, ...] = ()


class Ledger:
    """A ledger file and the key that signs it."""

    def __init__(self, path: Path, signer: Signer) -> None:
        """Open a ledger; the file is made by the first append."""
        self._path = path
        self._signer = signer

    def append(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Add an entry durably and return it.

        Args:
            kind: One of ``KINDS``.
            body: Ids, counts and digests.

        Raises:
            ValueError: The kind is unknown.
            DigestMismatchError: The last line is no entry, or was signed by another key.
        """
        if kind not in KINDS:
            message = f"ledger: expected one of {', '.join(sorted(KINDS))}, got {kind}"
            raise ValueError(message)
        with self._locked():
            last = _last_entry(self._path)
            if last is not None:
                self._require_key_in_use(last)
            return self._write(last, kind, body)

    def rotate(self, new: Signer) -> dict[str, Any]:
        """Introduce the key that signs from now on; twice is safe.

        The entry is signed by the key in use and holds the new key's signature over the head, so
        either key leads an auditor to the other. Afterwards this object signs with the new key.

        Raises:
            DigestMismatchError: The key of this object is not the one in use.
        """
        with self._locked():
            last = _last_entry(self._path)
            if last is not None and _key_in_use(last) == new.public_pem:
                self._signer = new
                return last
            if last is not None:
                self._require_key_in_use(last)
            previous, pem = (
                GENESIS if last is None else str(last["digest"]),
                new.public_pem.decode(),
            )
            body = {
                "old_key": self._signer.public_pem.decode(),
                "new_key": pem,
                "possession": new.sign(rotation_message(previous, pem)).hex(),
            }
            entry = self._write(last, ROTATION, body)
            self._signer = new
            return entry

    def _write(
        self, last: dict[str, Any] | None, kind: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "seq": 0 if last is None else last["seq"] + 1,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "kind": kind,
            "body": body,
            "previous": GENESIS if last is None else last["digest"],
        }
        entry["digest"] = digest_bytes(canonical_json(entry))
        entry["signature"] = self._signer.sign(entry["digest"].encode()).hex()
        is_new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(canonical_json(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync_folder(self._path.parent)
        return entry

    def _require_key_in_use(self, last: dict[str, Any]) -> None:
        mine = self._signer.public_pem
        try:
            introduced = _key_in_use(last)
            if introduced is None:
                public_key_of(mine).verify(
                    bytes.fromhex(last["signature"]), str(last["digest"]).encode()
                )
            holds = introduced in {None, mine}
        except (InvalidSignature, ValueError, LookupError, TypeError):
            holds = False
        if not holds:
            message = (
                f"ledger {self._path.name}: expected the key that signed its last entry, got "
                f"{key_id(mine)}; a new key is introduced by `r2u keys rotate`"
            )
            raise DigestMismatchError(message)

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


def verify_chain(
    path: Path, public_key: Path, *, noted_heads: Mapping[str, str] | None = None
) -> ChainCheck:
    """Check numbering, links, digests and signatures of a whole ledger.

    Args:
        path: Ledger file; one that does not exist yet is an empty chain.
        public_key: PEM of a key that the ledger knows.
        noted_heads: Heads that were written down elsewhere, by the place; each has to be in the
            chain.
    """
    noted = dict(noted_heads or {})
    digests: Mapping[str, int] = {}
    if path.exists():
        try:
            chain = read_chain(path, public_key.read_bytes(), torn=True)
        except CheckFailedError as error:
            return ChainCheck(False, 0, GENESIS, str(error))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            kind = type(error).__name__
            return ChainCheck(False, 0, GENESIS, f"expected a ledger and its key, got {kind}")
        digests = chain.digests
    head = max(digests, key=lambda digest: digests[digest], default=GENESIS)
    lost = tuple(sorted(p for p, h in noted.items() if h not in digests and h != GENESIS))
    if lost:
        problem = f"a head noted in {lost[0]} is not in the chain: lines were cut off the end"
        return ChainCheck(False, len(digests), head, problem, lost)
    return ChainCheck(True, len(digests), head, None)


def _key_in_use(last: dict[str, Any]) -> bytes | None:
    """Return the key that the last entry introduced; None when it is the one that signed it."""
    if last.get("kind") != ROTATION:
        return None
    return str(last["body"]["new_key"]).encode()


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
    """Move what a killed append left after the last newline to ``<name>.torn``."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = _end_of_last_line(file, end)
        if whole == end:
            return
        file.seek(whole)
        torn = file.read()
        with path.with_name(f"{path.name}.torn").open("ab") as aside:
            aside.write(torn + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        file.truncate(whole)
        os.fsync(file.fileno())


def _end_of_last_line(file: BinaryIO, end: int) -> int:
    """Return the place after the last newline, reading backwards in blocks."""
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    """Let the name of a new file reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
