"""Words near a match: they make it certain, or take it away.

The bytes around all undecided matches of a slice are cut out as rows of one width and searched in
one call of Arrow's RE2 engine, whose time is linear in the bytes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view

from governance.scanner.matches import CERTAIN, FAINT, Matches
from governance.scanner.text import BREAK, Text

_BEFORE, _AFTER = 48, 24
"""Bytes of context; a word for an identifier mostly stands before it."""

_BEFORE_AT, _AFTER_AT = np.arange(-_BEFORE, 0), np.arange(_AFTER)
_ROWS = 8192
"""Matches at a time, so that a slice full of them takes no more memory."""


def weigh(
    text: Text, matches: Matches, *, near: str, against: str, doubtful: bool = False
) -> Matches:
    """Return the matches with their levels raised or lowered by the words around them.

    Args:
        text: Slice of the matches.
        matches: Matches of one entity.
        near: Words that make a match certain; empty for none.
        against: Words that make a plausible match faint, unless a word of ``near`` is there.
        doubtful: They make a certain match faint, too.
    """
    undecided = np.flatnonzero((matches.level < CERTAIN) | doubtful)
    if not len(undecided) or not (near or against):
        return matches
    level = matches.level.copy()
    for at in range(0, len(undecided), _ROWS):
        some = undecided[at : at + _ROWS]
        rows = _around(text, matches.start[some], matches.stop[some])
        speaks_for = _holds(rows, near)
        speaks_against = _holds(rows, against) & ~speaks_for
        level[some[speaks_for]] = CERTAIN
        level[some[speaks_against]] = FAINT
    return matches.with_level(level)


def _around(text: Text, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return uint8 ``[n, width]``: bytes of the same cell before and after each match."""
    cell = text.cells_of(start)
    first, last = text.cell_first[cell][:, None], text.cell_stop[cell][:, None]
    before = sliding_window_view(text.lower, _BEFORE)[start - _BEFORE]
    after = sliding_window_view(text.lower, _AFTER)[stop]
    before[start[:, None] + _BEFORE_AT < first] = ord(" ")
    after[stop[:, None] + _AFTER_AT >= last] = ord(" ")
    return np.concatenate([before, after], axis=1)


def _holds(rows: np.ndarray, words: str) -> np.ndarray:
    if not words:
        return np.zeros(len(rows), bool)
    flat = np.where(rows == BREAK, np.uint8(ord(" ")), rows)
    cells = pa.Array.from_buffers(
        pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(flat)]
    ).cast(pa.binary())
    return np.asarray(pc.match_substring_regex(cells, words).to_numpy(zero_copy_only=False), bool)
