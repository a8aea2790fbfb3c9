"""States of the whole design, datasets, holds and answers per dataset, guards on both databases.

Rows move over: tokens are numbered anew (a run that was working leases its batch again), a hold
whose ground is not one of today's words becomes ``unspecified``.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_STATES = """
    received unverified verified held exempt duplicate cancelled rejected queued leased planned
    approved data_erased escalated_exact model_unlearned verified_forgotten propagated retry_wait
    needs_person closed
"""
_LEGAL = """
    approved>cancelled approved>closed approved>data_erased approved>exempt approved>held
    approved>needs_person approved>queued approved>rejected approved>retry_wait cancelled>closed
    data_erased>escalated_exact data_erased>model_unlearned data_erased>needs_person
    duplicate>cancelled duplicate>closed duplicate>held duplicate>queued duplicate>rejected
    escalated_exact>model_unlearned escalated_exact>needs_person exempt>cancelled exempt>closed
    exempt>held exempt>queued held>cancelled held>exempt held>queued held>rejected
    leased>cancelled leased>closed leased>exempt leased>held leased>needs_person leased>planned
    leased>queued leased>rejected leased>retry_wait model_unlearned>needs_person
    model_unlearned>verified_forgotten needs_person>cancelled
    needs_person>closed needs_person>duplicate
    needs_person>escalated_exact needs_person>held needs_person>model_unlearned
    needs_person>queued planned>approved planned>cancelled planned>closed planned>exempt
    planned>held planned>needs_person planned>queued planned>rejected planned>retry_wait
    propagated>closed propagated>duplicate propagated>held propagated>needs_person
    propagated>queued queued>cancelled
    queued>exempt queued>held queued>leased queued>rejected received>unverified
    received>verified rejected>closed retry_wait>cancelled retry_wait>exempt retry_wait>held
    retry_wait>queued retry_wait>rejected unverified>cancelled unverified>rejected
    unverified>verified verified>duplicate verified>exempt verified>held verified>queued
    verified_forgotten>needs_person verified_forgotten>propagated
"""
_BEFORE = "'leased', 'planned', 'approved'"
_AFTER = "'data_erased', 'escalated_exact', 'model_unlearned', 'verified_forgotten', 'propagated'"
_LIVE = f"'queued', 'held', 'exempt', 'retry_wait', {_BEFORE}"
_ENTRY = "'unverified', 'queued', 'held', 'duplicate'"
_OUTCOMES = """
    forgotten not_found already_forgotten duplicate cancelled rejected kept_exempt partial
"""
_HOLDS = """
    legal_claim legal_obligation authority_order accuracy_contested unlawful_processing
    objection_pending unspecified
"""
_EXEMPTIONS = """
    freedom_of_expression legal_obligation public_health archiving_research legal_claims other_law
"""
_FIXED = """
    request_id subject_key record_keys selector key_id earlier target_key datasets regime
    received_at clock_start
