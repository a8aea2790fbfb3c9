"""The deletion queue: requests, states, events, leases. The only importer of SQLAlchemy.

Rules enforced here, in code and by the database:

* a request is durable before ``submit`` returns (SQLite: WAL, synchronous FULL);
* only the transitions of ``TRANSITIONS`` happen; triggers refuse others that go around this module;
* events are only ever added; triggers refuse update and delete;
* a batch is leased to one run; an expired or returned lease's token cannot write any more;
* an unverified request is never leased and never makes a verified one a duplicate;
* a duplicate closes with its primary, with the same outcome;
* no personal data: subjects and records are pseudonyms.

States are those of the design; ``closed`` requests keep an outcome.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from governance.clock import days_used, due_at
from governance.errors import RequestError, StoreBusyError
from governance.regimes import load_regime


class State(StrEnum):
    """State of a request."""

    UNVERIFIED = "unverified"
    QUEUED = "queued"
    HELD = "held"
    DUPLICATE = "duplicate"
    LEASED = "leased"
    PLANNED = "planned"
    APPROVED = "approved"
    DATA_ERASED = "data_erased"
    MODEL_UNLEARNED = "model_unlearned"
    VERIFIED_FORGOTTEN = "verified_forgotten"
    PROPAGATED = "propagated"
    NEEDS_PERSON = "needs_person"
    CLOSED = "closed"


class Outcome(StrEnum):
    """How a request ended."""

    FORGOTTEN = "forgotten"
    NOT_FOUND = "not_found"
    ALREADY_FORGOTTEN = "already_forgotten"
    DUPLICATE = "duplicate"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    KEPT_EXEMPT = "kept_exempt"


S = State
_BEFORE_ERASURE = (S.LEASED, S.PLANNED, S.APPROVED)
_AFTER_ERASURE = (S.DATA_ERASED, S.MODEL_UNLEARNED, S.VERIFIED_FORGOTTEN, S.PROPAGATED)

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (S.UNVERIFIED, S.QUEUED),
        (S.UNVERIFIED, S.HELD),
        (S.UNVERIFIED, S.DUPLICATE),
        (S.UNVERIFIED, S.CLOSED),
        (S.QUEUED, S.LEASED),
        (S.QUEUED, S.HELD),
        (S.QUEUED, S.DUPLICATE),
        (S.QUEUED, S.CLOSED),
        (S.HELD, S.QUEUED),
        (S.HELD, S.CLOSED),
        (S.DUPLICATE, S.QUEUED),
        (S.DUPLICATE, S.CLOSED),
        (S.LEASED, S.PLANNED),
        (S.PLANNED, S.APPROVED),
        (S.APPROVED, S.DATA_ERASED),
        (S.DATA_ERASED, S.MODEL_UNLEARNED),
        (S.MODEL_UNLEARNED, S.VERIFIED_FORGOTTEN),
        (S.VERIFIED_FORGOTTEN, S.PROPAGATED),
        (S.PROPAGATED, S.CLOSED),
        (S.NEEDS_PERSON, S.QUEUED),
        (S.NEEDS_PERSON, S.MODEL_UNLEARNED),
        (S.NEEDS_PERSON, S.CLOSED),
        *((state, S.QUEUED) for state in _BEFORE_ERASURE),
        *((state, S.HELD) for state in _BEFORE_ERASURE),
        *((state, S.CLOSED) for state in _BEFORE_ERASURE),
        *((state, S.NEEDS_PERSON) for state in (*_BEFORE_ERASURE, *_AFTER_ERASURE)),
    }
)
"""Every transition that may happen; nothing leaves ``closed``."""

IN_BATCH = (*_BEFORE_ERASURE, *_AFTER_ERASURE)

_metadata = sa.MetaData()

_requests = sa.Table(
    "requests",
    _metadata,
    sa.Column("request_id", sa.String(100), primary_key=True),
    sa.Column("state", sa.String(24), nullable=False),
    sa.Column("outcome", sa.String(24)),
    sa.Column("claim", sa.String(24)),
    sa.Column("subject_key", sa.String(64)),
    sa.Column("record_keys", sa.Text, nullable=False),
    sa.Column("selector", sa.Text),
    sa.Column("target_key", sa.String(64), nullable=False),
    sa.Column("regime", sa.String(24), nullable=False),
    sa.Column("received_at", sa.String(40), nullable=False),
    sa.Column("clock_start", sa.String(40), nullable=False),
    sa.Column("due_at", sa.String(40), nullable=False),
    sa.Column("closed_at", sa.String(40)),
    sa.Column("hold_ground", sa.String(100)),
    sa.Column("duplicate_of", sa.String(100), sa.ForeignKey("requests.request_id")),
    sa.Column("batch_id", sa.String(80)),
    sa.CheckConstraint(
        "(state = 'closed') = (outcome IS NOT NULL)", name="only_closed_has_an_outcome"
    ),
    sa.CheckConstraint(
        "(state = 'duplicate') <= (duplicate_of IS NOT NULL)", name="duplicate_has_a_primary"
    ),
    sa.CheckConstraint("(state = 'held') <= (hold_ground IS NOT NULL)", name="hold_has_a_ground"),
    sa.Index("by_due", "state", "due_at"),
    sa.Index("by_target", "target_key"),
    sa.Index("by_batch", "batch_id"),
)

_events = sa.Table(
    "events",
    _metadata,
    sa.Column("event_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.String(100), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("from_state", sa.String(24)),
    sa.Column("to_state", sa.String(24), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("details", sa.Text),
    sa.Index("by_request", "request_id"),
)

_leases = sa.Table(
    "leases",
    _metadata,
    sa.Column("batch_id", sa.String(80), primary_key=True),
    sa.Column("run_key", sa.String(300), nullable=False, unique=True),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.String(40), nullable=False),
    sa.Column("returned", sa.Boolean, nullable=False),
)

_files = sa.Table(
    "files",
    _metadata,
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("counts", sa.Text, nullable=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmittedRequest:
    """A request as it comes in.

    Attributes:
        request_id: The sender's id; made here if absent. The same id twice is one request.
        subject_key: Pseudonym of a person: all of their records.
        record_keys: Pseudonyms of single records.
        selector: ``{"column": ..., "value": ...}``: a tenant or class.
        verified: Whether the identity is verified.
        received_at: When it was received, timezone-aware.
        hold_ground: Legal ground of a hold, if one applies.
        regime: Name of the legal periods.
    """

    request_id: str | None = None
    subject_key: str | None = None
    record_keys: tuple[str, ...] = ()
    selector: dict[str, str] | None = None
    verified: bool = True
    received_at: datetime
    hold_ground: str | None = None
    regime: str = "gdpr"

    def __post_init__(self) -> None:
        """Refuse a request for nothing, or without a time zone."""
        if self.subject_key is None and not self.record_keys and self.selector is None:
            message = "request: expected a subject, records or a selector, got none of them"
            raise RequestError(message)
        if self.received_at.tzinfo is None:
            message = "request: expected received_at with a time zone"
            raise RequestError(message)

    @property
    def target_key(self) -> str:
        """What is asked for, as one digest: two requests for the same are duplicates."""
        target = [self.subject_key, sorted(self.record_keys), self.selector]
        return hashlib.sha256(json.dumps(target, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request as it stands."""

    request_id: str
    state: str
    outcome: str | None
    claim: str | None
    subject_key: str | None
    record_keys: tuple[str, ...]
    selector: dict[str, str] | None
    target_key: str
    regime: str
    received_at: datetime
    clock_start: datetime
    due_at: datetime
    closed_at: datetime | None
    hold_ground: str | None
    duplicate_of: str | None
    batch_id: str | None

    @property
    def days_used(self) -> int:
        """Days from the start of the clock to the answer, or to now."""
        return days_used(self.clock_start, self.closed_at or datetime.now(UTC))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON without the pseudonyms."""
        hidden = {"subject_key", "record_keys", "target_key"}
        row = {name: value for name, value in asdict(self).items() if name not in hidden}
        for name in ("received_at", "clock_start", "due_at", "closed_at"):
            row[name] = row[name].isoformat() if row[name] else None
        return {**row, "days_used": self.days_used}


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a request."""

    request_id: str
    at: str
    from_state: str | None
    to_state: str
    reason: str | None
    details: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Lease:
    """A batch held by one run until it expires; ``token`` fences off earlier holders."""

    batch_id: str
    token: int
    request_ids: tuple[str, ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease as ``sentinel`` sees it."""

    batch_id: str
    expires_at: datetime
    n_requests: int


class DeletionQueue:
    """A queue in one database."""

    def __init__(self, engine: sa.Engine) -> None:
        """Create the tables and triggers where they are missing."""
        self._engine = engine
        with self._write() as connection:
            _metadata.create_all(connection)
            for statement in _guards(engine.dialect.name):
                connection.execute(sa.text(statement))

    def submit(self, request: SubmittedRequest) -> str:
        """Store a request durably and return its id; the same id again changes nothing."""
        return self.submit_many([request])[0]

    def submit_many(
        self, requests: Sequence[SubmittedRequest], *, file_digest: str | None = None
    ) -> list[str]:
        """Store many requests in one transaction, and that their file was read.

        Args:
            requests: The requests.
            file_digest: Digest of the file that they came from; ``has_file`` knows it afterwards.
        """
        with self._write() as connection:
            ids = [self._insert(connection, request) for request in requests]
            if file_digest is not None:
                row = {"digest": file_digest, "counts": json.dumps({"n": len(ids)})}
                connection.execute(sa.insert(_files).values(**row))
        return ids

    def has_file(self, digest: str) -> bool:
        """Return whether the requests of this file are already stored."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(_files.c.digest).where(_files.c.digest == digest))
            return found.first() is not None

    def verify(self, request_id: str, *, now: datetime) -> None:
        """Note that the identity is verified: the request is queued, held or a duplicate."""
        with self._write() as connection:
            row = self._row(connection, request_id)
            primary = self._primary(connection, row.target_key, request_id)
            if primary is not None:
                values = {"duplicate_of": primary}
                self._change(connection, row, State.DUPLICATE, now, "same target", values)
            else:
                state = State.HELD if row.hold_ground else State.QUEUED
                self._change(connection, row, state, now, "identity verified")

    def place_hold(self, request_id: str, ground: str, *, now: datetime) -> None:
        """Hold a request; one that is in a batch leaves it, as long as nothing is erased."""
        with self._write() as connection:
            row = self._row(connection, request_id)
            values = {"hold_ground": ground, "batch_id": None}
            self._change(connection, row, State.HELD, now, ground, values)

    def release_hold(self, request_id: str, *, now: datetime) -> None:
        """Release a hold; the request is queued again."""
        with self._write() as connection:
            row = self._row(connection, request_id)
            if row.state != State.HELD:  # else an unverified request could be queued this way
                message = f"request {request_id}: expected a hold to release, got none"
                raise RequestError(message)
            values = {"hold_ground": None}
            self._change(connection, row, State.QUEUED, now, "hold released", values)

    def cancel(self, request_id: str, *, now: datetime, reason: str) -> None:
        """Cancel a request before anything of it is erased.

        Raises:
            RequestError: Erasure has begun; the answer then says what was erased.
        """
        with self._write() as connection:
            row = self._row(connection, request_id)
            values = {"outcome": Outcome.CANCELLED, "closed_at": _text(now)}
            self._change(connection, row, State.CLOSED, now, reason, values)

    def lease_batch(self, run_key: str, *, lease_s: int, max_items: int, now: datetime) -> Lease:
        """Lease the requests that are due first.

        The same run gets the same batch with a new token, so a retry goes on where it stopped and
        the old holder cannot write any more. A batch that a crash left after the erasure is taken
        over before anything new is begun.
        """
        expires = _text(now + timedelta(seconds=lease_s))
        with self._write() as connection:
            self._give_back_expired(connection, now)
            known = connection.execute(
                sa.select(_leases).where(_leases.c.run_key == run_key)
            ).first() or self._unfinished(connection)
            batch_id = _batch_id(run_key) if known is None else str(known.batch_id)
            token = 1 if known is None else known.token + 1
            values = {
                "run_key": run_key,
                "token": token,
                "expires_at": expires,
                "returned": False,
            }
            if known is None:
                connection.execute(sa.insert(_leases).values(batch_id=batch_id, **values))
            else:
                where = _leases.c.batch_id == batch_id
                connection.execute(sa.update(_leases).where(where).values(**values))
            mine = self._batch_rows(connection, batch_id)
            if not mine and not self._has_closed(connection, batch_id):
                mine = self._take(connection, batch_id, max_items, now)
            ids = tuple(row.request_id for row in mine)
        return Lease(batch_id, token, ids, _instant(expires))

    def release_lease(self, batch_id: str, token: int) -> None:
        """Give back what was not erased yet; what was erased stays with the batch."""
        with self._write() as connection:
            self._require_lease(connection, batch_id, token)
            self._give_back(connection, batch_id, datetime.now(UTC), "lease returned")

    def transition(
        self,
        request_id: str,
        to_state: str,
        *,
        token: int,
        now: datetime,
        reason: str | None = None,
    ) -> None:
        """Move a leased request; a repeat of a move that was made changes nothing.

        Raises:
            RequestError: The transition is not allowed, or the lease is not ours any more.
        """
        self.transition_all([request_id], to_state, token=token, now=now, reason=reason)

    def transition_all(
        self,
        request_ids: Sequence[str],
        to_state: str,
        *,
        token: int,
        now: datetime,
        reason: str | None = None,
    ) -> None:
        """Move leased requests, all or none of them; otherwise like ``transition``."""
        with self._write() as connection:
            for request_id in request_ids:
                row = self._row(connection, request_id)
                self._require_lease(connection, row.batch_id, token)
                if not _is_behind(row.state, to_state):
                    self._change(connection, row, State(to_state), now, reason)

    def close(
        self,
        request_id: str,
        *,
        outcome: str,
        claim: str | None,
        token: int,
        now: datetime,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Close a leased request and its duplicates; a repeat changes nothing."""
        with self._write() as connection:
            row = self._row(connection, request_id)
            if row.state == State.CLOSED:
                return
            self._require_lease(connection, row.batch_id, token)
            values = {"outcome": Outcome(outcome), "claim": claim, "closed_at": _text(now)}
            self._change(connection, row, State.CLOSED, now, outcome, values, details)
            copies = connection.execute(
                sa.select(_requests).where(
                    _requests.c.duplicate_of == request_id, _requests.c.state == State.DUPLICATE
                )
            ).all()
            values["outcome"] = Outcome.DUPLICATE
            for copy in copies:
                self._change(connection, copy, State.CLOSED, now, f"primary {outcome}", values)

    def get(self, request_id: str) -> RequestRow:
        """Return one request.

        Raises:
            RequestError: There is no such request.
        """
        with self._engine.connect() as connection:
            return _request_row(self._row(connection, request_id))

    def list_requests(self, state: str | None = None) -> list[RequestRow]:
        """Return requests by deadline, all or those in one state."""
        statement = sa.select(_requests).order_by(_requests.c.due_at, _requests.c.request_id)
        if state is not None:
            statement = statement.where(_requests.c.state == state)
        with self._engine.connect() as connection:
            return [_request_row(row) for row in connection.execute(statement)]

    def batch_requests(self, batch_id: str) -> list[RequestRow]:
        """Return all requests that belong to a batch, closed ones included."""
        statement = (
            sa.select(_requests)
            .where(_requests.c.batch_id == batch_id)
            .order_by(_requests.c.request_id)
        )
        with self._engine.connect() as connection:
            return [_request_row(row) for row in connection.execute(statement)]

    def events(self, request_id: str) -> list[Event]:
        """Return the history of a request, oldest first."""
        statement = (
            sa.select(_events).where(_events.c.request_id == request_id).order_by("event_id")
        )
        with self._engine.connect() as connection:
            return [
                Event(
                    row.request_id,
                    row.at,
                    row.from_state,
                    row.to_state,
                    row.reason,
                    json.loads(row.details) if row.details else None,
                )
                for row in connection.execute(statement)
            ]

    def counts(self) -> dict[str, int]:
        """Return the number of requests by state."""
        statement = sa.select(_requests.c.state, sa.func.count()).group_by(_requests.c.state)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def open_leases(self) -> list[LeaseRow]:
        """Return leases that hold requests."""
        statement = (
            sa.select(_leases.c.batch_id, _leases.c.expires_at, sa.func.count())
            .join(_requests, _requests.c.batch_id == _leases.c.batch_id)
            .where(_requests.c.state.in_([*IN_BATCH, State.NEEDS_PERSON]))
            .group_by(_leases.c.batch_id, _leases.c.expires_at)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(statement).all()
        return [LeaseRow(row[0], _instant(row[1]), row[2]) for row in rows]

    def truncate_log(self) -> None:
        """Empty SQLite's write-ahead log, in which overwritten values stay readable.

        Raises:
            StoreBusyError: A reader held it for longer than the busy timeout.
        """
        if self._engine.dialect.name != "sqlite":
            return
        connection = self._engine.raw_connection()
        try:
            busy = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            connection.close()
        if busy:
            message = "deletion queue: expected to empty the write-ahead log, got a busy reader"
            raise StoreBusyError(message)

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            message = f"deletion queue: the database is busy or unreachable ({error.orig})"
            raise StoreBusyError(message) from error

    def _insert(self, connection: sa.Connection, request: SubmittedRequest) -> str:
        request_id = request.request_id or f"r{secrets.token_hex(8)}"
        where = _requests.c.request_id == request_id
        known = connection.execute(sa.select(_requests).where(where)).first()
        if known is not None:
            if known.target_key != request.target_key:
                message = f"request {request_id}: this id is taken by a request for something else"
                raise RequestError(message)
            return request_id
        regime = load_regime(request.regime)
        state, primary = State.UNVERIFIED, None
        if request.verified:
            primary = self._primary(connection, request.target_key, request_id)
            state = State.HELD if request.hold_ground else State.QUEUED
            state = State.DUPLICATE if primary is not None else state
        received = request.received_at
        connection.execute(
            sa.insert(_requests).values(
                request_id=request_id,
                state=state,
                subject_key=request.subject_key,
                record_keys=json.dumps(request.record_keys),
                selector=json.dumps(request.selector) if request.selector else None,
                target_key=request.target_key,
                regime=request.regime,
                received_at=_text(received),
                clock_start=_text(received),
                due_at=_text(due_at(received, regime)),
                hold_ground=request.hold_ground,
                duplicate_of=primary,
            )
        )
        self._event(connection, request_id, None, state, received, "received")
        return request_id

    def _primary(self, connection: sa.Connection, target_key: str, request_id: str) -> str | None:
        """Return the verified open request for the same target, if there is one."""
        row = connection.execute(
            sa.select(_requests.c.request_id).where(
                _requests.c.target_key == target_key,
                _requests.c.request_id != request_id,
                _requests.c.state.not_in([State.UNVERIFIED, State.DUPLICATE, State.CLOSED]),
            )
        ).first()
        return None if row is None else str(row.request_id)

    def _take(
        self, connection: sa.Connection, batch_id: str, max_items: int, now: datetime
    ) -> Sequence[Any]:
        statement = (
            sa.select(_requests)
            .where(_requests.c.state == State.QUEUED)
            .order_by(_requests.c.due_at, _requests.c.request_id)
            .limit(max_items)
            .with_for_update(skip_locked=True)
        )
        rows = connection.execute(statement).all()
        for row in rows:
            self._change(connection, row, State.LEASED, now, None, {"batch_id": batch_id})
        return rows

    def _give_back_expired(self, connection: sa.Connection, now: datetime) -> None:
        expired = connection.execute(
            sa.select(_leases.c.batch_id).where(
                _leases.c.expires_at < _text(now), _leases.c.returned.is_(False)
            )
        ).all()
        for row in expired:
            self._give_back(connection, row.batch_id, now, "lease expired")

    def _give_back(
        self, connection: sa.Connection, batch_id: str, now: datetime, reason: str
    ) -> None:
        rows = connection.execute(
            sa.select(_requests).where(
                _requests.c.batch_id == batch_id, _requests.c.state.in_(_BEFORE_ERASURE)
            )
        ).all()
        for row in rows:
            self._change(connection, row, State.QUEUED, now, reason, {"batch_id": None})
        connection.execute(
            sa.update(_leases).where(_leases.c.batch_id == batch_id).values(returned=True)
        )

    def _unfinished(self, connection: sa.Connection) -> Any:
        """Return a lease that nobody holds and whose rows are already erased, if there is one."""
        return connection.execute(
            sa.select(_leases)
            .join(_requests, _requests.c.batch_id == _leases.c.batch_id)
            .where(_leases.c.returned.is_(True), _requests.c.state.in_(_AFTER_ERASURE))
            .limit(1)
        ).first()

    def _has_closed(self, connection: sa.Connection, batch_id: str) -> bool:
        """Say whether the batch is over: new requests then belong to another one."""
        statement = sa.select(_requests.c.request_id).where(_requests.c.batch_id == batch_id)
        return connection.execute(statement.limit(1)).first() is not None

    def _batch_rows(self, connection: sa.Connection, batch_id: str) -> Sequence[Any]:
        statement = sa.select(_requests).where(
            _requests.c.batch_id == batch_id, _requests.c.state.in_(IN_BATCH)
        )
        return connection.execute(statement).all()

    def _require_lease(self, connection: sa.Connection, batch_id: str | None, token: int) -> None:
        lease = connection.execute(sa.select(_leases).where(_leases.c.batch_id == batch_id)).first()
        if lease is None or lease.token != token or lease.returned:
            message = (
                f"lease of batch {batch_id}: expected the current token, got an old one or a "
                "returned lease; another run has the batch now"
            )
            raise RequestError(message)

    def _change(
        self,
        connection: sa.Connection,
        row: Any,
        to_state: State,
        now: datetime,
        reason: str | None,
        values: dict[str, Any] | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        if (State(row.state), to_state) not in TRANSITIONS:
            message = f"request {row.request_id}: {row.state} -> {to_state} is not allowed"
            raise RequestError(message)
        where = _requests.c.request_id == row.request_id
        changed = {"state": to_state, **(values or {})}
        connection.execute(sa.update(_requests).where(where).values(**changed))
        self._event(connection, row.request_id, row.state, to_state, now, reason, details)

    def _event(
        self,
        connection: sa.Connection,
        request_id: str,
        from_state: str | None,
        to_state: str,
        now: datetime,
        reason: str | None,
        details: dict[str, Any] | None = None,
    ) -> None:
        connection.execute(
            sa.insert(_events).values(
                request_id=request_id,
                at=_text(now),
                from_state=from_state,
                to_state=to_state,
                reason=reason,
                details=json.dumps(details) if details else None,
            )
        )

    def _row(self, connection: sa.Connection, request_id: str) -> Any:
        row = connection.execute(
            sa.select(_requests).where(_requests.c.request_id == request_id)
        ).first()
        if row is None:
            message = f"request {request_id}: expected a request in the queue, got none"
            raise RequestError(message)
        return row


def open_queue(url: str) -> DeletionQueue:
    """Open a queue by SQLAlchemy URL, made on first use."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, connect_args={"timeout": 30})
        sa.event.listen(engine, "connect", _durable_sqlite)
        sa.event.listen(
            engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
        return DeletionQueue(engine)
    return DeletionQueue(sa.create_engine(url, pool_pre_ping=True))


def _durable_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are ours: BEGIN IMMEDIATE, see open_queue
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _guards(dialect: str) -> list[str]:
    """Return statements that refuse what goes around this module (SQLite)."""
    if dialect != "sqlite":
        return []
    allowed = " OR ".join(
        f"(OLD.state = '{old}' AND NEW.state = '{new}')" for old, new in sorted(TRANSITIONS)
    )
    return [
        "CREATE TRIGGER IF NOT EXISTS legal_transition BEFORE UPDATE OF state ON requests "
        f"WHEN OLD.state <> NEW.state AND NOT ({allowed}) "
        "BEGIN SELECT RAISE(ABORT, 'illegal transition'); END",
        "CREATE TRIGGER IF NOT EXISTS events_stay BEFORE DELETE ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
        "CREATE TRIGGER IF NOT EXISTS events_unchanged BEFORE UPDATE ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
        "CREATE TRIGGER IF NOT EXISTS requests_stay BEFORE DELETE ON requests "
        "BEGIN SELECT RAISE(ABORT, 'requests are never deleted'); END",
    ]


_ORDER = [*IN_BATCH, State.CLOSED]


def _is_behind(current: str, wanted: str) -> bool:
    """Return whether the request is already at or after a state of the batch's straight path."""
    if State(current) not in _ORDER or State(wanted) not in _ORDER:
        return current == wanted
    return _ORDER.index(State(current)) >= _ORDER.index(State(wanted))


def _request_row(row: Any) -> RequestRow:
    return RequestRow(
        request_id=row.request_id,
        state=row.state,
        outcome=row.outcome,
        claim=row.claim,
        subject_key=row.subject_key,
        record_keys=tuple(json.loads(row.record_keys)),
        selector=json.loads(row.selector) if row.selector else None,
        target_key=row.target_key,
        regime=row.regime,
        received_at=_instant(row.received_at),
        clock_start=_instant(row.clock_start),
        due_at=_instant(row.due_at),
        closed_at=_instant(row.closed_at) if row.closed_at else None,
        hold_ground=row.hold_ground,
        duplicate_of=row.duplicate_of,
        batch_id=row.batch_id,
    )


def _batch_id(run_key: str) -> str:
    return "b" + hashlib.sha256(run_key.encode()).hexdigest()[:12]


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
