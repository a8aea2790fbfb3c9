"""Shapes of identifiers: groups of digits with a separator, and words of letters and digits."""

from __future__ import annotations

import numpy as np

from governance.scanner.matches import isolated
from governance.scanner.text import Text


def byte_set(characters: bytes) -> np.ndarray:
    """Return a table of 256 with true for these bytes."""
    table = np.zeros(256, bool)
    table[list(characters)] = True
    return table


def grouped(
    text: Text,
    lengths: tuple[int, ...],
    separators: bytes = b"",
    *,
    same: bool = True,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Return the index of the first run of digits of every such chain of groups.

    Args:
        text: Slice.
        lengths: Digits of each group, as in ``(3, 2, 4)``.
        separators: Bytes of which exactly one lies between two groups.
        same: All separators of a chain are the same byte.
        among: Only these runs are tried as the first; None: all.
    """
    runs = text.digits
    length = runs.length
    if among is None:
        index = np.flatnonzero(length == lengths[0])
    else:
        index = among[length[among] == lengths[0]]
    index = index[index + len(lengths) <= len(length)]
    allowed = byte_set(separators)
    for offset, wanted in enumerate(lengths[1:], start=1):
        here = index + offset
        before = runs.stop[here - 1]
        separator = text.data[before]
        fits = (length[here] == wanted) & (runs.first[here] == before + 1) & allowed[separator]
        if same:
            fits &= separator == text.data[runs.stop[index]]
        index = index[fits]
    return index


def group_span(text: Text, index: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return start and stop of chains of groups."""
    return text.digits.first[index], text.digits.stop[index + n_groups - 1]


def isolated_groups(text: Text, index: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the chains that no letter and no further number touches.

    A chain of groups with spaces is not cut out of a longer one: ``4111 1111 1111 1111`` holds no
    ``1111 1111 1111``. Only a group of three digits and more makes it longer; one or two are often
    another number beside it.
    """
    start, stop = group_span(text, index, n_groups)
    alone = isolated(text, start, stop)
    if n_groups > 1 and len(index):
        runs = text.digits
        separator = text.data[runs.stop[index]]
        before, after = np.maximum(index - 1, 0), np.minimum(index + n_groups, len(runs.first) - 1)
        longer = (index > 0) & (runs.first[index] == runs.stop[before] + 1)
        longer &= (runs.length[before] >= 3) & (text.data[runs.stop[before]] == separator)
        beyond = (runs.first[after] == stop + 1) & (runs.length[after] >= 3)
        alone &= ~longer & ~(beyond & (text.data[stop] == separator))
    return index[alone]


_CLASSES = {
    "9": byte_set(b"0123456789"),
    "A": byte_set(b"abcdefghijklmnopqrstuvwxyz"),
    "X": byte_set(b"abcdefghijklmnopqrstuvwxyz0123456789"),
}


def shaped(text: Text, template: str) -> np.ndarray:
    """Return the start of every place that looks like the template and stands alone.

    ``9`` is a digit, ``A`` a letter of either case, ``X`` one of both, anything else itself.
    Only words as long as its first one are tried, and each column of the template sieves the rest.
    """
    words = text.words
    joint = next((at for at, c in enumerate(template) if not c.isalnum()), len(template))
    start = words.first[words.length == joint]
    for offset, character in enumerate(template):
        byte = text.lower[start + offset]
        known = _CLASSES.get(character)
        start = start[known[byte] if known is not None else byte == ord(character)]
    return start[isolated(text, start, start + len(template))]


def columns(text: Text, start: np.ndarray, template: str, characters: str = "9AX") -> np.ndarray:
    """Return the lower-case bytes of the template's variable places, ``[n, places]``."""
    places = np.array([i for i, character in enumerate(template) if character in characters])
    return text.lower[start[:, None] + places]
