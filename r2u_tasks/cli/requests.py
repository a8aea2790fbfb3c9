"""Commands about deletion requests: request add, list, show; intake."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import (
    AsJson,
    Dataset,
    Root,
    RunId,
    common,
    out,
    print_json,
    root_folder,
    show,
)

app = typer.Typer(no_args_is_help=True, help="Add, list and show deletion requests.")
intake_app = typer.Typer()


@app.command("add", epilog="Example: `r2u request add --subject p-17`")
def request_add(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    subject: Annotated[str | None, typer.Option(help="Subject id: all records.")] = None,
    record: Annotated[list[str] | None, typer.Option(help="Record id; repeat it.")] = None,
    select: Annotated[str | None, typer.Option(help="COLUMN=VALUE, a tenant or class.")] = None,
    unverified: Annotated[bool, typer.Option(help="Identity is not verified yet.")] = False,
    received: Annotated[datetime | None, typer.Option(help="Received at (UTC).")] = None,
    hold: Annotated[str | None, typer.Option(help="Legal ground of a hold.")] = None,
    request_id: Annotated[str | None, typer.Option("--id", help="Your own request id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put one deletion request into the queue."""
    from r2u_tasks.stages.requests import submit_request

    result = submit_request(
        dataset=dataset,
        root_uri=str(root_folder(dataset, root)),
        subject_id=subject,
        record_ids=tuple(record or ()),
        select=select,
        verified=not unverified,
        received_at=received.replace(tzinfo=UTC) if received else None,
        hold_ground=hold,
        request_id=request_id,
    )
    show(result, as_json, tuple(result))


@app.command("list", epilog="Example: `r2u request list --json`")
def request_list(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """List the deletion requests with state, deadline and outcome."""
    from r2u_tasks.stages.requests import list_requests

    rows = list_requests(dataset=dataset, root_uri=str(root_folder(dataset, root)))
    if as_json:
        print_json(rows)
        return
    table = Table("request", "state", "due", "days used", "outcome", "claim", "primary")
    for row in rows:
        table.add_row(*("" if row[n] is None else str(row[n]) for n in _REQUEST_COLUMNS))
    out.print(table)


_REQUEST_COLUMNS = (
    "request_id",
    "state",
    "due_at",
    "days_used",
    "outcome",
    "claim",
    "duplicate_of",
)


@app.command("show", epilog="Example: `r2u request show REQUEST`")
def request_show(
    request_id: Annotated[str, typer.Argument(help="Id of the request.")],
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
) -> None:
    """Show one request with its whole history."""
    from r2u_tasks.stages.requests import show_request

    root_uri = str(root_folder(dataset, root))
    print_json(show_request(request_id=request_id, dataset=dataset, root_uri=root_uri))


@intake_app.command(
    epilog="Example: `r2u intake -d people.yaml` after files were put into ROOT/inbox"
)
def intake(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Read request files from the inbox into the queue."""
    from r2u_tasks.stages.intake import intake_requests

    show(intake_requests(**common(dataset, root, run_id)), as_json, None)
