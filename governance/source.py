"""The user's own table: read as a stream, checked against every promise of its declaration.

Memory does not grow with the table. Problems are collected over the whole stream and raised at its
end in one error; it names columns and counts, never values. Ids become strings, numeric features
float64, images lists of numbers. Of a CSV, columns for the policy and classes that are text are
kept as they are written: a guessed type makes 12 of ``0012``.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.dataset as pa_dataset

from governance.declaration import Declaration, Feature
from governance.errors import DataError
from governance.storage import hash_column, in_bounded_batches, scan_table

_CSV_BLOCK_BYTES = 64 << 20
_CHUNK_BYTES = 48 << 20
_UNREADABLE = (pa.ArrowException, OSError, csv.Error)


class SourceStream:
    """The declared columns in parts of bounded size, and what is wrong with them.

    Iterate once, keep the parts, count repeated ids, then call ``require_sound``.
    """

    def __init__(self, declaration: Declaration) -> None:
        """Name the source; nothing is read yet."""
        self._declaration = declaration
        self._problems: Counter[str] = Counter()
        self._n_rows = 0

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield checked parts.

        Raises:
            DataError: The file is missing or damaged, or a column is missing.
        """
        for part in _parts(self._declaration):
            checked = _check(part, self._declaration, self._problems)
            self._n_rows += checked.num_rows
            yield checked

    def require_sound(self, *, n_repeated: int) -> None:
        """Raise if the content is not what was declared.

        Args:
            n_repeated: How many record ids occurred again; the caller can count them on disk.

        Raises:
            DataError: Lists every problem of the whole source.
        """
        problems = self._problems
        if not self._n_rows:
            problems["expected at least one row, got an empty table"] = 0
        _note(problems, f"{self._declaration.columns.record_id}: expected unique ids", n_repeated)
        if problems:
            listing = "\n".join(
                f"  - {text}, got {count} rows with something else" if count else f"  - {text}"
                for text, count in problems.items()
            )
            name = self._declaration.source_path.name
            message = f"source {name}: {len(problems)} problems\n{listing}"
            raise DataError(message)


def read_source(declaration: Declaration) -> pa.Table:
    """Return the whole table, for one that fits into memory.

    Raises:
        DataError: As ``SourceStream``.
    """
    stream = SourceStream(declaration)
    table = pa.concat_tables(list(stream)).combine_chunks()
    ids = table[declaration.columns.record_id]
    stream.require_sound(n_repeated=len(ids) - int(pc.count_distinct(ids, mode="all").as_py()))
    return table


def check_source(declaration: Declaration) -> int:
    """Check the whole table and return the number of its rows; ids are compared by their hash.

    Raises:
        DataError: As ``SourceStream``.
    """
    stream = SourceStream(declaration)
    hashes = [hash_column(part[declaration.columns.record_id]).to_numpy() for part in stream]
    found = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    stream.require_sound(n_repeated=len(found) - len(np.unique(found)))
    return len(found)


def _parts(declaration: Declaration) -> Iterator[pa.Table]:
    """Yield the declared columns in parts of about the same number of bytes."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in _readable(declaration):
        for piece in _pieces(batch):
            waiting.append(piece)
            size += piece.nbytes
            if size >= _CHUNK_BYTES:
                yield pa.Table.from_batches(waiting)
                waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch that is too large by itself."""
    n_pieces = max(1, math.ceil(batch.nbytes / _CHUNK_BYTES))
    length = math.ceil(batch.num_rows / n_pieces) or 1
    for start in range(0, max(1, batch.num_rows), length):
        yield batch.slice(start, length)


def _readable(declaration: Declaration) -> Iterator[pa.RecordBatch]:
    """Read the file; what is wrong with it becomes an error of ours."""
    path, form = declaration.source_path, declaration.source.format
    if not path.exists():
        message = f"source.path: expected a {form} file, got nothing there"
        raise DataError(message)
    wanted = list(declaration.columns.all_names)
    try:
        if form == "csv":
            batches, names = _open_csv(path, declaration)
        elif form == "delta":
            batches, names = scan_table(path), None
        else:
            data = pa_dataset.dataset(path, format="parquet")
            names = data.schema.names
            _require_columns(names, declaration)
            batches = in_bounded_batches(data, wanted)
        if names is not None:
            _require_columns(names, declaration)
        for batch in batches:
            _require_columns(batch.schema.names, declaration)
            yield batch.select(wanted)
    except _UNREADABLE as error:
        hint = ""
        if form == "csv" and isinstance(error, pa.ArrowInvalid):
            hint = "; is every column of one type throughout? Parquet and Delta say their types"
        message = (
            f"source {path.name}: expected a {form} file, "
            f"got something unreadable ({type(error).__name__}){hint}"
        )
        raise DataError(message) from None  # the cause quotes cells, and a log prints causes


