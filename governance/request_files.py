"""Files of deletion requests as a stream of rows: CSV with a header, JSON Lines, Parquet.

Rules enforced here:

* what makes the borders of rows uncertain (broken quoting, a wrong header, a damaged Parquet file)
  refuses the whole file; what concerns one row only is a problem of that row;
* every row has its number, and a second pass yields the same rows, so that counts can be exact;
* memory does not grow with the file; a file, a cell and the number of rows are bounded.

A file that ``governance.rejects`` wrote can be corrected and dropped again: its columns ``row`` and
``reason`` are passed over, and the apostrophe before a formula is taken off.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from governance.errors import DataError

FIELDS = (
    "request_id",
    "subject_id",
    "record_ids",
    "select",
    "verified",
    "received_at",
    "hold_ground",
    "regime",
)
"""Columns of a request file, in the order of a reject file."""

SUFFIXES = (".csv", ".jsonl", ".parquet")
MAX_FILE_BYTES = 1 << 30
MAX_ROWS = 5_000_000
MAX_CELL_CHARACTERS = 131_072  # also the limit of Python's csv module
MAX_PARQUET_BYTES = 4 << 30
"""Largest uncompressed size of a Parquet file, as its footer states it."""

FORMULA_SIGNS = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""First characters that make a spreadsheet run a cell."""

OTHER = "other"
_REJECT_COLUMNS = frozenset({"row", "reason", OTHER})
_PARQUET_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a request file.

    Attributes:
        number: Line of a CSV or JSON Lines file (of its first line, where a cell has several), row
            of a Parquet file; from 1.
        cells: Text by field; ``other`` holds what could not be read as fields.
        problem: Why the row cannot be read, without any value of it.
    """

    number: int
    cells: dict[str, str]
    problem: str | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, in order, without holding them.

    Raises:
        DataError: The file as a whole cannot be trusted: too large, another kind of file, a wrong
            header, broken quoting, damage, too many rows.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        message = f"request file: expected at most {MAX_FILE_BYTES} bytes, got {size}; split it"
        raise DataError(message)
    reader = _READERS.get(path.suffix)
    if reader is None:
        message = f"request file: expected one of {', '.join(SUFFIXES)}, got another kind of file"
        raise DataError(message)
    for count, row in enumerate(reader(path), start=1):
        if count > MAX_ROWS:
            message = f"request file: expected at most {MAX_ROWS} rows; split it"
            raise DataError(message)
        yield row


def count_rows(path: Path) -> int:
    """Read the whole file once and return its number of rows; raises like ``read_rows``."""
    return sum(1 for _ in read_rows(path))


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            written_by_us = _check_columns(header)
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield _csv_row(line, header, cells, written_by_us)
                line = reader.line_num + 1
        except csv.Error as error:
            message = (
                f"request file: expected CSV with quotes that close and cells of at most "
                f"{MAX_CELL_CHARACTERS} characters; reading stopped at line {reader.line_num}"
            )
            raise DataError(message) from error


def _csv_row(number: int, header: list[str], cells: list[str], written_by_us: bool) -> Row:
    if len(cells) != len(header):
        problem = f"expected {len(header)} cells, got {len(cells)}"
        return Row(number, {OTHER: ",".join(cells)}, problem)
    found = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    if written_by_us:
        found = {n: _without_apostrophe(c) for n, c in found.items() if n not in {"row", "reason"}}
    return Row(number, found, text_problem(found))


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_CELL_CHARACTERS):
            number += 1
            if not line.endswith(b"\n") and len(line) == MAX_CELL_CHARACTERS:
                while (rest := file.readline(MAX_CELL_CHARACTERS)) and not rest.endswith(b"\n"):
                    pass
                problem = f"expected a line of at most {MAX_CELL_CHARACTERS} bytes"
                yield Row(number, {}, problem)
            elif line.strip():
                yield _json_row(number, line)


def _json_row(number: int, line: bytes) -> Row:
    text = line.decode("utf-8-sig", "surrogateescape").strip()
    try:
        content = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return Row(number, {OTHER: text}, "expected one JSON object with each key once")
    if not isinstance(content, dict):
        return Row(number, {OTHER: text}, "expected a JSON object")
    return _row_of_values(number, content, text)


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            _check_columns(file.schema_arrow.names)
            size = sum(
                metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)
            )
            if metadata.num_rows > MAX_ROWS or size > MAX_PARQUET_BYTES:
                message = (
                    f"request file: expected at most {MAX_ROWS} rows and {MAX_PARQUET_BYTES} bytes "
                    f"uncompressed, got {metadata.num_rows} and {size}; split it"
                )
                raise DataError(message)
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield _row_of_values(number, values, "")
    except (pa.ArrowException, OSError) as error:
        message = "request file: expected a Parquet file, got one that is none or is damaged"
        raise DataError(message) from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}


def _row_of_values(number: int, values: dict[str, Any], text: str) -> Row:
    cells, problem = {}, None
    unknown = sum(name not in FIELDS for name in values)
    if unknown:
        problem = f"expected the fields {', '.join(FIELDS)}, got {unknown} others"
        return Row(number, {OTHER: text}, problem)
    for name, value in values.items():
        cell = _cell(value)
        if cell is None:
            problem = f"{name}: expected text, a number, true or false, or a list of these"
        elif cell:
            cells[name] = cell
    return Row(number, cells, problem or text_problem(cells))


def _cell(value: object) -> str | None:
    """Return the text of a value; None for a kind that no field has."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, str | int | date):
        return str(value).strip()
    if isinstance(value, list) and all(
        isinstance(part, str | int) and ";" not in str(part) for part in value
    ):
        return ";".join(str(part) for part in value)
    return None


def _check_columns(names: list[str]) -> bool:
    """Refuse a header that is not ours; say whether a reject file is read back."""
    unknown = set(names) - set(FIELDS) - _REJECT_COLUMNS
    if unknown or len(set(names)) != len(names):
        message = (
            f"request file: expected a header of {', '.join(FIELDS)}, each at most once, "
            f"got {len(unknown)} others or one of them twice"
        )
        raise DataError(message)
    if not {"subject_id", "record_ids", "select"} & set(names):
        message = "request file: expected a column subject_id, record_ids or select, got none"
        raise DataError(message)
    return "reason" in names


def text_problem(cells: dict[str, str]) -> str | None:
    """Return why cells are no text that can be stored, or None."""
    if cells.get(OTHER):
        return f"column {OTHER}: expected it empty; correct the row into the other columns"
    for name, cell in cells.items():
        if "\x00" in cell or (not cell.isascii() and any("\ud800" <= c <= "\udfff" for c in cell)):
            return f"{name}: expected UTF-8 text without NUL"
    return None


def _without_apostrophe(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:2] in FORMULA_SIGNS else cell


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError
    return content
