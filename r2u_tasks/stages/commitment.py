"""What a model was trained on, committed to; and how that follows from its parent's records.

The training table goes through in parts of whole buckets, so that the commitments take the memory
of one part and a few bytes for each record, whatever the rows hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.commitments import ensure_salts, record_leaves, row_format
from governance.digests import digest_file, read_json, write_json
from governance.errors import DataError
from governance.hashing import in_order
from governance.manifest import (
    Drift,
    Members,
    TrainingManifest,
    count_drift,
    key_of_members,
    members_root,
    set_difference,
    write_members,
)
from governance.storage import BUCKET, read_table
from governance.suppression import pseudonym_digests
from r2u_tasks.provenance import code_digest, library_versions
from r2u_tasks.stages.context import JSON, StageContext
from r2u_tasks.training import SegmentedRecords, segment_name

MEMBERS_SCHEMA = "r2u-members/1"
_MAX_PARTS = 64


def commit_training(
    context: StageContext,
    model_key: str,
    table: pa.Table,
    data: SegmentedRecords,
    *,
    checkpoints: Mapping[int, str],
) -> TrainingManifest:
    """Commit to exactly the records that a model saw, and write manifest and members.

    Args:
        context: Dataset and workspace.
        model_key: The model.
        table: Classified rows that the training records are among.
        data: Training records with their segments.
        checkpoints: Digest of the weights before each segment that are kept.
    """
    workspace, declaration = context.workspace, context.declaration
    columns = declaration.columns
    seen = pa.array(data.records.ids.tolist(), pa.string())
    ids = table.select([columns.record_id, BUCKET])
    ensure_salts(
        workspace.salts,
        ids.filter(pc.is_in(ids[columns.record_id], value_set=seen)),
        record_id_column=columns.record_id,
        transaction=f"salts-{model_key}",
    )
    path = workspace.model(model_key) / "members.parquet"
    parts = _members(context, table, seen, data.segment)
    write_members(path, parts, key_id=context.key_ring.ids[0])
    root, n_records = members_root(path)
    segments = []
    for number in range(data.n_segments):
        segment_root, count = members_root(path, number)
        segments.append({"name": segment_name(number), "n_records": count, "root": segment_root})
    manifest = TrainingManifest(
        model_key=model_key,
        root=root,
        n_records=n_records,
        members_digest=digest_file(path),
        row_format=row_format(table.schema.empty_table().select([*columns.all_names]).schema),
        segments=tuple(segments),
        checkpoints={str(segment): digest for segment, digest in sorted(checkpoints.items())},
        policy_digest=_policy_digest(table),
        declaration_digest=declaration.digest,
        code_digest=code_digest(),
        packages=library_versions(),
        seed=declaration.training.seed,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(workspace.model(model_key) / "manifest.json", manifest.to_dict())
    return manifest


def table_drift(
    context: StageContext, table: pa.Table, model_key: str, asked_keys: Collection[str]
) -> Drift:
    """Return how many other records of a model were changed or lost by loads since its training.

    Counted before anything is erased, so that the erasure cannot hide behind it: afterwards the
    set difference has to find these and no more.
    """
    members = context.workspace.model(model_key) / "members.parquet"
    key = key_of_members(context.key_ring, members)
    return count_drift(members, _current(context, table, key), asked_keys)


def compare_members(
    context: StageContext, batch_id: str, *, parent: str, child: str, asked_keys: Collection[str]
) -> JSON:
    """Return the manifests of a model and its parent, and their set difference.

    Raises:
        DataError: The members of a model are missing, damaged, or not those of its manifest.
    """
    folder = context.workspace.model
    for key in {parent, child}:
        require_members(folder(key))
    difference = set_difference(
        folder(parent) / "members.parquet", folder(child) / "members.parquet", asked_keys
    )
    return {
        "schema": MEMBERS_SCHEMA,
        "batch_id": batch_id,
        "parent": read_json(folder(parent) / "manifest.json"),
        "child": read_json(folder(child) / "manifest.json"),
        "difference": difference.to_dict(),
    }


def require_members(folder: Path) -> None:
    """Refuse a members file that does not have the root of its manifest.

    Raises:
        DataError: It is missing, damaged or another one.
    """
    path, manifest = folder / "members.parquet", read_json(folder / "manifest.json")
    digest = manifest.get("members_digest")  # manifests of version 2 have none
    if digest is not None and (not path.exists() or digest_file(path) != digest):
        message = f"model {folder.name}: expected the members file of its manifest, got another"
        raise DataError(message)
    if members_root(path) != (manifest["root"], manifest["n_records"]):
        message = f"model {folder.name}: expected members with the root of its manifest, got others"
        raise DataError(message)


def _members(
    context: StageContext, table: pa.Table, seen: pa.Array, segment: np.ndarray
) -> Iterator[Members]:
    """Yield the commitments of the training rows, part by part."""
    record_id = context.declaration.columns.record_id
    places = pc.index_in(table[record_id].cast(seen.type), value_set=seen)

    def parts() -> Iterator[_Part]:
        for buckets, numbers in _parts(table):
            here = places.take(numbers)
            rows = _rows(table, numbers).filter(pc.is_valid(here))
            if rows.num_rows:
                yield rows, buckets, segment[here.drop_null().to_numpy()]

    return _committed(context, parts(), context.pseudonym_key)


def _current(context: StageContext, table: pa.Table, key: bytes) -> Iterator[Members]:
    """Yield the commitments of every row that has a salt, as it is now; segments are not known."""
    record_id = context.declaration.columns.record_id

    def parts() -> Iterator[_Part]:
        for buckets, numbers in _parts(table):
            part = _rows(table, numbers)
            known = _salts(context, buckets)["record_id"].combine_chunks()
            rows = part.filter(pc.is_in(part[record_id].cast(known.type), value_set=known))
            if rows.num_rows:
                yield rows, buckets, np.zeros(rows.num_rows, np.int8)

    return _committed(context, parts(), key)


_Part = tuple[pa.Table, list[int], np.ndarray]
"""Rows of some buckets, these buckets, and the segment of each row."""


def _committed(context: StageContext, parts: Iterator[_Part], key: bytes) -> Iterator[Members]:
    """Yield the commitments of each part; the next parts are worked on meanwhile."""
    columns = context.declaration.columns

    def commit(part: _Part) -> Members:
        rows, buckets, segments = part
        leaves = record_leaves(
            rows.select([*columns.all_names]),
            _salts(context, buckets),
            record_id_column=columns.record_id,
        )
        keys = pseudonym_digests(key, "record", rows[columns.record_id])
        return Members(keys, segments.astype(np.int8), leaves)

    return in_order(commit, parts)


def _parts(table: pa.Table) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield the numbers of the rows in at most 64 parts of whole buckets."""
    bucket_of = table[BUCKET].to_numpy()
    order = np.argsort(bucket_of, kind="stable")
    buckets, starts = np.unique(bucket_of[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    for group in np.array_split(np.arange(len(buckets)), min(len(buckets), _MAX_PARTS) or 1):
        if len(group):
            yield buckets[group].tolist(), order[starts[group[0]] : ends[group[-1]]]


def _rows(table: pa.Table, numbers: np.ndarray) -> pa.Table:
    """Return the rows with these numbers; a table of Delta has those of a bucket side by side."""
    first, n = int(numbers[0]), len(numbers)
    if (numbers == np.arange(first, first + n)).all():
        return table.slice(first, n)
    return table.take(numbers)


def _salts(context: StageContext, buckets: list[int]) -> pa.Table:
    return pa.concat_tables(read_table(context.workspace.salts, bucket=b) for b in buckets)


def _policy_digest(table: pa.Table) -> str:
    digests = table["policy_digest"].unique().to_pylist()
    if len(digests) != 1:
        message = f"classified table: expected one policy digest, got {len(digests)}"
        raise DataError(message)
    return str(digests[0])
