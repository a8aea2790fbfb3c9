"""Command line ``r2u``: every stage without Airflow, and the entry point of child processes.

Exit codes: 0 done; 2 the input or the request is wrong and a retry cannot help; 3 a gate refused
(no model is released); 75 try again later; 130 interrupted.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from governance.declaration import EMBEDDED_DIGITS, load_declaration
from governance.digests import read_json, write_json
from governance.errors import PermanentError, R2UError, ReleaseBlockedError, TransientError

EXIT_PERMANENT = 2
EXIT_REFUSED = 3
EXIT_TRANSIENT = 75

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Make trained models forget on request, and prove it.",
    epilog="First day: `r2u check`, `r2u classify`, `r2u train`, `r2u request add`, `r2u unlearn`, "
    "`r2u report`. Set R2U_DATASET and R2U_ROOT to leave out `--dataset` and `--root`.",
)
request_app = typer.Typer(no_args_is_help=True, help="Add, list and show deletion requests.")
app.add_typer(request_app, name="request")

_out = Console()
_err = Console(stderr=True)

Dataset = Annotated[
    str,
    typer.Option(
        "--dataset",
        "-d",
        envvar="R2U_DATASET",
        help="Dataset declaration (YAML), or embedded:digits.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root", envvar="R2U_ROOT", help="Workspace folder; default ./r2u-root/<dataset name>."
    ),
]
RunId = Annotated[
    str | None,
    typer.Option("--run-id", help="Name of the run; the same name twice does the work once."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON for scripts.")]


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show log messages.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=_err, show_path=False)],
    )
    for package in ("governance", "r2u_tasks"):
        logging.getLogger(package).setLevel(level)


@app.command(epilog="Example: `r2u check -d people.yaml`")
def check(dataset: Dataset = EMBEDDED_DIGITS, root: Root = None) -> None:
    """Check a declaration, its policy, its table and its model factory; change nothing."""
    from governance.policy import load_policy
    from governance.storage import read_source
    from r2u_tasks.model import build_model

    path = _resolve(dataset, _root(dataset, root))
    declaration = load_declaration(path)
    policy = load_policy(declaration.policy_path)
    table = read_source(declaration)
    model = build_model(declaration, declaration.training.seed)
    n_parameters = sum(p.numel() for p in model.parameters())
    _out.print(
        f"[green]ok[/] {declaration.name}: {table.num_rows} records, "
        f"{declaration.n_classes} classes, {n_parameters} parameters, "
        f"policy {policy.name} v{policy.version}"
    )


@app.command(epilog="Example: `r2u classify -d people.yaml`")
def classify(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Ingest the table and give every record a risk level with its reasons."""
    from r2u_tasks.stages.classify import classify_data

    with _waiting("classify"):
        result = classify_data(**_common(dataset, root, run_id))
    _show(result, as_json, ("levels", "revocable", "classified", "policy"))


