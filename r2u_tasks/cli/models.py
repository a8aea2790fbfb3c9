"""Commands about models: train, unlearn, promote, go back, register a child."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import (
    AsJson,
    Dataset,
    Root,
    RunId,
    common,
    progress_bars,
    root_folder,
    show,
)

app = typer.Typer()


@app.command(epilog="Example: `r2u train -d people.yaml`")
def train(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Train a model that is ready to forget, and make it the champion."""
    from r2u_tasks.stages.train import train_ready_model

    with progress_bars() as bars:
        result = train_ready_model(**common(dataset, root, run_id), progress=bars.epochs)
    show(result, as_json, ("model_key", "ready", "findings", "metrics", "model_version"))


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

    with progress_bars() as bars:
        result = run_batch(
            **common(dataset, root, run_id),
            method=method,
            pool_progress=bars.pools,
            progress=bars.epochs,
        )
    show(result, as_json, _BATCH)


_BATCH = ("batch_id", "n_requests", "outcomes", "kept_back", "lane", "claim", "model_key")


@app.command(epilog="Example: `r2u promote ready-2026-01 -d people.yaml`")
def promote(
    model: Annotated[str, typer.Argument(help="Key of a model, or its version in the registry.")],
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Let a model serve; one that knows an erased person is refused (exit code 3)."""
    from r2u_tasks.stages.promotion import promote as stage

    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    show(stage(model=model, **place), as_json, None)


@app.command(epilog="Example: `r2u rollback -d people.yaml`")
def rollback(
    dataset: Dataset = EMBEDDED_DIGITS, root: Root = None, as_json: AsJson = False
) -> None:
    """Let the model serve that served before; refused like `promote`."""
    from r2u_tasks.stages.promotion import roll_back

    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    show(roll_back(**place), as_json, None)


@app.command(
    "register-child",
    epilog="Example: `r2u register-child mobile-1 --parent ready-x --weights tuned.safetensors`",
)
def register_child(
    model_key: Annotated[str, typer.Argument(help="Name of the child.")],
    parent: Annotated[str, typer.Option(help="Key of the model that it was made from.")],
    weights: Annotated[Path, typer.Option(help="Its weights, safetensors.")],
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Register a model that was fine-tuned elsewhere, so that erasures reach it."""
    from r2u_tasks.stages.children import register_child as stage

    place = {"dataset": dataset, "root_uri": str(root_folder(dataset, root))}
    result = stage(model_key=model_key, parent=parent, weights=str(weights), **place)
    show(result, as_json, None)
