"""The steps of a batch: many requests move on, and close, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from governance.deletion_queue import tables as t
from governance.deletion_queue.changing import (
    Change,
    copies_of,
    join_primary,
    live_primary,
    move,
    move_many,
    parts_of,
    promote_copy,
)
from governance.deletion_queue.deciding import close_copies
from governance.deletion_queue.leasing import require_lease
from governance.deletion_queue.records import Closing
from governance.deletion_queue.states import (
    AFTER_ERASURE,
    LIVE,
    TRANSITIONS,
    Outcome,
    State,
    is_behind,
)
from governance.errors import RequestError

_R = t.requests.c
_WHERE_IT_STANDS = (_R.request_id, _R.state, _R.batch_id, _R.dataset, _R.datasets)


def transition_all(
    change: Change,
    request_ids: Sequence[str],
    to_state: str,
    *,
    token: int,
    reason: str | None,
) -> None:
    """Move leased requests on; those that are there already stay as they are."""
    state = State(to_state)
    lease = require_lease(change, token)
    rows = _locked(change, request_ids)
    _require_batch(rows, lease.batch_id, len(set(request_ids)))
    ahead = [row for row in rows if not is_behind(row.state, state)]
    _require_legal(ahead, state)
    values: dict[str, Any] = {}
    if state in AFTER_ERASURE:
        values = {"erasure_at": sa.func.coalesce(_R.erasure_at, change.at), "live_target": None}
    elif state not in LIVE:
        values = {"live_target": None}
    move_many(change, [row.request_id for row in ahead], state, reason, values)


def close_many(change: Change, closings: Sequence[Closing], *, token: int) -> None:
    """Close the parts of leased requests in the batch's dataset, and the requests that are over.

    Duplicates close with their primary. Those that ask for a tenant or class and came while it was
    in the batch are worked on instead: rows may have come in since its plan was made.
    """
    wanted = {closing.request_id: closing for closing in closings}
    rows = [row for row in _locked(change, wanted) if row.state != State.CLOSED]
    if not rows:
        return
    lease = require_lease(change, token)
    over = _answered(change, rows, lease.batch_id)
    rows = [row for row in rows if row.request_id not in over]
    _require_batch(rows, lease.batch_id, len(rows))
    _require_legal(rows, State.CLOSED)
    alone = {dataset: json.dumps([dataset]) for dataset in {row.dataset for row in rows}}
    closed = [row.request_id for row in rows if row.datasets == alone[row.dataset]]
    several = {row.request_id for row in rows}.difference(closed)
    _close_alike(change, closed, wanted)
    whole = _locked(change, several, t.requests) if several else []
    closed += [r.request_id for r in whole if _close_part(change, r, wanted[r.request_id])]
    _close_copies(change, closed)


def _close_alike(change: Change, request_ids: Sequence[str], wanted: dict[str, Closing]) -> None:
    """Close requests for one dataset, together where they end alike."""
    groups: dict[tuple[str, str | None, str | None], list[str]] = {}
    for request_id in request_ids:
        one = wanted[request_id]
        details = json.dumps(one.details) if one.details else None
        groups.setdefault((one.outcome, one.claim, details), []).append(request_id)
    for (word, claim, details), ids in groups.items():
        outcome = Outcome(word).value
        answers = partial(_answers, outcome=outcome, claim=claim, at=change.at)
        values = {
            "outcome": outcome,
            "claim": claim,
            "closed_at": change.at,
            "live_target": None,
            "hold_ground": None,
        }
        told = json.loads(details) if details else None
        move_many(change, ids, State.CLOSED, outcome, values, told, also=answers)


def _answers(
    chosen: sa.ColumnElement[bool], *, outcome: str, claim: str | None, at: str
) -> sa.Insert:
    words = (sa.literal(outcome), sa.literal(claim, sa.Text), sa.literal(at))
    source = sa.select(_R.request_id, _R.dataset, *words, _R.batch_id).where(chosen)
    names = ["request_id", "dataset", "outcome", "claim", "at", "batch_id"]
    return sa.insert(t.answers).from_select(names, source)


def _close_part(change: Change, row: Any, closing: Closing) -> bool:
    """Answer one dataset of several; send the request on to the next, or close it."""
    change.connection.execute(
        sa.insert(t.answers).values(
            request_id=row.request_id,
            dataset=row.dataset,
            outcome=Outcome(closing.outcome).value,
            claim=closing.claim,
            at=change.at,
            batch_id=row.batch_id,
        )
    )
    parts = parts_of(change, row)
    details = {**(closing.details or {}), "dataset": row.dataset, "outcome": closing.outcome}
    if parts.is_over:
        values = {
            "outcome": parts.outcome,
            "claim": parts.claim,
            "closed_at": change.at,
            "hold_ground": None,
        }
        move(change, row, State.CLOSED, parts.outcome, values, details)
        return True
    next_dataset = (*parts.workable, *parts.held)[0]
    ground = next(iter(parts.held.values()), None)
    values = {"batch_id": None, "erasure_at": None, "dataset": next_dataset, "hold_ground": ground}
    primary = live_primary(change, row)
    reason = f"{closing.outcome} in one dataset"
    if primary is not None:
        join_primary(change, row, primary, reason, values, details)
    else:
        state = State.QUEUED if parts.workable else State.HELD
        move(change, row, state, reason, values, details)
    return False


def _close_copies(change: Change, closed: Sequence[str]) -> None:
    if not closed:
        return
    copies = copies_of(change, closed)
    late = {copy.request_id for copy in copies if copy.selector and _came_late(change, copy)}
    close_copies(change, [copy for copy in copies if copy.request_id not in late])
    for request_id in closed:
        mine = [c for c in copies if c.request_id in late and c.duplicate_of == request_id]
        if mine:
            primary = next(row for row in _locked(change, [request_id], t.requests))
            promote_copy(change, primary, mine)


def _came_late(change: Change, copy: Any) -> bool:
    """Say whether a duplicate joined after its primary's batch was taken."""

    def last(request_id: str, state: State) -> str:
        statement = sa.select(sa.func.max(t.events.c.at)).where(
            t.events.c.request_id == request_id, t.events.c.to_state == state.value
        )
        return change.connection.execute(statement).scalar() or ""

    return last(copy.request_id, State.DUPLICATE) > last(copy.duplicate_of, State.LEASED)


