"""Scan columns and tables: masks by cell, counts by column, conclusions.

Memory is that of one slice, whatever the size of the column; counts of parts add up, so that
buckets can be scanned apart and joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.scanner.cells import CellLooks, look_at
from governance.scanner.decision import BY_LOOKS, conclude, is_named, judge_looks, look_bound
from governance.scanner.entities import ENTITIES, NAMES
from governance.scanner.findings import ColumnCounts, ColumnFindings, Evidence, Profile
from governance.scanner.kinds import Column, as_text, filled, holds_unread_text
from governance.scanner.matches import CERTAIN, FAINT, PLAUSIBLE, Matches
from governance.scanner.search import Searched, check_entities, searched, whole_cells


@dataclass(frozen=True, slots=True)
class CellMatch:
    """Which cells hold an entity: bool ``[n]`` each, never both for a cell.

    Attributes:
        holds: The cell holds it.
        unknown: The cell looks like it, and what the column is cannot be told; or its type holds
            text that cannot be read (a struct).
    """

    holds: np.ndarray
    unknown: np.ndarray


def detect(column: Column, entity: str, *, name: str = "") -> np.ndarray:
    """Return bool ``[n]``: the cell holds the entity, or may hold it.

    Where the look of the whole column counts (``BY_LOOKS``), ``column`` is the whole one; where its
    cells are too few to tell, those that look like the entity count. ``detect_cells`` is for parts.

    Args:
        column: Text, binary, numbers or dates; null counts as no.
        entity: One of ``NAMES``.
        name: Name of the column; where it speaks for the entity, a shape without a checksum is
            enough (a phone number without its country).

    Raises:
        ValueError: The entity does not exist.
    """
    check_entities([entity])
    looks = {}
    if needs_looks(name, entity):
        looks = judge_looks(count_column(column, name=name, entities=()))
    match = detect_cells(column, entity, name=name, looks=looks)
    found: np.ndarray = match.holds | match.unknown
    return found


def detect_cells(
    column: Column, entity: str, *, name: str, looks: Mapping[str, bool | None]
) -> CellMatch:
    """Return which cells of a part of a column hold the entity.

    Args:
        column: As in ``detect``, or a part of it: no cell's result depends on the other cells.
        entity: One of ``NAMES``.
        name: Name of the column.
        looks: ``judge_looks`` of the whole column; what it does not say is unknown.
    """
    check_entities([entity])
    if pa.types.is_dictionary(column.type):
        return _by_dictionary(column, entity, name, looks)
    nowhere = np.zeros(len(column), bool)
    text = as_text(column)
    if text is None:
        unread = holds_unread_text(column.type)
        return CellMatch(nowhere, filled(column) if unread else nowhere)
    holds = nowhere if ENTITIES[entity].find is None else _found(text, entity, name)
    verdict = looks.get(entity) if needs_looks(name, entity) else False
    if verdict is False:
        return CellMatch(holds, nowhere)
    look = _cells_by_look(text, entity)
    return CellMatch(holds | look, nowhere) if verdict else CellMatch(holds, look & ~holds)


def needs_looks(name: str, entity: str) -> bool:
    """Return whether the look of the whole column can tell the entity, for a column's name."""
    return entity in BY_LOOKS and look_bound(name, entity) is not None


def _found(text: Column, entity: str, name: str) -> np.ndarray:
    """Return the cells in which the entity's finder finds it."""
    mask = np.zeros(len(text), bool)
    named = bool(name) and is_named(name, entity)
    level = FAINT if named else PLAUSIBLE
    for whole in searched(text):
        part = whole.narrowed(entity)
        found = part.matches(entity)
        found = found.take(found.level >= level)
        mask[part.text.cell[part.text.cells_of(found.start)]] = True
    return mask


def scan_column(
    column: Column, *, name: str = "", entities: Sequence[str] = NAMES
) -> ColumnFindings:
    """Return what a column is and what it contains.

    Args:
        column: Text, binary, numbers or dates.
        name: Name of the column: evidence of its own.
        entities: Entities to look for.
    """
    return conclude(count_column(column, name=name, entities=entities))


def scan_table(
    table: pa.Table | Iterable[pa.RecordBatch | pa.Table], *, entities: Sequence[str] = NAMES
) -> list[ColumnFindings]:
    """Return the findings of every column.

    Args:
        table: A table, or batches of one that need not fit into memory together.
        entities: Entities to look for.
    """
    return scan_with(table, lambda column, name: count_column(column, name=name, entities=entities))