def _open_csv(path: Path, declaration: Declaration) -> tuple[Iterator[pa.RecordBatch], list[str]]:
    columns = declaration.columns
    text = [columns.record_id, columns.subject_id, *columns.governance]
    if any(isinstance(value, str) for value in columns.label.classes):
        text.append(columns.label.name)
    text += [f.name for f in columns.features if f.kind in {"categorical", "text", "image"}]
    types = dict.fromkeys(text, pa.string())
    reader = pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
        convert_options=pa_csv.ConvertOptions(column_types=types, strings_can_be_null=True),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
    )
    return iter(reader), reader.schema.names


def _require_columns(names: list[str], declaration: Declaration) -> None:
    missing = [name for name in declaration.columns.all_names if name not in names]
    if missing:
        message = (
            f"source {declaration.source_path.name}: expected columns {', '.join(missing)}, "
            f"got {', '.join(names)}"
        )
        raise DataError(message)


def _check(table: pa.Table, declaration: Declaration, problems: Counter[str]) -> pa.Table:
    columns = declaration.columns
    for name in (columns.record_id, columns.subject_id):
        table = _replace(table, name, table[name].cast(pa.string()))
        blank = pc.equal(pc.fill_null(pc.utf8_trim_whitespace(table[name]), ""), "")
        _note(problems, f"{name}: expected a value in every row", pc.sum(blank).as_py())
    _check_label(table, declaration, problems)
    for feature in columns.features:
        table = _check_feature(table, feature, problems)
    return table


def _check_label(table: pa.Table, declaration: Declaration, problems: Counter[str]) -> None:
    label = declaration.columns.label
    column = table[label.name]
    if pa.types.is_floating(column.type):
        missing = pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0
        whole = pc.fill_null(pc.equal(column, pc.floor(column)), False)
        odd = len(column) - (pc.sum(whole).as_py() or 0)
        _note(problems, f"{label.name}: expected a class in every row", max(missing, odd))
        if missing or odd:
            return
        column = column.cast(pa.int64())
    known = pa.array([str(value) for value in label.classes], pa.string())
    found = pc.is_in(column.cast(pa.string()), value_set=known)
    other = len(column) - (pc.sum(found).as_py() or 0)
    text = f"{label.name}: expected one of {len(known)} declared classes in every row"
    _note(problems, text, other)


def _check_feature(table: pa.Table, feature: Feature, problems: Counter[str]) -> pa.Table:
    name, column = feature.name, table[feature.name]
    if feature.kind == "numeric":
        try:
            numbers = column.cast(pa.float64())
        except pa.ArrowException:
            problems[f"{name}: expected numbers, got {column.type}"] = 0
            return table
        bad = len(numbers) - int(np.isfinite(numbers.to_numpy()).sum())
        _note(problems, f"{name}: expected finite numbers", bad)
        return _replace(table, name, numbers)
    if feature.kind == "categorical":
        known = pa.array(list(feature.categories or ()))
        text = column.cast(pa.string())
        bad = len(text) - (pc.sum(pc.is_in(text, value_set=known)).as_py() or 0)
        _note(problems, f"{name}: expected declared categories", bad)
        return _replace(table, name, text)
    if feature.kind == "text":
        _note(problems, f"{name}: expected text in every row", column.null_count)
        return table
    return _check_image(table, feature, problems)


def _check_image(table: pa.Table, feature: Feature, problems: Counter[str]) -> pa.Table:
    size = math.prod(feature.shape or ())
    column = table[feature.name].combine_chunks()
    if pa.types.is_string(column.type):
        try:
            column = pc.split_pattern_regex(column, r"[\s;]+").cast(pa.list_(pa.float32()))
        except pa.ArrowException:
            problems[f"{feature.name}: expected numbers separated by spaces"] = 0
            return table
    is_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    if not is_list or pa.types.is_large_list(column.type):
        problems[f"{feature.name}: expected a list of numbers, got {column.type}"] = 0
        return table
    lengths = pc.fill_null(pc.list_value_length(column), -1)
    bad = pc.sum(pc.not_equal(lengths, size)).as_py()
    _note(problems, f"{feature.name}: expected {size} numbers in each row", bad)
    return _replace(table, feature.name, column)


def _note(problems: Counter[str], text: str, count: int | None) -> None:
    if count:
        problems[text] += count


def _replace(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
