"""One slice of a column as bytes, and its lexemes: runs of digits, runs of letters and digits.

A detector never sees cells: it sees one array of bytes in which cells are divided by a byte that
no UTF-8 text holds, and works on arrays of positions. Every step is a pass over the bytes or over
the runs, so the work is linear in the bytes whatever they say; there is no regular expression
that could run away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BREAK = 0xFF
"""Byte between cells; never part of UTF-8, and in binary columns it ends a lexeme."""

PAD = 256
"""Break bytes before and after a slice, so that a look at the neighbours needs no bounds check."""

DIGIT, LETTER, UNDERSCORE, WIDE, SPACE = 1, 2, 4, 8, 16
"""Kinds of bytes; ``WIDE`` is any byte of a character outside ASCII."""


def _kinds() -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[0x80:BREAK] = WIDE
    for text, kind in ((b"0123456789", DIGIT), (b"_", UNDERSCORE), (b" \t\r\n\x0b\x0c", SPACE)):
        table[list(text)] = kind
    table[65:91] = table[97:123] = LETTER
    return table


KIND = _kinds()


@dataclass(frozen=True, slots=True)
class Runs:
    """Maximal runs of bytes of one class: ``[first, stop)`` for each, in order."""

    first: np.ndarray
    stop: np.ndarray
    ordinal: np.ndarray
    """Number of bytes of the class before each run: its place in the squeezed array."""
    squeezed: np.ndarray
    """The bytes of all runs without what lies between them."""
    length: np.ndarray
    """Bytes of each run."""

    def window(self, index: np.ndarray, width: int) -> np.ndarray:
        """Return uint8 ``[len(index), width]``: the bytes from each run on, runs joined.

        The caller knows that so many bytes follow; past the end the last byte is repeated.
        """
        at = self.ordinal[index][:, None] + np.arange(width)
        last = max(len(self.squeezed) - 1, 0)
        return self.squeezed[np.minimum(at, last)] if len(index) else np.zeros((0, width), np.uint8)

    def at(self, position: np.ndarray) -> np.ndarray:
        """Return the index of the run that holds each position, which must lie in one."""
        return np.searchsorted(self.first, position, "right") - 1


def runs_of(mask: np.ndarray, data: np.ndarray) -> Runs:
    """Return the maximal runs in which the mask holds; its ends must be false."""
    edges = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    first, stop = edges[0::2], edges[1::2]
    length = stop - first
    return Runs(first, stop, np.cumsum(length) - length, data[mask], length)


@dataclass(frozen=True)
class Text:
    """Bytes of some cells, or a window of one long cell, with break bytes around."""

    data: np.ndarray
    """uint8, starts and ends with ``PAD`` break bytes."""
    cell_first: np.ndarray
    """Position of the first byte of each cell."""
    cell_stop: np.ndarray
    """Position after its last byte."""
    cell: np.ndarray
    """Number of each cell in the column."""
    core: tuple[int, int]
    """Matches that start here belong to this slice; the rest is context for them."""
    origin: np.ndarray
    """int64: byte of the cell at which each cell (the window of it) starts before folding."""
    kept: np.ndarray | None = None
    """Where folding took bytes out: the position before it of every byte that is left."""
    is_window: bool = False
    """A part of one long cell, whose other parts are the slices before and after."""

    @cached_property
    def kind(self) -> np.ndarray:
        """Kind of every byte."""
        return np.take(KIND, self.data)

    @cached_property
    def lower(self) -> np.ndarray:
        """The bytes with ASCII letters in lower case."""
        upper = (self.data - 65) < 26
        return self.data + (upper.view(np.uint8) << 5)

    @cached_property
    def digits(self) -> Runs:
        """Runs of ASCII digits; ``squeezed`` holds their values 0 to 9."""
        values = self.data - 48
        return runs_of(values < 10, values)

    @cached_property
    def words(self) -> Runs:
        """Runs of ASCII letters and digits; ``squeezed`` is in lower case."""
        return runs_of((self.kind & (DIGIT | LETTER)) != 0, self.lower)

    @cached_property
    def tokens(self) -> Runs:
        """Runs of the characters of keys and tokens: letters, digits and ``_ - + / =``."""
        mask = (self.kind & (DIGIT | LETTER | UNDERSCORE)) != 0
        for byte in b"-+/=":
            mask |= self.data == byte
        return runs_of(mask, self.data)

    @cached_property
    def ink(self) -> np.ndarray:
        """Positions of all bytes that are not space."""
        return np.flatnonzero((self.kind & SPACE) == 0)

    @cached_property
    def _breaks(self) -> dict[int, np.ndarray]:
        return {}

    def breaks(self, inside: np.ndarray) -> np.ndarray:
        """Return the positions of the bytes that are not in a class.

        Args:
            inside: Table of 256 of the class; a constant, since results are kept by its identity.
        """
        if id(inside) not in self._breaks:
            self._breaks[id(inside)] = np.flatnonzero(~np.take(inside, self.data))
        return self._breaks[id(inside)]

    def words_like(self, pairs: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return those of the words whose first two bytes are in a table of 65,536."""
        first = self.words.first[index]
        pair = (self.lower[first].astype(np.int64) << 8) | self.lower[first + 1]
        return index[pairs[pair]]

    def only(self, index: np.ndarray) -> Text:
        """Return some of the cells, by their index among those of this slice, as a text.

        Offsets in the cells are those after folding.
        """
        first = self.cell_first[index]
        size = self.cell_stop[index] - first + 1  # with the break byte behind
        begin = np.cumsum(size) - size
        at = np.arange(int(size.sum())) + np.repeat(first - begin, size)
        pad = np.full(PAD, BREAK, np.uint8)
        return Text(
            data=np.concatenate([pad, self.data[at], pad]),
            cell_first=begin + PAD,
            cell_stop=begin + size - 1 + PAD,
            cell=self.cell[index],
            core=(0, PAD + len(at)),
            origin=self.origin[index],
        )

    def find(self, byte: bytes) -> np.ndarray:
        """Return the positions of one byte."""
        return np.flatnonzero(self.data == byte[0])

    def cells_of(self, position: np.ndarray) -> np.ndarray:
        """Return for each position the index of its cell among those of this slice."""
        return np.searchsorted(self.cell_first, position, "right") - 1


def code_of(word: str) -> int:
    """Return the first eight bytes of a word as a number, to compare many words at once."""
    return int.from_bytes(word.encode()[:8].ljust(8, b"\0"), "big")


def pairs_of(words: Iterable[str]) -> np.ndarray:
    """Return the table of 65,536 with true for the first two bytes of the words."""
    table = np.zeros(65536, bool)
    table[[word.encode()[0] << 8 | word.encode()[1] for word in words]] = True
    return table


def word_codes(
    text: Text, start: np.ndarray, stop: np.ndarray, *, whole: bool = True
) -> np.ndarray:
    """Return ``code_of`` the lower-case words between the positions.

    Args:
        text: Slice.
        start: First bytes.
        stop: Positions after the last bytes.
        whole: A word of more than eight bytes gets 0; else its first eight bytes count.
    """
    code = np.zeros(len(start), np.int64)
    for offset in range(8):
        byte = text.lower[start + offset].astype(np.int64)
        code = (code << 8) | np.where(start + offset < stop, byte, 0)
    return np.where(stop - start <= 8, code, 0) if whole else code
