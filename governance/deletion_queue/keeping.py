"""Data that must stay, whoever asks: holds and exemptions of all requests for one dataset.

A request whose records overlap data that another request keeps is held as well, by a hold that
names that request. Such a hold follows the overlap: it keeps nothing else back, and it is released
when the overlap is over.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from governance.deletion_queue import tables as t
from governance.deletion_queue.changing import OVERLAP, Change
from governance.deletion_queue.database import Database
from governance.deletion_queue.deciding import hold_in_batch, release_overlap
from governance.deletion_queue.leasing import require_lease
from governance.deletion_queue.reading import request_row
from governance.deletion_queue.records import Keeping, KeptTarget, RequestRow
from governance.deletion_queue.states import HoldGround, Outcome, State

_R, _V = t.requests.c, t.reservations.c
_OVER = (State.DUPLICATE, State.CANCELLED, State.REJECTED, State.CLOSED)


def keeping(database: Database, dataset: str) -> Keeping:
    """Return what must stay in a dataset, and how many reservations there were when it was read.

    The holds of a duplicate stand with its primary. A hold ends with its request; an exemption
    that was answered does not.
    """
    answered = sa.and_(
        _V.kind == "exemption",
        _R.state == State.CLOSED.value,
        _R.outcome.in_([Outcome.KEPT_EXEMPT.value, Outcome.PARTIAL.value]),
    )
    statement = (
        sa.select(t.requests, _V.kind.label("kept_by"), _V.ground.label("kept_ground"))
        .join(t.reservations, _V.request_id == _R.request_id)
        .where(_V.dataset == dataset, _V.released_at.is_(None), ~_is_overlap())
        .where(sa.or_(_R.state.not_in([state.value for state in _OVER]), answered))
        .order_by(_V.kind.desc(), _V.reservation_id)  # holds first: they are the ones that end
    )
    with database.read() as connection:
        # Counted first: what is placed between the two questions makes the count out of date.
        n_placed = connection.execute(_count(dataset)).scalar_one()
        rows = connection.execute(statement).all()
    targets = tuple(KeptTarget(request_row(row), row.kept_by, row.kept_ground) for row in rows)
    return Keeping(n_placed, targets)


def is_current(change: Change, dataset: str, n_placed: int) -> bool:
    """Say whether no hold or exemption was placed in a dataset since they were counted."""
    return bool(change.connection.execute(_count(dataset)).scalar_one() == n_placed)


def overlapping(database: Database, dataset: str) -> list[RequestRow]:
    """Return the open requests that are held because they overlap kept data of a dataset."""
    statement = (
        sa.select(t.requests)
        .where(_R.state.not_in([state.value for state in _OVER]))
        .where(_R.request_id.in_(_overlaps_in(dataset)))
        .order_by(_R.request_id)
    )
    with database.read() as connection:
        return [request_row(row) for row in connection.execute(statement)]


def hold_overlaps(
    change: Change, batch_id: str, token: int, kept_for: Mapping[str, tuple[KeptTarget, ...]]
) -> None:
    """Hold requests of a batch that overlap kept data; one that left the batch stays as it is."""
    dataset = require_lease(change, token, batch_id).dataset
    for request_id, targets in sorted(kept_for.items()):
        first, *others = dict.fromkeys(target.request.request_id for target in targets)
        more = f" and {len(others)} more" if others else ""
        hold_in_batch(
            change,
            request_id,
            batch_id,
            ground=_hold_ground(targets[0].ground),
            dataset=dataset,
            reason=f"{OVERLAP}records are kept for {first}{more}",
        )


def release_overlaps(change: Change, request_ids: list[str], dataset: str) -> None:
    """Release the holds of requests that overlap kept data no more."""
    for request_id in request_ids:
        release_overlap(change, request_id, dataset)


def _hold_ground(ground: str) -> HoldGround:
    """Return the word for a hold: the names of exemptions are others."""
    if ground == "legal_claims":
        return HoldGround.LEGAL_CLAIM
    return HoldGround(ground) if ground in set(HoldGround) else HoldGround.UNSPECIFIED


def _is_overlap() -> sa.ColumnElement[bool]:
    return sa.func.coalesce(_V.reason, "").startswith(OVERLAP)


def _overlaps_in(dataset: str) -> sa.Select[str]:
    open_here = sa.and_(_V.dataset == dataset, _V.released_at.is_(None))
    return sa.select(_V.request_id).where(open_here, _is_overlap())


def _count(dataset: str) -> sa.Select[int]:
    # Reservations are never deleted, so their number only grows. Holds that only follow an overlap
    # are not counted: they keep nothing, and the plan that places them would disturb itself.
    return (
        sa.select(sa.func.count())
        .select_from(t.reservations)
        .where(_V.dataset == dataset, ~_is_overlap())
    )
