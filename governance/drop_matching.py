"""Who in our own data is on a DROP list: hashes of our persons against the hashes of the list.

The list is held in memory, our table is read in batches, so memory follows the list and not the
table. An identifier that several persons share is found with all of them: the answer is then
"opted out", not "deleted".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from governance.declaration import Declaration
from governance.drop import FIELDS, DropList, identifier_hash
from governance.errors import DataError
from governance.storage import read_table

_BATCH_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Matches:
    """Which persons each work item means.

    Attributes:
        subjects: Subject ids by work item; items without any are absent.
        n_persons: Rows of our table that were compared.
        n_without_hash: Rows by list that gave no hash: a field is empty, or has no standard form.
    """

    subjects: dict[str, frozenset[str]]
    n_persons: int
    n_without_hash: dict[str, int]


def match_items(
    declaration: Declaration, wanted: Mapping[str, Mapping[str, Iterable[str]]]
) -> Matches:
    """Find the persons of work items.

    Args:
        declaration: Has a ``drop`` part.
        wanted: Work items by hash, by list.

    Raises:
        DataError: There is no ``drop`` part, or the table cannot be read or lacks a column.
    """
    if declaration.drop is None:
        message = "DROP: expected a 'drop' part in the dataset declaration, got none"
        raise DataError(message)
    lists = {name: cols for name, cols in declaration.drop.lists.items() if wanted.get(name)}
    found: dict[str, set[str]] = {}
    without = dict.fromkeys((str(name) for name in lists), 0)
    subject = declaration.drop.subject_id or declaration.columns.subject_id
    n_persons = 0
    columns = sorted({subject, *(c for cols in lists.values() for c in cols.values())})
    for rows in _persons(declaration, columns):
        n_persons += rows.num_rows
        values = {name: rows.column(name).to_pylist() for name in columns}
        for name, cols in lists.items():
            without[name] += _match_list(name, cols, values, subject, wanted[name], found)
    return Matches({i: frozenset(s) for i, s in found.items()}, n_persons, without)


def _match_list(
    name: DropList,
    columns: Mapping[str, str],
    values: Mapping[str, list[object]],
    subject: str,
    wanted: Mapping[str, Iterable[str]],
    found: dict[str, set[str]],
) -> int:
    fields = FIELDS[name]
    without = 0
    rows = zip(*(values[columns[field]] for field in fields), strict=True)
    for person, row in zip(values[subject], rows, strict=True):
        hashed = identifier_hash(fields, row)
        without += hashed is None
        for item in wanted.get(hashed, ()) if hashed else ():
            found.setdefault(item, set()).add(str(person))
    return without


def _persons(declaration: Declaration, columns: list[str]) -> Iterator[pa.RecordBatch | pa.Table]:
    drop = declaration.drop
    source = declaration.source if drop is None or drop.source is None else drop.source
    path = (declaration.folder / source.path).resolve()
    try:
        if source.format == "csv":
            options = pa_csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
            )
            yield from pa_csv.open_csv(path, convert_options=options)
        elif source.format == "parquet":
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
        else:
            yield read_table(Path(path), columns=columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        message = (
            f"DROP: expected a readable table of persons with the columns {', '.join(columns)}, "
            f"got {type(error).__name__}"
        )
        raise DataError(message) from error
