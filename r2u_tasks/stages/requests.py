"""One request at a time: submit it, read it, decide about it.

The surface of the command line and of the API for what is not a file. Every function takes and
gives JSON; none returns a pseudonym.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from governance.clock import share_used
from governance.deletion_queue import RequestRow
from governance.errors import RequestError
from governance.request_rows import RowRules, parse_request
from r2u_tasks.stages.context import JSON, StageContext, open_context

COLOURS = ("calm", "half", "near", "breached", "closed")
_LEVELS = ((1.0, "breached"), (0.8, "near"), (0.5, "half"), (float("-inf"), "calm"))


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
    return {**_with_colour(row, datetime.now(UTC)), "events": events}


def is_known(*, request_id: str, dataset: str, root_uri: str) -> bool:
    """Return whether there is such a request."""
    try:
        open_context(dataset, root_uri).queue.get(request_id)
    except RequestError:
        return False
    return True


def page_requests(
    *,
    dataset: str,
    root_uri: str,
    state: str | None = None,
    colour: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> JSON:
    """Return a page of requests by deadline, those that are due first at the top.

    Args:
        dataset: Declaration.
        root_uri: Workspace.
        state: Only those in this state.
        colour: Only those of this colour, see ``deadline_colour``; ``open`` is all but ``closed``.
        after: ``next`` of the page before.
        limit: Size of the page.

    Returns:
        ``requests`` (each with ``colour`` and ``share_used``) and ``next``, None on the last page.
    """
    queue = open_context(dataset, root_uri).queue
    now = datetime.now(UTC)
    start = _cursor(after)
    found: list[JSON] = []
    for row in queue.list_requests(state):
        if start is not None and (row.due_at.isoformat(), row.request_id) <= start:
            continue
        shown = _with_colour(row, now)
        if colour in {None, shown["colour"]} or (colour == "open" and shown["colour"] != "closed"):
            if len(found) == limit:
                last = found[-1]
                return {"requests": found, "next": f"{last['due_at']}|{last['request_id']}"}
            found.append(shown)
    return {"requests": found, "next": None}


def summarize_queue(*, dataset: str, root_uri: str) -> JSON:
    """Return the number of requests by state and by colour of their deadline."""
    queue = open_context(dataset, root_uri).queue
    now = datetime.now(UTC)
    colours = dict.fromkeys(COLOURS, 0)
    for row in queue.list_requests():
        colours[deadline_colour(row, now)] += 1
    return {"states": queue.counts(), "colours": colours, "at": now.isoformat()}


def deadline_colour(row: RequestRow, now: datetime) -> str:
    """Return how urgent a request is: the levels at which ``sentinel`` warns.

    ``calm`` below 50 % of the period, ``half`` below 80 %, ``near`` below 100 %, ``breached``
    after it; ``closed`` is answered.
    """
    if row.closed_at is not None:
        return "closed"
    used = share_used(row.clock_start, row.due_at, now)
    return next(name for level, name in _LEVELS if used >= level)


def _with_colour(row: RequestRow, now: datetime) -> JSON:
    used = share_used(row.clock_start, row.due_at, row.closed_at or now)
    return {
        **row.to_dict(),
        "colour": deadline_colour(row, now),
        "share_used": round(used, 3),
        "days_left": (row.due_at - (row.closed_at or now)).days,
    }


def _cursor(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    due, bar, request_id = text.partition("|")
    if not bar:
        message = "after: expected the 'next' of a page"
        raise RequestError(message)
    return due, request_id
