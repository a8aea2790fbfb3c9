"""SHA-256 over whole Arrow columns, on all cores, several times faster than a loop in Python.

``polars-hash`` computes the digests in compiled code with the processor's SHA instructions.
"""

from __future__ import annotations

import os
from binascii import hexlify, unhexlify
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES = 32
_SLICE = 1 << 14
_HMAC_BLOCK = 64

Item = TypeVar("Item")
Made = TypeVar("Made")


def sha256_array(messages: pa.Array) -> np.ndarray:
    """Return the SHA-256 of each message.

    Args:
        messages: ``large_binary`` or ``binary`` of n values without nulls.

    Returns:
        uint8 of shape (n, 32), in the order of the messages.
    """
    return in_slices(len(messages), lambda start, size: _hashed(messages.slice(start, size)))


def hmac_array(key: bytes, messages: pa.Array, *, prefix: bytes = b"") -> np.ndarray:
    """Return the HMAC-SHA256 (RFC 2104) of each message under a key of at most 64 bytes.

    Args:
        key: Secret key.
        messages: As in ``sha256_array``.
        prefix: Stands before every message.

    Returns:
        uint8 of shape (n, 32).

    Raises:
        ValueError: The key is longer than one block.
    """
    if len(key) > _HMAC_BLOCK:
        message = f"HMAC: expected a key of at most {_HMAC_BLOCK} bytes, got {len(key)}"
        raise ValueError(message)
    padded = np.frombuffer(key.ljust(_HMAC_BLOCK, b"\x00"), np.uint8)
    inner = (padded ^ 0x36).tobytes() + prefix

    def keyed(start: int, size: int) -> np.ndarray:
        second = np.empty((size, _HMAC_BLOCK + DIGEST_BYTES), np.uint8)
        second[:, :_HMAC_BLOCK] = padded ^ 0x5C
        second[:, _HMAC_BLOCK:] = _hashed(_prefixed(inner, messages.slice(start, size)))
        return _hashed(binary_rows(second))

    return in_slices(len(messages), keyed)


def hash64_array(texts: pa.ChunkedArray) -> np.ndarray:
    """Return the 64-bit wyhash of each text as uint64: fast, fixed, and not cryptographic."""
    column = pl.DataFrame({"text": pl.from_arrow(texts.cast(pa.large_string()))})
    hashes: np.ndarray = column.select(plh.col("text").nchash.wyhash()).to_series().to_numpy()
    return hashes


def in_slices(n: int, work: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Run ``work(start, size)`` over slices of n rows on all cores and join the results.

    The work must release the interpreter's lock, as Arrow, NumPy and Polars do.
    """
    starts = range(0, n, _SLICE)
    if len(starts) <= 1:
        return work(0, n)
    sizes = [min(_SLICE, n - start) for start in starts]
    return np.concatenate(list(_pool().map(work, starts, sizes)))


def in_order(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield ``work(item)`` of each item in turn, while the next ones are worked on already.

    At most one more than there are cores are under way or wait to be taken, so memory is bounded.
    """
    cores = os.cpu_count() or 1
    rest = iter(items)
    with ThreadPoolExecutor(cores, thread_name_prefix="in-order") as pool:
        under_way = deque(pool.submit(work, item) for item in islice(rest, cores + 1))
        while under_way:
            made = under_way.popleft().result()
            under_way.extend(pool.submit(work, item) for item in islice(rest, 1))
            yield made


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


def hex_array(digests: np.ndarray) -> pa.Array:
    """Return digests, uint8 of shape (n, 32), as lower-case hexadecimal strings."""
    digits = np.frombuffer(hexlify(np.ascontiguousarray(digests).data), np.uint8)
    return binary_rows(digits.reshape(-1, 2 * DIGEST_BYTES)).cast(pa.string())


def _hashed(messages: pa.Array) -> np.ndarray:
    column = pl.DataFrame({"message": pl.from_arrow(messages.cast(pa.large_binary()))})
    hexadecimal = column.select(plh.col("message").chash.sha2_256()).to_series()
    text = hexadecimal.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    if not len(text):
        return np.zeros((0, DIGEST_BYTES), np.uint8)
    start, size = text.offset * 2 * DIGEST_BYTES, len(text) * 2 * DIGEST_BYTES
    digits = memoryview(text.buffers()[2])[start : start + size]
    return np.frombuffer(unhexlify(digits), np.uint8).reshape(-1, DIGEST_BYTES)


def _prefixed(prefix: bytes, messages: pa.Array) -> pa.Array:
    kind = pa.large_binary()
    return pc.binary_join_element_wise(
        pa.scalar(prefix, kind), messages.cast(kind), pa.scalar(b"", kind)
    )


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hashing")
