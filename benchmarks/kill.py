"""``make study-kill``: does a batch that is killed at any moment end as if it had not been?

Each step of ``unlearn_batch`` is killed by ``kill -9`` at random moments within it; the next run
(every second time the same run again, else another night's) finishes the batch. Afterwards queue,
tables, ledger, certificates, weights and every file are counted and searched: nothing erased twice,
nothing certified that was not done, no string of an erased person left. The control is the batch
that nobody kills, and a search before it that must find everything.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import is_small, plot, row, write_results
from benchmarks.killing import STEPS, KillStudy, Try, random_moment
from benchmarks.planted import ERASED, planted_in, search

NAME = "kill"
_MAX_MISSES = 4


def main(arguments: Sequence[str] = ()) -> int:
    """Run the study and return 0 if no try had a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2 if is_small() else 20)
    parser.add_argument("--no-results", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    chance = random.Random(0)  # noqa: S311 - moments, not secrets
    with tempfile.TemporaryDirectory(prefix="r2u-kill-") as folder:
        study = KillStudy(Path(folder))
        planted = [thing for person in ERASED for thing in planted_in(person)]
        found_before = search(study.home, planted)
        study.snapshots()
        control = study.audit_in_child()
        print(json.dumps({"control": control, "found_before": sorted(found_before)}), flush=True)
        tries: list[Try] = []
        for number in range(options.repeats):
            for step in STEPS:
                for _ in range(_MAX_MISSES):  # a step that had ended was not killed
                    moment = random_moment(study.seconds[step], chance)
                    tries.append(study.kill(step, at_s=moment, same_run=number % 2 == 0))
                    print(json.dumps(asdict(tries[-1])), flush=True)
                    if tries[-1].killed:
                        break
            if not options.no_results:  # after each round: a study that is stopped says how far
                write_results(NAME, _rows(tries, control, found_before))
                _plot(tries, study)
    return int(bool(control) or any(one.problems for one in tries))


def _rows(tries: list[Try], control: list[str], before: dict[str, list[str]]) -> list[Any]:
    rows = [
        row("not killed", "problems", [len(control)], "1"),
        row("before the batch", "kinds of planted things found", [len(before)], "1"),
    ]
    for step in STEPS:
        mine = [one for one in tries if one.step == step]
        rows += [
            row(step, "tries", [len(mine)], "1"),
            row(step, "killed before the step had ended", [sum(t.killed for t in mine)], "1"),
            row(step, "next run was a retry of the same run", [sum(t.same_run for t in mine)], "1"),
            row(
                step,
                "problems after the next run",
                [len(t.problems) for t in mine],
                "1",
                "not killed",
            ),
        ]
    return rows


def _plot(tries: list[Try], study: KillStudy) -> None:
    plot(NAME, lambda axes: _draw(axes, tries, study), title="Moments of kill -9, by step")


def _draw(axes: Any, tries: list[Try], study: KillStudy) -> None:
    for index, step in enumerate(STEPS):
        mine = [one for one in tries if one.step == step and one.killed]
        share = np.array([one.at_s / study.seconds[step] for one in mine])
        good = np.array([not one.problems for one in mine])
        axes.plot(share[good], np.full(good.sum(), index), "|", color="#2b6cb0", ms=12)
        axes.plot(share[~good], np.full((~good).sum(), index), "x", color="#c53030", ms=8)
    n_bad = sum(bool(one.problems) for one in tries)
    axes.set_yticks(range(len(STEPS)), [f"{step} ({study.seconds[step]:.1f} s)" for step in STEPS])
    axes.invert_yaxis()
    axes.set_xlabel(
        "moment of the kill, as a share of the step\n"
        f"{sum(one.killed for one in tries)} kills, after {n_bad} of which something was wrong"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
