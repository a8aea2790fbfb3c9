"""Tables: Delta Lake on disk, DuckDB for questions. The only importer of either.

Rules enforced here:

* publishing is atomic and idempotent by transaction name; a failed write leaves the old version;
* no column statistics in the Delta log (they would hold names and e-mails in clear);
* erasure joins against a table of ids, so no value of a person stands in a predicate or in the log;
* an erasure is checked: A1 = A0 - B0, B1 = 0, C1 = C0 (all rows, rows to erase, untouched rows);
* history is purged physically: old files vacuumed, old log entries cleaned, both verified;
* one writer at a time (a lock file beside the table): a purge would take the files of a write that
  is not committed yet.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from governance.errors import DataError, DigestMismatchError, StoreBusyError

if TYPE_CHECKING:  # at run time it would load pandas into every reader of the queue
    import pyarrow.dataset as pa_dataset

_log = logging.getLogger(__name__)

BUCKET = "bucket"
_NO_TRACES = {
    "delta.dataSkippingNumIndexedCols": "0",
    "delta.logRetentionDuration": "interval 0 seconds",
    "delta.deletedFileRetentionDuration": "interval 0 seconds",
}

_WIDER = {
    pa.uint8(): pa.int16(),  # Delta has no unsigned numbers
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
}


@dataclass(frozen=True, slots=True)
class RowCensus:
    """Rows of a version, how many of them are asked for, and a digest of the others."""

    version: int
    rows: int
    hit: int
    untouched: str


@dataclass(frozen=True, slots=True)
class ErasureCounts:
    """Rows before, asked for, erased and after; digests of the rows that had to stay.

    ``superseded``: the erasure was interrupted, and another load replaced the table before its
    rows were counted again. None of the asked rows is in that load; the rows that had to stay
    cannot be compared any more.
    """

    before: int
    asked: int
    erased: int
    after: int
    untouched_digest_before: str
    untouched_digest_after: str
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge removed, and the files that are left."""

    files_removed: int
    log_entries_removed: int
    remaining_files: int


def table_exists(path: Path) -> bool:
    """Return whether a Delta table lies at the path."""
    return (path / "_delta_log").is_dir() and DeltaTable.is_deltatable(str(path))


def table_version(path: Path) -> int:
    """Return the current version.

    Raises:
        DataError: There is no table.
    """
    return int(_open(path).version())


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from writing to a table, or to what else has its lock at this path.

    The lock goes with its holder. It is not for one who writes to the table in the meantime.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def publish_table(path: Path, table: pa.Table, *, transaction: str) -> int:
    """Replace the whole table in one commit and return the new version.

    Args:
        path: Folder of the table.
        table: New content; partitioned by ``bucket`` if it has that column.
        transaction: Name of the write; a repeat with the same name changes nothing.

    Raises:
        DataError: The disk is full or not writable; the former version stays.
    """
    with exclusive(path):
        return _write(path, table, mode="overwrite", transaction=transaction)


def append_table(path: Path, table: pa.Table, *, transaction: str) -> int:
    """Add rows in one commit and return the new version; otherwise like ``publish_table``.

    A column that the table has not got yet is added; it is null in the former rows.
    """
    with exclusive(path):
        return _write(path, table, mode="append", transaction=transaction)


def read_table(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    version: int | None = None,
    bucket: int | None = None,
) -> pa.Table:
    """Return a table, or some of its columns, at a version, or one bucket of it.

    Raises:
        DataError: No such table or version, or its files are damaged or purged.
    """
    try:
        delta = _open(path, version)
        return delta.to_pyarrow_table(
            columns=list(columns) if columns is not None else None,
            filters=None if bucket is None else [(BUCKET, "=", bucket)],
        )
    except (DeltaError, pa.ArrowException, OSError) as error:
        message = (
            f"table {path.name}: expected a readable version "
            f"{'(latest)' if version is None else version}, got {type(error).__name__}; "
            "it is damaged, or that version was purged by an erasure"
        )
        raise DataError(message) from error


def query(
    sql: str,
    *,
    scratch: Path | None = None,
    memory_limit: str = "4GB",
    **relations: pa.Table | pa_dataset.Dataset | Path,
) -> pa.Table:
    """Run one SQL statement over named Arrow tables, Arrow datasets and Delta folders.

    Nothing but the named relations can be read: extensions and file access are off. Rows that do
    not fit into memory go to ``scratch``, which the caller deletes (they are personal data).
    """
    if scratch is None:
        with _engine(os.getpid(), memory_limit).cursor() as connection:
            return _answer(connection, sql, relations)
    with _connect(memory_limit, temp_directory=str(scratch)) as connection:
        return _answer(connection, sql, relations)


