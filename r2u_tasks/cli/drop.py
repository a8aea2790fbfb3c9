"""Commands about California's DROP: drop screen, drop answer. A download goes into the inbox."""

from __future__ import annotations

from typing import Annotated

import typer

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import AsJson, Dataset, Root, root_folder, show

app = typer.Typer(no_args_is_help=True, help="California's DROP: screen persons, write answers.")


@app.command("screen", epilog="Example: `r2u drop screen -d people.yaml`")
def drop_screen(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """Compare our persons with every work item that was downloaded and not taken back."""
    from r2u_tasks.stages.drop import screen_persons

    root_uri = str(root_folder(dataset, root))
    show(screen_persons(dataset=dataset, root_uri=root_uri), as_json, None)


@app.command("answer", epilog="Example: `r2u drop answer -d people.yaml --opted-out`")
def drop_answer(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    opted_out: Annotated[
        bool, typer.Option("--opted-out", help="All persons in opted_out.csv were opted out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the answer files that can be uploaded now, each work item once."""
    from r2u_tasks.stages.drop import answer_items

    root_uri = str(root_folder(dataset, root))
    show(answer_items(dataset=dataset, root_uri=root_uri, opted_out=opted_out), as_json, None)
