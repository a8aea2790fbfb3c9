"""Merkle trees of RFC 6962 over sorted leaves: one root, proofs of inclusion and of absence.

node = SHA-256(0x01 || left || right); the last node of an odd level goes up as it is. As leaves are
sorted, two neighbours that enclose a value prove that the value is not in the tree. Here trees and
proofs are made; ``verifier`` checks them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from governance.hashing import DIGEST_BYTES, binary_rows, in_order, sha256_array

_BLOCK = 1 << 16
_SMALL = 256

Leaves = Sequence[bytes] | np.ndarray
"""Leaf hashes in tree order: 32 bytes each, or uint8 of shape (n, 32)."""

Proof = list[tuple[str, str]]
"""Siblings from a leaf to the root as ``('left' | 'right', hex)``."""


def merkle_root(leaves: Leaves) -> str:
    """Return the root of leaf hashes in the given order; of none, the hash of nothing.

    >>> merkle_root([])[:14]
    'sha256:e3b0c44'
    """
    return stream_root([_matrix(leaves)])


def stream_root(blocks: Iterable[np.ndarray]) -> str:
    """Return the root of leaves that arrive in blocks; memory does not grow with their number.

    Args:
        blocks: uint8 of shape (m, 32) each, any m, in tree order.
    """
    tops = list(in_order(_top, _regular(blocks)))
    if not tops:
        return "sha256:" + hashlib.sha256(b"").hexdigest()
    return "sha256:" + _top(np.stack(tops)).tobytes().hex()


def inclusion_proof(leaves: Leaves, index: int) -> Proof:
    """Return the siblings from a leaf to the root.

    Raises:
        IndexError: There is no leaf with this index.
    """
    if not 0 <= index < len(leaves):
        message = f"proof: expected an index below {len(leaves)}, got {index}"
        raise IndexError(message)
    proof = []
    level = _matrix(leaves)
    position = index
    while len(level) > 1:
        sibling = position ^ 1
        if sibling < len(level):
            side = "left" if sibling < position else "right"
            proof.append((side, level[sibling].tobytes().hex()))
        level = _parents(level)
        position //= 2
    return proof


def absence_proof(leaves: Leaves, leaf: bytes) -> dict[str, Any]:
    """Return the neighbours that enclose a value which is not among sorted leaves.

    Returns:
        ``left`` and ``right``, each None (the value lies before or after all leaves) or
        ``{"index", "leaf", "proof"}``.

    Raises:
        ValueError: The leaf is in the tree.
    """
    level = _matrix(leaves)
    place, there = find_leaf(level, leaf)
    if there:
        message = "proof of absence: expected a leaf that is not in the tree, got one that is"
        raise ValueError(message)

    def neighbour(index: int) -> dict[str, Any] | None:
        if not 0 <= index < len(level):
            return None
        proof = inclusion_proof(level, index)
        return {"index": index, "leaf": level[index].tobytes().hex(), "proof": proof}

    return {"left": neighbour(place - 1), "right": neighbour(place)}


def find_leaf(leaves: Leaves, leaf: bytes) -> tuple[int, bool]:
    """Return where a value stands, or would stand, among sorted leaves, and whether it does."""
    matrix = _matrix(leaves)
    first = np.ascontiguousarray(matrix[:, :8]).view(">u8")[:, 0]
    word = int.from_bytes(leaf[:8], "big")
    low = int(np.searchsorted(first, np.uint64(word), "left"))
    high = int(np.searchsorted(first, np.uint64(word), "right"))
    alike = [matrix[index].tobytes() for index in range(low, high)]
    place = low + bisect_left(alike, leaf)
    return place, place < high and alike[place - low] == leaf


def _matrix(leaves: Leaves) -> np.ndarray:
    if isinstance(leaves, np.ndarray):
        return leaves
    return np.frombuffer(b"".join(leaves), np.uint8).reshape(-1, DIGEST_BYTES)


def _top(level: np.ndarray) -> np.ndarray:
    while len(level) > 1:
        level = _parents(level)
    top: np.ndarray = level[0]
    return top


def _parents(level: np.ndarray) -> np.ndarray:
    """Return the next level; whole columns are hashed at once, few nodes one by one."""
    n_pairs = len(level) // 2
    pairs = level[: 2 * n_pairs].reshape(n_pairs, 2 * DIGEST_BYTES)
    prefixed = np.empty((n_pairs, 1 + 2 * DIGEST_BYTES), np.uint8)
    prefixed[:, 0] = 1
    prefixed[:, 1:] = pairs
    if n_pairs < _SMALL:
        joined = b"".join(hashlib.sha256(row.tobytes()).digest() for row in prefixed)
        made = np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)
    else:
        made = sha256_array(binary_rows(prefixed))
    return np.concatenate([made, level[2 * n_pairs :]])


def _regular(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Cut blocks to a power of two, so that the top of each is a node of the whole tree."""
    waiting: list[np.ndarray] = []
    n_waiting = 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= _BLOCK:
            joined = np.concatenate(waiting)
            full = n_waiting - n_waiting % _BLOCK
            yield from (joined[start : start + _BLOCK] for start in range(0, full, _BLOCK))
            waiting, n_waiting = [joined[full:]], n_waiting - full
    if n_waiting:
        yield np.concatenate(waiting)
