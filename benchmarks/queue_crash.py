"""Kill a process at random points of submit, lease, transition and close; then count.

    python -m benchmarks.queue_crash         (SIZE=small: 20 kills on each database)

A long-lived parent forks a child for each repeat. The child submits, leases, moves and closes in a
loop, and reports each submit that returned; the parent sends SIGKILL at a random moment. Nothing
that was reported may be missing, nothing may be there twice, and once the leases have run out every
request must be brought to its end by somebody else. The control is a queue that loses the rows of
the last reported submits on purpose: the count must see it.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.common import is_small, row, write_results
from benchmarks.postgres import new_database, running_postgres
from governance.deletion_queue import Closing, SubmittedRequest, open_queue
from governance.deletion_queue.database import open_database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OPERATIONS = ("start", "submit", "lease", "transition", "close")
PATH = ("planned", "approved", "data_erased", "model_unlearned", "verified_forgotten", "propagated")
LEASE_S = 60
_MINUTE = timedelta(minutes=2)


@dataclass
class Crashes:
    """What the kills left behind.

    Attributes:
        killed_in: Number of kills during each operation.
        acknowledged: Ids whose submit returned before the kill.
        lost: Acknowledged ids that are not stored.
        doubled: Requests that were erased or closed more than once.
        stuck: Requests that nobody could bring to an end after the leases ran out.
        problems: What ``find_problems`` says.
    """

    killed_in: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    problems: list[str] = field(default_factory=list)


def crash(url: str, *, repeats: int, seed: int) -> Crashes:
    """Kill ``repeats`` children and return what they left behind."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    open_queue(url).dispose()
    crashes = Crashes()
    for number in range(repeats):
        _kill_one(url, number, chance, crashes)
    _count(url, crashes)
    return crashes


def _kill_one(url: str, number: int, chance: random.Random, crashes: Crashes) -> None:
    shared = mmap.mmap(-1, 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _work(url, number, shared, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        pipe.readline()  # it is at work
        time.sleep(chance.expovariate(1 / 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        crashes.killed_in[OPERATIONS[shared[0]]] += 1
        # A line that was cut by the kill was not reported.
        crashes.acknowledged |= {
            line.strip().decode() for line in pipe.readlines() if line.endswith(b"\n")
        }
    shared.close()


def _work(url: str, number: int, shared: mmap.mmap, writer: int) -> None:
    queue = open_queue(url)
    # Each child lives a little later than the one before, so that leases of the dead run out.
    now = NOW + number * _MINUTE
    os.write(writer, b"ready\n")
    for turn in range(10_000):
        for part in range(3):
            shared[0] = 1
            name = f"r{number}-{turn}-{part}"
            request = SubmittedRequest(request_id=name, subject_key=f"s-{name}", received_at=NOW)
            queue.submit(request, now=now)
            os.write(writer, f"{name}\n".encode())
        shared[0] = 2
        lease = queue.lease_batch(f"run-{number}-{turn}", lease_s=LEASE_S, max_items=5, now=now)
        shared[0] = 3
        for state in PATH:
            queue.transition_all(lease.request_ids, state, token=lease.token, now=now)
        shared[0] = 4
        closings = [Closing(request_id=i, outcome="forgotten") for i in lease.request_ids]
        queue.close_many(closings, token=lease.token, now=now)
        queue.release_lease(lease.batch_id, lease.token, now=now)


def _count(url: str, crashes: Crashes) -> None:
    queue = open_queue(url)
    stored = {request.request_id for request in queue.list_requests()}
    crashes.lost = len(crashes.acknowledged - stored)
    now = NOW + timedelta(days=30)
    for turn in range(len(stored) + 1):
        lease = queue.lease_batch(f"end-{turn}", lease_s=LEASE_S, max_items=500, now=now)
        if not lease.request_ids:
            break
        for state in PATH:
            queue.transition_all(lease.request_ids, state, token=lease.token, now=now)
        closings = [Closing(request_id=i, outcome="forgotten") for i in lease.request_ids]
        queue.close_many(closings, token=lease.token, now=now)
        queue.release_lease(lease.batch_id, lease.token, now=now)
    crashes.stuck = sum(request.state != "closed" for request in queue.list_requests())
    crashes.problems = queue.find_problems()
    queue.dispose()
    crashes.doubled = count_doubled(url)


def count_doubled(url: str) -> int:
    """Return how many requests were erased or closed more than once."""
    question = """
        SELECT count(*) FROM (SELECT request_id FROM events
        WHERE to_state IN ('data_erased', 'closed') GROUP BY request_id, to_state
        HAVING count(*) > 1) AS doubled
    """
    engine = open_database(url).engine
    with engine.connect() as connection:
        doubled = int(connection.execute(sa.text(question)).scalar_one())
    engine.dispose()
    return doubled


def control(url: str) -> int:
    """Return the number of losses that are counted when three acknowledged requests are missing."""
    crashes = Crashes(acknowledged={"never-stored-1", "never-stored-2", "never-stored-3"})
    open_queue(url).dispose()
    _count(url, crashes)
    return crashes.lost


def _report(case: str, crashes: Crashes, repeats: int) -> list[dict[str, Any]]:
    rows = [row(case, "kills", [repeats], "kills")]
    rows += [
        row(case, f"kills in {name}", [crashes.killed_in[name]], "kills") for name in OPERATIONS
    ]
    rows.append(row(case, "acknowledged", [len(crashes.acknowledged)], "requests"))
    for name in ("lost", "doubled", "stuck"):
        rows.append(row(case, name, [getattr(crashes, name)], "requests", "control"))
    rows.append(row(case, "problems", [len(crashes.problems)], "kinds"))
    return rows


def main() -> int:
    """Kill on both databases, write the counts, and fail if anything was lost, doubled or stuck."""
    repeats = 20 if is_small() else 200
    rows: list[dict[str, Any]] = []
    bad = 0
    with tempfile.TemporaryDirectory() as name, running_postgres() as server:
        with new_database(server) as postgres:
            places = {"sqlite": f"sqlite:///{Path(name) / 'queue.db'}", "postgresql": postgres}
            for case, url in places.items():
                crashes = crash(url, repeats=repeats, seed=repeats)
                rows += _report(case, crashes, repeats)
                bad += crashes.lost + crashes.doubled + crashes.stuck + len(crashes.problems)
                sys.stdout.write(f"{case}: {crashes.killed_in} lost {crashes.lost}, doubled ")
                sys.stdout.write(f"{crashes.doubled}, stuck {crashes.stuck} {crashes.problems}\n")
                sys.stdout.flush()
        lost = control(f"sqlite:///{Path(name) / 'control.db'}")
    rows.append(row("control", "lost", [lost], "requests"))
    write_results("queue_crash", rows)
    return 1 if bad or lost != 3 else 0


if __name__ == "__main__":
    sys.exit(main())
