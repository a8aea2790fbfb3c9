"""Commands about data: check, classify."""

from __future__ import annotations

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
    from governance.storage import read_source
    from r2u_tasks.model import build_model

    path = resolve(dataset, root_folder(dataset, root))
    declaration = load_declaration(path)
    policy = load_policy(declaration.policy_path)
    table = read_source(declaration)
    model = build_model(declaration, declaration.training.seed)
    n_parameters = sum(p.numel() for p in model.parameters())
    out.print(
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

    with waiting("classify"):
        result = classify_data(**common(dataset, root, run_id))
    show(result, as_json, ("levels", "revocable", "classified", "policy"))
