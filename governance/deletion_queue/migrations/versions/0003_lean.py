"""Indexes that hold only what is asked for, and guards that cost little.

An index over the state of every request is written at every step of each of them; what a lease
asks for is in a few states. On PostgreSQL the rules for changed requests are tested once for each
statement instead of once for each row. SQLite builds a table in memory for every list of words each
time that a rule is tested, so there the lists become comparisons. The rules are the same, read from
the migration that made them.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType

from alembic import op

revision = "0003"
down_revision = "0002"

_AFTER = "data_erased escalated_exact model_unlearned verified_forgotten propagated"
_STANDING = "unverified held exempt duplicate cancelled rejected retry_wait needs_person"
_ON_UPDATE = ("requests", "UPDATE")
_IS_FIXED = "what was asked for is fixed"
_SEARCH_OF_EVENT = re.compile(r"NOT EXISTS \(SELECT 1 FROM events e WHERE .*?\)")
# As a value, not as EXISTS: one look into the index for each row, never a scan of all events.
_LOOK_UP_EVENT = (
    "(SELECT e.to_state FROM events e WHERE e.request_id = NEW.request_id AND "
    "e.number = NEW.n_events) IS DISTINCT FROM NEW.state"
)
# What the foreign key said; that one looked, and locked, once more for each row of a batch. New
# requests are in no batch, and leases are never renamed or deleted.
_NO_LEASE = (
    "NEW.batch_id IS DISTINCT FROM OLD.batch_id AND NEW.batch_id IS NOT NULL AND "
    "NOT EXISTS (SELECT 1 FROM leases l WHERE l.batch_id = NEW.batch_id)"
)
_LIST = re.compile(r"([\w.]+(?: \|\| '>' \|\| [\w.]+)?) (NOT )?IN \(('[^)]+')\)")


def _one_of(words: str) -> str:
    return " OR ".join(f"state = '{word}'" for word in words.split())


_INDEXES = f"""
CREATE INDEX waiting ON requests (dataset, due_at, risk DESC, request_id) WHERE state = 'queued';
CREATE INDEX erasing ON requests (dataset, batch_id) WHERE {_one_of(_AFTER)};
CREATE INDEX standing ON requests (state, due_at, request_id) WHERE {_one_of(_STANDING)}
"""


def upgrade() -> None:
    """Change the indexes and the guards."""
    op.execute("DROP INDEX by_state")
    for statement in _INDEXES.split(";\n"):
        op.execute(statement)
    guards = import_module("governance.deletion_queue.migrations.versions.0002_guarded")
    if op.get_bind().dialect.name == "sqlite":
        _compare_in_triggers(guards)
        _compare_in_checks()
        return
    # SQLite asks the whole index for the foreign key of a lease.
    op.execute("DROP INDEX by_batch")
    op.execute(
        "CREATE INDEX by_batch ON requests (batch_id) "
        "WHERE batch_id IS NOT NULL AND state <> 'closed'"
    )
    _guard_statements(guards)


def _compare_in_triggers(guards: ModuleType) -> None:
    triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    for (name,) in op.get_bind().exec_driver_sql(triggers).all():
        op.execute(f"DROP TRIGGER {name}")
    guards.guard_sqlite(compared)


def _compare_in_checks() -> None:
    """Rewrite the checks where SQLite keeps them: no stored row changes.

    As in "Making Other Kinds Of Table Schema Changes" of SQLite's documentation of ALTER TABLE.
    """
    connection = op.get_bind()
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    tables = "FROM sqlite_master WHERE type = 'table' AND sql LIKE '%CHECK%'"
    for name, text in connection.exec_driver_sql(f"SELECT name, sql {tables}").all():
        change = "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?"
        connection.exec_driver_sql(change, (compared(text), name))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = RESET")


def compared(test: str) -> str:
    """Return a test with comparisons in place of lists of words; of nothing it stays unknown.

    >>> compared("state NOT IN ('a', 'b')")
    "NOT CASE state WHEN 'a' THEN 1 WHEN 'b' THEN 1 ELSE state IS NULL AND NULL END"
    """

    def cases(found: re.Match[str]) -> str:
        value, no, words = found.groups()
        tests = " ".join(f"WHEN {word} THEN 1" for word in words.split(", "))
        return f"{no or ''}CASE {value} {tests} ELSE {value} IS NULL AND NULL END"

    return _LIST.sub(cases, test)


def _guard_statements(guards: ModuleType) -> None:
    rules = guards.GUARDS
    tests = {m: refused for table, when, refused, m in rules if (table, when) == _ON_UPDATE}
    fixed = tests.pop(_IS_FIXED)
    op.execute("ALTER TABLE requests DROP CONSTRAINT requests_batch_id_fkey")
    op.execute("DROP TRIGGER guard_requests_update ON requests")
    # Not called at all by an update that names none of these columns.
    op.execute(
        "CREATE FUNCTION guard_requests_fixed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {fixed} THEN RAISE EXCEPTION '{_IS_FIXED}' USING ERRCODE = 'check_violation'; "
        "END IF; RETURN NEW; END $$"
    )
    columns = ", ".join(sorted(set(re.findall(r"NEW\.(\w+)", fixed))))
    op.execute(
        f"CREATE TRIGGER guard_requests_fixed BEFORE UPDATE OF {columns} ON requests "
        "FOR EACH ROW EXECUTE FUNCTION guard_requests_fixed()"
    )
    tests["a batch needs its lease"] = _NO_LEASE
    cases = " ".join(f"WHEN {_of_pairs(test)} THEN '{m}'" for m, test in tests.items())
    op.execute(
        f"""
        CREATE OR REPLACE FUNCTION guard_requests_update() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE problem TEXT;
        BEGIN
          SELECT max(CASE {cases} END) INTO problem
            FROM old_rows o JOIN new_rows n USING (request_id);
          IF problem IS NOT NULL THEN
            RAISE EXCEPTION '%', problem USING ERRCODE = 'check_violation';
          END IF;
          RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER guard_requests_update AFTER UPDATE ON requests "
        "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION guard_requests_update()"
    )


def _of_pairs(test: str) -> str:
    """Return a test of one row's trigger as one of pairs of old and new rows."""
    return _SEARCH_OF_EVENT.sub(_LOOK_UP_EVENT, test).replace("OLD.", "o.").replace("NEW.", "n.")