def scan_with(
    table: pa.Table | Iterable[pa.RecordBatch | pa.Table],
    count: Callable[[Column, str], ColumnCounts],
) -> list[ColumnFindings]:
    """Return the findings of every column, whose parts ``count`` counts."""
    total: list[ColumnCounts] = []
    for batch in [table] if isinstance(table, pa.Table) else table:
        named = zip(batch.columns, batch.column_names, strict=True)
        part = [count(column, name) for column, name in named]
        total = [one + other for one, other in zip(total, part, strict=True)] if total else part
    return [conclude(counts) for counts in total]


def count_table(
    table: pa.Table | pa.RecordBatch, *, entities: Sequence[str] = NAMES
) -> list[ColumnCounts]:
    """Return the counts of every column; counts of the parts of a table add up."""
    return [
        count_column(column, name=name, entities=entities)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]


def count_column(
    column: Column, *, name: str = "", entities: Sequence[str] = NAMES
) -> ColumnCounts:
    """Return the counts of a column or of a part of it."""
    check_entities(entities)
    counts = ColumnCounts(name=name, profile=Profile(n_cells=len(column)))
    text = as_text(column)
    if text is None:
        return counts
    window: tuple[int, ColumnCounts] | None = None
    for part in searched(text):
        counted = _count_slice(part, name, entities)
        number = int(part.text.cell[0])
        if window is not None and window[0] == number:
            counted = _joined_windows(window[1], counted)
        elif window is not None:
            counts += window[1]
        window = (number, counted) if part.text.is_window else None
        if window is None:
            counts += counted
    return counts + window[1] if window is not None else counts


def _joined_windows(one: ColumnCounts, other: ColumnCounts) -> ColumnCounts:
    """Return the counts of one long cell from those of two of its windows."""
    total = one + other
    evidence = {
        entity: replace(counts, n_cells=min(counts.n_cells, 1), n_certain=min(counts.n_certain, 1))
        for entity, counts in total.evidence.items()
    }
    profile = replace(total.profile, n_filled=min(total.profile.n_filled, 1))
    return replace(total, profile=profile, evidence=evidence)


def _by_dictionary(
    column: Column, entity: str, name: str, looks: Mapping[str, bool | None]
) -> CellMatch:
    """Look at each value of a dictionary once."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    holds, unknown = [np.zeros(0, bool)], [np.zeros(0, bool)]
    for chunk in chunks:
        values = detect_cells(chunk.dictionary, entity, name=name, looks=looks)
        codes = pc.fill_null(chunk.indices.cast(pa.int64()), len(chunk.dictionary))
        codes = codes.to_numpy(zero_copy_only=False)
        holds.append(np.append(values.holds, False)[codes])
        unknown.append(np.append(values.unknown, False)[codes])
    return CellMatch(np.concatenate(holds), np.concatenate(unknown))


def _cells_by_look(text: Column, entity: str) -> np.ndarray:
    """Return the cells that look like the entity, each by itself."""
    mask = np.zeros(len(text), bool)
    for part in searched(text):
        mask[part.text.cell] |= _look(look_at(part.text), entity)
    return mask


def _look(looks: CellLooks, entity: str) -> np.ndarray:
    looks_of = {"person_name": looks.name_like, "street_address": looks.address_like}
    return looks_of.get(entity, looks.one_piece)


def _count_slice(part: Searched, name: str, entities: Sequence[str]) -> ColumnCounts:
    text = part.text
    looks = look_at(text)
    first, stop = text.core
    n_bytes = stop - first if text.is_window else (text.cell_stop - text.cell_first).sum()
    evidence = {}
    for entity in entities:
        found = part.matches(entity)
        if len(found):
            evidence[entity] = _evidence(part, entity, found)
    profile = Profile(
        n_filled=int(looks.filled.sum()),
        n_bytes=int(n_bytes),
        n_one_piece=int(looks.one_piece.sum()),
        n_name_like=int(looks.name_like.sum()),
        n_address_like=int(looks.address_like.sum()),
        n_street_words=int(looks.street_words.sum()),
    )
    return ColumnCounts(name=name, profile=profile, evidence=evidence)


def _evidence(part: Searched, entity: str, found: Matches) -> Evidence:
    text = part.text
    cell = text.cells_of(found.start)
    whole = whole_cells(text, found) & (not text.is_window)
    counted = found.level >= PLAUSIBLE
    names, n = np.unique(found.variant[counted], return_counts=True)
    variants = {found.names[index]: int(count) for index, count in zip(names, n, strict=True)}
    return Evidence(
        entity=entity,
        n_matches=int(counted.sum()),
        n_cells=_n_different(cell[counted]),
        n_certain=_n_different(cell[found.level == CERTAIN]),
        n_whole=int((whole & counted).sum()),
        n_whole_faint=int(whole.sum()),
        variants={name: count for name, count in variants.items() if name},
    )


def _n_different(cell: np.ndarray) -> int:
    """Count the different numbers of a sorted array."""
    return int((np.diff(cell) != 0).sum()) + 1 if len(cell) else 0
