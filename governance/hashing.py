"""SHA-256 over whole Arrow columns: DuckDB hashes them, several times faster than a Python loop."""

from __future__ import annotations

import hashlib
from functools import cache

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES = 32
_SMALL = 512  # below it, a loop costs less than a query
_HMAC_BLOCK = 64


def sha256_array(messages: pa.Array) -> np.ndarray:
    """Return the SHA-256 of each message.

    Args:
        messages: ``large_binary`` or ``binary`` of n values without nulls.

    Returns:
        uint8 of shape (n, 32), in the order of the messages.
    """
    if len(messages) < _SMALL:
        joined = b"".join(hashlib.sha256(message).digest() for message in messages.to_pylist())
        return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)
    cursor = _connection().cursor()
    cursor.register("messages", pa.table({"message": messages}))
    digests = cursor.sql("SELECT unhex(sha256(message)) AS digest FROM messages").to_arrow_table()
    cursor.close()
    return digest_matrix(digests["digest"])


def hmac_array(key: bytes, messages: pa.Array) -> np.ndarray:
    """Return the HMAC-SHA256 (RFC 2104) of each message under a key of at most 64 bytes.

    Args:
        key: Secret key.
        messages: As in ``sha256_array``.

    Returns:
        uint8 of shape (n, 32).

    Raises:
        ValueError: The key is longer than one block.
    """
    if len(key) > _HMAC_BLOCK:
        message = f"HMAC: expected a key of at most {_HMAC_BLOCK} bytes, got {len(key)}"
        raise ValueError(message)
    padded = np.frombuffer(key.ljust(_HMAC_BLOCK, b"\x00"), np.uint8)
    inner = sha256_array(_prefixed((padded ^ 0x36).tobytes(), messages))
    return sha256_array(_prefixed((padded ^ 0x5C).tobytes(), binary_rows(inner)))


def binary_rows(matrix: np.ndarray) -> pa.Array:
    """Return each row of a uint8 matrix of shape (n, w) as one ``large_binary`` value."""
    n, width = matrix.shape
    offsets = np.arange(n + 1, dtype=np.int64) * width
    content = pa.py_buffer(np.ascontiguousarray(matrix))
    return pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(offsets), content])


def digest_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a binary column of 32-byte values as uint8 of shape (n, 32)."""
    fixed = column.cast(pa.binary(DIGEST_BYTES))
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[
            chunk.offset * DIGEST_BYTES : (chunk.offset + len(chunk)) * DIGEST_BYTES
        ]
        for chunk in fixed.chunks
        if len(chunk)
    ]
    joined = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    return joined.reshape(-1, DIGEST_BYTES)


def _prefixed(prefix: bytes, messages: pa.Array) -> pa.Array:
    kind = pa.large_binary()
    return pc.binary_join_element_wise(
        pa.scalar(prefix, kind), messages.cast(kind), pa.scalar(b"", kind)
    )


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        ":memory:",
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"},
    )
