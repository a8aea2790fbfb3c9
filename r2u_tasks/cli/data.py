"""Commands about data: check, classify."""

from __future__ import annotations

from typing import Annotated

import typer

from governance.declaration import EMBEDDED_DIGITS, load_declaration
from r2u_tasks.cli.console import (
    AsJson,
    Dataset,
    Root,
    RunId,
    common,
    out,
    resolve,
    root_folder,
    show,
    waiting,
)

app = typer.Typer()


@app.command(epilog="Example: `r2u check -d people.yaml`")
def check(dataset: Dataset = EMBEDDED_DIGITS, root: Root = None) -> None:
    """Check a declaration, its policy, its table and its model factory; change nothing."""
    from governance.policy import load_policy
    from governance.source import check_source
    from r2u_tasks.model import build_model

    path = resolve(dataset, root_folder(dataset, root))
    declaration = load_declaration(path)
    policy = load_policy(declaration.policy_path, declaration)
    n_records = check_source(declaration)
    model = build_model(declaration, declaration.training.seed)
    n_parameters = sum(p.numel() for p in model.parameters())
    out.print(
        f"[green]ok[/] {declaration.name}: {n_records} records, "
        f"{declaration.n_classes} classes, {n_parameters} parameters, "
        f"policy {policy.name} v{policy.version}"
    )


@app.command(epilog="Examples: `r2u classify -d people.yaml`, `r2u classify --explain r-17`")
def classify(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
    explain: Annotated[
        str | None, typer.Option(help="Say in words why this record has its level; change nothing.")
    ] = None,
) -> None:
    """Ingest the table and give every record a risk level with its reasons."""
    from r2u_tasks.stages import classify as stage

    place = common(dataset, root, run_id)
    if explain is not None:
        place.pop("run_id")
        out.print(stage.explain(record_id=explain, **place), markup=False, soft_wrap=True)
        return
    with waiting("classify"):
        result = stage.classify_data(**place)
    names = (
        "levels",
        "revocable",
        "review",
        "overrides",
        "unmatched",
        "moved",
        "classified",
        "policy",
    )
    show(result, as_json, names)
