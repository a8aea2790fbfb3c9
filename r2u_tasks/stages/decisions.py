"""What a person decides about one request: identity, hold, release, cancellation.

Each function changes the queue, gives the request as it stands afterwards, and is for the command
line and the API alike. Reasons are stored in clear: no personal data belongs in them.
"""

from __future__ import annotations

from datetime import UTC, datetime

from governance.errors import RequestError
from governance.request_rows import HOLD_GROUND_PATTERN
from r2u_tasks.stages.context import JSON, open_context


def verify_request(*, request_id: str, dataset: str, root_uri: str) -> JSON:
    """Note that the identity is verified; the request is queued, held or a duplicate."""
    queue = open_context(dataset, root_uri).queue
    queue.verify(request_id, now=_now())
    return queue.get(request_id).to_dict()


def hold_request(*, request_id: str, ground: str, dataset: str, root_uri: str) -> JSON:
    """Keep the data of a request for now."""
    if not HOLD_GROUND_PATTERN.fullmatch(ground):
        message = "hold: expected a short name of the legal ground like legal_claim"
        raise RequestError(message)
    queue = open_context(dataset, root_uri).queue
    queue.place_hold(request_id, ground, now=_now())
    return queue.get(request_id).to_dict()


def release_request(*, request_id: str, dataset: str, root_uri: str) -> JSON:
    """Release the hold; the request is queued again."""
    queue = open_context(dataset, root_uri).queue
    queue.release_hold(request_id, now=_now())
    return queue.get(request_id).to_dict()


def cancel_request(*, request_id: str, reason: str, dataset: str, root_uri: str) -> JSON:
    """Cancel a request before anything of it is erased."""
    queue = open_context(dataset, root_uri).queue
    queue.cancel(request_id, now=_now(), reason=reason)
    return queue.get(request_id).to_dict()


def _now() -> datetime:
    return datetime.now(UTC)
