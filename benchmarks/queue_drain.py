"""Many workers drain one queue at once; each request must be handled exactly once.

    python -m benchmarks.queue_drain         (SIZE=small: 5,000 requests)

8 processes on PostgreSQL and 4 on SQLite lease, note which requests they handle, and close them.
Every note is compared with what was submitted, and the queue's own events are counted too.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import is_small, row, write_results
from benchmarks.postgres import new_database, running_postgres
from benchmarks.queue_crash import count_doubled
from governance.deletion_queue import Closing, SubmittedRequest, open_queue

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Drained:
    """What the workers did: counts of requests, and seconds."""

    n: int
    missing: int
    handled_twice: int
    doubled_events: int
    problems: int
    workers_that_worked: int
    seconds: float


def drain(url: str, *, n: int, workers: int, batch: int) -> Drained:
    """Fill a queue and let the workers empty it."""
    queue = open_queue(url)
    names = [f"r{number:07d}" for number in range(n)]
    for start in range(0, n, 50_000):
        queue.submit_many(
            [
                SubmittedRequest(request_id=name, subject_key=f"s-{name}", received_at=NOW)
                for name in names[start : start + 50_000]
            ]
        )
    queue.dispose()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(workers)
    with tempfile.TemporaryDirectory() as folder:
        notes = [Path(folder) / f"{number}.txt" for number in range(workers)]
        processes = [
            context.Process(target=_work, args=(url, number, batch, notes[number], barrier))
            for number in range(workers)
        ]
        started = time.perf_counter()
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - started
        if any(process.exitcode for process in processes):
            message = "drain: expected every worker to end well, got an error"
            raise RuntimeError(message)
        lists = [note.read_text(encoding="utf-8").split() for note in notes]
    handled = Counter(name for one in lists for name in one)
    queue = open_queue(url)
    closed = queue.counts().get("closed", 0)
    problems = queue.find_problems()
    queue.dispose()
    return Drained(
        n=n,
        missing=len(set(names) - handled.keys()) + n - closed,
        handled_twice=sum(count > 1 for count in handled.values()),
        doubled_events=count_doubled(url),
        problems=len(problems),
        workers_that_worked=sum(bool(one) for one in lists),
        seconds=seconds,
    )


def _work(url: str, number: int, batch: int, note: Path, barrier: Any) -> None:
    queue = open_queue(url)
    empty = 0
    with note.open("w", encoding="utf-8") as file:
        turn = 0
        while empty < 3:
            run_key = f"worker-{number}-{turn}"
            lease = queue.lease_batch(run_key, lease_s=3600, max_items=batch, now=datetime.now(UTC))
            if turn == 0:
                barrier.wait()  # every worker holds a batch before one of them goes on
            turn += 1
            if not lease.request_ids:
                empty += 1
                time.sleep(0.05)
                continue
            file.writelines(f"{name}\n" for name in lease.request_ids)
            closings = [Closing(request_id=i, outcome="not_found") for i in lease.request_ids]
            queue.close_many(closings, token=lease.token, now=datetime.now(UTC))
            queue.release_lease(lease.batch_id, lease.token)
    queue.dispose()


def main() -> int:
    """Drain both databases, write the counts, and fail if one request was not handled once."""
    n = 5_000 if is_small() else 250_000
    rows: list[dict[str, Any]] = []
    bad = 0
    with (
        tempfile.TemporaryDirectory() as name,
        running_postgres() as server,
        new_database(server) as postgres,
    ):
        cases = (
            ("sqlite", f"sqlite:///{Path(name) / 'queue.db'}", 4),
            ("postgresql", postgres, 8),
        )
        for database, url, workers in cases:
            done = drain(url, n=n, workers=workers, batch=500)
            case = f"{database}, {workers} workers"
            rows.append(row(case, "drained", [done.n], "requests"))
            for what in ("missing", "handled_twice", "doubled_events", "problems"):
                count = getattr(done, what)
                bad += count
                rows.append(row(case, what, [count], "requests"))
            rows.append(row(case, "workers that worked", [done.workers_that_worked], "workers"))
            rows.append(row(case, "speed", [done.n / done.seconds], "requests/s"))
            sys.stdout.write(f"{case}: {done}\n")
            sys.stdout.flush()
    write_results("queue_drain", rows)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
