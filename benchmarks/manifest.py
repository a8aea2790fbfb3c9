"""How fast and in how much memory a training manifest commits to every row of a Delta table.

    make bench NAME=manifest                 (SIZE=small: a minute)

Baseline: the same commitment as one would write it first, row by row with ``hashlib`` and canonical
JSON. ``salts`` is the price of the join with the table of salts; ``members`` is the whole of what a
training run does: leaves, pseudonyms, sorted members file, root. ``training run`` is the same
through the stage, with the table in memory as training has it; its peak is what comes on top.

The other peer is MLflow's dataset digest, which is what most teams rely on: how many of 20 changed
rows, at random positions, each of the two notices. MLflow hashes the first 10,000 rows and the
number of rows; changes beyond are not seen.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.common import in_fresh_process, is_small, peak_mib, plot, row, write_results
from governance.commitments import ensure_salts, record_leaves
from governance.digests import canonical_json
from governance.hashing import in_order
from governance.manifest import Members, members_root, write_members
from governance.merkle import stream_root
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

    def commit_bucket(bucket: int) -> Members:
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
        return Members(keys, np.zeros(len(ids), np.int8), leaves)

    path = folder / "members.parquet"
    write_members(path, in_order(commit_bucket, range(BUCKETS)))
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


def commit_as_a_stage(folder: Path) -> dict[str, Any]:
    """Commit through the training stage, to a table that is in memory already."""
    import torch  # noqa: PLC0415 - torch is not part of what the other cases measure

    from governance.declaration import load_declaration  # noqa: PLC0415
    from governance.workspace import Workspace  # noqa: PLC0415
    from r2u_tasks.data import Records  # noqa: PLC0415
    from r2u_tasks.stages.commitment import commit_training  # noqa: PLC0415
    from r2u_tasks.stages.context import StageContext  # noqa: PLC0415
    from r2u_tasks.training import SegmentedRecords  # noqa: PLC0415

    table = pa.concat_tables(read_table(folder / "rows", bucket=b) for b in range(BUCKETS))
    table = table.append_column(
        "policy_digest", pa.array(["sha256:0"] * len(table)).dictionary_encode()
    )
    rest = [
        c for c in table.column_names if c not in ("record_id", "subject_id", "f1", "f2", "bucket")
    ]
    (folder / "bench.yaml").write_text(
        json.dumps(
            {
                "name": "bench",
                "task": "tabular",
                "source": {"path": "x", "format": "delta"},
                "columns": {
                    "record_id": "record_id",
                    "subject_id": "subject_id",
                    "label": {"name": "f1", "classes": [0, 1]},
                    "features": [{"name": "f2", "kind": "numeric"}],
                    "governance": rest,
                },
                "deletion": {"deletion_class": "bench"},
                "policy": "x",
                "model": {"factory": "x:y"},
            }
        ),
        encoding="utf-8",
    )
    context = StageContext(load_declaration(folder / "bench.yaml"), Workspace(folder / "root"))
    ids = np.asarray(table["record_id"].to_numpy(zero_copy_only=False), dtype=str)
    data = SegmentedRecords(
        Records(ids=ids, inputs=torch.zeros(1), labels=torch.zeros(1)),
        np.zeros(len(ids), np.int8),
        1,
    )
    before = peak_mib()
    started = time.perf_counter()
    manifest = commit_training(context, "m", table, data, checkpoints={})
    seconds = time.perf_counter() - started
    shutil.rmtree(folder / "root")
    return {"rows_per_s": manifest.n_records / seconds, "peak_mib": peak_mib() - before}


def noticed(n: int) -> dict[str, Any]:
    """Return how many of 20 changed rows beyond the first 10,000 each digest notices."""
    import mlflow.data  # noqa: PLC0415 - seconds, and only here

    generator = np.random.default_rng(0)
    table = pa.table({"record_id": [f"r{i}" for i in range(n)], "x": generator.normal(size=n)})
    salt = pa.array([secrets.token_bytes(32) for _ in range(n)], pa.binary())
    salts = pa.table({"record_id": table["record_id"], "salt": salt})
    leaves = record_leaves(table, salts, record_id_column="record_id")
    frame = table.to_pandas()

    def root(values: np.ndarray) -> str:
        return stream_root([values[np.lexsort(values.view(">u8").reshape(-1, 4).T[::-1])]])

    def theirs() -> str:
        return str(mlflow.data.from_pandas(frame).digest)

    first, first_theirs = root(leaves), theirs()
    found = {"ours": 0, "mlflow": 0}
    for index in generator.integers(10_000, n, 20):
        value = float(frame.loc[index, "x"])
        frame.loc[index, "x"] = value + 1.0
        found["mlflow"] += theirs() != first_theirs
        frame.loc[index, "x"] = value
        changed = pa.table({"record_id": [f"r{index}"], "x": [value + 1.0]})
        other = leaves.copy()
        other[index] = record_leaves(changed, salts, record_id_column="record_id")[0]
        found["ours"] += root(other) != first
    return found


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
                for what in ("members", "leaves", "training run", "salts", "row by row"):
                    if what in {"salts", "training run"} and columns == "numeric":
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
    n = 20_000 if is_small() else 1_000_000
    seen = in_fresh_process("benchmarks.manifest", "noticed", str(n))
    for name, key in (("our root", "ours"), ("MLflow's dataset digest", "mlflow")):
        case = f"{name}, {n:,} rows"
        results.append(row(case, "of 20 changed rows noticed", [float(seen[key])], "rows"))
        sys.stdout.write(f"{case}: {seen[key]} of 20 changed rows noticed\n")
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
            "training run": lambda: commit_as_a_stage(folder),
            "noticed": lambda: noticed(int(sys.argv[2])),
            "salts": lambda: salting(folder),
            "row by row": lambda: commit_naively(folder),
        }[sys.argv[1]]
        sys.stdout.write(json.dumps(run()) + "\n")
