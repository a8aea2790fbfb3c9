"""Training manifests: a salted commitment to exactly the records that a model saw.

``manifest.json`` holds the Merkle root over the commitments of all records (``commitments``,
``merkle``), counts, versions and digests. ``members.parquet`` beside it says, by pseudonym, which
segment first saw each record, and its leaf; the planner, the tainted-alias check, the proofs and
the set-difference check read it. After an erasure the salts are gone: the root stays valid history
and identifies no one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from governance.digests import digest_json
from governance.errors import DataError
from governance.hashing import binary_rows, digest_matrix, hex_array, in_order
from governance.key_ring import KeyRing
from governance.merkle import stream_root
from governance.storage import query
from governance.workspace import Workspace

_MEMBERS = pa.schema([("record_key", pa.binary()), ("segment", pa.int8()), ("leaf", pa.binary())])
_ROW = np.dtype([("leaf", "u1", 32), ("segment", "i1"), ("key", "u1", 32)])
_ASKED = pa.schema([("record_key", pa.binary())])
_KEY_NAME = b"pseudonym_key"
_PARTITIONS = 256
_SPOOL_BYTES = 1 << 20
_GROUP_ROWS = 1 << 17


@dataclass(frozen=True, kw_only=True)
class TrainingManifest:
    """What a training run committed to.

    Attributes:
        model_key: Model that the run made.
        root: Merkle root over all records, ``sha256:<hex>``.
        n_records: Number of records.
        members_digest: Digest of the file ``members.parquet``.
        row_format: How a row becomes bytes (``commitments.row_format``).
        segments: Name, number of records and root of each training segment.
        checkpoints: Digest of the weights before each segment that are kept, by its number.
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
    members_digest: str
    row_format: dict[str, Any]
    segments: tuple[dict[str, Any], ...]
    checkpoints: dict[str, str]
    policy_digest: str
    declaration_digest: str
    code_digest: str
    packages: dict[str, str]
    seed: int
    created_at: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"schema": "r2u-manifest/4", **asdict(self), "segments": list(self.segments)}

    @cached_property
    def digest(self) -> str:
        """Digest of the canonical form."""
        return digest_json(self.to_dict())


@dataclass(frozen=True, slots=True)
class Members:
    """Records of a part of a training table: pseudonym, first segment and commitment of each.

    Attributes:
        record_keys: Pseudonyms, uint8 of shape (n, 32).
        segments: int8 of shape (n,).
        leaves: uint8 of shape (n, 32).
    """

    record_keys: np.ndarray
    segments: np.ndarray
    leaves: np.ndarray


def write_members(path: Path, parts: Iterable[Members], *, key_id: str = "") -> None:
    """Write who was in a training run, sorted by leaf, with bounded memory.

    The order tells nothing of the table's, and is the order of the Merkle tree. Leaves are spread
    evenly over their first byte, so each of 256 partitions is sorted alone; what is large is
    spilled beside the file.

    Args:
        path: The file.
        parts: Records of the run.
        key_id: Name of the key of their pseudonyms, kept in the file's metadata.
    """
    schema = _MEMBERS.with_metadata({_KEY_NAME: key_id.encode()} if key_id else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with ExitStack() as stack:
        spools = [
            stack.enter_context(SpooledTemporaryFile(_SPOOL_BYTES, dir=str(path.parent)))
            for _ in range(_PARTITIONS)
        ]
        for part in parts:
            _spread(part, spools)
        writer = stack.enter_context(
            pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False)
        )
        for rows in _grouped(in_order(_sorted_rows, spools)):
            keys = binary_rows(rows["key"]).cast(pa.binary())
            leaves = binary_rows(rows["leaf"]).cast(pa.binary())
            segments = pa.array(np.ascontiguousarray(rows["segment"]), pa.int8())
            writer.write_batch(pa.record_batch([keys, segments, leaves], schema=schema))
    temporary.replace(path)


def _spread(part: Members, spools: Sequence[IO[bytes]]) -> None:
    """Append each row to the partition of its leaf's first byte."""
    rows = np.empty(len(part.leaves), _ROW)
    rows["leaf"], rows["segment"], rows["key"] = part.leaves, part.segments, part.record_keys
    first = part.leaves[:, 0]
    rows = rows[np.argsort(first, kind="stable")]
    ends = np.cumsum(np.bincount(first, minlength=_PARTITIONS))
    for spool, start, end in zip(spools, [0, *ends[:-1]], ends, strict=True):
        spool.write(rows[start:end].view(np.uint8).data)