def count_rows(path: Path, record_ids: pa.Array, *, record_id_column: str) -> RowCensus:
    """Count the rows of a table, those with one of the ids, and digest the others."""
    return _census(path, _asked_ids(record_ids), record_id_column)


def erase_records(
    path: Path,
    record_ids: pa.Array,
    *,
    batch_id: str,
    record_id_column: str = "record_id",
    before: RowCensus | None = None,
) -> ErasureCounts:
    """Erase the rows with these ids and prove that only they are gone.

    Args:
        path: Folder of the table.
        record_ids: Strings; ids that are not in the table count as asked and not erased.
        batch_id: Names the erasure; a repeat finds nothing left to erase.
        record_id_column: Column that the ids are compared with.
        before: Rows before the first try of this erasure, so that a repeat counts them too.

    Raises:
        DigestMismatchError: Another row than the asked ones changed.
        StoreBusyError: Another writer was faster; run the step again.
    """
    asked = _asked_ids(record_ids)
    with exclusive(path):
        done = _open(path).transaction_version(f"erase-{batch_id}") is not None
        taken = 0  # asked rows that a load took away after they had been counted
        if before is None or (not done and before.version != table_version(path)):
            known = before
            before = _census(path, asked, record_id_column)
            taken = 0 if known is None else max(0, known.hit - before.hit)
        if before.hit and not done:
            _delete_rows(path, asked, record_id_column, f"erase-{batch_id}")
        after = _census(path, asked, record_id_column)
    loaded_after = done and after.version > before.version + 1 and not after.hit
    superseded = loaded_after or taken > 0
    counts = ErasureCounts(
        before=before.rows,
        asked=asked.num_rows,
        erased=before.hit,
        after=before.rows - before.hit if loaded_after else after.rows,
        untouched_digest_before=before.untouched,
        untouched_digest_after=before.untouched if loaded_after else after.untouched,
        superseded=superseded,
    )
    if after.hit or counts.after != before.rows - before.hit:
        message = (
            f"erasure of {path.name}: expected {before.rows} - {before.hit} rows after it and none "
            f"of the asked ones, got {after.rows} rows and {after.hit} asked ones"
        )
        raise DigestMismatchError(message)
    if counts.untouched_digest_before != counts.untouched_digest_after:
        message = f"erasure of {path.name}: rows that had to stay were changed"
        raise DigestMismatchError(message)
    return counts


def purge_history(path: Path) -> PurgeReport:
    """Delete every file and log entry that the current version does not need.

    Files of a write that was killed count too: Delta's own clean-up does not see its staging files.

    Raises:
        DigestMismatchError: A file of an older version is still there afterwards.
    """
    log = path / "_delta_log"
    with exclusive(path):
        removed = len(
            _open(path).vacuum(
                retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True
            )
        )
        n_before = len(list(log.glob("*.json")))
        delta = _open(path)
        delta.create_checkpoint()
        delta.cleanup_metadata()
        n_after = len(list(log.glob("*.json")))
        wanted = {Path(uri.removeprefix("file://")).resolve() for uri in _open(path).file_uris()}
        for file in _strays(path, wanted):
            file.unlink()
            removed += 1
        left = _strays(path, wanted)
    if left:
        message = f"purge of {path.name}: {len(left)} files of old versions are left"
        raise DigestMismatchError(message)
    return PurgeReport(removed, n_before - n_after, len(wanted))


def with_buckets(table: pa.Table, subject_column: str, n_buckets: int) -> pa.Table:
    """Add the partition column: the hash of the subject modulo the number of buckets."""
    hashed = hash_column(table[subject_column]).to_numpy()
    bucket = (hashed % np.uint64(n_buckets)).astype(np.int32)
    return table.append_column(BUCKET, pa.array(bucket))


def hash_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the 64-bit hash of each value as text; the same text always has the same hash."""
    values = pa.table({"value": column.cast(pa.string())})
    return query("SELECT hash(value)::UBIGINT AS h FROM r", r=values)["h"]


def scan_table(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table in batches, reading ahead by one: memory stays bounded.

    Raises:
        DataError: There is no table, or its files are damaged.
    """
    data = _open(path).to_pyarrow_dataset()
    try:
        yield from in_bounded_batches(data, columns)
    except (pa.ArrowException, OSError) as error:
        message = f"table {path.name}: expected readable files, got {type(error).__name__}"
        raise DataError(message) from error


