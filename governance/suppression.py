"""Pseudonyms and tombstones: how an erased record stays erased without anyone knowing whose it was.

A pseudonym is an HMAC-SHA256 under a key of the ring (``key_ring``). Queue, manifests and
tombstones hold pseudonyms only. Ingestion drops every row whose record or subject has a
tombstone, so the next load of the same source does not bring an erased person back.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.hashing import hex_array, hmac_array
from governance.storage import append_table, read_table, table_exists

KINDS = ("record", "subject", "touched_subject", "selector")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Erased:
    """What an erasure takes, under one pseudonym key.

    Attributes:
        record_keys: Erased records; they never come back.
        subject_keys: Subjects who asked for all of their data; no row of theirs comes back.
        touched_subject_keys: Subjects whose records were erased because of somebody else's request
            (a tenant's): they may come back with new records, and are told that they were erased.
        selector_keys: Pseudonyms of values (a tenant's name) all of whose rows were erased: new
            rows may come; while none came, the same request ends as already forgotten.
        key_id: Names the key; empty: the key from before keys had names.
    """

    record_keys: Sequence[str]
    subject_keys: Sequence[str]
    touched_subject_keys: Sequence[str] = ()
    selector_keys: Sequence[str] = ()
    key_id: str = ""

    def by_kind(self) -> Mapping[str, Sequence[str]]:
        """Return the pseudonyms by the kinds of tombstones."""
        parts = (
            self.record_keys,
            self.subject_keys,
            self.touched_subject_keys,
            self.selector_keys,
        )
        return dict(zip(KINDS, parts, strict=True))


def add_tombstones(
    path: Path, *erased: Erased, batch_id: str, erased_at: datetime, transaction: str | None = None
) -> None:
    """Record what is erased, under every key of the ring at once; a repeat adds nothing.

    Args:
        path: Table of tombstones.
        erased: The same under each key.
        batch_id: Batch of the erasure.
        erased_at: When.
        transaction: Name of the write, if it is not the one of the batch.
    """
    rows = [
        (kind, key, one.key_id or None)
        for one in erased
        for kind, keys in one.by_kind().items()
        for key in keys
    ]
    table = pa.table(
        {
            "kind": pa.array([row[0] for row in rows], pa.string()),
            "key": pa.array([row[1] for row in rows], pa.string()),
            "batch_id": pa.array([batch_id] * len(rows), pa.string()),
            "erased_at": pa.array([erased_at] * len(rows), pa.timestamp("us", tz="UTC")),
            "key_id": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    append_table(path, table, transaction=transaction or f"tombstones-{batch_id}")


def read_tombstones(path: Path, *, batch_id: str | None = None) -> dict[str, set[str]]:
    """Return the pseudonyms of what was erased, by kind; empty sets before the first erasure.

    A record that was erased since a rotation has one for each key of the ring.

    Args:
        path: Table of tombstones.
        batch_id: Only those of this batch.
    """
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    if table_exists(path):
        for row in read_table(path, columns=["kind", "key", "batch_id"]).to_pylist():
            if batch_id in {None, row["batch_id"]}:
                found[row["kind"]].add(row["key"])
    return found


def count_erased(path: Path) -> int:
    """Return how many records were erased, batch by batch; a rotation changes no count."""
    if not table_exists(path):
        return 0
    table = with_key_ids(read_table(path))
    records = table.filter(pc.equal(table["kind"], "record"))
    by_key = records.group_by(["batch_id", "key_id"]).aggregate([("key", "count_distinct")])
    by_batch = by_key.group_by("batch_id").aggregate([("key_count_distinct", "max")])
    return int(pc.sum(by_batch["key_count_distinct_max"]).as_py() or 0)


def with_key_ids(tombstones: pa.Table) -> pa.Table:
    """Return tombstones with a column ``key_id``; those from before keys had names have none."""
    if "key_id" in tombstones.column_names:
        return tombstones
    return tombstones.append_column("key_id", pa.nulls(tombstones.num_rows, pa.string()))


def suppress(
    table: pa.Table,
    *,
    tombstones: dict[str, set[str]],
    keys: Sequence[bytes],
    record_id_column: str,
    subject_id_column: str,
) -> tuple[pa.Table, int]:
    """Drop the rows of erased records and subjects; return the rest and the number dropped.

    Args:
        table: Rows with both ids.
        tombstones: From ``read_tombstones``.
        keys: Pseudonym keys that tombstones may be under.
        record_id_column: Column of the record's id.
        subject_id_column: Column of the subject's id.
    """
    keep = np.ones(table.num_rows, dtype=bool)
    for kind, column in (("record", record_id_column), ("subject", subject_id_column)):
        if tombstones[kind]:
            erased = pa.array(sorted(tombstones[kind]), pa.string())
            for key in keys:
                found = pc.is_in(pseudonym_array(key, kind, table[column]), value_set=erased)
                keep &= ~found.to_numpy(zero_copy_only=False)
    return table.filter(pa.array(keep)), int((~keep).sum())
