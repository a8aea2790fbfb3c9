"""What every command shares: options, progress bars, printing, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from governance.declaration import EMBEDDED_DIGITS, load_declaration

EXIT_PERMANENT = 2
EXIT_REFUSED = 3
EXIT_TRANSIENT = 75

out = Console()
err = Console(stderr=True)

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


class Bars:
    """Progress bars that stages report to."""

    def __init__(self, progress: Progress) -> None:
        """Draw into a running progress display."""
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
def progress_bars() -> Iterator[Bars]:
    """Show progress bars on stderr while the work runs."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[shown]}"),
    )
    with Progress(*columns, console=err) as progress:
        yield Bars(progress)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner on stderr while something short runs."""
    with err.status(f"{what} ..."):
        yield


def common(dataset: str, root: Path | None, run_id: str | None) -> dict[str, str]:
    """Return the arguments that every stage takes; without a run id, one from the clock."""
    name = run_id or f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return {"run_id": name, "dataset": dataset, "root_uri": str(root_folder(dataset, root))}


def root_folder(dataset: str, root: Path | None) -> Path:
    """Return the workspace folder: the given one, or ``r2u-root/<dataset name>``."""
    if root is not None:
        return root
    name = "digits" if dataset == EMBEDDED_DIGITS else load_declaration(dataset).name
    return Path("r2u-root") / name


def resolve(dataset: str, root: Path) -> Path:
    """Return the path of a declaration; the embedded one is unpacked into the workspace."""
    from r2u_tasks import embedded

    return embedded.resolve(dataset, root)


def show(result: dict[str, Any], as_json: bool, names: tuple[str, ...] | None) -> None:
    """Print a result as JSON, or its named fields (all: None) as a table."""
    if as_json:
        print_json(result)
        return
    table = Table(show_header=False, box=None)
    for name in names or tuple(result):
        value = result.get(name)
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            table.add_row(f"[bold]{name}[/]", text)
    out.print(table)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    out.print_json(json.dumps(value, default=str))