def in_bounded_batches(
    data: pa_dataset.Dataset, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of Parquet files; memory does not grow with them, however slow the caller is.

    Arrow reads ahead, with threads or buffers as much as a whole file.
    """
    import pyarrow.dataset as pa_dataset  # noqa: PLC0415

    yield from data.to_batches(
        columns=None if columns is None else list(columns),
        batch_readahead=1,
        fragment_readahead=1,
        use_threads=False,
        fragment_scan_options=pa_dataset.ParquetFragmentScanOptions(pre_buffer=False),
    )


def publish_batches(
    path: Path,
    schema: pa.Schema,
    batches: Callable[[], Iterable[pa.RecordBatch]],
    *,
    transaction: str,
) -> int:
    """Replace the whole table in one commit, from a stream; otherwise like ``publish_table``.

    Args:
        path: Folder of the table.
        schema: Of every batch.
        batches: Called when nobody else can write any more, until the commit. The batches
            are written one after the other, each with rows of one bucket. What they raise is
            raised here, and nothing is committed.
        transaction: Name of the write.
    """
    with exclusive(path):
        if table_exists(path) and _open(path).transaction_version(transaction) is not None:
            return table_version(path)
        with _publishing(path):
            path.mkdir(parents=True, exist_ok=True)
            kept = Schema.from_arrow(_plain(schema))
            _commit(path, kept, _write_files(path, kept, batches()), transaction)
        return table_version(path)


def _write_files(path: Path, schema: Schema, batches: Iterable[pa.RecordBatch]) -> list[AddAction]:
    """Write each batch into a file of its bucket; memory is that of a batch.

    ``write_deltalake`` keeps a writer open for each bucket until the end, and with it as many bytes
    as the table has. What is written for nothing is deleted by the next purge.
    """
    types = pa.schema(schema.to_arrow())
    inner = pa.schema([field for field in types if field.name != BUCKET])
    files = []
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        if not rows.num_rows:
            continue
        (bucket,) = rows[BUCKET].unique().to_pylist()
        name = f"{BUCKET}={bucket}/part-{uuid4()}.snappy.parquet"
        (path / name).parent.mkdir(exist_ok=True)
        pq.write_table(_cast(rows, inner), path / name, store_schema=False)
        written = (path / name).stat()
        moment, stats = int(written.st_mtime * 1000), json.dumps({"numRecords": rows.num_rows})
        values = {BUCKET: str(bucket)}
        files.append(AddAction(name, written.st_size, values, moment, True, stats))
    return files


def _commit(path: Path, schema: Schema, files: list[AddAction], transaction: str) -> None:
    """Let files be the whole content of a table, in one commit."""
    properties = CommitProperties(app_transactions=[Transaction(transaction, 1)])
    if table_exists(path):
        _open(path).create_write_transaction(
            files, "overwrite", schema, partition_by=[BUCKET], commit_properties=properties
        )
        return
    create_table_with_add_actions(
        str(path),
        schema,
        files,
        partition_by=[BUCKET],
        configuration=_NO_TRACES,
        commit_properties=properties,
    )


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema in types that Delta has and that hold the same values."""
    return pa.schema([field.with_type(_plain_type(field.type)) for field in schema])


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", "UTC" if type_.tz else None)
    if _is_list(type_):
        return pa.list_(_plain_type(type_.value_type))
    return _WIDER.get(type_, type_)


def _is_list(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(type_) for is_kind in kinds)


def _cast(rows: pa.Table, types: pa.Schema) -> pa.Table:
    """Return the rows in these types; of times, what is below a microsecond is cut off."""
    columns = [
        rows[field.name].cast(field.type, safe=not pa.types.is_timestamp(field.type))
        for field in types
    ]
    return pa.table(columns, schema=types)


def _answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    relations: dict[str, pa.Table | pa_dataset.Dataset | Path],
) -> pa.Table:
    for name, relation in relations.items():
        data = _dataset(relation) if isinstance(relation, Path) else relation
        connection.register(name, data)
    try:
        return connection.sql(sql).to_arrow_table()
    finally:
        for name in relations:
            connection.unregister(name)


