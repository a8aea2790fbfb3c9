"""Traces: where strings that only erased persons had are still readable, and how to remove them.

A purge deletes what it knows. This module looks for what it does not know: it reads every file of a
workspace that is text or a database, and finds each value that was in the erased rows and is in no
remaining row. Reports name files and counts, never a value.

Weights, pictures and tables are not searched here: weights hold no text, and tables are erased by
id and counted. What is found counts as found only as a whole word, so that ``p-17`` is not found in
``p-170``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.digests import write_atomic

_MIN_BYTES = 4
_MIN_TEXT_BYTES = 6
_BLOCK_BYTES = 1 << 20
_MAX_NEEDLE_BYTES = 256
_NOT_TEXT = frozenset({".parquet", ".safetensors", ".pt2", ".png", ".key"})
_HEX = frozenset(b"0123456789abcdef")
REMOVED = b"[a line that named an erased person was removed]"


@dataclass(frozen=True, slots=True)
class Trace:
    """A file in which values of erased persons are readable, and how many different ones."""

    path: str
    n_values: int


class Needles:
    """Byte strings to look for, as an index over their first four bytes."""

    def __init__(self, values: Iterable[str]) -> None:
        """Keep the values that are long enough to mean somebody; the others are left out."""
        self._by_prefix: dict[int, list[bytes]] = defaultdict(list)
        encoded = {value.encode()[:_MAX_NEEDLE_BYTES] for value in values}
        self.values = sorted(value for value in encoded if _is_telling(value))
        for value in self.values:
            self._by_prefix[int.from_bytes(value[:_MIN_BYTES], "little")].append(value)
        self._prefixes = np.array(sorted(self._by_prefix), np.uint32)

    def find(self, data: bytes) -> set[bytes]:
        """Return the values that are in the data as whole words."""
        return {value for _, _, value in self.hits(data)}

    def hits(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield start, end and value of each whole word that is one of the values."""
        if len(data) < _MIN_BYTES or not len(self._prefixes):
            return
        octets = np.frombuffer(data, np.uint8).astype(np.uint32)
        words = octets[:-3] | octets[1:-2] << 8 | octets[2:-1] << 16 | octets[3:] << 24
        place = np.minimum(np.searchsorted(self._prefixes, words), len(self._prefixes) - 1)
        for start in np.flatnonzero(self._prefixes[place] == words).tolist():
            for value in self._by_prefix[int(words[start])]:
                end = start + len(value)
                if data[start:end] == value and _is_word(data, start, end):
                    yield start, end, value


def telling_values(
    erased: pa.Table, remaining: pa.Table, *, id_columns: Sequence[str], text_columns: Sequence[str]
) -> set[str]:
    """Return the values that are in erased rows and in no remaining one.

    Args:
        erased: Rows that are erased.
        remaining: Rows that stay.
        id_columns: Record and subject ids.
        text_columns: Columns of text; only values of six bytes and more say who it was.
    """
    found: set[str] = set()
    for name in (*id_columns, *text_columns):
        values = pc.unique(erased[name].cast(pa.string()).combine_chunks())
        others = pc.unique(remaining[name].cast(pa.string()).combine_chunks())
        left = values.filter(pc.invert(pc.is_in(values, value_set=others))).drop_null().to_pylist()
        if name in text_columns:
            left = [value for value in left if len(value.encode()) >= _MIN_TEXT_BYTES]
        found.update(left)
    return found


def find_traces(root: Path, needles: Needles, *, skip: Sequence[Path] = ()) -> list[Trace]:
    """Return the files under a folder in which a value is readable, by path.

    Args:
        root: Folder to look through.
        needles: Values.
        skip: Folders that are not looked into.
    """
    traces = []
    for path in _files(root, skip):
        found = _find_in_file(path, needles)
        if found:
            traces.append(Trace(path.relative_to(root).as_posix(), len(found)))
    return traces


def remove_lines(path: Path, needles: Needles, *, keep_place: bool) -> int:
    """Remove the lines of a text file that hold a value; return how many there were.

    Args:
        path: A log, or a file with a row on each line.
        needles: Values.
        keep_place: Put a note where the line was (logs), or nothing (rows).
    """
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not needles.find(line)]
    n_removed = len(lines) - len(kept)
    if n_removed and keep_place:
        kept = [REMOVED + b"\n" if needles.find(line) else line for line in lines]
    if n_removed:
        write_atomic(path, b"".join(kept), mode=path.stat().st_mode & 0o777)
    return n_removed


def _files(root: Path, skip: Sequence[Path]) -> Iterator[Path]:
    skipped = {os.fspath(path) for path in skip}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(n for n in folders if os.path.join(folder, n) not in skipped)
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix not in _NOT_TEXT and path.is_file():
                yield path


def _find_in_file(path: Path, needles: Needles) -> set[bytes]:
    """Search a file in blocks that overlap, so that a value on an edge is seen whole."""
    found: set[bytes] = set()
    with path.open("rb") as file:
        data, first = file.read(_BLOCK_BYTES), True
        while data:
            block = file.read(_BLOCK_BYTES)
            for start, end, value in needles.hits(data):
                # A word that touches an edge is judged where its neighbour is seen.
                if (start or first) and (end < len(data) or not block):
                    found.add(value)
            data, first = (data[-_MAX_NEEDLE_BYTES - 1 :] + block) if block else b"", False
    return found


def _is_telling(value: bytes) -> bool:
    """Say whether a value is found by accident only if it is meant: ``17`` is everywhere."""
    return len(value) >= _MIN_TEXT_BYTES or (len(value) >= _MIN_BYTES and not set(value) <= _HEX)


def _is_word(data: bytes, start: int, end: int) -> bool:
    before, after = data[start - 1 : start] if start else b"", data[end : end + 1]
    return not (before.isalnum() or after.isalnum())
