"""One unlearning batch on disk: what was asked, which records it means, and which lane serves it.

``plan.json`` holds counts and digests. The rows themselves are kept only in ``private/`` (mode 700)
between erasure from the tables and the end of the batch, because unlearning needs them, and are
deleted at the end whatever the outcome.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from governance.declaration import Declaration
from governance.deletion_queue import Pseudonyms
from governance.digests import digest_json
from governance.errors import DataError
from governance.key_ring import KeyRing
from governance.removal import remove_file, remove_folder
from governance.request_rows import selector_value
from governance.suppression import pseudonyms

_ROWS = "forget.parquet"


@dataclass(frozen=True, slots=True)
class AskedRecords:
    """What one request asks for: pseudonyms, or a column and the pseudonym of a value.

    Attributes:
        request_id: The request.
        subject_key: Pseudonym of a person.
        record_keys: Pseudonyms of records.
        selector: Column, and pseudonym of a value.
        key_id: Name of the key of the pseudonyms; empty: from before keys had names.
    """

    request_id: str
    subject_key: str | None
    record_keys: tuple[str, ...]
    selector: tuple[str, str] | None
    key_id: str = ""

    @classmethod
    def of(cls, request_id: str, target: Pseudonyms) -> AskedRecords:
        """Return what a request asks for under one of its keys."""
        selector = None
        if target.selector is not None:
            selector = (target.selector["column"], target.selector["value"])
        return cls(request_id, target.subject_key, target.record_keys, selector, target.key_id)


@dataclass(frozen=True, slots=True)
class MatchedRecords:
    """Which rows each request means.

    Attributes:
        mask: bool ``[n_rows]``: the row is to be erased by the batch.
        kept: bool ``[n_rows]``: the row is asked for, but another request keeps it.
        found: Number of rows for each request.
        held: For each request with a kept row, the targets that keep one, by their number. None
            of its rows is in ``mask`` on its account.
        asked_subjects: Pseudonyms of subjects who asked for all of their data.
    """

    mask: np.ndarray
    kept: np.ndarray
    found: dict[str, int]
    held: dict[str, tuple[int, ...]]
    asked_subjects: tuple[str, ...]


def match_requests(
    table: pa.Table,
    declaration: Declaration,
    ring: KeyRing,
    asked: Sequence[AskedRecords],
    *,
    kept: Sequence[AskedRecords] = (),
) -> MatchedRecords:
    """Find the rows of each request by comparing pseudonyms.

    Args:
        table: Rows with record id, subject id and governance columns.
        declaration: Roles of the columns.
        ring: Pseudonym keys; each request is compared under its own.
        asked: The requests of the batch.
        kept: Targets whose rows must stay, whoever asks for them.

    Raises:
        DataError: A selector names a column that is not declared.
        PermanentError: A request is under a key that is not in the ring.
    """
    finder = _Finder(table, declaration, ring)
    stays = finder.rows_of_any(kept)
    mask, kept_rows = np.zeros(table.num_rows, dtype=bool), np.zeros(table.num_rows, dtype=bool)
    found: dict[str, int] = {}
    held: dict[str, tuple[int, ...]] = {}
    for request in asked:
        rows = finder.rows_of_any([request])
        found[request.request_id] = int(rows.sum())
        overlap = rows & stays
        if overlap.any():
            part = finder.only(overlap)
            keepers = (n for n, one in enumerate(kept) if part.rows_of_any([one]).any())
            held[request.request_id] = tuple(keepers)
            kept_rows |= overlap
        else:
            mask |= rows
    subjects = tuple(r.subject_key for r in asked if r.subject_key is not None)
    return MatchedRecords(mask, kept_rows, found, held, subjects)


def was_erased(tombstones: Mapping[str, set[str]], targets: Iterable[Pseudonyms]) -> bool:
    """Say whether something of what a request asks for was erased before.

    Args:
        tombstones: From ``read_tombstones``.
        targets: What it asks for, under each key that it is known by.
    """
    return any(
        target.subject_key in tombstones["subject"]
        or target.subject_key in tombstones["touched_subject"]
        or not tombstones["record"].isdisjoint(target.record_keys)
        or (target.selector is not None and target.selector["value"] in tombstones["selector"])
        for target in targets
    )


def choose_lane(
    segments: Sequence[int], trained: Collection[int], checkpoints: Collection[int]
) -> tuple[str, int]:
    """Return the exact lane and the segment that it starts from.

    Args:
        segments: Segment of each record that must go; at least one.
        trained: Segments of all records of the model.
        checkpoints: Segments before which the model still has its weights; an accepted
            approximate batch drops those that saw its records.

    Returns:
        ``replay`` from the last checkpoint that saw none of the records; ``retrain`` from 0 where
        there is none, where a stable record is hit, and where the model has no stable record: then
        the scale of its features was measured on revocable ones, and a checkpoint owes them
        something.

    >>> choose_lane([2, 1], [0, 1, 2], [1, 2]), choose_lane([3], [0, 3], [1])
    (('replay', 1), ('replay', 1))
    >>> choose_lane([2, 0], [0, 2], [1, 2]), choose_lane([2], [1, 2], [1])
    (('retrain', 0), ('retrain', 0))
    """
    usable = [k for k in checkpoints if 0 < k <= min(segments)]
    if 0 in segments or 0 not in trained or not usable:
        return "retrain", 0
    return "replay", max(usable)


def plan_digest(plan: Mapping[str, object]) -> str:
    """Return the digest that later steps check the plan against."""
    return digest_json({name: value for name, value in plan.items() if name != "plan_digest"})


def keep_rows(folder: Path, rows: pa.Table) -> None:
    """Keep the rows that are about to be erased, readable by the owner only."""
    private = folder / "private"
    private.mkdir(parents=True, exist_ok=True)
    private.chmod(0o700)
    temporary = private / f".{_ROWS}"
    pq.write_table(rows, temporary)
    temporary.rename(private / _ROWS)


def read_rows(folder: Path) -> pa.Table:
    """Return the kept rows.

    Raises:
        DataError: They are gone, because the batch is finished or was never planned.
    """
    path = folder / "private" / _ROWS
    if not path.exists():
        message = f"batch {folder.name}: expected the rows to forget, got none; is it closed?"
        raise DataError(message)
    return pq.read_table(path)


def drop_forgotten(folder: Path) -> None:
    """Delete the kept rows; the salts of the requests stay until the batch is closed.

    Raises:
        StoreBusyError: They are still there.
    """
    for name in (_ROWS, f".{_ROWS}"):
        remove_file(folder / "private" / name)


def drop_rows(folder: Path) -> None:
    """Delete everything private of a batch.

    Raises:
        StoreBusyError: Something of it is still there.
    """
    remove_folder(folder / "private")


@dataclass(frozen=True)
class _Finder:
    """Rows of a table with their pseudonyms under each key that is asked for, worked out once."""

    table: pa.Table
    declaration: Declaration
    ring: KeyRing
    known: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def only(self, mask: np.ndarray) -> _Finder:
        """Return the finder of some of the rows."""
        known = {name: keys[mask] for name, keys in self.known.items()}
        return replace(self, table=self.table.filter(pa.array(mask)), known=known)

    def rows_of_any(self, asked: Sequence[AskedRecords]) -> np.ndarray:
        """Return which rows at least one of these asks for."""
        rows = np.zeros(self.table.num_rows, dtype=bool)
        by_key: dict[str, list[AskedRecords]] = {}
        for one in asked:
            by_key.setdefault(self.ring.id_of(one.key_id), []).append(one)
        for key_id, group in by_key.items():
            key = self.ring.named(key_id, f"request {group[0].request_id}")
            subjects = [one.subject_key for one in group if one.subject_key is not None]
            records = [record for one in group for record in one.record_keys]
            if subjects:
                rows |= np.isin(self._keys_of("subject", key_id, key), subjects)
            if records:
                rows |= np.isin(self._keys_of("record", key_id, key), records)
            for selector in {one.selector for one in group if one.selector is not None}:
                rows |= _select(self.table, self.declaration, key, selector)
        return rows

    def _keys_of(self, kind: str, key_id: str, key: bytes) -> np.ndarray:
        found = self.known.get((kind, key_id))
        if found is None:
            columns = self.declaration.columns
            column = columns.subject_id if kind == "subject" else columns.record_id
            found = self.known[kind, key_id] = _keys_of(self.table, column, key, kind)
        return found


def _keys_of(table: pa.Table, column: str, key: bytes, kind: str) -> np.ndarray:
    values = table[column].to_pylist()
    distinct = sorted(set(values))
    keys = dict(zip(distinct, pseudonyms(key, kind, distinct), strict=True))
    return np.array([keys[value] for value in values], dtype=str)


def _select(
    table: pa.Table, declaration: Declaration, key: bytes, selector: tuple[str, str]
) -> np.ndarray:
    column, value = selector
    allowed = (*declaration.columns.governance, declaration.columns.label.name)
    if column not in allowed:
        message = f"selector: expected one of {', '.join(allowed)}, got '{column}'"
        raise DataError(message)
    cells = [str(cell) for cell in table[column].to_pylist()]
    wanted = {cell for cell in set(cells) if selector_value(key, column, cell) == value}
    return np.array([cell in wanted for cell in cells], dtype=bool)