def _answered(change: Change, rows: Sequence[Any], batch_id: str) -> set[str]:
    """Return requests whose part was closed by this batch already."""
    moved_on = [row.request_id for row in rows if row.batch_id != batch_id]
    if not moved_on:
        return set()
    a = t.answers.c
    statement = sa.select(a.request_id).where(
        change.database.among(a.request_id, moved_on), a.batch_id == batch_id
    )
    return set(change.connection.execute(statement).scalars())


def _require_batch(rows: Sequence[Any], batch_id: str, n: int) -> None:
    inside = sum(row.batch_id == batch_id for row in rows)
    if inside < n:
        message = (
            f"batch {batch_id}: expected {n} of its requests, got {inside}; the others were held, "
            "cancelled or given back, and belong to no batch or to another one now"
        )
        raise RequestError(message)


def _require_legal(rows: Sequence[Any], to_state: State) -> None:
    states = {row.state for row in rows}
    illegal = {state for state in states if (State(state), to_state) not in TRANSITIONS}
    for row in rows:
        if row.state in illegal:
            message = f"request {row.request_id}: {row.state} -> {to_state} is not allowed"
            raise RequestError(message)


def _locked(
    change: Change, request_ids: Collection[str], *columns: sa.FromClause | sa.ColumnElement[Any]
) -> list[Any]:
    """Return some requests, locked in one order for everybody.

    Args:
        change: The change.
        request_ids: The requests.
        columns: What is wanted of them; where each of them stands if absent.

    Raises:
        RequestError: One of them does not exist.
    """
    statement = (
        sa.select(*(columns or _WHERE_IT_STANDS))
        .where(change.database.among(_R.request_id, request_ids))
        .order_by(_R.request_id)
        .with_for_update()
    )
    rows = list(change.connection.execute(statement).all())
    if len(rows) < len(set(request_ids)):
        message = f"expected {len(set(request_ids))} requests in the queue, got {len(rows)}"
        raise RequestError(message)
    return rows
