"""Rows that matched the same rules are decided alike, so decisions are made once per pattern.

A *pattern* is a set of names that matched a row. There are few of them, however many rows there
are: ten million rows of a policy with fifteen rules have a few thousand. Decisions are then plain
code over one pattern, and rows take theirs by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_BITS = 48


@dataclass(frozen=True, slots=True)
class Patterns:
    """The patterns of some rows.

    Attributes:
        number: int64 ``[n]``, the pattern of each row.
        members: The names of each pattern, sorted.
    """

    number: np.ndarray
    members: tuple[tuple[str, ...], ...]


def find_patterns(hits: dict[str, np.ndarray], n_rows: int) -> Patterns:
    """Number the distinct combinations of matches.

    Args:
        hits: Name -> bool ``[n_rows]``.
        n_rows: Number of rows; tells it when there are no names.
    """
    names = sorted(hits)
    code = np.zeros(n_rows, dtype=np.int64)
    used = 0
    for name in names:
        if used == _BITS:
            code = _renumber(code)
            used = int(code.max(initial=0)).bit_length()
        code = (code << 1) | hits[name]
        used += 1
    number = _renumber(code)
    n_patterns = int(number.max(initial=-1)) + 1
    first = np.zeros(n_patterns, dtype=np.int64)
    first[number[::-1]] = np.arange(n_rows)[::-1]
    matched = [hits[name][first] for name in names]
    members = [
        tuple(name for name, hit in zip(names, matched, strict=True) if hit[row])
        for row in range(n_patterns)
    ]
    return Patterns(number, tuple(members))


def take_by_pattern(values: Sequence[object], number: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return a column whose rows take the value of their pattern."""
    return pa.array(values, kind).take(pa.array(number))


def _renumber(code: np.ndarray) -> np.ndarray:
    indices = pa.array(code).dictionary_encode().indices
    number: np.ndarray = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return number
