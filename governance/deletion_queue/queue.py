"""The queue as the rest of the project sees it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from zoneinfo import available_timezones

import sqlalchemy as sa

from governance.deletion_queue import (
    auditing,
    deciding,
    keeping,
    leasing,
    reading,
    timekeeping,
    working,
)
from governance.deletion_queue.changing import Change
from governance.deletion_queue.database import Database, migrate, open_database
from governance.deletion_queue.inserting import Door, insert_requests
from governance.deletion_queue.records import (
    Answer,
    Closing,
    Event,
    Keeping,
    KeptTarget,
    Lease,
    LeaseRow,
    Pause,
    Receipt,
    RequestRow,
    Reservation,
    SubmittedRequest,
)
from governance.errors import RequestError

T = TypeVar("T")


class DeletionQueue:
    """A queue in one database, opened for one dataset; every call is one transaction."""

    def __init__(
        self,
        database: Database,
        *,
        dataset: str = "default",
        time_zone: str | None = None,
        key_id: str | None = None,
    ) -> None:
        """Bring the schema up to date.

        Args:
            database: Where the queue is.
            dataset: What a request is about that names no dataset, and what is leased.
            time_zone: Where days are counted; none: in the zone of each regime.
            key_id: Name of the current pseudonym key; none: every request may be under an earlier
                one.
        """
        self._database = database
        self._key_id = key_id
        self._door = Door(dataset, time_zone)
        self.migrated_from = migrate(database, dataset=dataset)

    def submit(self, request: SubmittedRequest, *, now: datetime | None = None) -> str:
        """Store a request durably and return its id; the same id again changes nothing."""
        return self.submit_many([request], now=now)[0].request_id

    def submit_many(
        self,
        requests: Sequence[SubmittedRequest],
        *,
        file_digest: str | None = None,
        counts: dict[str, int] | None = None,
        now: datetime | None = None,
    ) -> list[Receipt]:
        """Store many requests in one transaction, and that their file was read.

        Args:
            requests: The requests.
            file_digest: Digest of the file that they came from; ``has_file`` knows it afterwards.
            counts: What the file held, kept beside its digest.
            now: Moment of storing, if not this one.

        Raises:
            RequestError: An id is taken by a request for something else; nothing is stored.
        """
        moment = now or datetime.now(UTC)
        file = None
        if file_digest is not None:
            file = (file_digest, json.dumps(counts or {"n": len(requests)}))

        def insert(cursor: Any) -> tuple[list[Receipt], list[tuple[str, str]]]:
            return insert_requests(
                self._database, cursor, requests, door=self._door, now=moment, file=file
            )

        def insert_and_hold(change: Change) -> list[Receipt]:
            receipts, holds = insert(change.connection.connection.cursor())
            for primary, ground in holds:
                deciding.hold_late(change, primary, ground)
            return receipts

        if any(request.hold_ground for request in requests):
            return self._change(moment, insert_and_hold)
        return self._database.write_raw(insert)[0]

    def has_file(self, digest: str) -> bool:
        """Return whether the requests of this file are already stored."""
        return reading.has_file(self._database, digest)

    def known_targets(self, request_ids: Sequence[str]) -> dict[str, str]:
        """Return the target digests of those of many ids that are in the queue."""
        return reading.known_targets(self._database, request_ids)

    def verify(self, request_id: str, *, now: datetime, reason: str = "identity verified") -> None:
        """Note that the identity is verified: the request is queued, held or a duplicate."""
        self._change(now, lambda change: deciding.verify(change, request_id, reason))

    def reject(self, request_id: str, *, now: datetime, reason: str) -> None:
        """Reject a request, with a reason; it still needs an ``answer``.

        Raises:
            RequestError: No reason was given, or its erasure has begun.
        """
        self._change(now, lambda change: deciding.reject(change, request_id, reason))

    def cancel(self, request_id: str, *, now: datetime, reason: str) -> bool:
        """Cancel a request as long as its erasure has not begun, and say whether it was honoured.

        One that comes too late is noted in the history; its answer tells what was erased.
        """
        return self._change(now, lambda change: deciding.cancel(change, request_id, reason))

    def answer(self, request_id: str, *, now: datetime, reference: str | None = None) -> None:
        """Close a rejected or exempt request once the person was told (``reference``: where)."""
        self._change(now, lambda change: deciding.answer(change, request_id, reference))

    def place_hold(
        self,
        request_id: str,
        ground: str,
        *,
        now: datetime,
        dataset: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Hold a request in one dataset or in all of them; one in a batch leaves it.

        Raises:
            RequestError: The erasure has begun, or the ground is unknown.
        """
        self._change(
            now, lambda change: deciding.place_hold(change, request_id, ground, dataset, reason)
        )

    def release_hold(
        self,
        request_id: str,
        *,
        now: datetime,
        dataset: str | None = None,
        ground: str | None = None,
    ) -> None:
        """Release holds; the request is queued again once nothing holds it."""
        self._change(now, lambda change: deciding.release_hold(change, request_id, dataset, ground))

    def grant_exemption(
        self,
        request_id: str,
        ground: str,
        *,
        now: datetime,
        dataset: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Keep the data in one dataset or in all of them for good; all: it awaits an ``answer``.

        Raises:
            RequestError: The erasure has begun, or the ground is unknown.
        """
        self._change(
            now,
            lambda change: deciding.grant_exemption(change, request_id, ground, dataset, reason),
        )

    def withdraw_exemption(
        self, request_id: str, *, now: datetime, dataset: str | None = None
    ) -> None:
        """Take back an exemption; the request is queued again if it was not answered yet.

        After the answer it stays closed, and other requests for the same data are served.
        """
        self._change(now, lambda change: deciding.withdraw_exemption(change, request_id, dataset))

    def extend(
        self, request_id: str, *, reason: str, notice_at: datetime, now: datetime
    ) -> datetime:
        """Extend the period of a person who was told so in time; return the new deadline.

        Raises:
            RequestError: The notice came after the first period, or the regime has no extension.
        """
        return self._change(
            now,
            lambda change: timekeeping.extend(
                change, request_id, reason=reason, notice_at=notice_at
            ),
        )

    def pause(self, request_id: str, *, reason: str, now: datetime) -> None:
        """Stop the clock, as while the person is asked to prove who they are."""
        self._change(now, lambda change: timekeeping.pause(change, request_id, reason=reason))

    def resume(self, request_id: str, *, now: datetime) -> datetime:
        """Let the clock run on; return the deadline that the pause pushed."""
        return self._change(now, lambda change: timekeeping.resume_clock(change, request_id))

    def lease_batch(
        self,
        run_key: str,
        *,
        lease_s: int,
        max_items: int,
        now: datetime,
        dataset: str | None = None,
    ) -> Lease:
        """Lease the requests that are due first, then by risk.

        The same run gets the same batch with a new token, so a retry goes on where it stopped and
        the old holder cannot write any more. A batch that a crash left after the erasure is taken
        over before anything new is begun.
        """
        return self._change(
            now,
            lambda change: leasing.lease_batch(
                change,
                run_key,
                dataset=dataset or self._door.dataset,
                lease_s=lease_s,
                max_items=max_items,
            ),
        )

    def renew_lease(self, batch_id: str, token: int, *, lease_s: int, now: datetime) -> datetime:
        """Push the end of a lease during a long step; return the new end."""
        return self._change(
            now, lambda change: leasing.renew_lease(change, batch_id, token, lease_s)
        )

    def release_lease(
        self,
        batch_id: str,
        token: int,
        *,
        now: datetime | None = None,
        retry_at: datetime | None = None,
    ) -> None:
        """Give back what was not erased yet, to be tried again at once or at ``retry_at``."""
        self._change(
            now or datetime.now(UTC),
            lambda change: leasing.release_lease(change, batch_id, token, retry_at),
        )

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
        """Move requests of one batch, all or none; a repeat changes nothing.

        ``data_erased`` is the point of no return, to be passed before the first destructive step:
        up to it a hold or a cancellation takes a request out of the batch, and this call then
        fails for the plan that still names it; after it they come too late.

        Raises:
            RequestError: A request left the batch, a transition is not allowed, or the lease is
                not ours any more.
        """
        self._change(
            now,
            lambda change: working.transition_all(
                change, request_ids, to_state, token=token, reason=reason
            ),
        )

    def begin_erasure(
        self, request_ids: Sequence[str], *, token: int, n_placed: int, reason: str, now: datetime
    ) -> bool:
        """Pass the point of no return, unless a hold or an exemption was placed since a plan.

        Batches of one dataset pass it one after the other: asked and moved in one transaction.

        Args:
            request_ids: Requests of one batch, approved.
            token: Of its lease.
            n_placed: Of the ``keeping`` that the plan was compared with.
            reason: Kept with the events.
            now: Moment of it.

        Returns:
            False, with nothing changed, if there is a newer hold or exemption in the dataset: it
            may keep records of the plan.

        Raises:
            RequestError: As ``transition_all``.
            StoreBusyError: Another batch of the dataset has begun its erasure and is not finished;
                nothing is changed. What waits for a person does not count.
        """

        def begin(change: Change) -> bool:
            lease = leasing.require_lease(change, token)
            leasing.require_alone(change, lease)
            if not keeping.is_current(change, lease.dataset, n_placed):
                return False
            working.transition_all(change, request_ids, "data_erased", token=token, reason=reason)
            return True

        return self._change(now, begin)

    def keeping(self) -> Keeping:
        """Return what must stay in the dataset: all that a hold or an exemption is about."""
        return keeping.keeping(self._database, self._door.dataset)

    def hold_overlaps(
        self,
        batch_id: str,
        kept_for: Mapping[str, tuple[KeptTarget, ...]],
        *,
        token: int,
        now: datetime,
    ) -> None:
        """Hold requests of a batch, each with the kept targets that some of its records are in.

        Raises:
            RequestError: The lease is not ours any more.
        """
        self._change(now, lambda change: keeping.hold_overlaps(change, batch_id, token, kept_for))

    def overlapping(self) -> list[RequestRow]:
        """Return the open requests that ``hold_overlaps`` holds in the dataset."""
        return keeping.overlapping(self._database, self._door.dataset)

    def release_overlaps(self, request_ids: Sequence[str], *, now: datetime) -> None:
        """Release what ``hold_overlaps`` placed; requests that nothing else holds are queued."""
        dataset = self._door.dataset
        self._change(
            now, lambda change: keeping.release_overlaps(change, list(request_ids), dataset)
        )

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
        closing = Closing(request_id=request_id, outcome=outcome, claim=claim, details=details)
        self.close_many([closing], token=token, now=now)

    def close_many(self, closings: Sequence[Closing], *, token: int, now: datetime) -> None:
        """Close requests of one batch and their duplicates, all or none; a repeat changes nothing.

        A request for several datasets is queued again for the next one, or held if that is held.
        """
        self._change(now, lambda change: working.close_many(change, closings, token=token))

    def get(self, request_id: str) -> RequestRow:
        """Return one request.

        Raises:
            RequestError: There is no such request.
        """
        return reading.get(self._database, request_id)

    def list_requests(
        self,
        state: str | None = None,
        *,
        dataset: str | None = None,
        due_before: datetime | None = None,
        limit: int | None = None,
        after: RequestRow | None = None,
        open_only: bool = False,
    ) -> list[RequestRow]:
        """Return requests by deadline; ``limit`` and ``after`` (a page's last row) give pages."""
        return reading.list_requests(
            self._database,
            state=state,
            dataset=dataset,
            due_before=due_before,
            limit=limit,
            after=after,
            open_only=open_only,
        )

    def iterate_open(self) -> Iterator[RequestRow]:
        """Yield every request that is not closed, in bounded memory."""
        return reading.iterate_open(self._database)

    def batch_requests(self, batch_id: str) -> list[RequestRow]:
        """Return all requests that belong to a batch, closed ones included."""
        return reading.batch_requests(self._database, batch_id)

    def snapshot(self, batch_id: str) -> list[str]:
        """Return the requests that a batch was made of, those that left it included."""
        return reading.snapshot(self._database, batch_id)

    def events(self, request_id: str) -> list[Event]:
        """Return the history of a request, oldest first."""
        return reading.events(self._database, request_id)

    def reservations(self, request_id: str) -> list[Reservation]:
        """Return the holds and exemptions of a request, released ones included."""
        return reading.reservations(self._database, request_id)

    def answers(self, request_id: str) -> list[Answer]:
        """Return how the parts of a request ended, dataset by dataset."""
        return reading.answers(self._database, request_id)

    def pauses(self, request_id: str) -> list[Pause]:
        """Return the intervals in which the clock of a request stood still."""
        return reading.pauses(self._database, request_id)

    def counts(self) -> dict[str, int]:
        """Return the number of requests by state."""
        return reading.counts(self._database)

    def count_by_share(self, now: datetime, levels: Sequence[float]) -> list[int]:
        """Count open requests by the level (ascending) of their period that they have used."""
        return reading.count_by_share(self._database, now, levels)

    def key_ids(self) -> dict[str, int]:
        """Return how many requests that are not closed are under each pseudonym key."""
        return reading.key_ids(self._database)

    def open_leases(self) -> list[LeaseRow]:
        """Return leases that hold requests."""
        return reading.open_leases(self._database)

    def find_problems(self) -> list[str]:
        """Return what does not fit together in the database; an empty list is a sound queue."""
        return auditing.find_problems(self._database)

    def truncate_log(self) -> None:
        """Empty SQLite's write-ahead log, in which overwritten values stay readable.

        Raises:
            StoreBusyError: A reader held it for longer than the busy timeout.
        """
        self._database.truncate_log()

    def dispose(self) -> None:
        """Close all connections."""
        self._database.dispose()

    def _change(self, now: datetime, work: Callable[[Change], T]) -> T:
        def transaction(connection: sa.Connection) -> T:
            zone = self._door.time_zone
            return work(Change(self._database, connection, now, zone, self._key_id))

        return self._database.write(transaction)


def open_queue(
    url: str,
    *,
    dataset: str = "default",
    time_zone: str | None = None,
    key_id: str | None = None,
) -> DeletionQueue:
    """Open a queue by SQLAlchemy URL; made on first use, migrated when it is older.

    Args:
        url: ``sqlite:///...`` or ``postgresql://...``.
        dataset: What a request is about that names no dataset, and what is leased.
        time_zone: Where days are counted; none: in the zone of each regime.
        key_id: As in ``DeletionQueue``.

    Raises:
        StoreBusyError: The database is unreachable.
        RequestError: A newer version of this software made it, or the time zone is unknown.
    """
    if time_zone is not None and time_zone not in available_timezones():
        message = "queue.time_zone: expected a zone of the IANA database, such as Europe/Lisbon"
        raise RequestError(message)
    return DeletionQueue(open_database(url), dataset=dataset, time_zone=time_zone, key_id=key_id)
