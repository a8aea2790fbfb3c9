"""Run finders over a slice and a column: matches of the asked entities, cells, positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from governance.scanner.context import weigh
from governance.scanner.entities import ENTITIES
from governance.scanner.matches import CERTAIN, PLAUSIBLE, Matches, covered, make_matches
from governance.scanner.slices import MARGIN, SLICE_BYTES, slices
from governance.scanner.text import Text


class Searched:
    """Matches of one slice; each finder runs at most once, when it is first asked for."""

    def __init__(self, text: Text) -> None:
        """Search in a slice."""
        self.text = text
        self._found: dict[str, Matches] = {}
        self._unweighed: dict[str, Matches] = {}

    def matches(self, entity: str) -> Matches:
        """Return the matches of every level that start in the core of the slice."""
        found = self._weighed(entity)
        first, stop = self.text.core
        return found.take((found.start >= first) & (found.start < stop))

    def narrowed(self, name: str) -> Searched:
        """Return a search in only those cells that may hold an entity, for a look at it alone.

        What is stronger than the entity, and the words around it, need be looked for there only.
        """
        entity, text = ENTITIES[name], self.text
        if entity.find is None or len(text.cell) == 1:
            return self
        at = text.find(entity.anchor) if entity.anchor else self._raw(name).start
        index = np.unique(text.cells_of(at))
        return self if len(index) * 2 > len(text.cell) else Searched(text.only(index))

    def _weighed(self, entity: str) -> Matches:
        if entity not in self._found:
            self._found[entity] = self._search(entity)
        return self._found[entity]

    def _search(self, name: str) -> Matches:
        if name == _INTERNATIONAL:
            numbers = self._raw("phone")
            plus = self.text.data[numbers.start] == ord("+")
            return numbers.take(plus & (numbers.level == CERTAIN))
        entity = ENTITIES[name]
        found = self._raw(name)
        for other in entity.yields_to:
            if not len(found):
                break
            stronger = self._weighed(other)
            found = found.take(~covered(found, stronger.take(stronger.level == CERTAIN)))
        return weigh(
            self.text,
            found,
            near=entity.near_words,
            against=entity.against,
            doubtful=entity.doubtful,
        )

    def _raw(self, name: str) -> Matches:
        """Return what the finder says, before anything else is weighed."""
        if name not in self._unweighed:
            find = ENTITIES[name].find
            nothing = np.zeros(0, np.int64)
            self._unweighed[name] = (
                find(self.text) if find else make_matches(nothing, nothing, PLAUSIBLE)
            )
        return self._unweighed[name]


_INTERNATIONAL = "phone_international"


@dataclass(frozen=True, slots=True)
class Spans:
    """Where matches are: cell numbers and byte offsets in them, for redaction and for tests."""

    cell: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    level: np.ndarray


def searched(
    column: pa.ChunkedArray | pa.Array, *, size: int = SLICE_BYTES, margin: int = MARGIN
) -> Iterator[Searched]:
    """Yield the slices of a text column, ready to be asked for matches."""
    for text in slices(column, size=size, margin=margin):
        yield Searched(text)


def spans_in(part: Searched, entity: str, *, level: int = PLAUSIBLE) -> Spans:
    """Return the matches of a slice as offsets in their cells, as they were before folding."""
    text = part.text
    found = part.matches(entity)
    found = found.take(found.level >= level)
    cell = text.cells_of(found.start)
    start, stop, first = found.start, found.stop, text.cell_first[cell]
    if text.kept is not None:
        start, stop, first = text.kept[start], text.kept[stop], text.kept[first]
    base = text.origin[cell] - first
    return Spans(text.cell[cell], start + base, stop + base, found.level)


def whole_cells(text: Text, found: Matches) -> np.ndarray:
    """Return which matches are all of their cell, but for space around them."""
    cell = text.cells_of(found.start)
    ink = text.ink
    begins = np.searchsorted(ink, text.cell_first[cell]) == np.searchsorted(ink, found.start)
    ends = np.searchsorted(ink, text.cell_stop[cell]) == np.searchsorted(ink, found.stop)
    return begins & ends


def check_entities(entities: Sequence[str]) -> None:
    """Refuse the name of an entity that does not exist."""
    unknown = sorted(set(entities) - set(ENTITIES))
    if unknown:
        message = f"expected entities out of {', '.join(ENTITIES)}; got {', '.join(unknown)}"
        raise ValueError(message)
