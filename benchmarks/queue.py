"""How fast the deletion queue takes requests in, and hands them out and closes them.

    python -m benchmarks.queue               (SIZE=small: a minute, once the peers are installed)

* Inserts on SQLite: single durable ones (a transaction and a sync each) and 100,000 in one
  transaction. Baseline: the disk itself, one synced 4 KiB write for each.
* Claim and finish on PostgreSQL, next to pgqueuer and procrastinate on the same server in the same
  run, each in one process. Twice: by the peers' workers with a task that does nothing, which is how
  they are used, and by their bare calls without a worker. Ours and pgqueuer take batches of one
  size; procrastinate has no batches and gets ten connections instead of one.
* Growth: the time of one lease of 100 requests while 10^3 to 10^6 are waiting.

Repeats alternate between the systems, so that other load on the machine meets all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.common import is_small, plot, row, write_results
from benchmarks.postgres import new_database, running_postgres
from governance.deletion_queue import Closing, SubmittedRequest, open_queue
from governance.deletion_queue.database import open_database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PEERS = ("pgqueuer[asyncpg]==1.6.0", "procrastinate==3.10.0")
_ROOT = Path(__file__).parent.parent
_PEER_ENVIRONMENT = _ROOT / "build" / "queue-peers"


def requests(n: int, *, first: int = 0) -> list[SubmittedRequest]:
    """Return n verified requests for n persons; ids are made by the queue."""
    return [
        SubmittedRequest(subject_key=f"{number:064x}", received_at=NOW)
        for number in range(first, first + n)
    ]


def synced_writes(folder: Path, n: int) -> float:
    """Return synced writes of 4 KiB per second: what the disk allows."""
    handle = os.open(folder / "synced", os.O_CREAT | os.O_WRONLY)
    started = time.perf_counter()
    for _ in range(n):
        os.write(handle, b"x" * 4096)
        os.fdatasync(handle)
    seconds = time.perf_counter() - started
    os.close(handle)
    return n / seconds


def single_inserts(folder: Path, n: int) -> float:
    """Return durable single inserts per second on SQLite."""
    queue = open_queue(f"sqlite:///{folder / 'single.db'}")
    asked = requests(n, first=int(time.time_ns()))
    started = time.perf_counter()
    for request in asked:
        queue.submit(request, now=NOW)
    seconds = time.perf_counter() - started
    queue.dispose()
    return n / seconds


def bulk_insert(folder: Path, n: int) -> float:
    """Return seconds of one bulk insert of n requests into an empty queue on SQLite."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "bulk.db"
    queue = open_queue(f"sqlite:///{path}")
    asked = requests(n)
    started = time.perf_counter()
    queue.submit_many(asked, now=NOW)
    seconds = time.perf_counter() - started
    queue.dispose()
    return seconds


def claim_and_finish(url: str, n: int, batch: int) -> float:
    """Return requests per second that are leased and closed, one batch after the other."""
    queue = open_queue(url)
    queue.submit_many(requests(n), now=NOW)
    _analyze(url)
    done = 0
    started = time.perf_counter()
    for turn in range(n):
        lease = queue.lease_batch(f"run-{turn}", lease_s=60, max_items=batch, now=NOW)
        if not lease.request_ids:
            break
        closings = [Closing(request_id=i, outcome="not_found") for i in lease.request_ids]
        queue.close_many(closings, token=lease.token, now=NOW)
        done += len(closings)
    seconds = time.perf_counter() - started
    queue.dispose()
    if done != n:
        message = f"expected {n} requests to be closed, got {done}"
        raise RuntimeError(message)
    return n / seconds


def peer(name: str, way: str, url: str, n: int, batch: int) -> float:
    """Return jobs per second of a peer, measured by its own process in its own environment."""
    plain = url.replace("postgres:@", "postgres@")  # an empty password is none
    arguments = [name, way, plain, str(n), str(batch)]
    command = [str(_peer_python()), "-m", "benchmarks.queue_peers", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT)  # noqa: S603
    return float(json.loads(done.stdout.strip().splitlines()[-1])["per_s"])


def _peer_python() -> Path:
    python = _PEER_ENVIRONMENT / "bin" / "python"
    ready = _PEER_ENVIRONMENT / "ready"
    if not ready.exists():
        venv.create(_PEER_ENVIRONMENT, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "psycopg[binary]", *PEERS]
        subprocess.run(install, check=True)  # noqa: S603
        ready.touch()
    return python


