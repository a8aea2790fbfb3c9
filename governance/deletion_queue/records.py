"""What goes into the queue and what comes out: frozen records, no personal data but pseudonyms."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from governance.clock import days_used
from governance.deletion_queue.states import (
    ClockState,
    ErasureGround,
    HoldGround,
    State,
)
from governance.errors import RequestError


@dataclass(frozen=True, kw_only=True, slots=True)
class Pseudonyms:
    """A target under one pseudonym key.

    Attributes:
        key_id: Names the key; the empty string is the key from before keys had names.
        subject_key: Pseudonym of a person: all of their records.
        record_keys: Pseudonyms of single records.
        selector: Column and value of a tenant or class, the value as a pseudonym.
    """

    key_id: str = ""
    subject_key: str | None = None
    record_keys: tuple[str, ...] = ()
    selector: dict[str, str] | None = None

    @property
    def target_key(self) -> str:
        """What is asked for under this key, as one digest."""
        return target_key(self.subject_key, self.record_keys, self.selector)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmittedRequest:
    """A request as it comes in.

    Attributes:
        request_id: The sender's id; made here if absent. The same id twice is one request.
        subject_key: Pseudonym of a person: all of their records.
        record_keys: Pseudonyms of single records.
        selector: ``{"column": ..., "value": ...}``: a tenant or class.
        key_id: Names the key of the pseudonyms.
        earlier: The same target under keys that were rotated out, so that it is still recognised.
        verified: Whether the identity is verified.
        received_at: When it was received, timezone-aware.
        hold_ground: Legal ground of a hold on all of its datasets, if one applies.
        regime: Name of the legal periods.
        datasets: Datasets it concerns; empty: the one that the queue was opened for.
        risk: 0 to 1, expected cost if it waits; among requests due on one day the highest goes
            first. Unknown counts as highest.
        ground: What the person relies on, GDPR 17(1), if they said so.
    """

    request_id: str | None = None
    subject_key: str | None = None
    record_keys: tuple[str, ...] = ()
    selector: dict[str, str] | None = None
    key_id: str = ""
    earlier: tuple[Pseudonyms, ...] = ()
    verified: bool = True
    received_at: datetime
    hold_ground: str | None = None
    regime: str = "gdpr"
    datasets: tuple[str, ...] = ()
    risk: float = 1.0
    ground: str | None = None

    def __post_init__(self) -> None:
        """Refuse a request for nothing, without a time zone, or with an unknown ground."""
        if self.subject_key is None and not self.record_keys and self.selector is None:
            message = "request: expected a subject, records or a selector, got none of them"
            raise RequestError(message)
        if self.received_at.tzinfo is None:
            message = "request: expected received_at with a time zone"
            raise RequestError(message)
        if not 0.0 <= self.risk <= 1.0:
            message = f"request: expected a risk from 0 to 1, got {self.risk}"
            raise RequestError(message)
        if self.hold_ground is not None:
            require_word("hold_ground", self.hold_ground, HoldGround)
        if self.ground is not None:
            require_word("ground", self.ground, ErasureGround)

    @property
    def target_key(self) -> str:
        """What is asked for, as one digest: two requests for the same are duplicates."""
        return target_key(self.subject_key, self.record_keys, self.selector)

    @property
    def target_keys(self) -> tuple[str, ...]:
        """The digest of what is asked for under the current key, then under each earlier one."""
        if not self.earlier:
            return (self.target_key,)
        return (self.target_key, *(one.target_key for one in self.earlier))

    @property
    def pseudonyms(self) -> tuple[Pseudonyms, ...]:
        """The target under every key it is known by, the newest first."""
        return (_newest(self), *self.earlier)


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What became of a submitted request.

    Attributes:
        request_id: Its id.
        state: Where it rests.
        duplicate_of: Its primary, if it is a duplicate.
        due_at: End of the period to answer.
        is_new: False when the same id was stored before.
    """

    request_id: str
    state: str
    duplicate_of: str | None
    due_at: datetime
    is_new: bool


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request as it stands.

    Attributes:
        request_id: Its id.
        state: A word of ``State``.
        outcome: A word of ``Outcome`` once it is decided.
        claim: Weakest claim about the models, once it is closed.
        subject_key: Pseudonym of the person, if all of their records are asked for.
        record_keys: Pseudonyms of single records.
        selector: Column and value, if a tenant or class is asked for.
        key_id: Names the key of the pseudonyms.
        earlier: The same target under earlier keys.
        target_key: What is asked for, as one digest.
        datasets: Datasets it concerns.
        dataset: The one it waits for, or is worked on in, now.
        risk: 0 to 1; order among requests that are due on one day.
        regime: Name of the legal periods.
        ground: GDPR 17(1), if known.
        received_at: When it was received.
        clock_start: When the period began.
        due_at: End of the period; a pause that still lasts will push it.
        extended_at: When the person was told of an extension.
        paused_since: Start of a pause that still lasts.
        paused_s: Seconds of the pauses that are over.
        closed_at: When it was answered.
        hold_ground: Ground of a hold, while one lasts.
        duplicate_of: Its primary.
        batch_id: Its batch.
        erasure_at: When the erasure began in the batch; holds and cancellations come too late then.
        not_before: When a request in ``retry_wait`` is tried again.
    """

    request_id: str
    state: str
    outcome: str | None
    claim: str | None
    subject_key: str | None
    record_keys: tuple[str, ...]
    selector: dict[str, str] | None
    key_id: str
    earlier: tuple[Pseudonyms, ...]
    target_key: str
    datasets: tuple[str, ...]
    dataset: str
    risk: float
    regime: str
    ground: str | None
    received_at: datetime
    clock_start: datetime
    due_at: datetime
    extended_at: datetime | None
    paused_since: datetime | None
    paused_s: int
    closed_at: datetime | None
    hold_ground: str | None
    duplicate_of: str | None
    batch_id: str | None
    erasure_at: datetime | None
    not_before: datetime | None

    @property
    def pseudonyms(self) -> tuple[Pseudonyms, ...]:
        """The target under every key it is known by, the newest first."""
        return (_newest(self), *self.earlier)

    @property
    def days_used(self) -> int:
        """Days from the start of the clock to the answer, or to now."""
        return days_used(self.clock_start, self.closed_at or datetime.now(UTC))

    @property
    def is_restricted(self) -> bool:
        """Whether its data are out of training and serving but not destroyed (GDPR 18)."""
        return self.state in {State.HELD, State.EXEMPT}

    def clock(self, now: datetime) -> ClockState:
        """Return what the statutory clock does at a moment."""
        if self.closed_at is not None:
            return ClockState.ANSWERED
        if self.paused_since is not None:
            return ClockState.PAUSED
        if now > self.due_at:
            return ClockState.BREACHED
        return ClockState.RUNNING if self.extended_at is None else ClockState.EXTENDED

    def share_used(self, now: datetime) -> float:
        """Return the share of the period that is over, pauses left out: 1 at the deadline."""
        until = self.paused_since or now
        spent = (until - self.clock_start).total_seconds() - self.paused_s
        whole = (self.due_at - self.clock_start).total_seconds() - self.paused_s
        return spent / whole

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON without the pseudonyms."""
        hidden = {"subject_key", "record_keys", "target_key", "earlier", "key_id"}
        row = {name: value for name, value in asdict(self).items() if name not in hidden}
        for name, value in row.items():
            if isinstance(value, datetime):
                row[name] = value.isoformat()
        clock = self.clock(datetime.now(UTC))
        return {
            **row,
            "datasets": list(self.datasets),
            "days_used": self.days_used,
            "clock": clock,
        }


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a request; from and to are the same for a note (a pause, a hold)."""

    request_id: str
    number: int
    at: str
    from_state: str | None
    to_state: str
    reason: str | None
    details: dict[str, Any] | None
    batch_id: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A hold (kept for now) or an exemption (kept for good) of one request in one dataset."""

    request_id: str
    dataset: str
    kind: str
    ground: str
    reason: str | None
    placed_at: datetime
    released_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        row = asdict(self)
        row["placed_at"] = self.placed_at.isoformat()
        row["released_at"] = self.released_at.isoformat() if self.released_at else None
        return row


