"""Reading the deletion queue: lists and histories for the command line and the demo."""

from __future__ import annotations

from r2u_tasks.stages.context import JSON, open_context


def list_requests(*, dataset: str, root_uri: str) -> list[JSON]:
    """Return every request with state, deadline and outcome, as JSON rows."""
    context = open_context(dataset, root_uri)
    return [row.to_dict() for row in context.queue.list_requests()]


def show_request(*, request_id: str, dataset: str, root_uri: str) -> JSON:
    """Return one request with its events.

    Raises:
        RequestError: There is no such request.
    """
    context = open_context(dataset, root_uri)
    row = context.queue.get(request_id)
    events = [event.to_dict() for event in context.queue.events(request_id)]
    return {**row.to_dict(), "events": events}
