"""Salted commitments to table rows, computed for whole columns at once.

leaf = SHA-256(0x00 || salt || row), one random salt of 32 bytes per record. A row's bytes are, in
the order of column names: one null flag per column, then the fixed-width values (8 bytes, little
endian; for text and lists their length in bytes), then the bytes of text and lists (a null flag
and 8 bytes for each item). Lengths stand before content, so two different rows never have the same
bytes. ``row_format`` names columns and kinds and belongs into the manifest.

Salts lie in a table that is erased with the record: afterwards a leaf identifies no one.
"""

from __future__ import annotations

import secrets
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.digests import canonical_json
from governance.errors import DataError
from governance.hashing import binary_rows, digest_matrix, in_slices, sha256_array
from governance.storage import BUCKET, append_table, read_table, table_exists

ROW_FORMAT = "r2u-row/2"
SALT_BYTES = 32


def ensure_salts(path: Path, table: pa.Table, *, record_id_column: str, transaction: str) -> None:
    """Give a random salt to every record of a table that has none yet.

    Args:
        path: Table of salts: ``record_id``, ``salt``, ``bucket``.
        table: Records with their id and ``bucket``.
        record_id_column: Name of the id.
        transaction: Name of the write; a repeat adds nothing.
    """
    ids = table[record_id_column]
    new = pa.table({"record_id": ids, BUCKET: table[BUCKET]})
    if table_exists(path):
        known = read_table(path, columns=["record_id"])["record_id"]
        new = new.filter(pc.invert(pc.is_in(ids, value_set=known.combine_chunks())))
    if not new.num_rows:
        return
    random = np.frombuffer(secrets.token_bytes(SALT_BYTES * new.num_rows), np.uint8)
    salts = binary_rows(random.reshape(-1, SALT_BYTES)).cast(pa.binary())
    added = pa.table({"record_id": new["record_id"], "salt": salts, BUCKET: new[BUCKET]})
    append_table(path, added, transaction=transaction)


def record_leaves(table: pa.Table, salts: pa.Table, *, record_id_column: str) -> np.ndarray:
    """Return the commitment to each row, in the order of the rows.

    Args:
        table: n rows; every column is committed to.
        salts: ``record_id`` and ``salt``, in any order; may hold more records.
        record_id_column: Column of the table that the salts are found by.

    Returns:
        uint8 of shape (n, 32).

    Raises:
        DataError: A record has no salt: without one its hash would identify it.
    """
    known = salts["record_id"].combine_chunks()
    places = pc.index_in(table[record_id_column].cast(known.type), value_set=known)
    if places.null_count:
        message = (
            f"manifest: expected a salt for each of {table.num_rows} records, "
            f"{places.null_count} have none"
        )
        raise DataError(message)
    salt_bytes = digest_matrix(salts["salt"].take(places))

    def slice_leaves(start: int, size: int) -> np.ndarray:
        messages = _messages(table.slice(start, size), salt_bytes[start : start + size])
        return sha256_array(messages)

    return in_slices(table.num_rows, slice_leaves)


def row_format(schema: pa.Schema) -> dict[str, Any]:
    """Return how rows of a schema are turned into bytes: format, and kind of each column."""
    columns = [[name, _kind(schema.field(name).type)] for name in sorted(schema.names)]
    return {"format": ROW_FORMAT, "columns": columns}