def _sorted_rows(spool: IO[bytes]) -> np.ndarray:
    spool.seek(0)
    rows = np.frombuffer(spool.read(), _ROW)
    words = np.ascontiguousarray(rows["leaf"]).view(">u8").reshape(-1, 4)
    first = words[:, 0].astype(np.uint64)
    order = np.argsort(first)
    if (np.diff(first[order]) == 0).any():  # one pair in 2**64 / n**2 tables, or a repeated row
        order = np.lexsort(words.T[::-1])
    spool.truncate(0)
    sorted_rows: np.ndarray = rows[order]
    return sorted_rows


def _grouped(partitions: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join small partitions, so that a row group of the file is worth its header."""
    waiting: list[np.ndarray] = []
    for rows in partitions:
        waiting.append(rows)
        if sum(map(len, waiting)) >= _GROUP_ROWS:
            yield np.concatenate(waiting)
            waiting = []
    yield np.concatenate([np.empty(0, _ROW), *waiting])


def members_root(path: Path, segment: int | None = None) -> tuple[str, int]:
    """Return the Merkle root over the leaves of all members, or of a segment, and their number."""
    count = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal count
        for batch in pq.ParquetFile(path).iter_batches(columns=["segment", "leaf"]):
            leaves = digest_matrix(pa.chunked_array([batch["leaf"]]))
            if segment is not None:
                leaves = leaves[batch["segment"].to_numpy() == segment]
            count += len(leaves)
            yield leaves

    return stream_root(blocks()), count


def read_leaves(path: Path) -> np.ndarray:
    """Return all leaves in the order of the tree, uint8 of shape (n, 32).

    Raises:
        DataError: As ``read_members``.
    """
    return digest_matrix(_read(path, columns=["leaf"])["leaf"])


def leaf_of(path: Path, record_keys: Collection[str]) -> bytes | None:
    """Return the commitment to a record; None when the model has not got it.

    Args:
        path: ``members.parquet``.
        record_keys: Pseudonyms of the record, under each key.

    Raises:
        DataError: As ``read_members``.
    """
    table = _read(path, columns=["record_key", "leaf"])
    wanted = pa.array([bytes.fromhex(key) for key in record_keys], pa.binary())
    found = table.filter(pc.is_in(table["record_key"], value_set=wanted))
    return bytes(found["leaf"][0].as_py()) if found.num_rows else None


@dataclass(frozen=True, slots=True)
class Drift:
    """Records of a model, other than those asked for, that loads changed since its training.

    Attributes:
        changed: Records whose row has other content now.
        gone: Records that are in no row any more.
    """

    changed: int
    gone: int

    def to_dict(self) -> dict[str, int]:
        """Return plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SetDifference:
    """How the records of a model follow from those of its parent, by their commitments.

    A1 = A0 - B0, B1 = 0 and C1 = C0 hold when ``holds``: all records of the parent, those asked
    for, and the others, before (0) and after (1).

    Attributes:
        parent: A0, records of the parent.
        asked: B0, records of the parent that had to go.
        child: A1, records of the child.
        asked_left: B1, asked records in the child.
        added: Records of the child that the parent had not, or with other content.
        missing: Other records of the parent that the child has not, or with other content.
    """

    parent: int
    asked: int
    child: int
    asked_left: int
    added: int
    missing: int

    @property
    def holds(self) -> bool:
        """Return whether exactly the asked records left."""
        return self.holds_but_for(Drift(0, 0))

    def holds_but_for(self, drift: Drift) -> bool:
        """Return whether the asked records left, and only what loads had changed before differs."""
        return (
            not self.asked_left
            and self.added == drift.changed
            and self.missing == drift.changed + drift.gone
            and self.child == self.parent - self.asked - drift.gone
        )

    def to_dict(self) -> dict[str, int]:
        """Return plain JSON."""
        return asdict(self)


def set_difference(parent: Path, child: Path, asked_keys: Collection[str]) -> SetDifference:
    """Compare the members of two models.

    Args:
        parent: ``members.parquet`` of the model before.
        child: ``members.parquet`` of the model after.
        asked_keys: Pseudonyms of the records that had to go.

    Raises:
        DataError: A file is missing or damaged.
    """
    for path in (parent, child):
        _read(path, columns=["leaf"])
    asked = pa.table({"record_key": [bytes.fromhex(key) for key in sorted(asked_keys)]}, _ASKED)
    row = query(
        """
        SELECT count(p.leaf) AS parent, count(c.leaf) AS child,
               count(p.leaf) FILTER (k.record_key IS NOT NULL) AS asked,
               count(c.leaf) FILTER (k.record_key IS NOT NULL) AS asked_left,
               count(*) FILTER (k.record_key IS NULL AND p.leaf IS NULL) AS added,
               count(*) FILTER (k.record_key IS NULL AND c.leaf IS NULL) AS missing
        FROM p FULL JOIN c ON p.leaf = c.leaf
        LEFT JOIN k ON k.record_key = coalesce(p.record_key, c.record_key)
        """,
        p=pq.read_table(parent, columns=["record_key", "leaf"]),
        c=pq.read_table(child, columns=["record_key", "leaf"]),
        k=asked,
    ).to_pylist()[0]
    return SetDifference(**row)


def count_drift(members: Path, current: Iterable[Members], asked_keys: Collection[str]) -> Drift:
    """Compare the members of a model with the rows of today.

    Args:
        members: ``members.parquet`` of the model.
        current: Commitments of today's rows, under the same salts.
        asked_keys: Pseudonyms of records that are about to go; they do not count.

    Raises:
        DataError: The file is missing or damaged.
    """
    table = _read(members, columns=["record_key", "leaf"])
    asked = pa.table({"record_key": [bytes.fromhex(key) for key in sorted(asked_keys)]}, _ASKED)
    others = query("SELECT p.* FROM p ANTI JOIN k ON k.record_key = p.record_key", p=table, k=asked)
    changed = present = 0
    for part in current:
        row = query(
            """
            SELECT count(*) AS present, count(*) FILTER (p.leaf <> c.leaf) AS changed
            FROM p JOIN c ON p.record_key = c.record_key
            """,
            p=others,
            c=pa.table(
                {
                    "record_key": binary_rows(part.record_keys).cast(pa.binary()),
                    "leaf": binary_rows(part.leaves).cast(pa.binary()),
                }
            ),
        ).to_pylist()[0]
        changed, present = changed + row["changed"], present + row["present"]
    return Drift(changed, others.num_rows - present)


def members_key_id(path: Path) -> str:
    """Return the name of the key of the pseudonyms; empty: the key from before keys had names.

    Raises:
        DataError: As ``read_members``.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        message = f"{path.name}: expected the members of a model, got {type(error).__name__}"
        raise DataError(message) from error
    return str(metadata.get(_KEY_NAME, b"").decode())


def key_of_members(ring: KeyRing, path: Path) -> bytes:
    """Return the key of the pseudonyms of a members file.

    Raises:
        DataError: As ``read_members``.
        PermanentError: It is not in the ring.
    """
    return ring.named(members_key_id(path), f"members of model {path.parent.name}")


def read_members(path: Path) -> dict[str, int]:
    """Return the segment of each record pseudonym.

    Raises:
        DataError: The file is missing or damaged: then nobody knows what the model saw.
    """
    table = _read(path, columns=["record_key", "segment"])
    return dict(zip(_key_texts(table), table["segment"].to_pylist(), strict=True))


def find_members(path: Path, record_keys: Collection[str]) -> dict[str, int]:
    """Return the segment of each of these record pseudonyms that is a member, with bounded memory.

    Raises:
        DataError: As ``read_members``.
    """
    wanted = pa.array([bytes.fromhex(key) for key in sorted(record_keys)], pa.binary())
    found: dict[str, int] = {}
    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=["record_key", "segment"]):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pc.is_in(rows["record_key"], value_set=wanted))
            found.update(zip(_key_texts(rows), rows["segment"].to_pylist(), strict=True))
    except (OSError, pa.ArrowException) as error:
        message = f"{path.name}: expected the members of a model, got {type(error).__name__}"
        raise DataError(message) from error
    return found


def models_holding(workspace: Workspace, record_keys: set[str]) -> list[str]:
    """Return the models whose manifest holds one of the records, sorted by key."""
    return sorted(
        path.parent.name
        for path in workspace.models.glob("*/members.parquet")
        if record_keys & read_members(path).keys()
    )


def _key_texts(table: pa.Table) -> list[str]:
    return list(hex_array(digest_matrix(table["record_key"])).to_pylist())


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        message = f"{path.name}: expected the members of a model, got {type(error).__name__}"
        raise DataError(message) from error
