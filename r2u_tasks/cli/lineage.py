"""Commands that tell others: lineage, the mirror of our records in MLflow, letters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import AsJson, Dataset, Root, out, print_json, root_folder, show, waiting

app = typer.Typer()

_STYLE = {
    "knew": "red",
    "may have known": "yellow",
    "unlearned": "blue",
    "made without": "green",
    "never knew": "dim",
}


@app.command(
    epilog="Examples: `r2u lineage p-17 -d people.yaml`; `r2u lineage - < id.txt` keeps the id out "
    "of the shell's history."
)
def lineage(
    asked: Annotated[
        str,
        typer.Argument(
            metavar="RECORD|SUBJECT|MODEL",
            help="An id in clear, the key of a model, a pseudonym, or - to read it from stdin.",
        ),
    ],
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    kind: Annotated[
        str | None, typer.Option(help="record, subject or model; found out if absent.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw it (.svg, .png); default reports/lineage/.")
    ] = None,
    mlflow: Annotated[bool, typer.Option(help="Compare with MLflow (seconds).")] = True,
    as_json: AsJson = False,
) -> None:
    """Show which models knew a person, until when, and what replaced them.

    The id is turned into a pseudonym at once; no output, file or log holds it.
    """
    from r2u_tasks.stages.lineage import trace

    with waiting("lineage"):
        answer = trace(
            asked=sys.stdin.readline().strip() if asked == "-" else asked,
            dataset=dataset,
            root_uri=str(root_folder(dataset, root)),
            kind=kind,
            picture=None if picture is None else str(picture),
            with_mlflow=mlflow,
        )
    if as_json:
        print_json(answer)
    else:
        _print(answer, with_mlflow=mlflow)


@app.command(epilog="Example: `r2u mirror -d people.yaml`, after MLflow was down")
def mirror(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    everything: Annotated[
        bool, typer.Option(help="Ask MLflow about everything: for a server that lost its data.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring MLflow up to our own records: runs, versions, removed weights, the alias."""
    from r2u_tasks.stages.mirror import mirror as stage

    with waiting("mirror"):
        result = stage(
            dataset=dataset, root_uri=str(root_folder(dataset, root)), everything=everything
        )
    show(result, as_json, None)


@app.command(epilog="Examples: `r2u letters -d people.yaml`; `r2u letters --request r-17 -l de`")
def letters(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    request: Annotated[
        list[str] | None, typer.Option(help="Only this request, written anew; repeat it.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="en, de; default: as declared.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a letter to the person for every answered request, as HTML and PDF."""
    from r2u_tasks.stages.letters import write_letters

    with waiting("letters"):
        result = write_letters(
            dataset=dataset,
            root_uri=str(root_folder(dataset, root)),
            request_ids=request or (),
            language=language,
        )
    if as_json:
        print_json(result)
        return
    out.print(f"{len(result['written'])} files written to {result['folder']}", soft_wrap=True)
    for reason in result["skipped"].values():
        out.print(f"[yellow]not written[/] {escape(reason)}", highlight=False)
    if result["missing"]:
        names = ", ".join(result["missing"])
        out.print(f"[yellow]placeholders[/] the declaration does not fill {names}", highlight=False)


def _print(answer: dict[str, Any], *, with_mlflow: bool) -> None:
    who = answer["shown"] if answer["kind"] == "model" else f"{answer['kind']} {answer['shown']}…"
    status = f": {answer['status']}" if answer["status"] else ""
    out.print(f"[bold]{escape(who)}[/]{status}", highlight=False)
    out.print(escape(answer["summary"]), highlight=False)
    shown = [
        k
        for k in answer["models"]
        if k["relation"] != "never knew" or answer["shown"] == k["model"]["model_key"]
    ]
    table = Table("model", "what", "when", show_lines=True)
    for known in shown:
        table.add_row(*_cells(known))
    if shown:
        out.print(table)
    if len(shown) < len(answer["models"]):
        out.print(f"{len(answer['models']) - len(shown)} other models never knew them")
    for erasure in answer["erasures"]:
        gone = _minute(erasure["rows_erased_at"]) or "not yet"
        out.print(
            f"batch {erasure['batch_id']}: {erasure['n_records']} records erased {gone}, "
            f"closed {_minute(erasure['closed_at']) or 'not yet'}",
            highlight=False,
        )
    _print_checks(answer, with_mlflow=with_mlflow)


def _cells(known: dict[str, Any]) -> tuple[str, str, str]:
    model, relation = known["model"], known["relation"]
    version = f"version {model['model_version']}" if model["model_version"] else "not released"
    lines = [f"made {_minute(model['created_at'])}"]
    lines += [
        f"served {_minute(period['start'])} to {_minute(period['end']) or 'now'}"
        for period in model["serving"]
    ]
    if not model["weights_present"]:
        lines.append(f"weights removed {_minute(model['removed_at']) or 'at an unknown time'}")
    if known["replaced_by"]:
        lines.append(f"then {known['replaced_by']} served")
    return (
        f"{escape(model['model_key'])}\n[dim]{version}[/]",
        f"[{_STYLE[relation]}]{relation}[/]\n[dim]{escape(known['because'])}[/]",
        "\n".join(lines),
    )


def _print_checks(answer: dict[str, Any], *, with_mlflow: bool) -> None:
    ledger = answer["ledger"]
    chain = "unbroken" if ledger["ok"] else f"[red]{escape(str(ledger['problem']))}[/]"
    out.print(f"ledger: {chain}", highlight=False)
    if answer["differences"]:
        for line in answer["differences"]:
            out.print(f"[yellow]MLflow differs[/] {escape(line)}", highlight=False)
    elif answer["differences"] is None:
        why = "it did not answer" if with_mlflow else "not asked"
        out.print(f"MLflow: not compared, {why}")
    else:
        out.print("MLflow: says the same")
    for note in answer["notes"]:
        out.print(f"[dim]{escape(note)}[/]", highlight=False)
    for path in answer["pictures"]:
        out.print(f"picture {path}", soft_wrap=True, highlight=False)


def _minute(text: str | None) -> str:
    return text[:16].replace("T", " ") if text else ""
