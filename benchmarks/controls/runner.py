"""Trains the pools that are missing, then appends one row for each repeat and control.

What is reported comes from ``REPORTED_SEEDS``. Other seeds were used while the study and the
statistics of the gate were made (``--seed``); none of their rows is kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import RESULTS, is_small
from benchmarks.controls.batch import BatchGate
from benchmarks.controls.cases import CACHE, LOADERS, Case
from benchmarks.controls.repeats import Repeat
from benchmarks.controls.sizes import Sizes
from benchmarks.readiness.runner import Rows

REPORTED_SEEDS = {"digits": 5000, "adult": 4000, "mnist": 4000}
SMALL = Sizes(pool=4, repeats=1, requests=2, one_record=1)
SMALL_ROWS = Path(__file__).parents[2] / "build" / "controls-small"


def run(task: str, folder: Path, *, seed: int, sizes: Sizes, cache: Path = CACHE) -> Rows:
    """Append what is missing of one data set and return all rows."""
    rows = Rows(rows_of(task, folder))
    case = Case(task, seed, n_requests=sizes.requests, cache=cache)
    gate = BatchGate(case, sizes)
    for number in range(sizes.requests):
        for repeat in range(sizes.repeats):
            work = Repeat(case, sizes, gate, number, repeat)
            rows.once(f"{task}/{seed}/{number}/{repeat}", lambda w=work: {"judged": w.rows()})
    for number in range(sizes.one_record):
        for repeat in range(sizes.one_record_repeats):
            work = Repeat(case, sizes, gate, number, repeat)
            key = f"{task}/{seed}/one-{number}/{repeat}"
            rows.once(key, lambda w=work: {"judged": w.one_record_rows()})
    for number in range(sizes.requests):
        key = f"{task}/{seed}/qualification/{number}"
        rows.once(key, lambda k=number: {"qualification": gate.qualification(k)})
    return rows


def rows_of(task: str, folder: Path = RESULTS) -> Path:
    """Return the file of a task's rows."""
    return folder / f"controls-rows-{task}.jsonl"


def main() -> None:
    """Run the study until it is done or stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(LOADERS))
    parser.add_argument("--rows", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--seed", type=int, help="another base seed, for trials")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, sizes = arguments.rows, Sizes()
    tasks = [arguments.only] if arguments.only else list(LOADERS)
    if is_small():
        tasks, folder, sizes = tasks[:1], SMALL_ROWS, SMALL
    for task in tasks:
        started = time.time()
        run(task, folder, seed=arguments.seed or REPORTED_SEEDS[task], sizes=sizes)
        sys.stderr.write(f"{task}: {time.time() - started:.0f} s\n")


if __name__ == "__main__":
    main()
