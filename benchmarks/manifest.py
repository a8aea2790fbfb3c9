"""How fast and in how much memory a training manifest commits to every row of a Delta table.

    python -m benchmarks.manifest            (SIZE=small: a minute)

Baseline: the same commitment as one would write it first, row by row with ``hashlib`` and canonical
JSON. ``salts`` is the price of the join with the table of salts; ``members`` is the whole of what a
training run does: leaves, pseudonyms, sorted members file, root.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.common import in_fresh_process, is_small, peak_mib, plot, row, write_results
from governance.commitments import ensure_salts, record_leaves
from governance.digests import canonical_json
from governance.manifest import Members, members_root, write_members
from governance.storage import append_table, read_table
from governance.suppression import pseudonym_digests

BUCKETS = 64
COLUMNS = ("numeric", "mixed")


def make_tables(folder: Path, n: int, columns: str) -> None:
    """Write n rows of 12 columns and their salts, in buckets."""
    text = {
        "numeric": "random() AS f6, (random() * 9)::INT AS i3, random() > 0.5 AS flag",
        "mixed": "'person ' || i || '@example.org' AS email, 'some text' AS note, 'DE' AS land",
    }[columns]
    query = f"""
        SELECT 'rec-' || i AS record_id, 'p-' || (i % 1000003) AS subject_id,
               random() AS f1, random() AS f2, random() AS f3, random() AS f4, random() AS f5,
               (random() * 100)::INT AS i1, (random() * 100)::INT AS i2, {text},
               (hash(i % 1000003) % {BUCKETS})::INT AS bucket
        FROM range({n}) r(i) ORDER BY bucket
        """  # noqa: S608
    table = duckdb.sql(query).to_arrow_table()
    append_table(folder / "rows", table, transaction="rows")
    salts = np.random.default_rng(n).integers(0, 256, 32 * n, np.uint8).tobytes()
    offsets = np.arange(n + 1, dtype=np.int64) * 32
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(salts)]
    salt = pa.Array.from_buffers(pa.large_binary(), n, buffers)
    made = {"record_id": table["record_id"], "salt": salt, "bucket": table["bucket"]}
    append_table(folder / "salts", pa.table(made), transaction="salts")


def commit(folder: Path, *, pseudonyms: bool) -> dict[str, Any]:
    """Commit to the whole table, bucket by bucket, as a training run does."""
    started = time.perf_counter()

    def parts() -> Iterator[Members]:
        for bucket in range(BUCKETS):
            rows = read_table(folder / "rows", bucket=bucket)
            salts = read_table(folder / "salts", bucket=bucket)
            ids = rows["record_id"]
            keys = (
                pseudonym_digests(b"k" * 32, "record", ids)
                if pseudonyms
                else np.zeros((len(ids), 32), np.uint8)
            )
            columns = [name for name in rows.column_names if name != "bucket"]
            leaves = record_leaves(rows.select(columns), salts, record_id_column="record_id")
            yield Members(keys, np.zeros(len(ids), np.int8), leaves)

    path = folder / "members.parquet"
    write_members(path, parts())
    root, n = members_root(path)
    seconds = time.perf_counter() - started
    return {"rows_per_s": n / seconds, "peak_mib": peak_mib(), "root": root, "n": n}


def commit_naively(folder: Path) -> dict[str, Any]:
    """Commit row by row to as many buckets as make 100,000 rows: the rest would go on like it."""
    started = time.perf_counter()
    level: list[bytes] = []
    n = 0
    for bucket in range(BUCKETS):
        rows = read_table(folder / "rows", bucket=bucket).drop(["bucket"])
        salts = read_table(folder / "salts", bucket=bucket)
        salt_of = dict(zip(salts["record_id"].to_pylist(), salts["salt"].to_pylist(), strict=True))
        level += [
            hashlib.sha256(b"\x00" + salt_of[r["record_id"]] + canonical_json(r)).digest()
            for r in rows.to_pylist()
        ]
        n += rows.num_rows
        if n >= 100_000:
            break
    level.sort()
    while len(level) > 1:
        pairs = [
            hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest()
            for i in range(0, len(level) - 1, 2)
        ]
        level = pairs + level[len(level) - len(level) % 2 :]
    seconds = time.perf_counter() - started
    return {"rows_per_s": n / seconds, "peak_mib": peak_mib()}


def salting(folder: Path) -> dict[str, Any]:
    """Give every row of a table its first salt."""
    rows = read_table(folder / "rows", columns=["record_id", "bucket"])
    started = time.perf_counter()
    target = folder / "new-salts"
    ensure_salts(target, rows, record_id_column="record_id", transaction="all")
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return {"rows_per_s": rows.num_rows / seconds, "peak_mib": peak_mib()}


def main() -> None:
    """Measure each size and kind of columns in fresh processes, and write results and plot."""
    sizes = (10_000, 100_000) if is_small() else (10_000, 100_000, 1_000_000, 10_000_000)
    repeats = 2 if is_small() else 3
    results: list[dict[str, Any]] = []
    for columns in COLUMNS:
        for n in sizes:
            with tempfile.TemporaryDirectory() as name:
                make_tables(Path(name), n, columns)
                for what in ("members", "leaves", "salts", "row by row"):
                    if what == "salts" and columns == "numeric":
                        continue
                    runs = [
                        in_fresh_process("benchmarks.manifest", what, name) for _ in range(repeats)
                    ]
                    case = f"{what}, {columns}, {n:,} rows"
                    base = None if what == "row by row" else f"row by row, {columns}, {n:,} rows"
                    speeds = [run["rows_per_s"] for run in runs]
                    results.append(row(case, "speed", speeds, "rows/s", base))
                    peaks = [run["peak_mib"] for run in runs]
                    results.append(row(case, "peak memory", peaks, "MiB", base))
                    sys.stdout.write(f"{case}: {results[-2]['value']:,.0f} rows/s, ")
                    sys.stdout.write(f"{results[-1]['value']:,.0f} MiB\n")
                    sys.stdout.flush()
    write_results("manifest", results)
    found = {(r["case"], r["metric"]): r["value"] for r in results}

    def draw(axes: Any) -> None:
        for columns in COLUMNS:
            for what in ("members", "leaves", "row by row"):
                cases = [f"{what}, {columns}, {n:,} rows" for n in sizes]
                values = [found[case, "speed"] / 1e6 for case in cases]
                style = "--" if columns == "mixed" else "-"
                axes.plot(sizes, values, style, marker="o", label=f"{what}, {columns}")
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="million rows per second")
        axes.legend(frameon=False, fontsize=8)

    plot("manifest", draw, title="Committing to every row of a Delta table (2 cores)")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        folder = Path(sys.argv[2])
        run = {
            "members": lambda: commit(folder, pseudonyms=True),
            "leaves": lambda: commit(folder, pseudonyms=False),
            "salts": lambda: salting(folder),
            "row by row": lambda: commit_naively(folder),
        }[sys.argv[1]]
        sys.stdout.write(json.dumps(run()) + "\n")
