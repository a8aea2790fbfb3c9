"""Commands about models: train, unlearn."""

from __future__ import annotations

from typing import Annotated

import typer

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import AsJson, Dataset, Root, RunId, common, progress_bars, show

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
    show(result, as_json, ("batch_id", "n_requests", "outcomes", "lane", "claim", "model_key"))
