"""The statutory clock of one request: extension with notice, pauses, the deadline that follows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from governance.clock import due_at, paused_for
from governance.deletion_queue import tables as t
from governance.deletion_queue.changing import Change, locked_row, move
from governance.deletion_queue.moments import instant, maybe_instant, text
from governance.deletion_queue.states import State
from governance.errors import RequestError
from governance.regimes import load_regime


def extend(change: Change, request_id: str, *, reason: str, notice_at: datetime) -> datetime:
    """Extend the period of a request whose person was told in time, and return the new deadline."""
    row = locked_row(change, request_id)
    regime = load_regime(row.regime)
    _require_open(row)
    problem = None
    if not reason.strip():
        problem = "expected a reason for the extension, got none"
    elif not (regime.extension_months or regime.extension_days):
        problem = f"regime {regime.name} knows no extension"
    elif row.extended_at is not None:
        problem = "expected one extension at most, it is extended already"
    elif notice_at < instant(row.received_at) or notice_at > change.now:
        problem = "expected a notice between the receipt and now"
    elif notice_at > instant(row.due_at):
        problem = (
            f"expected a notice by {row.due_at[:10]}, within the first period, got a later one"
        )
    if problem is not None:
        message = f"request {request_id}: {problem}"
        raise RequestError(message)
    due = _deadline(change, row, extended=True)
    values = {"extended_at": text(notice_at), "due_at": text(due)}
    details = {"clock": "extended", "due_at": text(due), "notice_at": text(notice_at)}
    move(change, row, State(row.state), reason, values, details)
    return due


def pause(change: Change, request_id: str, *, reason: str) -> None:
    """Stop the clock, as while the person is asked to prove who they are."""
    row = locked_row(change, request_id)
    _require_open(row)
    problem = None
    if not reason.strip():
        problem = "expected a reason for the pause, got none"
    elif row.paused_since is not None:
        problem = "expected a running clock to pause, it is paused already"
    elif change.now > instant(row.due_at):
        problem = "the period is over: a pause comes too late"
    if problem is not None:
        message = f"request {request_id}: {problem}"
        raise RequestError(message)
    change.connection.execute(
        sa.insert(t.pauses).values(request_id=request_id, started_at=change.at, reason=reason)
    )
    values = {"paused_since": change.at}
    move(change, row, State(row.state), reason, values, {"clock": "paused"})


def resume_clock(change: Change, request_id: str) -> datetime:
    """Let the clock run on, and return the deadline that the pause pushed."""
    row = locked_row(change, request_id)
    if row.paused_since is None:
        message = f"request {request_id}: expected a paused clock to resume, it runs"
        raise RequestError(message)
    return instant(resume(change, row).due_at)


def resume(change: Change, row: Any) -> Any:
    """End the pause of a locked request and return the new row."""
    change.connection.execute(
        sa.update(t.pauses)
        .where(t.pauses.c.request_id == row.request_id, t.pauses.c.ended_at.is_(None))
        .values(ended_at=change.at)
    )
    due = _deadline(change, row, extended=row.extended_at is not None)
    waited = paused_for(instant(row.clock_start), _intervals(change, row.request_id))
    values = {
        "paused_since": None,
        "paused_s": int(waited.total_seconds()),
        "due_at": text(max(due, instant(row.due_at))),
    }
    details = {"clock": "running", "due_at": values["due_at"]}
    return move(change, row, State(row.state), "clock resumed", values, details)


def _deadline(change: Change, row: Any, *, extended: bool) -> datetime:
    return due_at(
        instant(row.clock_start),
        load_regime(row.regime),
        extended=extended,
        pauses=_intervals(change, row.request_id),
        time_zone=change.time_zone,
    )


def _intervals(change: Change, request_id: str) -> list[tuple[datetime, datetime | None]]:
    rows = change.connection.execute(sa.select(t.pauses).where(t.pauses.c.request_id == request_id))
    return [(instant(row.started_at), maybe_instant(row.ended_at)) for row in rows]


def _require_open(row: Any) -> None:
    if row.state == State.CLOSED:
        message = f"request {row.request_id}: expected an open request, it is answered"
        raise RequestError(message)