def lease_times(url: str, sizes: list[int], repeats: int) -> dict[int, list[float]]:
    """Return milliseconds of leases of 100 requests for each number of waiting ones."""
    queue = open_queue(url)
    found: dict[int, list[float]] = {}
    stored = 0
    for size in sizes:
        while stored < size:
            count = min(100_000, size - stored)
            queue.submit_many(requests(count, first=stored), now=NOW)
            stored += count
        _analyze(url)
        times = []
        for turn in range(repeats + 1):
            started = time.perf_counter()
            run_key = f"run-{size}-{turn}"
            lease = queue.lease_batch(run_key, lease_s=60, max_items=100, now=NOW)
            times.append((time.perf_counter() - started) * 1000)
            # Given back, so that as many are waiting for the next one.
            queue.release_lease(lease.batch_id, lease.token, now=NOW + timedelta(seconds=1))
        found[size] = times[1:]  # the first one warms caches up
    queue.dispose()
    return found


def _analyze(url: str) -> None:
    database = open_database(url)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("ANALYZE"))
    database.dispose()


def measure_inserts(folder: Path, small: bool) -> list[dict[str, Any]]:
    """Return rows for single and bulk inserts on SQLite."""
    n, repeats = (1_000, 3) if small else (5_000, 5)
    bulk = 20_000 if small else 100_000
    speeds: dict[str, list[float]] = {"disk": [], "single": [], "bulk": []}
    for _ in range(repeats):
        speeds["disk"].append(synced_writes(folder, n))
        speeds["single"].append(single_inserts(folder, n))
        speeds["bulk"].append(bulk_insert(folder, bulk))
    case = f"bulk of {bulk:,} on SQLite"
    return [
        row("synced writes of 4 KiB", "speed", speeds["disk"], "writes/s"),
        row("single durable inserts on SQLite", "speed", speeds["single"], "requests/s",
            "synced writes of 4 KiB"),
        row(case, "time", speeds["bulk"], "s"),
        row(case, "speed", [bulk / s for s in speeds["bulk"]], "requests/s",
            "single durable inserts on SQLite"),
    ]  # fmt: skip


def measure_claims(server: str, small: bool) -> list[dict[str, Any]]:
    """Return rows for claim and finish on PostgreSQL, ours and the peers' in turns."""
    n, repeats = (2_000, 2) if small else (20_000, 3)
    rows = []
    for batch in (100,) if small else (100, 1_000, 10_000):
        systems: dict[str, Callable[[str], float]] = {
            "ours": lambda url, b=batch: claim_and_finish(url, n, b)
        }
        # Procrastinate fetches jobs one by one, whatever the batch is.
        for name in ("pgqueuer", "procrastinate") if batch == 100 else ("pgqueuer",):
            for way in ("worker", "calls"):
                systems[f"{name} {way}"] = lambda url, p=name, w=way, b=batch: peer(p, w, url, n, b)
        speeds: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(repeats):
            for name, run in systems.items():
                with new_database(server) as url:
                    speeds[name].append(run(url))
        rows += [
            row(f"{name}, batches of {batch}", "claim and finish", values, "requests/s",
                None if name == "ours" else f"ours, batches of {batch}")
            for name, values in speeds.items()
        ]  # fmt: skip
    return rows


def main() -> None:
    """Measure everything, write results and plot."""
    small = is_small()
    sizes = [10**k for k in range(3, 6 if small else 7)]
    with tempfile.TemporaryDirectory() as name, running_postgres() as server:
        folder = Path(name)
        rows = measure_inserts(folder, small)
        _show(rows)
        rows += measure_claims(server, small)
        _show(rows)
        growth: dict[str, dict[int, list[float]]] = {}
        with new_database(server) as postgres:
            places = {"SQLite": f"sqlite:///{folder / 'growth.db'}", "PostgreSQL": postgres}
            for database, url in places.items():
                growth[database] = lease_times(url, sizes, 5 if small else 20)
                base = f"lease of 100 on {database}, {sizes[0]:,} waiting"
                rows += [
                    row(f"lease of 100 on {database}, {size:,} waiting", "time", times, "ms", base)
                    for size, times in growth[database].items()
                ]
    _show(rows)
    write_results("queue", rows)

    def draw(axes: Any) -> None:
        for database, marker in (("SQLite", "o"), ("PostgreSQL", "s")):
            times = growth[database]
            middle = [sorted(times[size])[len(times[size]) // 2] for size in sizes]
            low = [m - min(times[s]) for m, s in zip(middle, sizes, strict=True)]
            high = [max(times[s]) - m for m, s in zip(middle, sizes, strict=True)]
            axes.errorbar(sizes, middle, yerr=[low, high], marker=marker, capsize=3, label=database)
        axes.set(xscale="log", xlabel="waiting requests", ylabel="ms for a lease of 100")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    plot("queue", draw, title="The time of a lease does not grow with the queue")


def _show(rows: list[dict[str, Any]]) -> None:
    for one in rows:
        text = f"{one['case']}, {one['metric']}: {one['value']:,.4g} {one['unit']}\n"
        sys.stdout.write(text)
    sys.stdout.write("\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
