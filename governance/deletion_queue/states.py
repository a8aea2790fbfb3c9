"""The words of the queue: states, outcomes, grounds, and every transition that may happen.

The same words stand in the database, where triggers refuse every other transition. ``received``
and ``verified`` are passed through within one transaction; they appear in events, not at rest.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """State of a request."""

    RECEIVED = "received"
    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    HELD = "held"
    EXEMPT = "exempt"
    DUPLICATE = "duplicate"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    QUEUED = "queued"
    LEASED = "leased"
    PLANNED = "planned"
    APPROVED = "approved"
    DATA_ERASED = "data_erased"
    ESCALATED_EXACT = "escalated_exact"
    MODEL_UNLEARNED = "model_unlearned"
    VERIFIED_FORGOTTEN = "verified_forgotten"
    PROPAGATED = "propagated"
    RETRY_WAIT = "retry_wait"
    NEEDS_PERSON = "needs_person"
    CLOSED = "closed"


class Outcome(StrEnum):
    """How a request, or its part in one dataset, ended."""

    FORGOTTEN = "forgotten"
    NOT_FOUND = "not_found"
    ALREADY_FORGOTTEN = "already_forgotten"
    DUPLICATE = "duplicate"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    KEPT_EXEMPT = "kept_exempt"
    PARTIAL = "partial"


class ClockState(StrEnum):
    """What the statutory clock of a request does."""

    RUNNING = "running"
    PAUSED = "paused"
    EXTENDED = "extended"
    BREACHED = "breached"
    ANSWERED = "answered"


class HoldGround(StrEnum):
    """Why data are kept for now: GDPR 18(1) and the duties that suspend an erasure."""

    LEGAL_CLAIM = "legal_claim"
    LEGAL_OBLIGATION = "legal_obligation"
    AUTHORITY_ORDER = "authority_order"
    ACCURACY_CONTESTED = "accuracy_contested"
    UNLAWFUL_PROCESSING = "unlawful_processing"
    OBJECTION_PENDING = "objection_pending"
    UNSPECIFIED = "unspecified"


class ExemptionGround(StrEnum):
    """Why data are kept for good: GDPR 17(3)(a)-(e), and data that another law governs."""

    FREEDOM_OF_EXPRESSION = "freedom_of_expression"
    LEGAL_OBLIGATION = "legal_obligation"
    PUBLIC_HEALTH = "public_health"
    ARCHIVING_RESEARCH = "archiving_research"
    LEGAL_CLAIMS = "legal_claims"
    OTHER_LAW = "other_law"


class ErasureGround(StrEnum):
    """What the person relies on: GDPR 17(1)(a)-(f)."""

    NO_LONGER_NECESSARY = "no_longer_necessary"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    OBJECTION = "objection"
    UNLAWFUL_PROCESSING = "unlawful_processing"
    LEGAL_OBLIGATION = "legal_obligation"
    CHILD_SERVICE = "child_service"


S = State

BEFORE_ERASURE = (S.LEASED, S.PLANNED, S.APPROVED)
"""In a batch, nothing erased."""

AFTER_ERASURE = (
    S.DATA_ERASED,
    S.ESCALATED_EXACT,
    S.MODEL_UNLEARNED,
    S.VERIFIED_FORGOTTEN,
    S.PROPAGATED,
)
"""The erasure has begun: ``data_erased`` is written before the first row is destroyed."""

IN_BATCH = (*BEFORE_ERASURE, *AFTER_ERASURE)
"""States of a leased request, in the order of the batch's straight path."""

WAITING = (S.QUEUED, S.HELD, S.DUPLICATE, S.RETRY_WAIT)
"""Verified, and in no batch."""

LIVE = (S.QUEUED, S.HELD, S.EXEMPT, S.RETRY_WAIT, *BEFORE_ERASURE)
"""A verified request in one of these is the primary of its target: there is only one."""

ENTRY = (S.UNVERIFIED, S.QUEUED, S.HELD, S.DUPLICATE)
"""Where a request rests after ``submit``."""

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (S.RECEIVED, S.UNVERIFIED),
        (S.RECEIVED, S.VERIFIED),
        (S.UNVERIFIED, S.VERIFIED),
        *((S.VERIFIED, state) for state in (S.QUEUED, S.HELD, S.DUPLICATE, S.EXEMPT)),
        (S.QUEUED, S.LEASED),
        (S.LEASED, S.PLANNED),
        (S.PLANNED, S.APPROVED),
        (S.APPROVED, S.DATA_ERASED),
        (S.DATA_ERASED, S.MODEL_UNLEARNED),
        (S.DATA_ERASED, S.ESCALATED_EXACT),
        (S.ESCALATED_EXACT, S.MODEL_UNLEARNED),
        (S.MODEL_UNLEARNED, S.VERIFIED_FORGOTTEN),
        (S.VERIFIED_FORGOTTEN, S.PROPAGATED),
        # Given back, held, waiting for another try; a part that ends leaves the next one queued.
        *((state, S.QUEUED) for state in (S.HELD, S.EXEMPT, S.DUPLICATE, S.RETRY_WAIT)),
        *((state, S.QUEUED) for state in (*BEFORE_ERASURE, S.PROPAGATED, S.NEEDS_PERSON)),
        *((state, S.HELD) for state in (S.QUEUED, S.EXEMPT, S.DUPLICATE, S.RETRY_WAIT)),
        *((state, S.HELD) for state in (*BEFORE_ERASURE, S.PROPAGATED, S.NEEDS_PERSON)),
        *((state, S.EXEMPT) for state in (S.QUEUED, S.HELD, S.RETRY_WAIT, *BEFORE_ERASURE)),
        (S.NEEDS_PERSON, S.DUPLICATE),
        (S.PROPAGATED, S.DUPLICATE),
        (S.NEEDS_PERSON, S.ESCALATED_EXACT),
        (S.NEEDS_PERSON, S.MODEL_UNLEARNED),
        *((state, S.RETRY_WAIT) for state in BEFORE_ERASURE),
        *((state, S.NEEDS_PERSON) for state in IN_BATCH),
        *((state, S.CANCELLED) for state in (S.UNVERIFIED, *WAITING, *BEFORE_ERASURE)),
        *((state, S.CANCELLED) for state in (S.EXEMPT, S.NEEDS_PERSON)),
        *((state, S.REJECTED) for state in (S.UNVERIFIED, *WAITING, *BEFORE_ERASURE)),
        *((state, S.CLOSED) for state in (*BEFORE_ERASURE, S.PROPAGATED, S.NEEDS_PERSON)),
        *((state, S.CLOSED) for state in (S.CANCELLED, S.REJECTED, S.EXEMPT, S.DUPLICATE)),
    }
)
"""Every transition that may happen; nothing leaves ``closed``."""


def is_behind(current: str, wanted: str) -> bool:
    """Return whether a request is already at or after a state of the batch's straight path."""
    order = [*IN_BATCH, S.CLOSED]
    if S(current) not in order or S(wanted) not in order:
        return current == wanted
    return order.index(S(current)) >= order.index(S(wanted))
