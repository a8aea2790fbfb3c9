"""Commands about deletion requests: request add, list, show, verify, hold, ...; intake."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

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

app = typer.Typer(no_args_is_help=True, help="Deletion requests: add, look, decide, plan.")
intake_app = typer.Typer()

RequestId = Annotated[str, typer.Argument(help="Id of the request.")]
Only = Annotated[str | None, typer.Option(help="One dataset of the request; all if absent.")]
Reason = Annotated[str, typer.Option(help="Why; it is stored, so nothing personal.")]


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
    request_id: RequestId,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Show one request with its whole history."""
    from r2u_tasks.stages.requests import show_request

    root_uri = str(root_folder(dataset, root))
    row = show_request(request_id=request_id, dataset=dataset, root_uri=root_uri)
    if as_json:
        print_json(row)
        return
    events = row.pop("events")
    show(row, False, None)
    table = Table("at", "from", "to", "reason", title="history", title_justify="left")
    for event in events:
        cells = (event["at"][:19], event["from_state"], event["to_state"], event["reason"])
        table.add_row(*(cell or "" for cell in cells))
    out.print(table)


@app.command("verify", epilog="Example: `r2u request verify web-17`")
def request_verify(
    request_id: RequestId,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Note that the person's identity is verified."""
    from r2u_tasks.stages.decisions import verify_request

    _decide(verify_request, request_id, dataset, root, as_json)


@app.command("hold", epilog="Example: `r2u request hold web-17 --ground legal_claim`")
def request_hold(
    request_id: RequestId,
    ground: Annotated[str, typer.Option(help="Legal ground, for example legal_claim.")],
    only: Only = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Keep the data of a request for now."""
    from r2u_tasks.stages.decisions import hold_request

    _decide(hold_request, request_id, dataset, root, as_json, ground=ground, only=only)


@app.command("release", epilog="Example: `r2u request release web-17`")
def request_release(
    request_id: RequestId,
    only: Only = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Release the holds; the request is queued again once nothing holds it."""
    from r2u_tasks.stages.decisions import release_request

    _decide(release_request, request_id, dataset, root, as_json, only=only)


@app.command("exempt", epilog="Example: `r2u request exempt web-17 --ground legal_obligation`")
def request_exempt(
    request_id: RequestId,
    ground: Annotated[
        str, typer.Option(help="Ground of GDPR 17(3), for example legal_obligation.")
    ],
    only: Only = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Keep the data of a request for good; it awaits its answer."""
    from r2u_tasks.stages.decisions import exempt_request

    _decide(exempt_request, request_id, dataset, root, as_json, ground=ground, only=only)


@app.command("withdraw", epilog="Example: `r2u request withdraw web-17`")
def request_withdraw(
    request_id: RequestId,
    only: Only = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Take an exemption back; queued again unless it was answered."""
    from r2u_tasks.stages.decisions import withdraw_exemption

    _decide(withdraw_exemption, request_id, dataset, root, as_json, only=only)


@app.command("cancel", epilog="Example: `r2u request cancel web-17 --reason withdrawn`")
def request_cancel(
    request_id: RequestId,
    reason: Reason,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a request; honoured until its erasure starts."""
    from r2u_tasks.stages.decisions import cancel_request

    _decide(cancel_request, request_id, dataset, root, as_json, reason=reason)


@app.command("reject", epilog="Example: `r2u request reject web-17 --reason unproven`")
def request_reject(
    request_id: RequestId,
    reason: Reason,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Reject a request: identity never proven, or unfounded; it awaits its answer."""
    from r2u_tasks.stages.decisions import reject_request

    _decide(reject_request, request_id, dataset, root, as_json, reason=reason)


@app.command(
    "extend", epilog="Example: `r2u request extend web-17 --reason complex --notice 2026-11-20`"
)
def request_extend(
    request_id: RequestId,
    reason: Reason,
    notice: Annotated[datetime, typer.Option(help="When the person was told (UTC).")],
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Extend the period of a person who was told so in time."""
    from r2u_tasks.stages.decisions import extend_request

    _decide(
        extend_request,
        request_id,
        dataset,
        root,
        as_json,
        reason=reason,
        notice_at=notice.replace(tzinfo=UTC),
    )


@app.command("answer", epilog="Example: `r2u request answer web-17 --reference letters/17`")
def request_answer(
    request_id: RequestId,
    reference: Annotated[str | None, typer.Option(help="Where the letter is filed.")] = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Close a rejected or exempt request once the person was told."""
    from r2u_tasks.stages.decisions import answer_request

    _decide(answer_request, request_id, dataset, root, as_json, reference=reference)


@app.command(
    "plan",
    epilog="Examples: `r2u request plan web-17`, `r2u request plan --subject p-17 --json`",
)
def request_plan(
    request_id: Annotated[str | None, typer.Argument(help="Id of a request.")] = None,
    subject: Annotated[str | None, typer.Option(help="Or: a subject id.")] = None,
    record: Annotated[list[str] | None, typer.Option(help="Or: a record id; repeat it.")] = None,
    select: Annotated[str | None, typer.Option(help="Or: COLUMN=VALUE.")] = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Say what a request would touch, take and cost; changes nothing."""
    from r2u_tasks.stages.dry_run import plan_request, plan_target

    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    if (request_id is None) == (subject is None and not record and select is None):
        message = "expected a request id, or --subject, --record or --select, and not both"
        raise typer.BadParameter(message)
    if request_id is not None:
        plan = plan_request(request_id=request_id, **place)
    else:
        plan = plan_target(
            subject_id=subject, record_ids=tuple(record or ()), select=select, **place
        )
    if as_json:
        print_json(plan)
    else:
        _show_plan(plan)


def _decide(
    stage: Callable[..., dict[str, Any]],
    request_id: str,
    dataset: str,
    root: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    row = stage(request_id=request_id, **options, **place)
    names = ("request_id", "state", "outcome", "due_at", "hold_ground", "duplicate_of", "honoured")
    show(row, as_json, names)


def _show_plan(plan: dict[str, Any]) -> None:
    table = Table("table", "rows", "of", "persons", title="would be erased", title_justify="left")
    for row in plan["tables"]:
        cells = (row["table"], row["n_rows"], row["n_total"], row["n_subjects"])
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    out.print(table)
    table = Table(
        "model",
        "version",
        "serves",
        "records",
        "checkpoints",
        title="saw them",
        title_justify="left",
    )
    for model in plan["models"]:
        records = "unknown" if model["n_records"] is None else str(model["n_records"])
        checkpoints = ", ".join(map(str, model["checkpoints_that_saw_them"]))
        version = model["model_version"] or ""
        table.add_row(
            model["model_key"], str(version), "yes" if model["serves"] else "", records, checkpoints
        )
    out.print(table)
    lane, estimate = plan["lane"], plan["estimate"]
    show(
        {
            "lane": lane["first"],
            "if refused": lane["if_refused"],
            "why": lane["why"],
            "closes at once as": plan["closes_at_once_as"],
            "records that others keep; it would be held": plan["n_kept"] or None,
            "seconds": _span(estimate["low_s"], estimate["high_s"]),
            "done, if started now": estimate["finish_if_started_now"],
            "before the deadline": estimate["in_time"],
        },
        False,
        None,
    )
    for name, part in estimate["basis"].items():
        value = "?" if part["value"] is None else f"{part['value']:g} s"
        out.print(f"  {name.removesuffix('_s')}: {value} ({part['from']})", highlight=False)
    out.print(plan["changes"], highlight=False)


def _span(low: float | None, high: float | None) -> str:
    if low is None:
        return "unknown"
    return f"{low:.1f} to {high:.1f}" if high is not None else f"{low:.1f} or more"


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
