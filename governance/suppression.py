"""Pseudonyms and tombstones: how an erased record stays erased without anyone knowing whose it was.

A pseudonym is an HMAC-SHA256 under a key that lies in the workspace (mode 600). Queue, manifests
and tombstones hold pseudonyms only. Ingestion drops every row whose record or subject has a
tombstone, so the next load of the same source does not bring an erased person back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.errors import PermanentError
from governance.hashing import hex_array, hmac_array
from governance.storage import append_table, read_table, table_exists

_KEY_BYTES = 32
_KINDS = ("record", "subject", "touched_subject", "selector")


def load_or_make_key(folder: Path, name: str = "pseudonym.key") -> bytes:
    """Return the pseudonym key, made on first use.

    Raises:
        PermanentError: The file is readable by others, or is not 32 bytes.
    """
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(path)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return _read_key(path)


def key_name(key: bytes) -> str:
    """Return a name of a key that tells nothing about it; it is stored with its pseudonyms."""
    return hmac.new(key, b"name of this key", hashlib.sha256).hexdigest()[:12]


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Return the HMAC-SHA256 of one identifier as hex.

    Args:
        key: Pseudonym key.
        kind: ``subject`` or ``record``; the same text under two kinds gives two pseudonyms.
        value: The identifier.
    """
    return hmac.new(key, f"{kind}\x00{value}".encode(), hashlib.sha256).hexdigest()


def pseudonym_digests(key: bytes, kind: str, values: pa.ChunkedArray) -> np.ndarray:
    """Return the pseudonym of each identifier as uint8 of shape (n, 32), in order."""
    # A missing id has a digest of its own, so that the others keep their places.
    texts = pc.fill_null(values.cast(pa.large_string()), "").combine_chunks()
    return hmac_array(key, texts.cast(pa.large_binary()), prefix=f"{kind}\x00".encode())


def pseudonym_array(key: bytes, kind: str, values: pa.ChunkedArray) -> pa.Array:
    """Return the pseudonym of each identifier as an Arrow array of hex strings, in order."""
    return hex_array(pseudonym_digests(key, kind, values))


def pseudonyms(key: bytes, kind: str, values: Sequence[str]) -> list[str]:
    """Return the pseudonym of each identifier, in order."""
    texts = pa.chunked_array([pa.array(values, pa.large_string())])
    return list(pseudonym_array(key, kind, texts).to_pylist())


def add_tombstones(
    path: Path,
    *,
    record_keys: Sequence[str],
    subject_keys: Sequence[str],
    batch_id: str,
    erased_at: datetime,
    touched_subject_keys: Sequence[str] = (),
    selector_keys: Sequence[str] = (),
) -> None:
    """Record what is erased; a repeat for the batch adds nothing.

    Args:
        path: Table of tombstones.
        record_keys: Erased records; they never come back.
        subject_keys: Subjects who asked for all of their data; no row of theirs comes back.
        batch_id: Batch of the erasure.
        erased_at: When.
        touched_subject_keys: Subjects whose records were erased because of somebody else's request
            (a tenant's): they may come back with new records, and are told that they were erased.
        selector_keys: Pseudonyms of values (a tenant's name) all of whose rows were erased: new
            rows may come; while none came, the same request ends as already forgotten.
    """
    keys = [*record_keys, *subject_keys, *touched_subject_keys, *selector_keys]
    kinds = ["record"] * len(record_keys) + ["subject"] * len(subject_keys)
    kinds += ["touched_subject"] * len(touched_subject_keys) + ["selector"] * len(selector_keys)
    table = pa.table(
        {
            "kind": pa.array(kinds, pa.string()),
            "key": pa.array(keys, pa.string()),
            "batch_id": pa.array([batch_id] * len(keys), pa.string()),
            "erased_at": pa.array([erased_at] * len(keys), pa.timestamp("us", tz="UTC")),
        }
    )
    append_table(path, table, transaction=f"tombstones-{batch_id}")


def read_tombstones(path: Path, *, batch_id: str | None = None) -> dict[str, set[str]]:
    """Return the pseudonyms of what was erased, by kind; empty sets before the first erasure.

    Args:
        path: Table of tombstones.
        batch_id: Only those of this batch.
    """
    found: dict[str, set[str]] = {kind: set() for kind in _KINDS}
    if table_exists(path):
        for row in read_table(path, columns=["kind", "key", "batch_id"]).to_pylist():
            if batch_id in {None, row["batch_id"]}:
                found[row["kind"]].add(row["key"])
    return found


def suppress(
    table: pa.Table,
    *,
    tombstones: dict[str, set[str]],
    key: bytes,
    record_id_column: str,
    subject_id_column: str,
) -> tuple[pa.Table, int]:
    """Drop the rows of erased records and subjects; return the rest and the number dropped."""
    keep = np.ones(table.num_rows, dtype=bool)
    for kind, column in (("record", record_id_column), ("subject", subject_id_column)):
        if tombstones[kind]:
            erased = pa.array(sorted(tombstones[kind]), pa.string())
            found = pc.is_in(pseudonym_array(key, kind, table[column]), value_set=erased)
            keep &= ~found.to_numpy(zero_copy_only=False)
    return table.filter(pa.array(keep)), int((~keep).sum())


def _read_key(path: Path) -> bytes:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        message = f"key {path.name}: expected mode 600, got {mode:o}; run chmod 600 on it"
        raise PermanentError(message)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        message = f"key {path.name}: expected {_KEY_BYTES} bytes, got {len(key)}"
        raise PermanentError(message)
    return key