@app.command(epilog="Example: `r2u train -d people.yaml`")
def train(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Train a model that is ready to forget, and make it the champion."""
    from r2u_tasks.stages.train import train_ready_model

    with _progress() as bars:
        result = train_ready_model(**_common(dataset, root, run_id), progress=bars.epochs)
    _show(result, as_json, ("model_key", "ready", "findings", "metrics", "model_version"))


@request_app.command("add", epilog="Example: `r2u request add --subject p-17`")
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
    from r2u_tasks.stages.intake import submit_request

    result = submit_request(
        dataset=dataset,
        root_uri=str(_root(dataset, root)),
        subject_id=subject,
        record_ids=tuple(record or ()),
        select=select,
        verified=not unverified,
        received_at=received.replace(tzinfo=UTC) if received else None,
        hold_ground=hold,
        request_id=request_id,
    )
    _show(result, as_json, tuple(result))


@request_app.command("list", epilog="Example: `r2u request list --json`")
def request_list(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """List the deletion requests with state, deadline and outcome."""
    from r2u_tasks.stages.requests import list_requests

    rows = list_requests(dataset=dataset, root_uri=str(_root(dataset, root)))
    if as_json:
        _print_json(rows)
        return
    table = Table("request", "state", "due", "days used", "outcome", "claim", "primary")
    for row in rows:
        table.add_row(*("" if row[n] is None else str(row[n]) for n in _REQUEST_COLUMNS))
    _out.print(table)


_REQUEST_COLUMNS = (
    "request_id",
    "state",
    "due_at",
    "days_used",
    "outcome",
    "claim",
    "duplicate_of",
)


@request_app.command("show", epilog="Example: `r2u request show REQUEST`")
def request_show(
    request_id: Annotated[str, typer.Argument(help="Id of the request.")],
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
) -> None:
    """Show one request with its whole history."""
    from r2u_tasks.stages.requests import show_request

    root_uri = str(_root(dataset, root))
    _print_json(show_request(request_id=request_id, dataset=dataset, root_uri=root_uri))


@app.command(epilog="Example: `r2u intake -d people.yaml` after files were put into ROOT/inbox")
def intake(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Read request files from the inbox into the queue."""
    from r2u_tasks.stages.intake import intake_requests

    _show(intake_requests(**_common(dataset, root, run_id)), as_json, None)


@app.command(epilog="Example: `r2u unlearn -d people.yaml`")
def unlearn(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    method: Annotated[str | None, typer.Option(help="Another unlearning method.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve one batch of the queue: erase, unlearn, test, promote, certify."""
    from r2u_tasks.stages.unlearn import run_batch

    with _progress() as bars:
        result = run_batch(
            **_common(dataset, root, run_id),
            method=method,
            pool_progress=bars.pools,
            progress=bars.epochs,
        )
    _show(result, as_json, ("batch_id", "n_requests", "outcomes", "lane", "claim", "model_key"))


@app.command(epilog="Example: `r2u report -d people.yaml`")
def report(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Write the governance report (HTML and JSON)."""
    from r2u_tasks.stages.report import governance_report

    with _waiting("report"):
        result = governance_report(**_common(dataset, root, run_id))
    _show(result, as_json, None)


@app.command(epilog="Example: `r2u sentinel -d people.yaml || notify`")
def sentinel(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Check deadlines, leases, ledger and the serving model; exit 3 when there is a warning."""
    from r2u_tasks.stages.sentinel import check as run_check

    result = run_check(**_common(dataset, root, run_id))
    _show(result, as_json, None)
    if result["warnings"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command(epilog="Example: `r2u verify ROOT/batches/B/certificates/R.json`")
def verify(
    certificate: Annotated[Path, typer.Argument(help="Certificate of one request.")],
    public_key: Annotated[
        Path | None, typer.Option(help="Public key; default: workspace's.")
    ] = None,
) -> None:
    """Verify a certificate with its bundle and the ledger, as an auditor would."""
    from governance.verifier import verify_certificate

    folder = certificate.resolve().parent.parent
    root = folder.parent.parent
    result = verify_certificate(
        certificate,
        public_key_path=public_key or root / "keys" / "signing.pub.pem",
        bundle_dir=folder,
        ledger_path=root / "ledger.jsonl",
    )
    for name, passed, detail in result.checks:
        _out.print(f"{'[green]ok[/]  ' if passed else '[red]FAIL[/]'} {name}: {detail}")
    if not result.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: `r2u demo --keep`")
def demo(
    root: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("build/demo"),
    keep: Annotated[bool, typer.Option(help="Leave Airflow and MLflow up.")] = False,
) -> None:
    """Run the whole story on a real Airflow scheduler with the embedded data set."""
    from r2u_tasks.demo import run_demo

    raise typer.Exit(run_demo(root, keep=keep))


@app.command(hidden=True)
def stage(
    module: Annotated[str, typer.Argument(help="Module under r2u_tasks.stages.")],
    function: Annotated[str, typer.Argument(help="Its function.")],
    arguments: Annotated[Path, typer.Option(help="JSON file with the arguments.")],
    result: Annotated[Path, typer.Option(help="Where to write the result.")],
) -> None:
    """Run one stage function as a child process: JSON in, JSON out."""
    for package in ("governance", "r2u_tasks"):
        logging.getLogger(package).setLevel(logging.INFO)
    target = getattr(importlib.import_module(f"r2u_tasks.stages.{module}"), function)
    try:
        write_json(result, target(**read_json(arguments)))
    except R2UError as error:
        kind = type(error).__name__
        write_json(result, {"error": {"kind": kind, "message": str(error)}})
        raise


def main() -> None:
    """Run the command line and turn our errors into one message and an exit code."""
    try:
        app(standalone_mode=True)
    except ReleaseBlockedError as error:
        _fail(error, EXIT_REFUSED)
    except PermanentError as error:
        _fail(error, EXIT_PERMANENT)
    except TransientError as error:
        _fail(error, EXIT_TRANSIENT)
    except KeyboardInterrupt:
        _err.print("interrupted; run the same command again to go on")
        sys.exit(130)


class _Bars:
    """Progress bars that stages report to."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def epochs(self, name: str, done: int, total: int, values: dict[str, float]) -> None:
        """Show epochs of a training segment with the loss and the readiness terms."""
        shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        self._update(f"train {name}", done, total, shown)

    def pools(self, role: str, done: int, total: int) -> None:
        """Show models of a reference pool."""
        self._update(f"reference models ({role})", done, total, "")

    def _update(self, name: str, done: int, total: int, shown: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, shown="")
        self._progress.update(self._tasks[name], completed=done, total=total, shown=shown)


@contextmanager
def _progress() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[shown]}"),
    )
    with Progress(*columns, console=_err) as progress:
        yield _Bars(progress)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    with _err.status(f"{what} ..."):
        yield


def _common(dataset: str, root: Path | None, run_id: str | None) -> dict[str, str]:
    name = run_id or f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return {"run_id": name, "dataset": dataset, "root_uri": str(_root(dataset, root))}


def _root(dataset: str, root: Path | None) -> Path:
    if root is not None:
        return root
    name = "digits" if dataset == EMBEDDED_DIGITS else load_declaration(dataset).name
    return Path("r2u-root") / name


def _resolve(dataset: str, root: Path) -> Path:
    from r2u_tasks import embedded

    return embedded.resolve(dataset, root)


def _show(result: dict[str, Any], as_json: bool, names: tuple[str, ...] | None) -> None:
    if as_json:
        _print_json(result)
        return
    table = Table(show_header=False, box=None)
    for name in names or tuple(result):
        value = result.get(name)
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            table.add_row(f"[bold]{name}[/]", text)
    _out.print(table)


def _print_json(value: object) -> None:
    _out.print_json(json.dumps(value, default=str))


def _fail(error: R2UError, code: int) -> None:
    _err.print(f"[red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