"""
_FIXED_RESERVATION = "reservation_id request_id dataset kind ground placed_at"


def _words(text: str) -> str:
    return ", ".join(f"'{word}'" for word in text.split())


# Answers and batch items are written by statements that select from requests, and nothing is ever
# deleted: a foreign key could not fail, and costs a lookup for each of a batch's rows.
# {T} is the type of keys and times: on PostgreSQL in the order of bytes, as on SQLite.
_TABLES = f"""
CREATE TABLE requests (
  request_id {{T}} NOT NULL PRIMARY KEY,
  state TEXT NOT NULL CHECK (state IN ({_words(_STATES)})),
  n_events INTEGER NOT NULL CHECK (n_events > 0),
  outcome TEXT CHECK (outcome IN ({_words(_OUTCOMES)})),
  claim TEXT CHECK (claim IN ('exact', 'approximate', 'suppressed', 'retired')),
  subject_key TEXT,
  record_keys TEXT NOT NULL,
  selector TEXT,
  key_id TEXT NOT NULL,
  earlier TEXT,
  target_key {{T}} NOT NULL,
  live_target {{T}},
  datasets TEXT NOT NULL,
  dataset {{T}} NOT NULL,
  risk DOUBLE PRECISION NOT NULL CHECK (risk >= 0 AND risk <= 1),
  regime TEXT NOT NULL,
  regime_version INTEGER NOT NULL,
  ground TEXT,
  received_at {{T}} NOT NULL,
  clock_start {{T}} NOT NULL,
  due_at {{T}} NOT NULL,
  extended_at {{T}},
  paused_since {{T}},
  paused_s INTEGER NOT NULL CHECK (paused_s >= 0),
  closed_at {{T}},
  hold_ground TEXT CHECK (hold_ground IN ({_words(_HOLDS)})),
  duplicate_of {{T}} REFERENCES requests (request_id),
  batch_id {{T}} REFERENCES leases (batch_id),
  erasure_at {{T}},
  not_before {{T}},
  CONSTRAINT decided_has_an_outcome CHECK (
    (state IN ('closed', 'cancelled', 'rejected', 'exempt')) = (outcome IS NOT NULL)),
  CONSTRAINT closed_has_a_time CHECK ((state = 'closed') = (closed_at IS NOT NULL)),
  CONSTRAINT duplicate_has_a_primary CHECK (
    state <> 'duplicate' OR (duplicate_of IS NOT NULL AND duplicate_of <> request_id)),
  CONSTRAINT hold_has_a_ground CHECK ((state <> 'held') OR (hold_ground IS NOT NULL)),
  CONSTRAINT batch_fits_the_state CHECK (
    CASE WHEN state IN ({_BEFORE}, {_AFTER}, 'needs_person') THEN batch_id IS NOT NULL
         WHEN state IN ('closed', 'cancelled', 'rejected') THEN TRUE ELSE batch_id IS NULL END),
  CONSTRAINT erasure_fits_the_state CHECK (
    CASE WHEN state IN ({_AFTER}) THEN erasure_at IS NOT NULL
         WHEN state IN ('needs_person', 'closed') THEN TRUE
         ELSE erasure_at IS NULL END),
  CONSTRAINT retry_has_a_time CHECK ((state = 'retry_wait') = (not_before IS NOT NULL)),
  CONSTRAINT live_is_marked CHECK (
    (state IN ({_LIVE})) = (live_target IS NOT NULL))
);
CREATE UNIQUE INDEX one_primary ON requests (live_target) WHERE live_target IS NOT NULL;
CREATE INDEX by_state ON requests (state, dataset, due_at, risk DESC, request_id);
CREATE INDEX by_retry ON requests (dataset, not_before) WHERE not_before IS NOT NULL;
CREATE INDEX by_batch ON requests (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX by_primary ON requests (duplicate_of) WHERE duplicate_of IS NOT NULL;

CREATE TABLE events (
  request_id {{T}} NOT NULL,
  number INTEGER NOT NULL CHECK (number > 0),
  at {{T}} NOT NULL,
  from_state TEXT CHECK (from_state IN ({_words(_STATES)})),
  to_state TEXT NOT NULL CHECK (to_state IN ({_words(_STATES)})),
  reason TEXT,
  details TEXT,
  batch_id {{T}},
  PRIMARY KEY (request_id, number),
  CONSTRAINT first_comes_from_nowhere CHECK ((number = 1) = (from_state IS NULL))
) {{WITHOUT_ROWID}};

CREATE TABLE reservations (
  reservation_id {{SERIAL}},
  request_id {{T}} NOT NULL REFERENCES requests (request_id),
  dataset TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('hold', 'exemption')),
  ground TEXT NOT NULL,
  reason TEXT,
  placed_at {{T}} NOT NULL,
  released_at {{T}},
  CONSTRAINT ground_fits_the_kind CHECK (
    CASE WHEN kind = 'hold' THEN ground IN ({_words(_HOLDS)})
         ELSE ground IN ({_words(_EXEMPTIONS)}) END)
);
CREATE INDEX reservations_of ON reservations (request_id);
CREATE UNIQUE INDEX one_reservation ON reservations (request_id, dataset, kind, ground)
  WHERE released_at IS NULL;

