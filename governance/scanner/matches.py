"""What a detector finds: positions, a level of certainty, a variant. Never a value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from governance.scanner.text import DIGIT, KIND, LETTER, UNDERSCORE, WIDE, Text

FAINT, PLAUSIBLE, CERTAIN = 0, 1, 2
"""Levels. Faint: the shape alone, counts only with a word for it nearby or as the column's name.
Plausible: a checksum or a distinctive shape, that chance meets now and then. Certain: neither."""

_NEUTRAL = ""

_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class Matches:
    """Matches of one detector in one slice, in order of their start."""

    start: np.ndarray
    stop: np.ndarray
    level: np.ndarray
    variant: np.ndarray
    """Index into ``names`` for each match."""
    names: tuple[str, ...] = (_NEUTRAL,)

    def __len__(self) -> int:
        """Number of matches."""
        return len(self.start)

    def take(self, index: np.ndarray) -> Matches:
        """Return the matches of a mask or of indices."""
        return Matches(
            self.start[index], self.stop[index], self.level[index], self.variant[index], self.names
        )

    def with_level(self, level: np.ndarray) -> Matches:
        """Return the matches with other levels."""
        return Matches(self.start, self.stop, level, self.variant, self.names)


def make_matches(
    start: np.ndarray, stop: np.ndarray, level: int | np.ndarray, variant: str = _NEUTRAL
) -> Matches:
    """Return matches of one level (or one for each) and one variant."""
    n = len(start)
    levels = np.full(n, level, np.int8) if isinstance(level, int) else level.astype(np.int8)
    return Matches(start, stop, levels, np.zeros(n, np.int16), (variant,))


def merge(parts: list[Matches]) -> Matches:
    """Return all matches in order; of overlapping ones the more certain, then the longer."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names)) or (_NEUTRAL,)
    number = {name: index for index, name in enumerate(names)}
    variants = [
        np.array([number[name] for name in part.names], np.int16)[part.variant] for part in parts
    ]
    everything = Matches(
        _joined([part.start for part in parts], np.int64),
        _joined([part.stop for part in parts], np.int64),
        _joined([part.level for part in parts], np.int8),
        _joined(variants, np.int16),
        names,
    )
    return without_overlaps(everything)


def without_overlaps(matches: Matches) -> Matches:
    """Drop what overlaps a match of higher level, or of the same level that is longer or earlier.

    Each round keeps every match that beats all that it touches and drops what touches a winner.
    All cells go through a round at once. What ``_ROUNDS`` do not settle (one cell that is a chain
    of dozens of overlapping candidates, of which as many are kept already) is dropped.
    """
    left = matches.take(np.lexsort((matches.stop, matches.start)))
    kept: list[Matches] = []
    for _ in range(_ROUNDS):
        if not len(left):
            break
        best = _beats_neighbours(left)
        kept.append(left.take(best))
        left = left.take(~best & ~covered(left, kept[-1]))
    if not kept:
        return left
    found = Matches(
        np.concatenate([part.start for part in kept]),
        np.concatenate([part.stop for part in kept]),
        np.concatenate([part.level for part in kept]),
        np.concatenate([part.variant for part in kept]),
        matches.names,
    )
    return found.take(np.argsort(found.start, kind="stable"))


def _beats_neighbours(matches: Matches) -> np.ndarray:
    """Return which matches have the highest rank among all that they touch; sorted by start.

    The matches that touch one lie in a range of the order, found by the running maximum of the
    stops; the maximum over all ranges comes from a sparse table (powers of two).
    """
    n = len(matches)
    length = matches.stop - matches.start
    rank = np.empty(n, np.int64)
    rank[np.lexsort((-matches.start, length, matches.level))] = np.arange(n)
    reach = np.maximum.accumulate(matches.stop)
    low = np.searchsorted(reach, matches.start, "right")
    high = np.searchsorted(matches.start, matches.stop, "left")
    return rank == _range_max(rank, low, high)


def _range_max(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the maximum of ``values[low:high]`` for each pair; no range is empty."""
    power = np.frexp((high - low).astype(np.float64))[1] - 1
    result = np.empty(len(low), values.dtype)
    level = values
    for exponent in range(int(power.max(initial=0)) + 1):
        now = power == exponent
        width = 1 << exponent
        result[now] = np.maximum(level[low[now]], level[high[now] - width])
        if len(level) > width:
            level = np.maximum(level[:-width], level[width:])
    return result


def covered(matches: Matches, by: Matches) -> np.ndarray:
    """Return which matches overlap one of the others, which overlap nothing among themselves."""
    if not len(by):
        return np.zeros(len(matches), bool)
    after = np.searchsorted(by.start, matches.stop, "left")
    last = np.maximum(after - 1, 0)
    return (after > 0) & (by.stop[last] > matches.start)


def isolated(text: Text, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return where no letter, digit or underscore touches, and no number goes on.

    A number goes on over ``.``, ``-`` and ``/`` to a digit: ``1-123-45-6789`` holds no
    ``123-45-6789``.
    """
    word = DIGIT | LETTER | UNDERSCORE
    before, after = text.data[start - 1], text.data[stop]
    touches = ((KIND[before] | KIND[after]) & word) != 0
    goes_on = _JOINS[before] & ((KIND[text.data[start - 2]] & DIGIT) != 0)
    goes_on |= _JOINS[after] & ((KIND[text.data[stop + 1]] & DIGIT) != 0)
    return ~(touches | goes_on)


def _joins() -> np.ndarray:
    table = np.zeros(256, bool)
    table[list(b".-/")] = True
    return table


_JOINS = _joins()


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def is_word_byte(values: np.ndarray) -> np.ndarray:
    """Return which bytes are part of a word in any script."""
    return (KIND[values] & (DIGIT | LETTER | UNDERSCORE | WIDE)) != 0
