"""How fast and in how much memory a file of deletion requests goes into the queue.

    python -m benchmarks.intake              (SIZE=small: a minute)

Each row is an own request of an own person; one row in a hundred is bad. The time is that of the
whole stage: import of Great Expectations, two passes over the file, pseudonyms, validation, the
queue (SQLite, synchronous FULL), reject file, receipt. Baseline: the same rows handed in one by one
by the code that serves ``r2u request add`` and the API.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import in_fresh_process, is_small, peak_mib, plot, row, write_results
from r2u_tasks.stages.intake import intake_requests
from r2u_tasks.stages.requests import submit_request

DECLARATION = """
name: people
task: tabular
source: {path: people.csv, format: csv}
columns:
  record_id: id
  subject_id: person
  label: {name: churned, classes: [0, 1]}
  features: [{name: age, kind: numeric}]
deletion: {deletion_class: customers}
policy: policy.yaml
model: {factory: "my_net:build"}
"""
FORMATS = ("csv", "jsonl", "parquet")
REPEATS = 3


def make_file(path: Path, n: int) -> int:
    """Write n rows, one in a hundred without a target; return the number of good ones."""
    rows = ((f"person-{i}" if i % 100 else "", f"req-{i}") for i in range(n))
    if path.suffix == ".csv":
        with path.open("w") as file:
            file.write("subject_id,request_id,verified\n")
            file.writelines(f"{person},{name},true\n" for person, name in rows)
    elif path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(
                json.dumps({"subject_id": p, "request_id": r, "verified": True}) + "\n"
                for p, r in rows
            )
    else:
        persons, names = zip(*rows, strict=True)
        table = pa.table({"subject_id": persons, "request_id": names, "verified": [True] * n})
        pq.write_table(table, path, row_group_size=100_000)
    return n - -(-n // 100)


def take_in(folder: Path, kind: str, n: int) -> dict[str, Any]:
    """Take a file in and check every count."""
    good = make_file(folder / "root" / "inbox" / f"requests.{kind}", n)
    place = {"dataset": str(folder / "people.yaml"), "root_uri": str(folder / "root")}
    before = peak_mib()
    started = time.perf_counter()
    result = intake_requests(run_id="run", **place)
    seconds = time.perf_counter() - started
    expected = (n, good, n - good, good)
    got = tuple(result[name] for name in ("read", "accepted", "rejected", "waiting"))
    if expected != got:
        raise SystemExit(f"expected the counts {expected}, got {got}")
    return {"rows_per_s": n / seconds, "peak_mib": peak_mib(), "before_mib": before}


def one_by_one(folder: Path, n: int) -> dict[str, Any]:
    """Hand the same rows in one by one, in this process."""
    place = {"dataset": str(folder / "people.yaml"), "root_uri": str(folder / "root")}
    submit_request(subject_id="warm", **place)
    started = time.perf_counter()
    for i in range(n):
        submit_request(subject_id=f"person-{i}", request_id=f"req-{i}", **place)
    return {"rows_per_s": n / (time.perf_counter() - started)}


def measure(kind: str, n: int) -> dict[str, Any]:
    """Run one case in this process, in a folder that is removed."""
    folder = Path(tempfile.mkdtemp(prefix="r2u-intake-"))
    try:
        (folder / "people.yaml").write_text(DECLARATION)
        (folder / "root" / "inbox").mkdir(parents=True)
        return one_by_one(folder, n) if kind == "one by one" else take_in(folder, kind, n)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure every case and write the results."""
    sizes = (1_000, 10_000, 50_000) if is_small() else (10_000, 100_000, 1_000_000)
    repeats = 1 if is_small() else REPEATS
    cases = [("csv", n) for n in sizes] + [(kind, sizes[1]) for kind in FORMATS[1:]]
    rows = []
    curve: dict[int, tuple[float, float]] = {}
    cases = [("one by one", 200 if is_small() else 2_000), *cases]
    for kind, n in cases:
        runs = [in_fresh_process("benchmarks.intake", kind, str(n)) for _ in range(repeats)]
        case, base = f"{kind}, {n:,} rows", "one by one" if kind != "one by one" else None
        speed = [run["rows_per_s"] for run in runs]
        rows.append(row(case, "rows taken in", speed, "rows/s", base))
        if "peak_mib" in runs[0]:
            peak = [run["peak_mib"] for run in runs]
            rows.append(row(case, "peak memory", peak, "MiB"))
            if kind == "csv":
                curve[n] = (rows[-2]["value"], rows[-1]["value"])

    def draw(axes: Any) -> None:
        axes.plot(list(curve), [speed for speed, _ in curve.values()], marker="o", color="tab:blue")
        axes.set(xscale="log", xlabel="rows of the file", ylabel="rows per second", ylim=(0, None))
        memory = axes.twinx()
        memory.plot(list(curve), [peak for _, peak in curve.values()], marker="s", color="tab:red")
        memory.set(ylabel="peak memory, MiB (red)", ylim=(0, None))

    plot("intake", draw, title="A file of deletion requests into the queue")
    print(write_results("intake", rows))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
