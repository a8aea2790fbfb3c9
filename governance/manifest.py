"""Training manifests: a salted commitment to exactly the records that a model saw.

leaf = SHA-256(0x00 || salt || canonical(row)), one random salt per record; the Merkle tree is the
one of RFC 6962 (node = SHA-256(0x01 || left || right)). Salts lie in a table that is erased with
the record: afterwards the root stays valid history and identifies no one.

``members.parquet`` beside the manifest says, by pseudonym, which segment first saw each record; the
planner and the tainted-alias check read it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from governance.digests import canonical_json, digest_json
from governance.errors import DataError
from governance.storage import append_table, read_table, table_exists
from governance.workspace import Workspace

_SALT_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class TrainingManifest:
    """What a training run committed to.

    Attributes:
        model_key: Model that the run made.
        root: Merkle root over all records, ``sha256:<hex>``.
        n_records: Number of records.
        segments: Name, number of records and root of each training segment.
        policy_digest: Risk policy that made the split.
        declaration_digest: Dataset declaration.
        code_digest: Source files that ran.
        packages: Library versions with their local labels.
        seed: Training seed.
        created_at: UTC, ISO 8601.
    """

    model_key: str
    root: str
    n_records: int
    segments: tuple[dict[str, Any], ...]
    policy_digest: str
    declaration_digest: str
    code_digest: str
    packages: dict[str, str]
    seed: int
    created_at: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"schema": "r2u-manifest/1", **asdict(self), "segments": list(self.segments)}

    @cached_property
    def digest(self) -> str:
        """Digest of the canonical form."""
        return digest_json(self.to_dict())


def ensure_salts(
    path: Path, record_ids: pa.ChunkedArray, buckets: pa.ChunkedArray, *, transaction: str
) -> None:
    """Give a random salt to every record that has none yet."""
    known: set[str] = set()
    if table_exists(path):
        known = set(read_table(path, columns=["record_id"])["record_id"].to_pylist())
    new = [
        (record_id, bucket)
        for record_id, bucket in zip(record_ids.to_pylist(), buckets.to_pylist(), strict=True)
        if record_id not in known
    ]
    if not new:
        return
    table = pa.table(
        {
            "record_id": pa.array([record_id for record_id, _ in new], pa.string()),
            "salt": pa.array([secrets.token_bytes(_SALT_BYTES) for _ in new], pa.binary()),
            "bucket": pa.array([bucket for _, bucket in new], pa.int32()),
        }
    )
    append_table(path, table, transaction=transaction)


def commit_records(table: pa.Table, salts: pa.Table, *, record_id_column: str) -> pa.Table:
    """Return ``record_id`` and ``leaf`` of every row, sorted by record id.

    Raises:
        DataError: A record has no salt.
    """
    salt_of = dict(zip(salts["record_id"].to_pylist(), salts["salt"].to_pylist(), strict=True))
    rows = sorted(table.to_pylist(), key=lambda row: str(row[record_id_column]))
    missing = sum(str(row[record_id_column]) not in salt_of for row in rows)
    if missing:
        message = f"manifest: expected a salt for each of {len(rows)} records, {missing} have none"
        raise DataError(message)
    leaves = [record_leaf(salt_of[str(row[record_id_column])], row) for row in rows]
    return pa.table(
        {
            "record_id": pa.array([str(row[record_id_column]) for row in rows], pa.string()),
            "leaf": pa.array(leaves, pa.binary()),
        }
    )


def record_leaf(salt: bytes, row: dict[str, Any]) -> bytes:
    """Return the commitment to one record."""
    content = canonical_json({name: _plain(value) for name, value in row.items()})
    return hashlib.sha256(b"\x00" + salt + content).digest()


def merkle_root(leaves: Sequence[bytes]) -> str:
    """Return the RFC 6962 root of leaf hashes; of none, the hash of nothing.

    >>> merkle_root([])[:14]
    'sha256:e3b0c44'
    """
    if not leaves:
        return "sha256:" + hashlib.sha256(b"").hexdigest()
    level = list(leaves)
    while len(level) > 1:
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
    return "sha256:" + level[0].hex()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[tuple[str, str]]:
    """Return the siblings from a leaf to the root as ``('left' | 'right', hex)``."""
    proof = []
    level, position = list(leaves), index
    while len(level) > 1:
        sibling = position ^ 1
        if sibling < len(level):
            side = "left" if sibling < position else "right"
            proof.append((side, level[sibling].hex()))
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
        position //= 2
    return proof


def verify_inclusion(leaf: bytes, proof: Sequence[tuple[str, str]], root: str) -> bool:
    """Return whether the leaf is under the root."""
    value = leaf
    for side, sibling in proof:
        other = bytes.fromhex(sibling)
        value = _node(other, value) if side == "left" else _node(value, other)
    return "sha256:" + value.hex() == root


def write_members(path: Path, record_keys: Sequence[str], segments: Sequence[int]) -> None:
    """Write which segment first saw each record, by pseudonym, sorted."""
    pairs = sorted(zip(record_keys, segments, strict=True))
    table = pa.table(
        {
            "record_key": pa.array([key for key, _ in pairs], pa.string()),
            "segment": pa.array([int(segment) for _, segment in pairs], pa.int8()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary)
    temporary.replace(path)


def read_members(path: Path) -> dict[str, int]:
    """Return the segment of each record pseudonym.

    Raises:
        DataError: The file is missing or damaged: then nobody knows what the model saw.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        message = f"{path.name}: expected the members of a model, got {type(error).__name__}"
        raise DataError(message) from error
    keys, segments = table["record_key"].to_pylist(), table["segment"].to_pylist()
    return dict(zip(keys, segments, strict=True))


def models_holding(workspace: Workspace, record_keys: set[str]) -> list[str]:
    """Return the models whose manifest holds one of the records, sorted by key."""
    return sorted(
        path.parent.name
        for path in workspace.models.glob("*/members.parquet")
        if record_keys & read_members(path).keys()
    )


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _plain(value: object) -> object:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