@dataclass(frozen=True, slots=True)
class KeptTarget:
    """What must stay in a dataset: the target of a request with a hold or an exemption there."""

    request: RequestRow
    kind: str
    ground: str


@dataclass(frozen=True, slots=True)
class Keeping:
    """All that must stay in a dataset.

    Attributes:
        n_placed: Holds and exemptions that were ever placed there: a larger number says that
            ``targets`` are out of date.
        targets: The targets, those under a hold first.
    """

    n_placed: int
    targets: tuple[KeptTarget, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """How the part of a request in one dataset ended."""

    request_id: str
    dataset: str
    outcome: str
    claim: str | None
    at: datetime
    batch_id: str | None


@dataclass(frozen=True, slots=True)
class Pause:
    """An interval in which the clock stood still; it lasts while ``ended_at`` is none."""

    request_id: str
    started_at: datetime
    ended_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A batch held by one run until it expires; ``token`` fences off earlier holders.

    ``snapshot_digest`` commits to the requests that the batch was made of; those that were held or
    cancelled since are in the digest, not in ``request_ids``.
    """

    batch_id: str
    token: int
    request_ids: tuple[str, ...]
    expires_at: datetime
    snapshot_digest: str


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease as ``sentinel`` sees it."""

    batch_id: str
    expires_at: datetime
    n_requests: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Closing:
    """How one request of a batch ends.

    Attributes:
        request_id: The request.
        outcome: A word of ``Outcome``.
        claim: ``exact``, ``approximate``, ``suppressed``, ``retired`` or none.
        details: Kept with the event; no personal data.
    """

    request_id: str
    outcome: str
    claim: str | None = None
    details: dict[str, Any] | None = field(default=None)


def _newest(request: SubmittedRequest | RequestRow) -> Pseudonyms:
    return Pseudonyms(
        key_id=request.key_id,
        subject_key=request.subject_key,
        record_keys=request.record_keys,
        selector=request.selector,
    )


def target_key(
    subject_key: str | None, record_keys: Sequence[str], selector: dict[str, str] | None
) -> str:
    """Return the SHA-256 of what is asked for, as hex."""
    if subject_key is not None and not record_keys and selector is None and subject_key.isalnum():
        written = f'["{subject_key}", [], null]'  # the same text as below, for most requests
        if subject_key.isascii():
            return hashlib.sha256(written.encode()).hexdigest()
    target = [subject_key, sorted(record_keys), selector]
    return hashlib.sha256(json.dumps(target, sort_keys=True).encode()).hexdigest()


def live_key(target: str, datasets: Sequence[str]) -> str:
    """Return what only one open verified request may have: a target in some datasets.

    128 bits, as hex: half a digest halves the index that every submit writes to, and the queue
    would need some 10^16 requests before two met by chance.
    """
    text = target + _tail(tuple(datasets))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=1024)
def _tail(datasets: tuple[str, ...]) -> str:
    return "".join(f"\x00{name}" for name in sorted(datasets))


def require_word(name: str, word: str, words: type[StrEnum]) -> None:
    """Refuse a word that is not in an enumeration; the message does not repeat it."""
    if word not in set(words):
        message = f"{name}: expected one of {', '.join(words)}"
        raise RequestError(message)
