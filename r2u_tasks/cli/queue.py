"""Commands about the queue's database: queue migrate, queue check."""

from __future__ import annotations

import typer

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import AsJson, Dataset, Root, root_folder, show

app = typer.Typer(no_args_is_help=True, help="Look after the database of the deletion queue.")


@app.command(epilog="Example: `r2u queue migrate -d people.yaml`")
def migrate(dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False) -> None:
    """Bring the database to the form of this version; every other command does it too."""
    from governance.deletion_queue import SCHEMA_REVISION
    from r2u_tasks.stages.context import open_context

    queue = open_context(dataset, str(root_folder(dataset, root))).queue
    show({"before": queue.migrated_from or "none", "now": SCHEMA_REVISION}, as_json, None)


@app.command(epilog="Example: `r2u queue check`; exit code 1 if something does not fit together")
def check(dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False) -> None:
    """Ask whether requests, events, batches and answers fit together."""
    from r2u_tasks.stages.context import open_context

    queue = open_context(dataset, str(root_folder(dataset, root))).queue
    problems = queue.find_problems()
    counts = queue.counts()
    show({"requests": sum(counts.values()), "problems": problems}, as_json, None)
    raise typer.Exit(1 if problems else 0)
