"""Tombstones under an earlier key get one under the current key, when the row comes by.

Of a tombstone nobody can tell the id, so it stays under the key that it was made with, and that key
stays needed. But most erased rows come again with every load of a source that is not ours. While
such a row is at hand, its tombstone can be written under the current key as well. No column joins
the two: of a batch, so many are carried as it has under both keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from governance.key_ring import KeyRing
from governance.request_rows import selector_value
from governance.storage import append_table, read_table, table_exists
from governance.suppression import pseudonym_array, with_key_ids

_Group = tuple[str, str]
"""Batch and kind."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Tombstones of one batch and kind that are under an earlier key only.

    Attributes:
        key_id: Name of the key.
        batch_id: Batch of the erasure.
        kind: Kind of tombstone.
        n: How many there are.
        erased_at: When.
    """

    key_id: str
    batch_id: str
    kind: str
    n: int
    erased_at: datetime


def find_alone(path: Path, ring: KeyRing) -> list[Alone]:
    """Return the tombstones that the current key does not know.

    Args:
        path: Table of tombstones.
        ring: Pseudonym keys; tombstones may be under others, too.
    """
    if not table_exists(path):
        return []
    counts: dict[_Group, dict[str, tuple[int, datetime]]] = {}
    groups = _named(path, ring).group_by(["batch_id", "kind", "key_id"])
    for row in groups.aggregate([("key", "count_distinct"), ("erased_at", "max")]).to_pylist():
        by_key = counts.setdefault((row["batch_id"], row["kind"]), {})
        by_key[row["key_id"]] = (row["key_count_distinct"], row["erased_at_max"])
    found = []
    for (batch_id, kind), by_key in sorted(counts.items()):
        n_current = by_key.get(ring.ids[0], (0, None))[0]
        for key_id, (n, erased_at) in sorted(by_key.items()):
            if key_id != ring.ids[0] and n > n_current:
                found.append(Alone(key_id, batch_id, kind, n - n_current, erased_at))
    return found


@dataclass
class Carrier:
    """Looks for rows of tombstones that the current key does not know, and writes theirs.

    Attributes:
        path: Table of tombstones.
        ring: Pseudonym keys.
        columns: Columns of the record's and the subject's id.
        selectable: Columns that a selector may name.
    """

    path: Path
    ring: KeyRing
    columns: tuple[str, str]
    selectable: Sequence[str]
    _sought: dict[tuple[str, str], dict[str, list[tuple[str, datetime]]]] = field(init=False)
    _known: set[tuple[str, str, str]] = field(init=False)
    _found: list[tuple[str, str, str, datetime]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Read what is under an earlier key only."""
        alone = {(one.batch_id, one.kind) for one in find_alone(self.path, self.ring)}
        self._sought, self._known = {}, set()
        for row in _named(self.path, self.ring).to_pylist() if alone else ():
            group = (row["batch_id"], row["kind"])
            if group not in alone:
                continue
            if row["key_id"] == self.ring.ids[0]:
                self._known.add((*group, row["key"]))
            elif row["key_id"] in self.ring.ids:
                by_key = self._sought.setdefault((row["key_id"], row["kind"]), {})
                by_key.setdefault(row["key"], []).append((row["batch_id"], row["erased_at"]))

    def see(self, rows: pa.Table) -> None:
        """Look at some rows of a source."""
        record_id, subject_id = self.columns
        for key, key_id in zip(self.ring.keys, self.ring.ids, strict=True):
            for kind, of, column in (
                ("record", "record", record_id),
                ("subject", "subject", subject_id),
                ("touched_subject", "subject", subject_id),
            ):
                if sought := self._sought.get((key_id, kind)):
                    self._see(rows[column], kind, of, key, sought)
            if sought := self._sought.get((key_id, "selector")):
                self._see_values(rows, key, sought)

    def write(self, *, transaction: str) -> int:
        """Write the tombstones of what was seen, and return their number; a repeat adds nothing.

        Args:
            transaction: Name of the write.
        """
        fresh = {one for one in self._found if (one[2], one[0], one[1]) not in self._known}
        if fresh:
            rows = sorted(fresh)
            content = pa.table(
                {
                    "kind": pa.array([row[0] for row in rows], pa.string()),
                    "key": pa.array([row[1] for row in rows], pa.string()),
                    "batch_id": pa.array([row[2] for row in rows], pa.string()),
                    "erased_at": pa.array([row[3] for row in rows], pa.timestamp("us", tz="UTC")),
                    "key_id": pa.array([self.ring.ids[0]] * len(rows), pa.string()),
                }
            )
            append_table(self.path, content, transaction=transaction)
        return len(fresh)

    def _see(
        self,
        ids: pa.ChunkedArray,
        kind: str,
        of: str,
        key: bytes,
        sought: dict[str, list[tuple[str, datetime]]],
    ) -> None:
        names = pseudonym_array(key, of, ids)
        hit = pc.is_in(names, value_set=pa.array(sorted(sought), names.type))
        old = names.filter(hit).to_pylist()
        new = pseudonym_array(self.ring.current, of, ids.filter(hit)).to_pylist()
        for before, after in zip(old, new, strict=True):
            self._found += [(kind, after, batch_id, at) for batch_id, at in sought[before]]

    def _see_values(
        self, rows: pa.Table, key: bytes, sought: dict[str, list[tuple[str, datetime]]]
    ) -> None:
        for column in self.selectable:
            for cell in map(str, pc.unique(rows[column]).to_pylist()):
                after = selector_value(self.ring.current, column, cell)
                batches = sought.get(selector_value(key, column, cell), ())
                self._found += [("selector", after, batch_id, at) for batch_id, at in batches]


def _named(path: Path, ring: KeyRing) -> pa.Table:
    """Return all tombstones, each with the id of its key."""
    table = with_key_ids(read_table(path))
    place = table.column_names.index("key_id")
    return table.set_column(place, "key_id", pc.fill_null(table["key_id"], ring.unnamed))
