"""Batches: leased to one run, fenced by a token, given back by a crash.

* A run that asks again gets its own batch with a new token; nothing joins a batch after its
  snapshot was taken, so a plan that was made for it stays a plan for it.
* Tokens are never used twice, in no batch, so an old holder cannot write to a request that has
  moved on to another batch.
* A lease that ran out gives back what was not erased. A batch whose erasure had begun stays
  together and is handed, whole, to the next run that asks: its rows are gone, so it is finished
  before anything new is begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from governance.deletion_queue import tables as t
from governance.deletion_queue.changing import Change, move_many
from governance.deletion_queue.moments import instant, text
from governance.deletion_queue.records import Lease
from governance.deletion_queue.states import AFTER_ERASURE, BEFORE_ERASURE, IN_BATCH, State
from governance.errors import RequestError, StoreBusyError

_R, _L = t.requests.c, t.leases.c
_ORDER = (_R.due_at, _R.risk.desc(), _R.request_id)


def _is_one_of(*states: State) -> sa.ColumnElement[bool]:
    # Written out: a bound value does not tell a planner that a partial index holds these rows.
    return sa.or_(*(_R.state == sa.literal_column(f"'{state.value}'") for state in states))


_IS_WAITING = _is_one_of(State.QUEUED)
_IS_ERASING = _is_one_of(*AFTER_ERASURE)
_IS_OPEN = _R.state != sa.literal_column(f"'{State.CLOSED.value}'")
_IS_HELD = _L.returned == sa.literal_column("0")


def lease_batch(
    change: Change, run_key: str, *, dataset: str, lease_s: int, max_items: int
) -> Lease:
    """Lease the requests of a dataset that are due first, then by risk."""
    look = _look(change, run_key, dataset)
    if look.has_expired:
        give_back_expired(change)
    if look.has_waking:
        _wake(change, dataset)
    expires = text(change.now + timedelta(seconds=lease_s))
    own = _lease_of(change, run_key) if look.is_known else None
    if own is not None and own.holder != run_key and not own.returned:
        # Another run took this one's batch over and is at it: nothing is left to do here.
        return Lease(own.batch_id, 0, (), instant(own.expires_at), own.snapshot_digest)
    mine = own or (_unfinished(change, dataset) if look.has_erased else None)
    if mine is None:
        return _new_batch(change, run_key, dataset, expires, max_items)
    values = {"holder": run_key, "expires_at": expires, "returned": 0}
    token = _next_token(change, sa.update(t.leases).where(_L.batch_id == mine.batch_id), values)
    digest = mine.snapshot_digest
    if mine.n_requests == 0:
        ids = _pick(change, dataset, max_items)
        digest = _digest(ids)
        _update_lease(change, mine.batch_id, {"n_requests": len(ids), "snapshot_digest": digest})
        _take(change, mine.batch_id, ids, is_first=True)
    else:
        _take(change, mine.batch_id, _back_in_queue(change, mine.batch_id), is_first=False)
    ids = [row.request_id for row in batch_rows(change, mine.batch_id)]
    return Lease(mine.batch_id, token, tuple(ids), instant(expires), digest)


def renew_lease(change: Change, batch_id: str, token: int, lease_s: int) -> datetime:
    """Push the end of a lease that is still ours."""
    require_lease(change, token, batch_id)
    expires = change.now + timedelta(seconds=lease_s)
    _update_lease(change, batch_id, {"expires_at": text(expires)})
    return expires


def release_lease(change: Change, batch_id: str, token: int, retry_at: datetime | None) -> None:
    """Give back what is before the erasure; what is after it stays with the batch."""
    require_lease(change, token, batch_id)
    _give_back(change, batch_id, "lease returned", retry_at)


def give_back_expired(change: Change) -> None:
    """Give back the requests of every lease that ran out."""
    expired = change.connection.execute(
        sa.select(_L.batch_id)
        .where(_L.expires_at < change.at, _IS_HELD)
        .with_for_update(skip_locked=True)
    ).all()
    for row in expired:
        _give_back(change, row.batch_id, "lease expired", None)


def require_lease(change: Change, token: int, batch_id: str | None = None) -> Any:
    """Return the lease that a token stands for, locked.

    Raises:
        RequestError: The token is an old one, or the lease was returned.
    """
    statement = sa.select(t.leases).where(_L.token == token).with_for_update()
    lease = change.connection.execute(statement).first()
    if lease is None or lease.returned or batch_id not in {None, lease.batch_id}:
        message = (
            f"lease of batch {batch_id or 'unknown'}: expected the current token, got an old one "
            "or a returned lease; another run has the batch now"
        )
        raise RequestError(message)
    return lease


def require_alone(change: Change, lease: Any) -> None:
    """Refuse to begin an erasure while another batch of the dataset has begun and not ended.

    The plan of the second one would be about a model that the first one is replacing. A killed one
    is taken over by the next run that asks for a batch, and one that waits for a person is over:
    neither is in the way for good.

    Raises:
        StoreBusyError: There is another one.
    """
    if not change.database.is_sqlite:  # there, writers come one after the other
        lock = sa.text("SELECT pg_advisory_xact_lock(hashtext('r2u-erasure-' || :dataset))")
        change.connection.execute(lock, {"dataset": lease.dataset})
    begun = set(
        change.connection.execute(
            sa.select(_R.batch_id).where(_IS_ERASING, _R.dataset == lease.dataset).distinct()
        ).scalars()
    )
    if begun and lease.batch_id not in begun:
        message = (
            f"batch {lease.batch_id}: expected no other batch of the dataset between erasure and "
            f"end, got {', '.join(sorted(begun))}; run it again when that one is closed"
        )
        raise StoreBusyError(message)


def batch_rows(change: Change, batch_id: str) -> Sequence[Any]:
    """Return the requests that are worked on in a batch, the first due first."""
    statement = sa.select(t.requests).where(_R.batch_id == batch_id, _IS_OPEN)
    statement = statement.where(_is_one_of(*IN_BATCH)).order_by(*_ORDER)
    return change.connection.execute(statement).all()


def _look(change: Change, run_key: str, dataset: str) -> Any:
    """Ask, in one round trip, which of the rare things there are to do before a new batch."""
    expired = sa.select(_L.batch_id).where(_L.expires_at < change.at, _IS_HELD)
    # The earliest time, not EXISTS: a planner that knows nothing of the times scans for that one.
    times = (_R.dataset == dataset, _R.not_before.is_not(None))
    waking = sa.select(sa.func.min(_R.not_before)).where(*times).scalar_subquery()
    known = sa.select(_L.batch_id).where(sa.or_(_L.run_key == run_key, _L.holder == run_key))
    began = sa.select(_R.request_id).where(_IS_ERASING, _R.dataset == dataset)
    return change.connection.execute(
        sa.select(
            sa.exists(expired).label("has_expired"),
            (waking <= change.at).label("has_waking"),
            sa.exists(known).label("is_known"),
            sa.exists(began).label("has_erased"),
        )
    ).one()


def _new_batch(change: Change, run_key: str, dataset: str, expires: str, max_items: int) -> Lease:
    batch_id = f"b{hashlib.sha256(run_key.encode()).hexdigest()[:12]}"
    ids = _pick(change, dataset, max_items)
    values: dict[str, Any] = {
        "batch_id": batch_id,
        "run_key": run_key,
        "holder": run_key,
        "dataset": dataset,
        "expires_at": expires,
        "returned": 0,
        "n_requests": len(ids),
        "snapshot_digest": _digest(ids),
    }
    token = _next_token(change, sa.insert(t.leases), values)
    _take(change, batch_id, ids, is_first=True)
    return Lease(batch_id, token, tuple(ids), instant(expires), values["snapshot_digest"])


def _pick(change: Change, dataset: str, max_items: int) -> list[str]:
    statement = (
        sa.select(_R.request_id)
        .where(_IS_WAITING, _R.dataset == dataset)
        .order_by(*_ORDER)
        .limit(max_items)
        .with_for_update(skip_locked=True)
    )
    return list(change.connection.execute(statement).scalars().all())


def _back_in_queue(change: Change, batch_id: str) -> list[str]:
    """Return requests of the snapshot that an expired lease gave back and nobody has taken."""
    statement = (
        sa.select(_R.request_id)
        .join(t.batch_items, t.batch_items.c.request_id == _R.request_id)
        .join(t.leases, _L.batch_id == t.batch_items.c.batch_id)
        .where(
            t.batch_items.c.batch_id == batch_id,
            _IS_WAITING,
            _R.dataset == _L.dataset,
        )
        .with_for_update(of=t.requests, skip_locked=True)
    )
    return list(change.connection.execute(statement).scalars().all())


def _take(change: Change, batch_id: str, ids: Sequence[str], *, is_first: bool) -> None:
    """Move queued, locked requests into a batch; the first time they are its snapshot."""

    def items(chosen: sa.ColumnElement[bool]) -> sa.Insert:
        source = sa.select(sa.literal(batch_id), _R.request_id).where(chosen)
        return sa.insert(t.batch_items).from_select(["batch_id", "request_id"], source)

    values = {"batch_id": batch_id}
    move_many(change, ids, State.LEASED, None, values, also=items if is_first else None)


def _is_waking(change: Change, dataset: str) -> tuple[sa.ColumnElement[bool], ...]:
    # Only ``retry_wait`` has a time. Its name is left out, so that the small index of these times
    # is used whatever the planner believes of the many requests in other states.
    return (_R.dataset == dataset, _R.not_before <= change.at)


def _wake(change: Change, dataset: str) -> None:
    statement = sa.select(_R.request_id).where(*_is_waking(change, dataset))
    locked = statement.with_for_update(skip_locked=True)
    ids = change.connection.execute(locked).scalars().all()
    move_many(change, ids, State.QUEUED, "time to try again", {"not_before": None})


def _give_back(change: Change, batch_id: str, reason: str, retry_at: datetime | None) -> None:
    statement = (
        sa.select(_R.request_id)
        .where(_R.batch_id == batch_id, _IS_OPEN, _is_one_of(*BEFORE_ERASURE))
        .with_for_update()
    )
    ids = change.connection.execute(statement).scalars().all()
    state = State.QUEUED if retry_at is None else State.RETRY_WAIT
    not_before = None if retry_at is None else text(retry_at)
    move_many(change, ids, state, reason, {"batch_id": None, "not_before": not_before})
    _update_lease(change, batch_id, {"returned": 1})


def _lease_of(change: Change, run_key: str) -> Any:
    """Return the batch of a run: the one it began, or else the one it took over."""
    for column in (_L.run_key, _L.holder):
        statement = sa.select(t.leases).where(column == run_key).with_for_update()
        found = change.connection.execute(statement.order_by(_L.token.desc())).first()
        if found is not None:
            return found
    return None


def _unfinished(change: Change, dataset: str) -> Any:
    """Return a lease that nobody holds and whose erasure has begun, if there is one."""
    batches = sa.select(_R.batch_id).where(_IS_ERASING, _R.dataset == dataset)
    return change.connection.execute(
        sa.select(t.leases)
        .where(_L.returned == 1, _L.batch_id.in_(batches))
        .order_by(_L.token)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()


def _next_token(change: Change, statement: Any, values: dict[str, Any]) -> int:
    """Insert or update a lease with a token that was never used before, and return the token."""
    token: Any = sa.func.nextval("lease_token")
    if change.database.is_sqlite:
        other = t.leases.alias()
        highest = sa.select(sa.func.coalesce(sa.func.max(other.c.token), 0) + 1)
        token = highest.scalar_subquery()
    statement = statement.values(token=token, **values).returning(_L.token)
    return int(change.connection.execute(statement).scalar_one())


def _update_lease(change: Change, batch_id: str, values: dict[str, Any]) -> None:
    change.connection.execute(sa.update(t.leases).where(_L.batch_id == batch_id).values(**values))


def _digest(request_ids: Sequence[str]) -> str:
    lines = "\n".join(sorted(request_ids))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
