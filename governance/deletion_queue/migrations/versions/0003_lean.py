"""Indexes that hold only what is asked for, and one guard for all rows of an update.

An index over the state of every request is written at every step of each of them; what a lease
asks for is in a few states. On PostgreSQL the rules for changed requests are tested once for each
statement instead of once for each row: the same rules, read from the migration that made them.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import re
from importlib import import_module

from alembic import op

revision = "0003"
down_revision = "0002"

_AFTER = "'data_erased', 'escalated_exact', 'model_unlearned', 'verified_forgotten', 'propagated'"
_STANDING = """
    'unverified', 'held', 'exempt', 'duplicate', 'cancelled', 'rejected', 'retry_wait',
    'needs_person'
"""
_INDEXES = f"""
CREATE INDEX waiting ON requests (dataset, due_at, risk DESC, request_id) WHERE state = 'queued';
CREATE INDEX erasing ON requests (dataset, batch_id) WHERE state IN ({_AFTER});
CREATE INDEX standing ON requests (state, due_at, request_id) WHERE state IN ({_STANDING})
"""
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


def upgrade() -> None:
    """Change the indexes, and the guard on PostgreSQL."""
    op.execute("DROP INDEX by_state")
    for statement in _INDEXES.split(";\n"):
        op.execute(statement)
    if op.get_bind().dialect.name != "sqlite":
        # SQLite asks the whole index for the foreign key of a lease.
        op.execute("DROP INDEX by_batch")
        op.execute(
            "CREATE INDEX by_batch ON requests (batch_id) "
            "WHERE batch_id IS NOT NULL AND state <> 'closed'"
        )
        _guard_statements()


def _guard_statements() -> None:
    guards = import_module("governance.deletion_queue.migrations.versions.0002_guarded")._GUARDS
    tests = {m: refused for table, when, refused, m in guards if (table, when) == _ON_UPDATE}
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
