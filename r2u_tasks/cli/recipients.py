"""Commands about recipients: who was told of an erasure, and who has answered."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import AsJson, Dataset, Root, out, print_json, root_folder, show

app = typer.Typer(no_args_is_help=True, help="Recipients of the data: notices and answers.")


@app.command("list", epilog="Example: `r2u recipients list -d people.yaml`")
def list_(dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False) -> None:
    """List every notice with its deadline and answer."""
    from r2u_tasks.stages.recipients import list_notices

    notices = list_notices(dataset=dataset, root_uri=str(root_folder(dataset, root)))
    if as_json:
        print_json(notices)
        return
    table = Table("batch", "recipient", "by", "records", "due", "answer")
    for notice in notices:
        answer = notice["outcome"] or ("overdue" if notice["overdue"] else "waiting")
        cells = (notice["batch_id"], notice["recipient"], notice["contact"])
        table.add_row(*cells, str(notice["n_records"]), notice["due_at"][:10], answer)
    out.print(table)


@app.command(epilog="Example: `r2u recipients answer b0123456789ab acme --outcome erased`")
def answer(
    batch_id: Annotated[str, typer.Argument(help="Batch of the notice.")],
    recipient: Annotated[str, typer.Argument(help="Name of the recipient.")],
    outcome: Annotated[str, typer.Option(help="erased, had_none or refused.")] = "erased",
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Note the answer of a recipient; the digests of its notice are deleted."""
    from r2u_tasks.stages.recipients import answer_notice

    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    result = answer_notice(batch_id=batch_id, recipient=recipient, outcome=outcome, **place)
    show(result, as_json, ("batch_id", "recipient", "outcome", "answered_at"))
