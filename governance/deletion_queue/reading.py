"""Questions to the queue. They never wait for a writer and change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from governance.deletion_queue import tables as t
from governance.deletion_queue.database import Database
from governance.deletion_queue.moments import instant, maybe_instant, text
from governance.deletion_queue.records import (
    Answer,
    Event,
    LeaseRow,
    Pause,
    Pseudonyms,
    RequestRow,
    Reservation,
)
from governance.deletion_queue.states import IN_BATCH, State
from governance.errors import RequestError

_R = t.requests.c


def get(database: Database, request_id: str) -> RequestRow:
    """Return one request.

    Raises:
        RequestError: There is no such request.
    """
    statement = sa.select(t.requests).where(_R.request_id == request_id)
    with database.read() as connection:
        row = connection.execute(statement).first()
    if row is None:
        message = f"request {request_id}: expected a request in the queue, got none"
        raise RequestError(message)
    return request_row(row)


def list_requests(
    database: Database,
    *,
    state: str | None = None,
    dataset: str | None = None,
    due_before: datetime | None = None,
    limit: int | None = None,
    after: RequestRow | None = None,
    open_only: bool = False,
) -> list[RequestRow]:
    """Return requests by deadline; ``limit`` and ``after`` (the last row of a page) give pages."""
    if state is not None and state not in set(State):
        return []
    statement = sa.select(t.requests).order_by(_R.due_at, _R.request_id)
    if open_only:
        statement = statement.where(_R.state != State.CLOSED.value)
    if state is not None:
        # Written out: a bound value does not tell SQLite that a partial index holds these rows.
        statement = statement.where(_R.state == sa.literal_column(f"'{State(state).value}'"))
    if dataset is not None:
        statement = statement.where(_R.dataset == dataset)
    if due_before is not None:
        statement = statement.where(_R.due_at < text(due_before))
    if after is not None:
        statement = statement.where(
            sa.tuple_(_R.due_at, _R.request_id)
            > sa.tuple_(sa.literal(text(after.due_at)), sa.literal(after.request_id))
        )
    if limit is not None:
        statement = statement.limit(limit)
    with database.read() as connection:
        return [request_row(row) for row in connection.execute(statement)]


def iterate_open(database: Database, *, chunk: int = 10_000) -> Iterator[RequestRow]:
    """Yield every request that is not closed, in memory that does not grow with their number."""
    statement = (
        sa.select(t.requests)
        .where(_R.state != State.CLOSED.value)
        .order_by(_R.request_id)
        .limit(chunk)
    )
    last = ""
    while True:
        with database.read() as connection:
            rows = connection.execute(statement.where(_R.request_id > last)).all()
        yield from (request_row(row) for row in rows)
        if len(rows) < chunk:
            return
        last = rows[-1].request_id


def batch_requests(database: Database, batch_id: str) -> list[RequestRow]:
    """Return all requests that belong to a batch, closed ones included."""
    items = t.batch_items.c
    statement = (
        sa.select(t.requests)
        .join(t.batch_items, items.request_id == _R.request_id)
        .where(items.batch_id == batch_id, _R.batch_id == batch_id)
        .order_by(_R.request_id)
    )
    with database.read() as connection:
        return [request_row(row) for row in connection.execute(statement)]


def snapshot(database: Database, batch_id: str) -> list[str]:
    """Return the requests that a batch was made of, those that left it included."""
    items = t.batch_items.c
    statement = sa.select(items.request_id).where(items.batch_id == batch_id)
    with database.read() as connection:
        return sorted(connection.execute(statement).scalars())


def events(database: Database, request_id: str) -> list[Event]:
    """Return the history of a request, oldest first."""
    statement = sa.select(t.events).where(t.events.c.request_id == request_id)
    with database.read() as connection:
        return [
            Event(
                row.request_id,
                row.number,
                row.at,
                row.from_state,
                row.to_state,
                row.reason,
                json.loads(row.details) if row.details else None,
                row.batch_id,
            )
            for row in connection.execute(statement.order_by(t.events.c.number))
        ]


def reservations(database: Database, request_id: str) -> list[Reservation]:
    """Return the holds and exemptions of a request, released ones included."""
    table = t.reservations
    statement = sa.select(table).where(table.c.request_id == request_id)
    with database.read() as connection:
        return [
            Reservation(
                row.request_id,
                row.dataset,
                row.kind,
                row.ground,
                row.reason,
                instant(row.placed_at),
                maybe_instant(row.released_at),
            )
            for row in connection.execute(statement.order_by(table.c.reservation_id))
        ]


def answers(database: Database, request_id: str) -> list[Answer]:
    """Return how the parts of a request ended, dataset by dataset."""
    table = t.answers
    statement = sa.select(table).where(table.c.request_id == request_id)
    with database.read() as connection:
        return [
            Answer(
                row.request_id, row.dataset, row.outcome, row.claim, instant(row.at), row.batch_id
            )
            for row in connection.execute(statement.order_by(table.c.at, table.c.dataset))
        ]


def pauses(database: Database, request_id: str) -> list[Pause]:
    """Return the intervals in which the clock of a request stood still."""
    table = t.pauses
    statement = sa.select(table).where(table.c.request_id == request_id)
    with database.read() as connection:
        return [
            Pause(row.request_id, instant(row.started_at), maybe_instant(row.ended_at), row.reason)
            for row in connection.execute(statement.order_by(table.c.started_at))
        ]


def counts(database: Database) -> dict[str, int]:
    """Return the number of requests by state."""
    statement = sa.select(_R.state, sa.func.count()).group_by(_R.state)
    with database.read() as connection:
        return {row[0]: row[1] for row in connection.execute(statement)}


def count_by_share(database: Database, now: datetime, levels: Sequence[float]) -> list[int]:
    """Return how many open requests have used each share of their period or more, not the next.

    The same as ``RequestRow.share_used``, counted in the database.

    Args:
        database: The database.
        now: The moment.
        levels: Shares, ascending.

    Returns:
        One number more than levels: the first is of those below all of them.
    """
    began = database.seconds(_R.clock_start)
    until = database.seconds(sa.func.coalesce(_R.paused_since, text(now)))
    spent = until - began - _R.paused_s
    whole = database.seconds(_R.due_at) - began - _R.paused_s
    reached = [(spent >= whole * level, at) for at, level in reversed([*enumerate(levels, 1)])]
    level = sa.case(*reached, else_=0).label("level")
    statement = sa.select(level, sa.func.count()).where(_R.state != State.CLOSED.value)
    with database.read() as connection:
        found = {row[0]: row[1] for row in connection.execute(statement.group_by("level"))}
    return [found.get(at, 0) for at in range(len(levels) + 1)]


def open_leases(database: Database) -> list[LeaseRow]:
    """Return leases that hold requests."""
    words = [state.value for state in (*IN_BATCH, State.NEEDS_PERSON)]
    columns = (t.leases.c.batch_id, t.leases.c.expires_at)
    statement = (
        sa.select(*columns, sa.func.count())
        .join(t.requests, _R.batch_id == t.leases.c.batch_id)
        .where(_R.state.in_(words))
        .group_by(*columns)
        .order_by(*columns)
    )
    with database.read() as connection:
        rows = connection.execute(statement).all()
    return [LeaseRow(row[0], instant(row[1]), row[2]) for row in rows]


def has_file(database: Database, digest: str) -> bool:
    """Return whether the requests of a file are stored."""
    with database.read() as connection:
        statement = sa.select(t.files.c.digest).where(t.files.c.digest == digest)
        return connection.execute(statement).first() is not None


def known_targets(database: Database, request_ids: Sequence[str]) -> dict[str, str]:
    """Return the target digests of those of many ids that are in the queue."""
    statement = sa.select(_R.request_id, _R.target_key)
    with database.read() as connection:
        found = connection.execute(statement.where(database.among(_R.request_id, request_ids)))
        return {row[0]: row[1] for row in found}


def key_ids(database: Database) -> dict[str, int]:
    """Return how many requests that are not closed are under each pseudonym key."""
    statement = (
        sa.select(_R.key_id, sa.func.count())
        .where(_R.state != State.CLOSED.value)
        .group_by(_R.key_id)
    )
    with database.read() as connection:
        return {row[0]: row[1] for row in connection.execute(statement)}


def request_row(row: Any) -> RequestRow:
    """Return a stored row as a record."""
    return RequestRow(
        request_id=row.request_id,
        state=row.state,
        outcome=row.outcome,
        claim=row.claim,
        subject_key=row.subject_key,
        record_keys=tuple(json.loads(row.record_keys)),
        selector=json.loads(row.selector) if row.selector else None,
        key_id=row.key_id,
        earlier=tuple(pseudonyms_of(one) for one in json.loads(row.earlier)) if row.earlier else (),
        target_key=row.target_key,
        datasets=tuple(json.loads(row.datasets)),
        dataset=row.dataset,
        risk=row.risk,
        regime=row.regime,
        ground=row.ground,
        received_at=instant(row.received_at),
        clock_start=instant(row.clock_start),
        due_at=instant(row.due_at),
        extended_at=maybe_instant(row.extended_at),
        paused_since=maybe_instant(row.paused_since),
        paused_s=row.paused_s,
        closed_at=maybe_instant(row.closed_at),
        hold_ground=row.hold_ground,
        duplicate_of=row.duplicate_of,
        batch_id=row.batch_id,
        erasure_at=maybe_instant(row.erasure_at),
        not_before=maybe_instant(row.not_before),
    )


def pseudonyms_of(stored: dict[str, Any]) -> Pseudonyms:
    """Return a target under an earlier key as it is stored with a request."""
    return Pseudonyms(
        key_id=stored["key_id"],
        subject_key=stored["subject_key"],
        record_keys=tuple(stored["record_keys"]),
        selector=stored.get("selector"),
    )
