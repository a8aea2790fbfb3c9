"""Where the rows of a classification lie between its steps: one Parquet file for each bucket.

Rows are personal data: the folder has mode 700 and is deleted when the run ends; a run that was
killed goes on with what is there, and the next run removes what a day-old one left. Decisions of a
bucket have the order of its rows, so that no join is needed.

A purge may delete the folder while a run goes on. What was staged is therefore noted by bucket, and
rows or decisions that are not all there any more are an error, never fewer rows.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq

from governance.classification import (
    GROUP,
    TIE,
    ClassifiedRows,
    RiskGroup,
    decision_columns,
)
from governance.classification.runs import read_group
from governance.digests import read_json, write_atomic, write_json
from governance.errors import DataError
from governance.storage import BUCKET, query

_LEFT_OVER_S = 86_400
_COMPRESSION = "lz4"
_COUNTS = "rows-by-bucket"


class Staging:
    """The staged rows and decisions of one run."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made by the first write."""
        self.folder = folder

    @property
    def overrides(self) -> Path:
        """Where the copy of what persons had said when the rows were staged lies."""
        return self.folder / "overrides.jsonl"

    def write_rows(self, parts: Iterable[pa.Table]) -> int:
        """Distribute rows over the files of their buckets and return their number.

        Args:
            parts: Tables with ``bucket``; each is written before the next is asked for.
        """
        folder = self._fresh("rows")
        (self.folder / f"{_COUNTS}.json").unlink(missing_ok=True)
        writers: dict[int, pq.ParquetWriter] = {}
        counts: Counter[int] = Counter()
        try:
            for part in parts:
                for bucket, rows in _by_bucket(part):
                    if bucket not in writers:
                        path = folder / f"{bucket}.parquet"
                        writers[bucket] = pq.ParquetWriter(
                            path, rows.schema, compression=_COMPRESSION
                        )
                    writers[bucket].write_table(rows)
                    counts[bucket] += rows.num_rows
        finally:
            for writer in writers.values():
                writer.close()
        self.note(_COUNTS, {str(bucket): counts[bucket] for bucket in sorted(counts)})
        return counts.total()

    def count_repeated(self, column: str) -> int:
        """Return how many values of a column are repeated; spills to disk, not into memory."""
        data = pa_dataset.dataset(self.folder / "rows", format="parquet")
        scratch = self.folder / "scratch"
        statement = f"""
            SELECT coalesce(sum(n) - count(*), 0)::BIGINT AS repeated
            FROM (SELECT count(*) AS n FROM r GROUP BY hash("{column}"), "{column}")
            """  # noqa: S608 - a declared column
        found = query(statement, scratch=scratch, memory_limit="1GB", r=data)
        return int(found["repeated"][0].as_py())

    def buckets(self) -> list[int]:
        """Return the buckets that were given rows, ascending, whether their files are there or not.

        Raises:
            DataError: The note of them is gone.
        """
        return sorted(self._counts())

    def n_rows(self, bucket: int) -> int:
        """Return the number of rows that a bucket was given."""
        return self._counts()[bucket]

    def rows(self, bucket: int, columns: Iterable[str] | None = None) -> pa.Table:
        """Return the rows of a bucket.

        Raises:
            DataError: They are not all there any more.
        """
        return self._read("rows", bucket, None if columns is None else list(columns))

    def write_decisions(self, bucket: int, classified: ClassifiedRows) -> None:
        """Keep the decisions of a bucket, in the order of its rows: a group and a hash each."""
        names = pa.array([group.group for group in classified.groups], pa.string())
        numbers = pa.array(classified.number.astype(np.int32))
        group = pa.DictionaryArray.from_arrays(numbers, names)
        path = self.folder / "decisions" / f"{bucket}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({GROUP: group, TIE: pa.array(classified.tie)}), path)

    def decisions(
        self, bucket: int, groups: Sequence[RiskGroup], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the decision columns of a bucket.

        Args:
            bucket: Bucket.
            groups: From ``groups``.
            columns: Only these; all of them if absent.

        Raises:
            DataError: They are not all there any more.
        """
        staged = self._read("decisions", bucket, None).combine_chunks()
        place = {group.group: index for index, group in enumerate(groups)}
        encoded = staged[GROUP].combine_chunks()
        places = np.array([place[name] for name in encoded.dictionary.to_pylist()], dtype=np.int64)
        number = places[encoded.indices.to_numpy()]
        return decision_columns(number, groups, staged[TIE].to_numpy(), columns)

    def write_rare_groups(self, groups: dict[str, pa.Table]) -> None:
        """Keep what ``find_rare_groups`` found."""
        folder = self._fresh("rare")
        for rule_id, table in groups.items():
            pq.write_table(table, folder / f"{rule_id}.parquet")

    def rare_groups(self) -> dict[str, pa.Table]:
        """Return what ``find_rare_groups`` found."""
        paths = sorted((self.folder / "rare").glob("*.parquet"))
        return {path.stem: pq.read_table(path) for path in paths}

    def write_groups(self, part: int, groups: Iterable[RiskGroup]) -> None:
        """Keep the risk groups of some buckets, of which ``part`` is the first."""
        lines = [json.dumps(asdict(group)) for group in groups]
        path = self.folder / "groups" / f"{part}.jsonl"
        write_atomic(path, "\n".join(lines).encode())

    def groups(self) -> list[RiskGroup]:
        """Return the risk groups of all buckets, those of one pattern added up.

        Raises:
            DataError: They do not hold every staged row any more.
        """
        found: dict[str, RiskGroup] = {}
        for path in sorted((self.folder / "groups").glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                group = read_group(json.loads(line))
                found[group.group] = add_groups(found.get(group.group), group)
        n_staged, n_grouped = sum(self._counts().values()), sum(g.n_records for g in found.values())
        if n_grouped != n_staged:
            raise _not_whole(f"risk groups of {n_staged} rows", f"of {n_grouped}")
        return [found[name] for name in sorted(found)]

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Note the result of a step."""
        write_json(self.folder / f"{name}.json", value)

    def noted(self, name: str) -> dict[str, Any] | None:
        """Return the result of a step that was finished."""
        path = self.folder / f"{name}.json"
        found: dict[str, Any] | None = read_json(path) if path.exists() else None
        return found

    def added_up(self, pattern: str) -> dict[str, int]:
        """Return the counts in every noted result whose name fits, added up by name."""
        total: Counter[str] = Counter()
        for path in sorted(self.folder.glob(f"{pattern}.json")):
            total.update(read_json(path))
        return dict(total)

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _counts(self) -> dict[int, int]:
        """Return bucket -> number of rows, as they were staged."""
        counts = self.noted(_COUNTS)
        if counts is None:
            raise _not_whole("the note of the staged buckets", "none")
        return {int(bucket): count for bucket, count in counts.items()}

    def _read(self, what: str, bucket: int, columns: list[str] | None) -> pa.Table:
        """Return what was staged about a bucket, which has one entry for each of its rows."""
        expected = self.n_rows(bucket)
        wanted = f"{what} of bucket {bucket}, {expected} rows"
        try:
            found = pq.read_table(self.folder / what / f"{bucket}.parquet", columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise _not_whole(wanted, type(error).__name__) from None  # the cause may quote a value
        if found.num_rows != expected:
            raise _not_whole(wanted, str(found.num_rows))
        return found

    def _fresh(self, name: str) -> Path:
        """Return an empty folder: what a killed step left is written anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def _not_whole(expected: str, got: str) -> DataError:
    return DataError(
        f"staging: expected {expected}, got {got}; an erasure removes what was staged before it, "
        "start a new run"
    )


def remove_left_overs(root: Path, *, besides: Path) -> None:
    """Delete staging folders that nobody touched for a day: their run was killed for good."""
    for folder in root.glob("*"):
        if folder != besides and time.time() - folder.stat().st_mtime > _LEFT_OVER_S:
            shutil.rmtree(folder, ignore_errors=True)


def add_groups(first: RiskGroup | None, second: RiskGroup) -> RiskGroup:
    """Return one group with the records and subjects of two; a subject lies in one bucket."""
    if first is None:
        return second
    return RiskGroup(
        second.group,
        second.pattern,
        second.decision,
        first.n_records + second.n_records,
        first.n_subjects + second.n_subjects,
    )


def in_parts(buckets: list[int], n_rows: list[int], *, rows_per_part: int) -> list[list[int]]:
    """Group buckets into parts of about as many rows, each for one worker.

    >>> in_parts([0, 1, 2, 5], [10, 10, 30, 5], rows_per_part=20)
    [[0, 1], [2], [5]]
    """
    parts: list[list[int]] = []
    size = rows_per_part
    for bucket, count in zip(buckets, n_rows, strict=True):
        if size + count > rows_per_part:
            parts.append([])
            size = 0
        parts[-1].append(bucket)
        size += count
    return parts


def _by_bucket(part: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    ordered = part.take(pc.sort_indices(part[BUCKET]))
    counts = pc.value_counts(ordered[BUCKET])
    start = 0
    for entry in counts.to_pylist():
        rows = ordered.slice(start, entry["counts"])
        yield int(entry["values"]), rows.drop_columns([BUCKET])
        start += entry["counts"]
