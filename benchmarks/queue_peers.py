"""Claim-and-finish throughput of pgqueuer and procrastinate: their calls, and their workers.

    PYTHON_OF_THE_PEERS -m benchmarks.queue_peers PEER calls|worker URL N BATCH

Runs in a virtual environment of its own (``benchmarks/queue.py`` makes it), so it imports nothing
of this project. The last line of the output is JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from datetime import timedelta
from typing import Any


async def run_pgqueuer(url: str, n: int, batch: int, way: str) -> float:
    """Return jobs per second: dequeue in batches, and log each batch as successful."""
    import asyncpg  # noqa: PLC0415
    from pgqueuer.ports.repository import EntrypointExecutionParameter  # noqa: PLC0415
    from pgqueuer.queries import Queries  # noqa: PLC0415

    connection = await asyncpg.connect(url)
    queries = Queries.from_asyncpg_connection(connection)
    await queries.install()
    for start in range(0, n, 10_000):
        count = min(10_000, n - start)
        await queries.enqueue(["erase"] * count, [b"x" * 64] * count, [0] * count)
    await connection.execute("ANALYZE")
    if way == "worker":
        return await _work_pgqueuer(connection, n, batch)
    names = {"erase": EntrypointExecutionParameter(concurrency_limit=0)}
    manager = uuid.uuid4()
    done = 0
    started = time.perf_counter()
    while True:
        jobs = await queries.dequeue(
            batch_size=batch,
            entrypoints=names,
            queue_manager_id=manager,
            global_concurrency_limit=None,
            heartbeat_timeout=timedelta(seconds=60),
        )
        if not jobs:
            break
        await queries.log_jobs([(job, "successful", None) for job in jobs])
        done += len(jobs)
    seconds = time.perf_counter() - started
    await connection.close()
    return _speed(done, n, seconds)


async def _work_pgqueuer(connection: Any, n: int, batch: int) -> float:
    """Return jobs per second of its worker, whose task does nothing, until the queue is empty."""
    from pgqueuer import QueueManager  # noqa: PLC0415
    from pgqueuer.db import AsyncpgDriver  # noqa: PLC0415
    from pgqueuer.queries import Queries  # noqa: PLC0415
    from pgqueuer.types import QueueExecutionMode  # noqa: PLC0415

    manager = QueueManager(Queries(AsyncpgDriver(connection)))
    done = 0

    @manager.entrypoint("erase")
    async def erase(job: object) -> None:
        nonlocal done
        done += 1

    started = time.perf_counter()
    await manager.run(batch_size=batch, mode=QueueExecutionMode.drain)
    return _speed(done, n, time.perf_counter() - started)


async def run_procrastinate(url: str, n: int, batch: int, way: str) -> float:
    """Return jobs per second: ten coroutines fetch and finish jobs one by one, its only way."""
    from procrastinate import App, PsycopgConnector  # noqa: PLC0415
    from procrastinate.jobs import Status  # noqa: PLC0415

    app = App(connector=PsycopgConnector(conninfo=url, min_size=10, max_size=10))

    @app.task(name="erase")
    def erase(number: int) -> None:
        del number

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, n, batch):
            numbers = range(start, min(n, start + batch))
            await erase.batch_defer_async(*({"number": i} for i in numbers))
        await app.connector.execute_query_async("ANALYZE")
        if way == "worker":
            started = time.perf_counter()
            await app.run_worker_async(concurrency=10, wait=False, listen_notify=False)
            return n / (time.perf_counter() - started)
        manager = app.job_manager
        worker = await manager.register_worker()
        count = 0

        async def work() -> None:
            nonlocal count
            while (job := await manager.fetch_job(None, worker_id=worker)) is not None:
                await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
                count += 1

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(10)))
        seconds = time.perf_counter() - started
    return _speed(count, n, seconds)


def _speed(done: int, n: int, seconds: float) -> float:
    if done != n:
        message = f"expected {n} jobs to be finished, got {done}"
        raise RuntimeError(message)
    return n / seconds


if __name__ == "__main__":
    peer, way, url, n, batch = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    run = {"pgqueuer": run_pgqueuer, "procrastinate": run_procrastinate}[peer]
    sys.stdout.write(json.dumps({"per_s": asyncio.run(run(url, n, batch, way))}) + "\n")