@cache
def _engine(_pid: int, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """Return the engine of this process; making one takes longer than most of our questions.

    A question runs on a cursor of its own, whose relations no other cursor sees.
    """
    return _connect(memory_limit)


def _connect(memory_limit: str, **settings: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": memory_limit,
            **settings,
        },
    )
    connection.execute("SET enable_external_access=false")
    return connection


def _asked_ids(record_ids: pa.Array) -> pa.Table:
    return pa.table({"_erase_id": pc.unique(record_ids.cast(pa.string()))})


def _delete_rows(path: Path, asked: pa.Table, column: str, transaction: str) -> None:
    try:
        (
            _open(path)
            .merge(
                asked,
                predicate=f"target.{column} = source._erase_id",
                source_alias="source",
                target_alias="target",
                commit_properties=CommitProperties(app_transactions=[Transaction(transaction, 1)]),
            )
            .when_matched_delete()
            .execute()
        )
    except CommitFailedError as error:
        message = f"table {path.name}: another writer was faster; run the step again"
        raise StoreBusyError(message) from error
    except (OSError, DeltaError, pa.ArrowException) as error:
        message = (
            f"table {path.name}: expected to erase {asked.num_rows} rows, got "
            f"{type(error).__name__}; is the disk full? The former version is untouched, run the "
            "step again"
        )
        raise StoreBusyError(message) from error


def _strays(path: Path, wanted: set[Path]) -> list[Path]:
    """Return files below a table that no version needs: data files, and staging files of a kill."""
    log = path / "_delta_log"
    return [
        file
        for file in path.rglob("*")
        if file.is_file()
        and (file.resolve() not in wanted if log not in file.parents else _is_staging(file))
    ]


def _is_staging(file: Path) -> bool:
    """Say whether a file of the log is one that a killed commit left behind."""
    return "#" in file.name or file.name.endswith(".tmp")


def _census(path: Path, asked: pa.Table, column: str) -> RowCensus:
    """Count rows and give an order-free digest of those that are not asked for."""
    version = table_version(path)
    row = query(
        f"""
        SELECT count(*) AS n, count(a._erase_id) AS hit,
               coalesce(sum(CASE WHEN a._erase_id IS NULL THEN hash(t)::HUGEINT ELSE 0 END), 0)
               ::VARCHAR AS digest
        FROM t LEFT JOIN a ON t."{column}" = a._erase_id
        """,  # noqa: S608 - the column name is ours
        t=path,
        a=asked,
    ).to_pylist()[0]
    return RowCensus(version, row["n"], row["hit"], f"sum-hash:{row['digest']}")


def _write(path: Path, table: pa.Table, *, mode: str, transaction: str) -> int:
    exists = table_exists(path)
    if exists and _open(path).transaction_version(transaction) is not None:
        return table_version(path)
    partition = [BUCKET] if BUCKET in table.schema.names else None
    with _publishing(path):
        path.mkdir(parents=True, exist_ok=True)
        write_deltalake(
            str(path),
            table,
            mode=mode,  # type: ignore[call-overload, unused-ignore]
            schema_mode=_schema_mode(path, table, mode) if exists else None,
            partition_by=partition,
            configuration=None if exists else _NO_TRACES,
            commit_properties=CommitProperties(app_transactions=[Transaction(transaction, 1)]),
        )
    return table_version(path)


def _schema_mode(path: Path, table: pa.Table, mode: str) -> Literal["merge", "overwrite"] | None:
    if mode == "overwrite":
        return "overwrite"
    known = {field.name for field in _open(path).schema().fields}
    return "merge" if set(table.column_names) - known else None


@contextmanager
def _publishing(path: Path) -> Iterator[None]:
    """Say in words of ours why a write failed."""
    try:
        yield
    except CommitFailedError as error:
        message = f"table {path.name}: another writer was faster; run the step again"
        raise StoreBusyError(message) from error
    except (OSError, DeltaError, pa.ArrowException) as error:
        message = (
            f"table {path.name}: expected to publish its rows, got {type(error).__name__}; "
            "is the disk full? The former version is untouched"
        )
        raise DataError(message) from error


def _open(path: Path, version: int | None = None) -> DeltaTable:
    try:
        return DeltaTable(str(path), version=version)
    except (TableNotFoundError, DeltaError, OSError) as error:
        which = "" if version is None else f" with version {version}, which may be purged"
        message = f"table {path.name}: expected a Delta table{which}, got {type(error).__name__}"
        raise DataError(message) from error


def _dataset(path: Path) -> object:
    return _open(path).to_pyarrow_dataset()