def _messages(table: pa.Table, salts: np.ndarray) -> pa.Array:
    """Return 0x00 || salt || row of each row as ``large_binary``; salts: uint8 (n, 32)."""
    n = table.num_rows
    names = sorted(table.column_names)
    first_word = 1 + SALT_BYTES + len(names)
    head = np.empty((n, first_word + 8 * len(names)), np.uint8)
    head[:, 0] = 0
    head[:, 1 : 1 + SALT_BYTES] = salts
    variable: list[pa.Array] = []
    for position, name in enumerate(names):
        array = _one_chunk(table[name])
        if array.null_count:
            head[:, 1 + SALT_BYTES + position] = array.is_null().to_numpy(zero_copy_only=False)
        else:
            head[:, 1 + SALT_BYTES + position] = 0
        if _is_fixed(array.type):
            numbers = _numbers(array)
        else:
            variable.append(_bytes(array))
            numbers = _filled(pc.binary_length(variable[-1]), 0, np.int64)
        # One store of 8 bytes per row, several times faster than 8 of one byte.
        kind, offset = numbers.dtype.newbyteorder("<"), first_word + 8 * position
        np.ndarray(n, kind, head, offset, head.strides[:1])[:] = numbers
    rows = binary_rows(head)
    if not variable:
        return rows
    kind = pa.large_binary()
    return pc.binary_join_element_wise(
        rows, *variable, pa.scalar(b"", kind), null_handling="replace", null_replacement=b""
    )


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_uint64(type_):
        return "uint64"
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "float64"
    if pa.types.is_dictionary(type_):
        return _kind(type_.value_type)
    if _is_text(type_):
        return "bytes"
    if _is_list(type_) and _is_fixed(type_.value_type):
        return f"list of {_kind(type_.value_type)}"
    return str(type_) if _is_fixed(type_) else "json"


def _is_fixed(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_boolean(type_)
        or pa.types.is_integer(type_)
        or pa.types.is_floating(type_)
        or pa.types.is_date(type_)
        or pa.types.is_timestamp(type_)
    )


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )


def _numbers(array: pa.Array) -> np.ndarray:
    """Return fixed-width values as numbers of 8 bytes."""
    type_ = array.type
    if pa.types.is_floating(type_):
        numbers = _filled(array, 0.0, np.float64)
        # One NaN, whatever its bits were; 0.0 + x turns -0.0 into 0.0: equal numbers, equal bytes.
        return np.where(np.isnan(numbers), np.nan, numbers + 0.0)
    if pa.types.is_date32(type_):
        array = array.cast(pa.int32())
    elif pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        array = array.cast(pa.int64())
    kind = np.uint64 if pa.types.is_unsigned_integer(array.type) else np.int64
    return _filled(array, False if pa.types.is_boolean(array.type) else 0, kind)


def _bytes(array: pa.Array) -> pa.Array:
    """Return text, lists and anything else as ``large_binary``."""
    kind = pa.large_binary()
    if _is_text(array.type):
        if pa.types.is_string(array.type):
            array = array.cast(pa.large_string())
        elif pa.types.is_fixed_size_binary(array.type):
            array = array.cast(pa.binary())
        return array.cast(kind)
    if _is_list(array.type) and _is_fixed(array.type.value_type):
        items = array.flatten()
        nulls = items.is_null().to_numpy(zero_copy_only=False).astype(np.uint8)
        content = np.concatenate([nulls[:, None], _as_words(_numbers(items))], axis=1)
        sizes = _filled(pc.list_value_length(array), 0, np.int64) * content.shape[1]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
        return pa.Array.from_buffers(kind, len(array), buffers)
    texts = [None if v is None else canonical_json(_plain(v)) for v in array.to_pylist()]
    return pa.array(texts, kind)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _filled(array: pa.Array, value: object, kind: Any) -> np.ndarray:
    filled = array.fill_null(value) if array.null_count else array
    numbers: np.ndarray = filled.to_numpy(zero_copy_only=False)
    return numbers.astype(kind, copy=False)


def _as_words(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of 8 bytes as little-endian bytes: uint8 of shape (n, 8)."""
    little = np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False))
    return little.view(np.uint8).reshape(len(numbers), 8)


def _plain(value: object) -> object:
    """Return a value of a rare type as JSON; its type stands beside it where text hides it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, datetime | date):
        return {"time": value.isoformat()}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    message = (
        f"manifest: expected a column of values that can be written, got {type(value).__name__}"
    )
    raise DataError(message)
