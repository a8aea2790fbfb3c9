"""What a person decides about a request: identity, rejection, cancellation, holds, exemptions.

A hold or an exemption is about data. Placed on a duplicate, it goes to the primary, which is the
one that would erase them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from governance.deletion_queue import tables as t
from governance.deletion_queue.changing import (
    OVERLAP,
    Change,
    close_now,
    copies_of,
    inherit_reservations,
    locked_row,
    move,
    move_many,
    note,
    parts_of,
    promote_copy,
    reserve,
    settle,
)
from governance.deletion_queue.records import require_word
from governance.deletion_queue.states import (
    AFTER_ERASURE,
    BEFORE_ERASURE,
    ExemptionGround,
    HoldGround,
    Outcome,
    State,
)
from governance.deletion_queue.timekeeping import resume
from governance.errors import RequestError


def verify(change: Change, request_id: str, reason: str) -> None:
    """Note that the identity is verified: the request is queued, held, exempt or a duplicate."""
    row = move(change, locked_row(change, request_id), State.VERIFIED, reason)
    if row.paused_since is not None:
        row = resume(change, row)
    row = settle(change, row, None)
    if row.state == State.DUPLICATE and inherit_reservations(change, request_id, row.duplicate_of):
        _settle_if_possible(change, row.duplicate_of)


def reject(change: Change, request_id: str, reason: str) -> None:
    """Reject a request: the identity was never proven, or it is unfounded."""
    if not reason.strip():
        message = f"request {request_id}: expected a reason for the rejection, got none"
        raise RequestError(message)
    row = locked_row(change, request_id)
    _require_not_erasing(row, "rejection")
    row = _take_out(change, row, State.REJECTED, Outcome.REJECTED, reason)
    promote_copy(change, row, copies_of(change, [request_id]))


def cancel(change: Change, request_id: str, reason: str) -> bool:
    """Cancel a request if nothing of it is being erased; say whether it was honoured."""
    row = locked_row(change, request_id)
    if row.state == State.CLOSED:
        return bool(row.outcome == Outcome.CANCELLED)
    if _is_erasing(row) or row.state == State.REJECTED:
        note(change, row, "cancellation came too late", {"cancellation": "too late"})
        return False
    row = _take_out(change, row, State.CANCELLED, Outcome.CANCELLED, reason)
    close_now(change, row, row.outcome, row.claim, "cancelled")
    promote_copy(change, row, copies_of(change, [request_id]))
    return True


def answer(change: Change, request_id: str, reference: str | None) -> None:
    """Close a request that was decided without an erasure, once the person is told."""
    row = locked_row(change, request_id)
    if row.state not in {State.REJECTED, State.EXEMPT}:
        message = (
            f"request {request_id}: expected a rejected or exempt request to answer, "
            f"got {row.state}"
        )
        raise RequestError(message)
    copies = copies_of(change, [request_id]) if row.state == State.EXEMPT else []
    details = {"reference": reference} if reference else None
    move(change, row, State.CLOSED, "answered", {"closed_at": change.at}, details)
    close_copies(change, copies)


def close_copies(change: Change, copies: Sequence[Any]) -> None:
    """Close duplicates whose primary is closed."""
    if not copies:
        return
    values = {"outcome": Outcome.DUPLICATE.value, "closed_at": change.at, "hold_ground": None}
    ids = [copy.request_id for copy in copies]
    move_many(change, ids, State.CLOSED, "primary closed", values)


def place_hold(
    change: Change, request_id: str, ground: str, dataset: str | None, reason: str | None
) -> None:
    """Hold a request, everywhere or in one dataset; it leaves its batch if it must."""
    require_word("hold", ground, HoldGround)
    row = _primary_row(change, request_id)
    _reserve(change, row, "hold", ground, dataset, reason)


def hold_late(change: Change, request_id: str, ground: str) -> None:
    """Hold a primary for whose target a new duplicate brought a hold, if it is not too late."""
    row = locked_row(change, request_id)
    parts = parts_of(change, row)
    if (parts.workable or parts.held) and not _is_erasing(row):
        _reserve(change, row, "hold", ground, None, "brought by a duplicate")


def hold_in_batch(
    change: Change, request_id: str, batch_id: str, *, ground: str, dataset: str, reason: str
) -> None:
    """Hold a request that is in a batch, nothing erased; any other one stays as it is."""
    row = locked_row(change, request_id)
    if row.batch_id == batch_id and row.state in BEFORE_ERASURE:
        _reserve(change, row, "hold", ground, dataset, reason)


def release_overlap(change: Change, request_id: str, dataset: str) -> None:
    """Release a hold that followed an overlap in a dataset, if there still is one."""
    row = locked_row(change, request_id)
    if row.state in {State.CLOSED, State.REJECTED, State.CANCELLED}:
        return
    r = t.reservations.c
    released = change.connection.execute(
        sa.update(t.reservations)
        .where(r.request_id == request_id, r.dataset == dataset, r.released_at.is_(None))
        .where(sa.func.coalesce(r.reason, "").startswith(OVERLAP))
        .values(released_at=change.at)
    )
    if released.rowcount:
        settle(change, row, "overlaps kept data no more", {"dataset": dataset})


def release_hold(change: Change, request_id: str, dataset: str | None, ground: str | None) -> None:
    """Release holds; the request is queued again once nothing holds it."""
    row = _primary_row(change, request_id)
    _release(change, row, "hold", dataset, ground)


def grant_exemption(
    change: Change, request_id: str, ground: str, dataset: str | None, reason: str | None
) -> None:
    """Keep the data for good, everywhere or in one dataset; the request awaits its answer."""
    require_word("exemption", ground, ExemptionGround)
    row = _primary_row(change, request_id)
    _reserve(change, row, "exemption", ground, dataset, reason)


def withdraw_exemption(change: Change, request_id: str, dataset: str | None) -> None:
    """Take an exemption back; a request that was not answered yet is queued again."""
    row = _primary_row(change, request_id)
    _release(change, row, "exemption", dataset, None)


def _reserve(
    change: Change, row: Any, kind: str, ground: str, dataset: str | None, reason: str | None
) -> None:
    for name in _open_datasets(change, row, dataset, kind):
        reserve(change, row.request_id, name, kind, ground, reason)
    where = {kind: ground, "dataset": dataset or "all"}
    settle(change, row, f"{kind}: {ground}", where)


def _release(change: Change, row: Any, kind: str, dataset: str | None, ground: str | None) -> None:
    r = t.reservations.c
    condition = [r.request_id == row.request_id, r.kind == kind, r.released_at.is_(None)]
    if dataset is not None:
        condition.append(r.dataset == dataset)
    if ground is not None:
        condition.append(r.ground == ground)
    released = change.connection.execute(
        sa.update(t.reservations).where(*condition).values(released_at=change.at)
    )
    if kind == "exemption" and released.rowcount and row.state == State.CLOSED:
        return  # its answer stands; other requests for the data are served from now on
    if released.rowcount == 0 or row.state in {State.CLOSED, State.REJECTED}:
        message = f"request {row.request_id}: expected an open {kind} to release, got none"
        raise RequestError(message)
    settle(change, row, f"{kind} released", {"dataset": dataset or "all"})


def _open_datasets(change: Change, row: Any, dataset: str | None, kind: str) -> list[str]:
    if row.state in {State.CLOSED, State.REJECTED, State.CANCELLED}:
        message = (
            f"request {row.request_id}: expected an open request for a {kind}, got {row.state}"
        )
        raise RequestError(message)
    datasets = json.loads(row.datasets)
    if dataset is not None and dataset not in datasets:
        message = f"request {row.request_id}: expected one of its datasets, got another"
        raise RequestError(message)
    parts = parts_of(change, row)
    still_open = [name for name in datasets if name in parts.workable or name in parts.held]
    if _is_erasing(row):
        still_open = [name for name in still_open if name != row.dataset]
    chosen = [name for name in still_open if dataset in {None, name}]
    if not chosen:
        message = (
            f"request {row.request_id}: the {kind} comes too late, its erasure has begun or is "
            "over; look at its history"
        )
        raise RequestError(message)
    return chosen


def _primary_row(change: Change, request_id: str) -> Any:
    row = locked_row(change, request_id)
    return locked_row(change, row.duplicate_of) if row.state == State.DUPLICATE else row


def _settle_if_possible(change: Change, request_id: str) -> None:
    row = locked_row(change, request_id)
    if not _is_erasing(row):
        settle(change, row, "a duplicate brought a hold")


def _take_out(change: Change, row: Any, state: State, outcome: Outcome, reason: str) -> Any:
    done = {word for word in parts_of(change, row).outcomes if word != Outcome.KEPT_EXEMPT}
    values = {
        "outcome": (Outcome.PARTIAL if done else outcome).value,
        "batch_id": None,
        "not_before": None,
        "hold_ground": None,
    }
    return move(change, row, state, reason, values)


def _require_not_erasing(row: Any, what: str) -> None:
    if _is_erasing(row):
        message = f"request {row.request_id}: the {what} comes too late, its erasure has begun"
        raise RequestError(message)


def _is_erasing(row: Any) -> bool:
    return row.erasure_at is not None or row.state in AFTER_ERASURE
