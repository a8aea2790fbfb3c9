"""Read a table file in batches for a scan: everything as bytes, so that nothing is lost or refused.

A CSV file is read as binary columns: leading zeros stay, and an encoding that is not UTF-8 stops
nothing. Memory is that of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as arrow_parquet

from governance.errors import DataError

BATCH_ROWS = 65_536
_BLOCK_BYTES = 8 << 20


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a CSV or Parquet file.

    Raises:
        DataError: The file is missing, damaged, or of another kind.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".pq": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None or not path.is_file():
        message = f"{path}: expected a CSV or Parquet file, or a folder of a Delta table"
        raise DataError(message)
    try:
        yield from reader(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Arrow's message may quote a row.
        message = f"{path.name}: expected a readable {path.suffix[1:]} file; {type(error).__name__}"
        raise DataError(message) from None


def _csv(path: Path) -> Iterator[pa.RecordBatch]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = arrow_csv.ReadOptions(block_size=_BLOCK_BYTES)
    with arrow_csv.open_csv(
        path,
        read_options=read,
        parse_options=parse,
        convert_options=arrow_csv.ConvertOptions(check_utf8=False),
    ) as probe:
        names = probe.schema.names
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.binary()), check_utf8=False
    )
    with arrow_csv.open_csv(
        path, read_options=read, parse_options=parse, convert_options=convert
    ) as reader:
        yield from reader


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with arrow_parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS)
