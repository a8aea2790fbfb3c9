"""How a request changes: the event first, then the row; parts, duplicates and answers.

A request for several datasets passes through a batch once for each of them. ``settle`` decides,
after anything that changes what can be done, where a request goes next: to the next dataset, on
hold, or to its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from governance.deletion_queue import tables as t
from governance.deletion_queue.database import Database
from governance.deletion_queue.moments import text
from governance.deletion_queue.reading import pseudonyms_of
from governance.deletion_queue.records import live_key
from governance.deletion_queue.states import LIVE, TRANSITIONS, Outcome, State
from governance.errors import RequestError

_CLAIMS = ("exact", "retired", "approximate", "suppressed")
"""From the strongest to the weakest: the claim of several datasets is the weakest of theirs."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change under way: where, when, the time zone of days, and the current pseudonym key."""

    database: Database
    connection: sa.Connection
    now: datetime
    time_zone: str | None = None
    key_id: str | None = None

    @property
    def at(self) -> str:
        """The moment as it is stored."""
        return text(self.now)


@dataclass(frozen=True, slots=True)
class Parts:
    """What is left of a request, dataset by dataset.

    Attributes:
        workable: Neither answered, exempt nor held, in order.
        held: Held for now: dataset to ground.
        outcomes: Outcome of each dataset that is over, exemptions included.
        claims: Claims of the answered ones.
    """

    workable: tuple[str, ...]
    held: dict[str, str]
    outcomes: tuple[str, ...]
    claims: tuple[str, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not self.workable and not self.held

    @property
    def outcome(self) -> str:
        """One word for all of its datasets."""
        words = set(self.outcomes)
        return words.pop() if len(words) == 1 else Outcome.PARTIAL.value

    @property
    def claim(self) -> str | None:
        """The weakest claim of its datasets."""
        known = [claim for claim in self.claims if claim in _CLAIMS]
        return max(known, key=_CLAIMS.index) if known else None


def locked_row(change: Change, request_id: str) -> Any:
    """Return a request, locked until the transaction ends.

    Raises:
        RequestError: There is no such request.
    """
    statement = sa.select(t.requests).where(t.requests.c.request_id == request_id)
    row = change.connection.execute(statement.with_for_update()).first()
    if row is None:
        message = f"request {request_id}: expected a request in the queue, got none"
        raise RequestError(message)
    return row


def move(
    change: Change,
    row: Any,
    to_state: State,
    reason: str | None = None,
    values: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
) -> Any:
    """Move one locked request and return the new row; the same state writes a note.

    Raises:
        RequestError: The transition is not allowed.
    """
    if row.state != to_state and (State(row.state), to_state) not in TRANSITIONS:
        message = f"request {row.request_id}: {row.state} -> {to_state} is not allowed"
        raise RequestError(message)
    changed: dict[str, Any] = {
        "state": to_state.value,
        "n_events": row.n_events + 1,
        **(values or {}),
    }
    is_live = to_state in LIVE
    changed["live_target"] = live_key(row.target_key, json.loads(row.datasets)) if is_live else None
    change.connection.execute(
        sa.insert(t.events).values(
            request_id=row.request_id,
            number=row.n_events + 1,
            at=change.at,
            from_state=row.state,
            to_state=to_state.value,
            reason=reason,
            details=json.dumps(details) if details else None,
            batch_id=changed.get("batch_id", row.batch_id),
        )
    )
    where = t.requests.c.request_id == row.request_id
    change.connection.execute(sa.update(t.requests).where(where).values(**changed))
    return locked_row(change, row.request_id)


def note(change: Change, row: Any, reason: str, details: dict[str, Any] | None = None) -> Any:
    """Write an event that changes no state."""
    return move(change, row, State(row.state), reason, details=details)


def move_many(
    change: Change,
    ids: Sequence[str],
    to_state: State,
    reason: str | None,
    values: dict[str, Any],
    details: dict[str, Any] | None = None,
    also: Callable[[sa.ColumnElement[bool]], sa.Insert] | None = None,
) -> None:
    """Move many locked requests at once; the caller has checked that each of them may.

    Args:
        change: The change.
        ids: Requests.
        to_state: Where they go.
        reason: Why, for their events.
        values: What else changes in them.
        details: Details of their events.
        also: Makes one more insert out of the condition that chooses the requests.
    """
    if not ids:
        return
    r, e = t.requests.c, t.events
    chosen = change.database.among(r.request_id, ids)
    batch = values.get("batch_id", r.batch_id)
    source = sa.select(
        r.request_id,
        r.n_events + 1,
        sa.literal(change.at),
        r.state,
        sa.literal(to_state.value),
        sa.literal(reason, sa.Text),
        sa.literal(json.dumps(details) if details else None, sa.Text),
        sa.literal(batch, sa.Text) if batch is None or isinstance(batch, str) else batch,
    ).where(chosen)
    names = ["request_id", "number", "at", "from_state", "to_state", "reason", "details"]
    names.append("batch_id")
    inserts = [sa.insert(e).from_select(names, source)]
    if also is not None:
        inserts.append(also(chosen))
    changed = {"state": to_state.value, "n_events": r.n_events + 1, **values}
    update = sa.update(t.requests).where(chosen).values(**changed)
    if change.database.is_sqlite:
        for insert in inserts:
            change.connection.execute(insert)
    else:  # one statement: the ids are sent, and the guard is called, once
        update = update.add_cte(*(insert.cte(insert.table.name + "_new") for insert in inserts))
    change.connection.execute(update)


def parts_of(change: Change, row: Any) -> Parts:
    """Return what is left of a request, dataset by dataset."""
    answers = change.connection.execute(
        sa.select(t.answers).where(t.answers.c.request_id == row.request_id)
    ).all()
    reservations = change.connection.execute(
        sa.select(t.reservations).where(
            t.reservations.c.request_id == row.request_id, t.reservations.c.released_at.is_(None)
        )
    ).all()
    done = {one.dataset: one.outcome for one in answers}
    exempt = {one.dataset for one in reservations if one.kind == "exemption"} - done.keys()
    over = done.keys() | exempt
    held: dict[str, str] = {}
    for one in reservations:
        if one.kind == "hold" and one.dataset not in over:
            held.setdefault(one.dataset, one.ground)
    return Parts(
        workable=tuple(d for d in json.loads(row.datasets) if d not in over and d not in held),
        held=held,
        outcomes=(*done.values(), *(Outcome.KEPT_EXEMPT.value for _ in exempt)),
        claims=tuple(one.claim for one in answers if one.claim is not None),
    )


def settle(
    change: Change, row: Any, reason: str | None, details: dict[str, Any] | None = None
) -> Any:
    """Put a request where it belongs now, and return it: queued, held, exempt, or as it is.

    A request that is worked on in a dataset that is still workable stays in its batch. Before the
    identity is verified nothing moves.
    """
    parts = parts_of(change, row)
    state = State(row.state)
    ground = next(iter(parts.held.values()), None)
    if state in {State.UNVERIFIED, State.DUPLICATE, State.CLOSED}:
        return move(change, row, state, reason, {"hold_ground": ground}, details)
    if parts.is_over:
        primary = live_primary(change, row)
        if primary is not None:  # the exemption is about the data: the caller passes it on
            left = {**_OUT_OF_BATCH, "hold_ground": None}
            return join_primary(change, row, primary, "same target", left)
        values = {**_OUT_OF_BATCH, "hold_ground": None, "outcome": parts.outcome}
        return move(change, row, State.EXEMPT, reason, {**values, "claim": parts.claim}, details)
    if row.dataset in parts.workable and state not in {State.HELD, State.EXEMPT, State.VERIFIED}:
        return move(change, row, state, reason, {"hold_ground": ground}, details)
    values = {**_OUT_OF_BATCH, "hold_ground": ground, "outcome": None, "claim": None}
    if parts.workable:
        values["dataset"] = row.dataset if row.dataset in parts.workable else parts.workable[0]
    primary = live_primary(change, row)
    if primary is not None:
        return join_primary(change, row, primary, "same target", values)
    to_state = State.QUEUED if parts.workable else State.HELD
    return move(change, row, to_state, reason, values, details)


def join_primary(
    change: Change,
    row: Any,
    primary: str,
    reason: str,
    values: dict[str, Any],
    details: dict[str, Any] | None = None,
) -> Any:
    """Make a request a duplicate of a newer one; its own duplicates follow.

    Otherwise they would wait for a request that is a duplicate itself, and nobody would close them.
    """
    copies = copies_of(change, [row.request_id])
    moved = move(change, row, State.DUPLICATE, reason, {**values, "duplicate_of": primary}, details)
    for copy in copies:
        move(
            change,
            copy,
            State.DUPLICATE,
            f"primary is now {primary}",
            {"duplicate_of": primary},
        )
    return moved


_OUT_OF_BATCH = {"batch_id": None, "erasure_at": None, "not_before": None}


def live_primary(change: Change, row: Any) -> str | None:
    """Return another verified open request for the same target, under any of their keys."""
    mine = _live_keys(row)
    found = change.connection.execute(
        sa.select(t.requests.c.request_id).where(
            t.requests.c.live_target.in_(mine),
            t.requests.c.request_id != row.request_id,
        )
    ).first()
    return _newer_primary(change, row, mine) if found is None else str(found.request_id)


def _newer_primary(change: Change, row: Any, mine: list[str]) -> str | None:
    """Return an open request that came after a rotation and names the target of an older one.

    The index has it under its newest key, which the older request does not know. Requests under the
    current key need not be looked for like that, as nobody has a newer one.
    """
    if row.key_id == change.key_id:
        return None
    r = t.requests.c
    names = [row.subject_key, *json.loads(row.record_keys)[:1]]
    names.append(json.loads(row.selector)["value"] if row.selector else None)
    sought = next(name for name in names if name is not None)
    statement = sa.select(r.request_id, r.datasets, r.earlier).where(
        r.live_target.is_not(None),
        r.request_id != row.request_id,
        r.earlier.contains(sought, autoescape=True),
    )
    for other in change.connection.execute(statement):
        if not set(mine).isdisjoint(_earlier_live_keys(other)):
            return str(other.request_id)
    return None


def _live_keys(row: Any) -> list[str]:
    own = live_key(row.target_key, json.loads(row.datasets))
    return [own, *_earlier_live_keys(row)]


def _earlier_live_keys(row: Any) -> list[str]:
    earlier = json.loads(row.earlier) if row.earlier else []
    datasets = json.loads(row.datasets)
    return [live_key(pseudonyms_of(one).target_key, datasets) for one in earlier]


def close_now(change: Change, row: Any, outcome: str, claim: str | None, reason: str) -> Any:
    """Close a request that is decided."""
    values = {"outcome": outcome, "claim": claim, "closed_at": change.at}
    return move(change, row, State.CLOSED, reason, values)


def copies_of(change: Change, request_ids: Sequence[str]) -> list[Any]:
    """Return the waiting duplicates of some requests, locked, oldest first."""
    statement = (
        sa.select(t.requests)
        .where(
            change.database.among(t.requests.c.duplicate_of, request_ids),
            t.requests.c.state == State.DUPLICATE.value,
        )
        .order_by(t.requests.c.received_at, t.requests.c.request_id)
        .with_for_update()
    )
    return list(change.connection.execute(statement).all())


def promote_copy(change: Change, primary: Any, copies: Sequence[Any]) -> None:
    """Let the oldest duplicate take the place of a primary that goes; the others follow it.

    The work that the duplicates waited for will not be done by the one that goes, so one of them
    must do it: otherwise they would wait for ever. Holds and exemptions are about the data, not
    about who asked, so they pass on.
    """
    if not copies:
        return
    first, *others = copies
    inherit_reservations(change, primary.request_id, first.request_id)
    values = {"duplicate_of": None}
    row = move(change, first, State.QUEUED, f"primary {primary.request_id} left", values)
    parts = parts_of(change, row)
    if parts.is_over or row.dataset not in parts.workable:
        settle(change, row, "its data are held or exempt")
    for copy in others:
        move(
            change,
            copy,
            State.DUPLICATE,
            f"primary is now {first.request_id}",
            {"duplicate_of": first.request_id},
        )


def inherit_reservations(change: Change, from_id: str, to_id: str) -> bool:
    """Copy open holds and exemptions from one request to another; say whether there were any.

    Holds that follow an overlap stay behind: the other request gets its own from its plan.
    """
    r = t.reservations.c
    statement = sa.select(t.reservations).where(r.released_at.is_(None))
    theirs = change.connection.execute(statement.where(r.request_id == from_id)).all()
    new = [
        reserve(change, to_id, one.dataset, one.kind, one.ground, one.reason)
        for one in theirs
        if not (one.reason or "").startswith(OVERLAP)
    ]
    return any(new)


OVERLAP = "overlap: "
"""How the reason of a hold begins that was placed because other requests keep some records."""


def reserve(
    change: Change, request_id: str, dataset: str, kind: str, ground: str, reason: str | None
) -> bool:
    """Write a hold or an exemption unless there is one; say whether it was written.

    A hold of its own takes the place of one that only follows an overlap.
    """
    r = t.reservations.c
    same = sa.and_(r.request_id == request_id, r.dataset == dataset, r.kind == kind)
    same = sa.and_(same, r.ground == ground, r.released_at.is_(None))
    known = change.connection.execute(sa.select(r.reservation_id, r.reason).where(same)).first()
    if known is not None:
        if (reason or "").startswith(OVERLAP) or not (known.reason or "").startswith(OVERLAP):
            return False
        change.connection.execute(
            sa.update(t.reservations).where(same).values(released_at=change.at)
        )
    change.connection.execute(
        sa.insert(t.reservations).values(
            request_id=request_id,
            dataset=dataset,
            kind=kind,
            ground=ground,
            reason=reason,
            placed_at=change.at,
        )
    )
    return True
