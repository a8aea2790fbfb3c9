"""One request at a time: submit it, read it, decide about it.

The surface of the command line and of the API for what is not a file. Every function takes and
gives JSON; none returns a pseudonym.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from governance.request_rows import RowRules, parse_request
from r2u_tasks.stages.context import JSON, StageContext, open_context


def row_rules(context: StageContext, *, id_prefix: str | None = None) -> RowRules:
    """Return what the rows of this dataset are read with."""
    columns = context.declaration.columns
    return RowRules(
        key=context.pseudonym_key,
        selectable=(*columns.governance, columns.label.name),
        regime=context.declaration.queue.regime,
        now=datetime.now(UTC),
        id_prefix=id_prefix,
    )


def submit_request(
    *,
    dataset: str,
    root_uri: str,
    subject_id: str | None = None,
    record_ids: Sequence[str] = (),
    select: str | None = None,
    verified: bool = True,
    received_at: datetime | None = None,
    hold_ground: str | None = None,
    request_id: str | None = None,
    regime: str | None = None,
) -> JSON:
    """Put one request into the queue and return its id, state and deadline.

    Raises:
        RequestError: The request is for nothing, or its id is taken by another one.
    """
    context = open_context(dataset, root_uri)
    cells = {
        "request_id": request_id or "",
        "subject_id": subject_id or "",
        "record_ids": ";".join(record_ids),
        "select": select or "",
        "verified": str(verified).lower(),
        "received_at": received_at.isoformat() if received_at else "",
        "hold_ground": hold_ground or "",
        "regime": regime or "",
    }
    new_id = context.queue.submit(parse_request(cells, row_rules(context)))
    stored = context.queue.get(new_id)
    return {
        "request_id": new_id,
        "state": stored.state,
        "due_at": stored.due_at.isoformat(),
        "duplicate_of": stored.duplicate_of,
    }


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
