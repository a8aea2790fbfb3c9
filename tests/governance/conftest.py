"""Both databases of the deletion queue: a SQLite file, and a real PostgreSQL for the session."""

from datetime import UTC, datetime

import psycopg
import pytest

from benchmarks.postgres import new_database, running_postgres
from governance.deletion_queue import SubmittedRequest, open_queue

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


_TABLES = (
    "requests", "events", "reservations", "answers", "pauses", "leases", "batch_items", "files"
)  # fmt: skip


@pytest.fixture(scope="session")
def postgres_url():
    """URL of a running server; it is stopped when the session ends."""
    with running_postgres(durable=False) as url:
        yield url


@pytest.fixture(scope="session")
def wipe_postgres_queue(postgres_url):
    """Empty the one queue that the tests share on PostgreSQL, and return its URL.

    Only a superuser can do it: as a replica that takes no notice of triggers. A database for each
    test would take seconds on a busy disk.
    """
    with new_database(postgres_url) as url:
        open_queue(url).dispose()

        def wipe():
            with psycopg.connect(url) as connection:
                connection.execute("SET session_replication_role = replica")
                for table in _TABLES:
                    connection.execute(f"DELETE FROM {table}")
            return url

        yield wipe


@pytest.fixture(params=["sqlite", "postgresql"])
def queue_url(request, tmp_path):
    """URL of an empty queue in each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.db'}"
    return request.getfixturevalue("wipe_postgres_queue")()


@pytest.fixture
def queue(queue_url):
    """An empty queue in each database."""
    opened = open_queue(queue_url)
    yield opened
    assert opened.find_problems() == []
    opened.dispose()


@pytest.fixture
def ask():
    """Make a verified request for all records of a person of its own."""

    def make(name, **changes):
        content = {"request_id": name, "subject_key": f"key-of-{name}", "received_at": NOW}
        return SubmittedRequest(**(content | changes))

    return make
