"""What a person decides about one request: identity, holds, exemptions, deadline, refusal.

Each function changes the queue, gives the request as it stands afterwards, and is for the command
line and the API alike. Reasons are stored in clear: no personal data belongs in them. Holds and
exemptions are about one dataset of the request, or about all of them.
"""

from __future__ import annotations

from datetime import UTC, datetime

from r2u_tasks.stages.context import JSON, open_context
from r2u_tasks.stages.requests import shown_request


def verify_request(*, request_id: str, dataset: str, root_uri: str) -> JSON:
    """Note that the identity is verified; the request is queued, held or a duplicate."""
    queue = open_context(dataset, root_uri).queue
    queue.verify(request_id, now=_now())
    return shown_request(queue, request_id)


def hold_request(
    *, request_id: str, ground: str, dataset: str, root_uri: str, only: str | None = None
) -> JSON:
    """Keep the data of a request for now, in one dataset (``only``) or in all of them."""
    queue = open_context(dataset, root_uri).queue
    queue.place_hold(request_id, ground, now=_now(), dataset=only)
    return shown_request(queue, request_id)


def release_request(
    *, request_id: str, dataset: str, root_uri: str, only: str | None = None
) -> JSON:
    """Release the holds; the request is queued again once nothing holds it."""
    queue = open_context(dataset, root_uri).queue
    queue.release_hold(request_id, now=_now(), dataset=only)
    return shown_request(queue, request_id)


def exempt_request(
    *, request_id: str, ground: str, dataset: str, root_uri: str, only: str | None = None
) -> JSON:
    """Keep the data for good, with the ground of GDPR 17(3); the request awaits its answer."""
    queue = open_context(dataset, root_uri).queue
    queue.grant_exemption(request_id, ground, now=_now(), dataset=only)
    return shown_request(queue, request_id)


def withdraw_exemption(
    *, request_id: str, dataset: str, root_uri: str, only: str | None = None
) -> JSON:
    """Take an exemption back; a request that was not answered yet is queued again."""
    queue = open_context(dataset, root_uri).queue
    queue.withdraw_exemption(request_id, now=_now(), dataset=only)
    return shown_request(queue, request_id)


def cancel_request(*, request_id: str, reason: str, dataset: str, root_uri: str) -> JSON:
    """Cancel a request; ``honoured`` is false when its erasure had begun."""
    queue = open_context(dataset, root_uri).queue
    honoured = queue.cancel(request_id, now=_now(), reason=reason)
    return {**shown_request(queue, request_id), "honoured": honoured}


def reject_request(*, request_id: str, reason: str, dataset: str, root_uri: str) -> JSON:
    """Reject a request: the identity was never proven, or it is unfounded; it awaits its answer."""
    queue = open_context(dataset, root_uri).queue
    queue.reject(request_id, now=_now(), reason=reason)
    return shown_request(queue, request_id)


def extend_request(
    *, request_id: str, reason: str, notice_at: datetime, dataset: str, root_uri: str
) -> JSON:
    """Extend the period of a person who was told so, with the reason, at ``notice_at``."""
    queue = open_context(dataset, root_uri).queue
    queue.extend(request_id, reason=reason, notice_at=notice_at, now=_now())
    return shown_request(queue, request_id)


def answer_request(
    *, request_id: str, dataset: str, root_uri: str, reference: str | None = None
) -> JSON:
    """Close a rejected or exempt request once the person was told."""
    queue = open_context(dataset, root_uri).queue
    queue.answer(request_id, now=_now(), reference=reference)
    return shown_request(queue, request_id)


def _now() -> datetime:
    return datetime.now(UTC)
