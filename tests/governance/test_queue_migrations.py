"""Laws of the queue's schema: upgraded from the first revision with its data, once, by anybody."""

import json
import multiprocessing
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from benchmarks.postgres import new_database
from governance.deletion_queue import State, open_queue
from governance.deletion_queue.database import REVISION, open_database
from governance.deletion_queue.tables import metadata
from governance.errors import RequestError

GOLDEN = json.loads(
    (Path(__file__).parent.parent / "golden/queue/0001.json").read_text(encoding="utf-8")
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def old_url(request, tmp_path):
    """A database as the code before migrations left it: its own rows, no table of Alembic."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'queue.db'}"
        _make_old(url)
        yield url
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        _make_old(url)
        yield url


def _make_old(url):
    database = open_database(url)
    config = Config()
    folder = files("governance.deletion_queue") / "migrations"
    config.set_main_option("script_location", str(folder))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("DROP TABLE alembic_version"))
        for table, rows in GOLDEN["tables"].items():
            for stored in sorted(rows, key=lambda row: bool(row.get("duplicate_of"))):
                row = dict(stored)
                if table == "leases":
                    row["returned"] = bool(row["returned"])
                values = ", ".join(f":{name}" for name in row)
                statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})"
                connection.execute(sa.text(statement), row)
    database.dispose()


def test_the_first_revision_is_the_schema_before_migrations(tmp_path):
    """Table by table, index by index and trigger by trigger, as SQLite tells it."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    _make_old(url)
    with open_database(url).engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        )
        made = {_plain(row[0]) for row in found}
    before = {_plain(sql) for sql in GOLDEN["schema"] if "sqlite_" not in sql}

    tables = {sql for sql in before if not sql.startswith("create trigger")}
    assert tables == {sql for sql in made if not sql.startswith("create trigger")}
    # The text of the transition trigger spells its pairs another way; the names must be there.
    assert _triggers(before) == _triggers(made)


def _plain(sql):
    return " ".join(sql.replace("IF NOT EXISTS ", "").replace('"', "").lower().split())


def _triggers(statements):
    return sorted(sql.split()[2] for sql in statements if sql.startswith("create trigger"))


def test_an_old_queue_is_upgraded_with_every_row(old_url):
    """States, histories, holds, answers and batches move over; nothing is lost or doubled."""
    queue = open_queue(old_url, dataset="people")

    assert queue.migrated_from == "0001"
    old = {row["request_id"]: row for row in GOLDEN["tables"]["requests"]}
    rows = {row.request_id: row for row in queue.list_requests()}
    assert {name: row["state"] for name, row in old.items()} == {
        name: row.state for name, row in rows.items()
    }
    for name, row in rows.items():
        before = old[name]
        assert row.target_key == before["target_key"]
        assert row.due_at.isoformat(timespec="microseconds") == before["due_at"]
        assert row.datasets == ("people",)
        history = [e["to_state"] for e in GOLDEN["tables"]["events"] if e["request_id"] == name]
        assert [event.to_state for event in queue.events(name)] == history
    assert queue.has_file("sha256:00")
    assert [one.ground for one in queue.reservations("held-words")] == ["unspecified"]
    assert [one.outcome for one in queue.answers("closed-forgotten")] == ["forgotten"]
    assert queue.find_problems() == []
    queue.dispose()


def test_an_upgraded_queue_goes_on(old_url):
    """Old ids, targets and duplicates are recognised; the batch after the erasure is finished."""
    queue = open_queue(old_url, dataset="people")
    later = NOW + timedelta(days=400)
    batch = queue.lease_batch("new-run", lease_s=60, max_items=50, now=later)
    assert batch.request_ids == ("erased",)
    for state in ("model_unlearned", "verified_forgotten", "propagated"):
        queue.transition("erased", state, token=batch.token, now=later)
    queue.close("erased", outcome="forgotten", claim="exact", token=batch.token, now=later)
    queue.release_lease(batch.batch_id, batch.token, now=later)

    rest = queue.lease_batch("next-run", lease_s=60, max_items=50, now=later)

    assert set(rest.request_ids) == {
        "leased",
        "planned",
        "approved",
        "waiting",
        "tenant",
        "was-held",
    }
    for name in rest.request_ids:
        queue.close(name, outcome="not_found", claim=None, token=rest.token, now=later)
    assert queue.get("copy").outcome == "duplicate"
    queue.release_hold("held-words", now=later)
    queue.verify("unverified", now=later)
    assert queue.counts() == {
        State.CLOSED: 11, State.QUEUED: 2, State.HELD: 1, State.NEEDS_PERSON: 1
    }  # fmt: skip
    assert queue.find_problems() == []
    queue.dispose()


