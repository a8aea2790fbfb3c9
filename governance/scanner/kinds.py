"""Types of columns: which the scanner reads as text, which hold none, which it cannot read."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = pa.ChunkedArray | pa.Array

_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
_TEXTLESS = (*_NUMBERS, pa.types.is_null, pa.types.is_time, pa.types.is_duration)
_PRINTED = (pa.types.is_integer, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp)
_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def as_text(column: Column) -> Column | None:
    """Return the column as text or binary; None where its type holds neither text nor numbers."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return as_text(column.cast(kind.storage_type))
    if pa.types.is_dictionary(kind):
        return as_text(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        # Numbers that went through a float, as they do where some are missing.
        numbers = column.cast(pa.float64())
        whole = pc.if_else(pc.equal(pc.floor(numbers), numbers), numbers, None)
        small = pc.if_else(pc.less(pc.abs(whole), 2.0**53), whole, None)
        return small.cast(pa.int64()).cast(pa.string())
    if _is(kind, _LISTS) and _is_characters(kind.value_type):
        return _joined(column.cast(pa.list_(pa.string())))
    if pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.binary())
    if _is(kind, _TEXT):
        return column
    return column.cast(pa.string()) if _is(kind, _PRINTED) else None


def is_readable(kind: pa.DataType) -> bool:
    """Return whether ``as_text`` reads columns of a type."""
    return as_text(pa.array([], kind)) is not None


def holds_unread_text(kind: pa.DataType) -> bool:
    """Return whether a type may hold text that ``as_text`` does not read (structs, maps, ...).

    Truth values, times of day and lists of numbers (pictures) hold none.
    """
    numbers = _is(kind, _LISTS) and _is(kind.value_type, _NUMBERS)
    return not (numbers or _is(kind, _TEXTLESS) or is_readable(kind))


def filled(column: Column) -> np.ndarray:
    """Return bool ``[n]``: the cell is not null."""
    valid = pc.is_valid(column)
    if isinstance(valid, pa.ChunkedArray):
        valid = valid.combine_chunks()
    return np.array(valid.to_numpy(zero_copy_only=False), dtype=bool)


def _joined(column: Column) -> Column:
    """Return the texts of each list as one, a line each; a null among them hides no other."""
    kind = column.type
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    joined = []
    for chunk in chunks:
        texts = pc.fill_null(chunk.values, "")
        buffers = chunk.buffers()[:2]
        whole = pa.Array.from_buffers(
            kind, len(chunk), buffers, offset=chunk.offset, children=[texts]
        )
        joined.append(pc.binary_join(whole, "\n"))
    return pa.chunked_array(joined, pa.string())


def _is_characters(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is(kind: pa.DataType, tests: tuple[Any, ...]) -> bool:
    return any(test(kind) for test in tests)
