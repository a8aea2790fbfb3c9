"""What the full evidence costs on the embedded default: pools, unlearning, verdict, suite, page.

``make bench NAME=evidence_suite``: digits with pools of 32 (SIZE=small: of 8), the records of one
tenant and three persons, as in the demo. Pools are trained by as many processes as there are cores;
everything else runs in one. Baseline of every share is one training of the whole recipe.

Pools are kept under ``build/evidence-suite``, so a run that was ended goes on; what is reported of
them is the processor time of a model trained in this run, times the models of three pools. A run
that finds all of them has no such row.

Seconds of the clock and of the processor are both given: on a machine that does other work, too,
only the second can be compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import is_small, peak_mib, row, write_results
from governance.classification.table import classify_records
from governance.declaration import Declaration, load_declaration
from governance.policy import load_policy
from governance.report import render_evidence
from governance.source import read_source
from governance.storage import with_buckets
from r2u_tasks import embedded
from r2u_tasks.config import readiness_config, training_config
from r2u_tasks.evidence import BatchData, judge, train_pools, unlearn_model, unlearn_pool
from r2u_tasks.evidence_suite import add_suite
from r2u_tasks.model import build_model
from r2u_tasks.records import encode_splits
from r2u_tasks.training import train_segments

PERSONS = {"SYN-P0015", "SYN-P0029", "SYN-P0039"}
TENANT = "syn-tenant-00"
REPEATS = 3
FOLDER = Path("build/evidence-suite")


@dataclass
class Clock:
    """Seconds by part, of the clock and of this process."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add one measurement of a part."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(part, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(part, []).append(time.process_time() - cpu)


def main() -> None:
    """Run and write ``results/evidence_suite.json``."""
    torch.set_num_threads(1)
    size = 8 if is_small() else 32
    clock = Clock()
    declaration, data = demo_batch(FOLDER, size)
    for _ in range(REPEATS):
        with clock.time("one training"):
            train_once(declaration, data)
    done: list[str] = []
    pools = train_pools(
        declaration,
        data,
        folder=FOLDER / "pools",
        progress=lambda role, _n, _size: done.append(role),
    )
    trained_s = sum(pool.seconds for pool in (pools.original, pools.reference, pools.second))
    for _ in range(REPEATS):
        evidence_once(clock, declaration, data, pools)
    rows = [row(part, "wall", values, "s") for part, values in clock.wall.items()]
    rows += [row(part, "processor", values, "s") for part, values in clock.cpu.items()]
    parts = ("unlearned pool", "verdict", "suite", "page")
    evidence_s = [sum(values) for values in zip(*(clock.cpu[p] for p in parts), strict=True)]
    rows.append(row("evidence without pools", "processor", evidence_s, "s"))
    one = statistics.median(clock.cpu["one training"])
    shares = {"evidence without pools": evidence_s}
    if done:
        pools_s = 3 * size * trained_s / len(done)
        rows.append(row("pools", "processor, all processes", [pools_s], "s"))
        shares["evidence with pools"] = [value + pools_s for value in evidence_s]
    rows += [
        row(case, "of one training", [value / one for value in values], "x", "train")
        for case, values in shares.items()
    ]
    rows += [
        row("all", "peak memory of this process", [peak_mib()], "MiB"),
        row("all", "models in each pool", [size], "models"),
        row("all", "records to forget", [len(data.forget)], "records"),
    ]
    print(write_results("evidence_suite", rows))
    for entry in rows:
        print(f"{entry['case']:24} {entry['metric']:28} {entry['value']:9.2f} {entry['unit']}")


def demo_batch(root: Path, size: int) -> tuple[Declaration, BatchData]:
    """Return declaration and records of the embedded data set, with pools of one size."""
    declaration = load_declaration(embedded.resolve("embedded:digits", root))
    settings = declaration.evidence.model_copy(update={"pool_size": size})
    declaration = declaration.model_copy(update={"evidence": settings})
    policy = load_policy(declaration.policy_path, declaration)
    raw = with_buckets(read_source(declaration), "subject_id", 8)
    table = classify_records(raw, policy, declaration=declaration, as_of=date(2026, 11, 24))
    splits = encode_splits(table, declaration)
    wanted = {
        record
        for record, tenant, person in zip(
            *(table[name].to_pylist() for name in ("record_id", "tenant", "subject_id")),
            strict=True,
        )
        if tenant == TENANT or person in PERSONS
    }
    training = splits.training
    asked = np.isin(training.records.ids, sorted(wanted))
    data = BatchData(training, training.records.select(asked), splits.validation, splits.holdout)
    return declaration, data


def train_once(declaration: Declaration, data: BatchData) -> None:
    """Train one model by the whole recipe."""
    train_segments(
        build_model(declaration, 0),
        data.before,
        training=training_config(declaration.training),
        readiness=readiness_config(declaration.readiness),
    )


def evidence_once(clock: Clock, declaration: Declaration, data: BatchData, pools: Any) -> None:
    """Unlearn, judge and describe once."""
    reference = pools.original.before_segment(0, data.first_segment)
    model = pools.original.models[0]
    candidate, _, curve, _ = unlearn_model(declaration, model, reference, data)
    with clock.time("unlearned pool"):
        unlearned = unlearn_pool(declaration, pools.original, data)
    with clock.time("verdict"):
        evidence = judge(
            declaration,
            data,
            pools,
            original=model,
            candidate=candidate,
            lane="approximate",
            unlearned_pool=unlearned,
        )
    with clock.time("suite"):
        add_suite(
            evidence,
            declaration,
            data,
            pools,
            candidate=candidate,
            unlearned_pool=unlearned,
            salt=bytes(32),
            curve=curve,
        )
    with clock.time("page"):
        render_evidence(evidence)


if __name__ == "__main__":
    main()
