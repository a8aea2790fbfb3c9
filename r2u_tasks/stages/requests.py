"""One request at a time: submit it, read it, decide about it.

The surface of the command line and of the API for what is not a file. Every function takes and
gives JSON; none returns a pseudonym.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from governance.deletion_queue import DeletionQueue, RequestRow, State
from governance.errors import RequestError
from governance.request_rows import RowRules, parse_request
from r2u_tasks.stages.context import JSON, StageContext, open_context

COLOURS = ("calm", "half", "near", "breached", "closed")
_PAGE = 1000
_LEVELS = ((1.0, "breached"), (0.8, "near"), (0.5, "half"), (float("-inf"), "calm"))


def row_rules(context: StageContext, *, id_prefix: str | None = None) -> RowRules:
    """Return what the rows of this dataset are read with."""
    columns = context.declaration.columns
    return RowRules(
        ring=context.key_ring,
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
    (receipt,) = context.queue.submit_many([parse_request(cells, row_rules(context))])
    return {
        "request_id": receipt.request_id,
        "state": receipt.state,
        "due_at": receipt.due_at.isoformat(),
        "duplicate_of": receipt.duplicate_of,
    }


def list_requests(*, dataset: str, root_uri: str) -> list[JSON]:
    """Return every request with state, deadline and outcome, as JSON rows."""
    context = open_context(dataset, root_uri)
    return [row.to_dict() for row in context.queue.list_requests()]


def show_request(*, request_id: str, dataset: str, root_uri: str) -> JSON:
    """Return one request with its events, holds and exemptions.

    Raises:
        RequestError: There is no such request.
    """
    context = open_context(dataset, root_uri)
    queue = context.queue
    return {
        **_with_colour(queue.get(request_id), datetime.now(UTC)),
        "events": [event.to_dict() for event in queue.events(request_id)],
        "reservations": [one.to_dict() for one in queue.reservations(request_id)],
    }


def shown_request(queue: DeletionQueue, request_id: str) -> JSON:
    """Return one request as lists show it."""
    return _with_colour(queue.get(request_id), datetime.now(UTC))


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
        after: ``next`` of the page before: the id of its last request.
        limit: Size of the page.

    Returns:
        ``requests`` (each with ``colour`` and ``share_used``) and ``next``, None on the last page.
    """
    queue = open_context(dataset, root_uri).queue
    now = datetime.now(UTC)
    last = queue.get(after) if after is not None else None
    found: list[JSON] = []
    open_only = colour not in {None, "closed"}
    if colour == "closed" and state is None:
        state = State.CLOSED
    due_before = now if colour == "breached" else None
    while True:
        rows = queue.list_requests(
            state, limit=_PAGE, after=last, open_only=open_only, due_before=due_before
        )
        for row in rows:
            shown = _with_colour(row, now)
            if colour in {None, "open", shown["colour"]}:
                if len(found) == limit:
                    return {"requests": found, "next": found[-1]["request_id"]}
                found.append(shown)
        if len(rows) < _PAGE:
            return {"requests": found, "next": None}
        last = rows[-1]


def summarize_queue(*, dataset: str, root_uri: str) -> JSON:
    """Return the number of requests by state and by colour of their deadline."""
    queue = open_context(dataset, root_uri).queue
    now = datetime.now(UTC)
    states = queue.counts()
    counts = queue.count_by_share(now, [level for level, _ in reversed(_LEVELS[:-1])])
    colours = dict(zip(COLOURS, counts, strict=False))
    colours["closed"] = states.get(State.CLOSED, 0)
    return {"states": states, "colours": colours, "at": now.isoformat()}


def deadline_colour(row: RequestRow, now: datetime) -> str:
    """Return how urgent a request is: the levels at which ``sentinel`` warns.

    ``calm`` below 50 % of the period, ``half`` below 80 %, ``near`` below 100 %, ``breached``
    after it; ``closed`` is answered.
    """
    if row.closed_at is not None:
        return "closed"
    used = row.share_used(now)
    return next(name for level, name in _LEVELS if used >= level)


def _with_colour(row: RequestRow, now: datetime) -> JSON:
    used = row.share_used(row.closed_at or now)
    return {
        **row.to_dict(),
        "colour": deadline_colour(row, now),
        "share_used": round(used, 3),
        "days_left": (row.due_at - (row.closed_at or now)).days,
    }
