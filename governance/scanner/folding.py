"""Fold characters that look like ASCII, or cannot be seen, so that they hide nothing.

Digits of every script become 0 to 9, full-width and mathematical letters their ASCII letter,
typographic spaces and dashes the plain ones; zero-width and direction marks go. Works on bytes,
so that text which is not valid UTF-8 is only left as it is. Source of the classes: Unicode,
general category Nd and compatibility decompositions (UAX #15), read from Python's ``unicodedata``.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from functools import cache

import numpy as np

from governance.scanner.text import Text

_DROP = 1
"""Marks a character without a place of its own."""

_SPACES = (0x85, 0xA0, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_DASHES = (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63)
_UNSEEN = (
    *(0xAD, 0x034F, 0x061C, 0x180E, 0x20E3, 0xFEFF),
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x206A),
    *range(0xFE00, 0xFE10),
)
_COMPATIBLE = (range(0xFF01, 0xFF5F), range(0x1D400, 0x1D800), range(0x2100, 0x2140))


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Return the code points that are folded, sorted, and the byte that each becomes."""
    folded = {
        point: ord("0") + digit
        for point in range(0x80, 0x1FC00)
        if (digit := unicodedata.decimal(chr(point), -1)) >= 0
    }
    for block in _COMPATIBLE:
        for point in block:
            plain = unicodedata.normalize("NFKC", chr(point))
            if len(plain) == 1 and 0x20 < ord(plain) < 0x7F:
                folded[point] = ord(plain)
    folded |= dict.fromkeys(_SPACES, ord(" ")) | dict.fromkeys(_DASHES, ord("-"))
    folded |= dict.fromkeys(_UNSEEN, _DROP)
    points = np.array(sorted(folded), np.int64)
    return points, np.array([folded[int(point)] for point in points], np.uint8)


def fold(text: Text) -> Text:
    """Return the text with such characters folded; the text itself where there are none."""
    data = text.data
    lead = np.flatnonzero((data >= 0xC2) & (data < 0xF5))
    if not len(lead):
        return text
    points, becomes = _table()
    point, n_bytes = _code_points(data, lead)
    place = np.minimum(np.searchsorted(points, point), len(points) - 1)
    hit = points[place] == point
    lead, n_bytes, byte = lead[hit], n_bytes[hit], becomes[place[hit]]
    if not len(lead):
        return text
    return _rewritten(text, lead, n_bytes, byte)


def _code_points(data: np.ndarray, lead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode the character at each lead byte; -1 where its bytes are not UTF-8."""
    first = data[lead].astype(np.int64)
    n_bytes = 2 + (first >= 0xE0).astype(np.int64) + (first >= 0xF0)
    point = first & np.array([0, 0, 0x1F, 0x0F, 0x07])[n_bytes]
    for offset in range(1, 4):
        more = data[lead + offset].astype(np.int64)
        inside = n_bytes > offset
        bad = inside & ((more & 0xC0) != 0x80)
        point = np.where(inside, (point << 6) | (more & 0x3F), point)
        point = np.where(bad, -1, point)
        n_bytes = np.where(bad, 0, n_bytes)
    return point, n_bytes


def _rewritten(text: Text, lead: np.ndarray, n_bytes: np.ndarray, byte: np.ndarray) -> Text:
    data = text.data.copy()
    keep = np.ones(len(data), bool)
    data[lead] = byte
    keep[lead[byte == _DROP]] = False
    for offset in range(1, 4):
        keep[lead[n_bytes > offset] + offset] = False
    moved = np.cumsum(keep) - keep
    return replace(
        text,
        data=data[keep],
        cell_first=moved[text.cell_first],
        cell_stop=moved[text.cell_stop],
        core=(int(moved[text.core[0]]), int(moved[text.core[1]])),
        kept=np.flatnonzero(keep),
    )
