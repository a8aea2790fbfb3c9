"""Erasing rows from a source that is ours: a landing file in the workspace, or one declared so.

Suppression keeps an erased person out of the tables at every load; a source that we own is also
rewritten without them, so that nothing is left to suppress. The file is replaced at once: a reader,
and a run that is killed, see the old rows or the new ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from governance.declaration import Declaration
from governance.digests import write_atomic
from governance.storage import erase_records, purge_history, read_table
from governance.suppression import suppress
from governance.workspace import Workspace

_GROUP_ROWS = 1 << 17


def is_ours(declaration: Declaration, workspace: Workspace) -> bool:
    """Say whether rows may be erased from the source."""
    return declaration.source.erase or workspace.root in declaration.source_path.parents


def erase_from_source(
    declaration: Declaration,
    *,
    tombstones: dict[str, set[str]],
    keys: Sequence[bytes],
    batch_id: str,
) -> int:
    """Erase the rows of erased records and subjects from the source; return how many there were.

    Args:
        declaration: Source and columns.
        tombstones: Pseudonyms of erased records and subjects.
        keys: Pseudonym keys that tombstones may be under.
        batch_id: Names the erasure.
    """
    path, columns = declaration.source_path, declaration.columns
    if not path.exists():
        return 0

    def keep(record_ids: pa.ChunkedArray, subject_ids: pa.ChunkedArray) -> np.ndarray:
        numbered = pa.table(
            {
                "row": pa.array(np.arange(len(record_ids))),
                "record": record_ids.cast(pa.string()),
                "subject": subject_ids.cast(pa.string()),
            }
        )
        kept, _ = suppress(
            numbered,
            tombstones=tombstones,
            keys=keys,
            record_id_column="record",
            subject_id_column="subject",
        )
        mask = np.zeros(len(record_ids), dtype=bool)
        mask[kept["row"].to_numpy()] = True
        return mask

    names = (columns.record_id, columns.subject_id)
    if declaration.source.format == "delta":
        return _erase_delta(path, names, keep, batch_id)
    _remove_staging(path)
    rewrite = _rewrite_csv if declaration.source.format == "csv" else _rewrite_parquet
    return rewrite(path, names, keep)


_Keep = Callable[[pa.ChunkedArray, pa.ChunkedArray], np.ndarray]


def _erase_delta(path: Path, names: tuple[str, str], keep: _Keep, batch_id: str) -> int:
    table = read_table(path, columns=list(names))
    gone = table.filter(pa.array(~keep(table[names[0]], table[names[1]])))
    if gone.num_rows:
        ids = gone[names[0]].combine_chunks()
        erase_records(path, ids, batch_id=f"{batch_id}-source", record_id_column=names[0])
    purge_history(path)
    return int(gone.num_rows)


def _rewrite_parquet(path: Path, names: tuple[str, str], keep: _Keep) -> int:
    n_gone = 0
    temporary = path.with_name(f".{path.name}.rewritten")
    with (
        pq.ParquetFile(path) as source,
        pq.ParquetWriter(temporary, source.schema_arrow) as writer,
    ):
        for batch in source.iter_batches(_GROUP_ROWS):
            rows = pa.Table.from_batches([batch])
            mask = keep(rows[names[0]], rows[names[1]])
            n_gone += int((~mask).sum())
            writer.write_table(rows.filter(pa.array(mask)))
    if n_gone:
        temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    temporary.unlink(missing_ok=True)
    return n_gone


def _rewrite_csv(path: Path, names: tuple[str, str], keep: _Keep) -> int:
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    header, rows = rows[0], [row for row in rows[1:] if row]
    columns = [pa.chunked_array([[row[header.index(name)] for row in rows]]) for name in names]
    mask = keep(columns[0].cast(pa.string()), columns[1].cast(pa.string()))
    n_gone = int((~mask).sum())
    if n_gone:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(row for row, stays in zip(rows, mask, strict=True) if stays)
        write_atomic(path, text.getvalue().encode(), mode=path.stat().st_mode & 0o777)
    return n_gone


def _remove_staging(path: Path) -> None:
    """Delete what a killed rewrite left beside the source."""
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)