CREATE TABLE answers (
  request_id {{T}} NOT NULL,
  dataset TEXT NOT NULL,
  outcome TEXT NOT NULL CHECK (outcome IN ({_words(_OUTCOMES)})),
  claim TEXT CHECK (claim IN ('exact', 'approximate', 'suppressed', 'retired')),
  at {{T}} NOT NULL,
  batch_id {{T}},
  PRIMARY KEY (request_id, dataset)
) {{WITHOUT_ROWID}};

CREATE TABLE pauses (
  request_id {{T}} NOT NULL REFERENCES requests (request_id),
  started_at {{T}} NOT NULL,
  ended_at {{T}} CHECK (ended_at >= started_at),
  reason TEXT NOT NULL,
  PRIMARY KEY (request_id, started_at)
);
CREATE UNIQUE INDEX one_pause ON pauses (request_id) WHERE ended_at IS NULL;

CREATE TABLE batch_items (
  batch_id {{T}} NOT NULL,
  request_id {{T}} NOT NULL,
  PRIMARY KEY (batch_id, request_id)
) {{WITHOUT_ROWID}}
"""
_LEASES = """
CREATE TABLE leases (
  batch_id {T} NOT NULL PRIMARY KEY,
  run_key TEXT NOT NULL UNIQUE,
  holder TEXT NOT NULL,
  dataset TEXT NOT NULL,
  token INTEGER NOT NULL UNIQUE CHECK (token > 0),
  expires_at {T} NOT NULL,
  returned INTEGER NOT NULL CHECK (returned IN (0, 1)),
  n_requests INTEGER NOT NULL CHECK (n_requests >= 0),
  snapshot_digest TEXT NOT NULL
);
CREATE INDEX held_leases ON leases (expires_at) WHERE returned = 0;
CREATE INDEX by_holder ON leases (holder)
"""

_CHANGED = "OLD.state <> NEW.state"
# table, occasion, when it is refused, what the refusal says
GUARDS = (
    ("requests", "INSERT", f"NEW.state NOT IN ({_ENTRY})", "a request begins at the door"),
    (
        "requests",
        "UPDATE",
        f"{_CHANGED} AND OLD.state || '>' || NEW.state NOT IN ({_words(_LEGAL)})",
        "illegal transition",
    ),
    (
        "requests",
        "UPDATE",
        f"{_CHANGED} AND (NEW.n_events <= OLD.n_events OR NOT EXISTS (SELECT 1 FROM events e WHERE "
        "e.request_id = NEW.request_id AND e.number = NEW.n_events AND e.to_state = NEW.state))",
        "a change of state needs its event",
    ),
    (
        "requests",
        "UPDATE",
        " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in _FIXED.split()),
        "what was asked for is fixed",
    ),
    (
        "requests",
        "UPDATE",
        "OLD.state = 'closed'",
        "closed is final",
    ),
    ("requests", "DELETE", "TRUE", "requests are never deleted"),
    ("events", "UPDATE", "TRUE", "events are append-only"),
    ("events", "DELETE", "TRUE", "events are append-only"),
    ("answers", "UPDATE", "TRUE", "answers are append-only"),
    ("answers", "DELETE", "TRUE", "answers are append-only"),
    ("batch_items", "UPDATE", "TRUE", "the snapshot of a batch is fixed"),
    ("batch_items", "DELETE", "TRUE", "the snapshot of a batch is fixed"),
    (
        "reservations",
        "UPDATE",
        "OLD.released_at IS NOT NULL OR NEW.released_at IS NULL OR "
        + " OR ".join(
            f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in _FIXED_RESERVATION.split()
        ),
        "a reservation can only be released",
    ),
    ("reservations", "DELETE", "TRUE", "reservations are append-only"),
    (
        "pauses",
        "UPDATE",
        "OLD.ended_at IS NOT NULL OR NEW.started_at <> OLD.started_at OR "
        "NEW.request_id <> OLD.request_id",
        "a pause can only be ended",
    ),
    ("pauses", "DELETE", "TRUE", "pauses are append-only"),
    (
        "leases",
        "UPDATE",
        "NEW.token < OLD.token OR NEW.batch_id <> OLD.batch_id OR NEW.run_key <> OLD.run_key OR "
        "(OLD.n_requests > 0 AND NEW.snapshot_digest <> OLD.snapshot_digest)",
        "a token only grows and a snapshot is fixed",
    ),
    ("leases", "DELETE", "TRUE", "leases are never deleted"),
)


def upgrade() -> None:
    """Make the new tables, move every row over, and guard them."""
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    for name in ("legal_transition", "events_stay", "events_unchanged", "requests_stay"):
        if sqlite:
            op.execute(f"DROP TRIGGER {name}")
    for name in ("by_due", "by_target", "by_batch", "by_request"):
        op.execute(f"DROP INDEX {name}")
    for name in ("requests", "events", "leases"):
        op.execute(f"ALTER TABLE {name} RENAME TO {name}_1")
    if not sqlite:
        op.execute("CREATE SEQUENCE lease_token")
    types = {
        "T": "TEXT" if sqlite else 'TEXT COLLATE "C"',
        "WITHOUT_ROWID": "WITHOUT ROWID" if sqlite else "",
        "SERIAL": "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "SERIAL PRIMARY KEY",
    }
    for statement in (_LEASES + ";" + _TABLES).format(**types).split(";\n"):
        op.execute(statement)
    _move_leases(connection)
    _move_events(connection)
    _move_requests(connection)
    for name in ("events_1", "requests_1", "leases_1"):
        op.execute(f"DROP TABLE {name}")
    _guard(sqlite)


def guard_sqlite(written: Callable[[str], str]) -> None:
    """Make one trigger for each rule, whose test is written as a function of it says."""
    for number, (table, occasion, refused, message) in enumerate(GUARDS):
        name = f"guard_{table}_{occasion.lower()}_{number}"
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {occasion} ON {table} WHEN {written(refused)} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )


def _guard(sqlite: bool) -> None:
    if sqlite:
        guard_sqlite(str)
        return
    occasions: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for table, occasion, refused, message in GUARDS:
        occasions.setdefault((table, occasion), []).append((refused, message))
    for (table, occasion), refusals in occasions.items():
        name = f"guard_{table}_{occasion.lower()}"
        # One function for all refusals of an occasion: a call costs more than a comparison.
        tests = " ELS".join(
            f"IF {refused} THEN RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; "
            for refused, message in refusals
        )
        result = "OLD" if occasion == "DELETE" else "NEW"
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {tests} "
            f"END IF; RETURN {result}; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {occasion} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
    op.execute(
        "CREATE FUNCTION guard_truncate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE "
        "EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'check_violation'; END $$"
    )
    for table in sorted({guard[0] for guard in GUARDS}):
        op.execute(
            f"CREATE TRIGGER guard_truncate_{table} BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION guard_truncate()"
        )


def _dataset() -> str:
    config = op.get_context().config
    return "default" if config is None else str(config.attributes.get("dataset", "default"))


def _rows(connection: sa.Connection, statement: str) -> list[Any]:
    return list(connection.execute(sa.text(statement)))


def _insert(connection: sa.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    names = list(rows[0])
    values = ", ".join(f":{name}" for name in names)
    statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"
    connection.execute(sa.text(statement), rows)


def _move_leases(connection: sa.Connection) -> None:
    old = _rows(connection, "SELECT * FROM leases_1 ORDER BY batch_id")
    members: dict[str, list[str]] = {}
    for row in _rows(
        connection,
        "SELECT batch_id, request_id FROM requests_1 WHERE batch_id IS NOT NULL ORDER BY 2",
    ):
        members.setdefault(row.batch_id, []).append(row.request_id)
    rows = []
    for token, row in enumerate(old, start=1):
        ids = members.get(row.batch_id, [])
        rows.append(
            {
                "batch_id": row.batch_id,
                "run_key": row.run_key,
                "holder": row.run_key,
                "dataset": _dataset(),
                "token": token,
                "expires_at": row.expires_at,
                "returned": int(row.returned),
                "n_requests": len(ids),
                "snapshot_digest": "sha256:" + hashlib.sha256("\n".join(ids).encode()).hexdigest(),
            }
        )
    _insert(connection, "leases", rows)
    if connection.dialect.name != "sqlite":
        connection.execute(sa.text(f"SELECT setval('lease_token', {len(rows) + 1})"))


def _move_events(connection: sa.Connection) -> None:
    rows = [
        {
            "request_id": row.request_id,
            "number": row.number,
            "at": row.at,
            "from_state": row.from_state,
            "to_state": row.to_state,
            "reason": row.reason,
            "details": row.details,
            "batch_id": None,
        }
        for row in _rows(
            connection,
            "SELECT *, row_number() OVER (PARTITION BY request_id ORDER BY event_id) AS number "
            "FROM events_1",
        )
    ]
    _insert(connection, "events", rows)


def _move_requests(connection: sa.Connection) -> None:
    told = {
        row.request_id: row
        for row in _rows(
            connection, "SELECT request_id, count(*) AS n, max(at) AS at FROM events_1 GROUP BY 1"
        )
    }
    in_batch = {word.strip("'") for word in f"{_BEFORE}, {_AFTER}".split(", ")}
    old = _rows(connection, "SELECT * FROM requests_1 ORDER BY due_at, request_id")
    # A request in a batch claims its target first; a primary is stored before its duplicates.
    old.sort(key=lambda row: (row.duplicate_of is not None, row.state not in in_batch))
    live: dict[str, str] = {}
    requests, items, holds, answers = [], [], [], []
    for row in old:
        moved = _moved(row, told[row.request_id], live)
        requests.append(moved)
        if moved["batch_id"] is not None:
            items.append({"batch_id": moved["batch_id"], "request_id": moved["request_id"]})
        if moved["hold_ground"] is not None and moved["state"] != "closed":
            holds.append(
                {
                    "request_id": moved["request_id"],
                    "dataset": moved["dataset"],
                    "kind": "hold",
                    "ground": moved["hold_ground"],
                    "placed_at": told[row.request_id].at,
                }
            )
        if row.outcome in {"forgotten", "not_found", "already_forgotten"}:
            names = ("request_id", "dataset", "outcome", "claim", "batch_id")
            answers.append({**{name: moved[name] for name in names}, "at": moved["closed_at"]})
    _insert(connection, "requests", requests)
    _insert(connection, "batch_items", items)
    _insert(connection, "reservations", holds)
    _insert(connection, "answers", answers)


def _moved(row: Any, told: Any, live: dict[str, str]) -> dict[str, Any]:
    dataset = _dataset()
    digest = hashlib.sha256(f"{row.target_key}\x00{dataset}".encode()).hexdigest()[:32]
    state, duplicate_of = row.state, row.duplicate_of
    is_live = f"'{state}'" in _LIVE
    if is_live and digest in live:
        # The old queue could not have made this on SQLite; two writers on PostgreSQL could.
        state, duplicate_of, is_live = "duplicate", live[digest], False
    if is_live:
        live[digest] = row.request_id
    keeps_batch = state not in {"queued", "held", "duplicate", "unverified"}
    ground = row.hold_ground
    if ground is not None and ground not in _HOLDS.split():
        ground = "unspecified"
    return {
        "request_id": row.request_id,
        "state": state,
        "n_events": told.n,
        "outcome": row.outcome,
        "claim": row.claim,
        "subject_key": row.subject_key,
        "record_keys": row.record_keys,
        "selector": row.selector,
        "key_id": "",
        "target_key": row.target_key,
        "live_target": digest if is_live else None,
        "datasets": json.dumps([dataset]),
        "dataset": dataset,
        "risk": 1.0,
        "regime": row.regime,
        "regime_version": 1,
        "received_at": row.received_at,
        "clock_start": row.clock_start,
        "due_at": row.due_at,
        "paused_s": 0,
        "closed_at": row.closed_at,
        "hold_ground": ground,
        "duplicate_of": duplicate_of,
        "batch_id": row.batch_id if keeps_batch else None,
        "erasure_at": told.at if f"'{state}'" in _AFTER else None,
    }