def test_a_second_opening_changes_nothing(old_url):
    """It finds the schema as it should be."""
    open_queue(old_url, dataset="people").dispose()
    queue = open_queue(old_url, dataset="people")

    assert queue.migrated_from == REVISION
    queue.dispose()


def test_a_queue_of_a_newer_version_is_refused(queue_url):
    """Rather than used wrongly; the message says what to do."""
    queue = open_queue(queue_url)
    change = "UPDATE alembic_version SET version_num = '%s'"
    with queue._database.engine.begin() as connection:
        connection.execute(sa.text(change % "9999"))
    with pytest.raises(RequestError, match="newer version"):
        open_queue(queue_url)
    with queue._database.engine.begin() as connection:
        connection.execute(sa.text(change % REVISION))
    queue.dispose()


def _open(url, barrier, results):
    barrier.wait()
    queue = open_queue(url)
    results.put((queue.migrated_from, queue.find_problems()))
    queue.dispose()


def test_many_processes_may_open_a_new_queue_at_once(tmp_path):
    """One makes the tables, the others wait and find them."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(3), spawn.Queue()
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    children = [spawn.Process(target=_open, args=(url, barrier, results)) for _ in range(3)]
    for child in children:
        child.start()
    found = sorted((results.get(timeout=60) for _ in children), key=str)
    for child in children:
        child.join(timeout=60)

    assert found == [(REVISION, []), (REVISION, []), (None, [])]


def test_the_code_works_with_the_newest_revision():
    """``REVISION`` is Alembic's head."""
    config = Config()
    config.set_main_option(
        "script_location", str(files("governance.deletion_queue") / "migrations")
    )

    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_tables_of_the_code_are_those_of_the_database(queue):
    """Name, nullability and primary key of every column."""
    inspector = sa.inspect(queue._database.engine)
    found, expected = {}, {}
    for table in metadata.sorted_tables:
        keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
        for column in inspector.get_columns(table.name):
            nullable = column["nullable"] and column["name"] not in keys
            found[table.name, column["name"]] = (nullable, column["name"] in keys)
        for column in table.columns:
            expected[table.name, column.name] = (bool(column.nullable), column.primary_key)

    assert found == expected


def test_no_question_of_a_lease_scans_the_queue_on_sqlite(tmp_path, ask):
    """Also with statistics: the time of a claim must not grow with what is waiting."""
    queue = open_queue(f"sqlite:///{tmp_path / 'queue.db'}")
    queue.submit_many([ask(f"r{number}") for number in range(2000)])
    asked = []

    @sa.event.listens_for(queue._database.engine, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, many):
        asked.append((statement, parameters))

    with queue._database.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
    batch = queue.lease_batch("run", lease_s=60, max_items=10, now=NOW)
    queue.transition_all(batch.request_ids, "planned", token=batch.token, now=NOW)
    queue.release_lease(batch.batch_id, batch.token, now=NOW)
    statements = [pair for pair in asked if not pair[0].startswith(("BEGIN", "ANALYZE"))]
    with queue._database.engine.connect() as connection:
        plans = [
            row[3]
            for statement, parameters in statements
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    queue.dispose()

    assert len(plans) > 10
    assert [plan for plan in plans if plan.startswith("SCAN requests")] == []


@pytest.mark.parametrize("state", ["held", "unverified", "needs_person", "duplicate"])
def test_a_list_by_state_uses_its_index_on_sqlite(tmp_path, ask, state):
    """What a person looks for is found without a look at all that waits; a wrong word: none."""
    queue = open_queue(f"sqlite:///{tmp_path / 'queue.db'}")
    queue.submit_many([ask(f"r{number}") for number in range(50)])
    asked = []

    @sa.event.listens_for(queue._database.engine, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, many):
        asked.append((statement, parameters))

    assert queue.list_requests(state, limit=10) == []
    with queue._database.engine.connect() as connection:
        ((statement, parameters),) = asked
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert queue.list_requests("no such state") == []
    queue.dispose()

    assert "USING INDEX standing" in str(plan)
