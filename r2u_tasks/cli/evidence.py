"""Command ``evidence``: is any unlearned model told apart from retrained ones?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from r2u_tasks.cli.console import EXIT_REFUSED, AsJson, out, print_json, progress_bars

if TYPE_CHECKING:
    from torch import nn

app = typer.Typer()

Weights = Annotated[
    list[Path], typer.Option(help="File of weights, or folder of them; repeatable.")
]
Ids = Annotated[Path | None, typer.Option(help="Text file, one id a line.")]
Json = Annotated[Path | None, typer.Option(help="JSON file; see docs/evidence.md.")]
Target = Annotated[str, typer.Option(help="module:callable")]


@app.command(
    epilog="Example: `r2u evidence --network my_net:build --original o/ --unlearned u.pt "
    "--retrained r/ --data train.npz --forget ids.txt --test test.npz --out report`"
)
def evidence(
    network: Annotated[str, typer.Option(help="module:callable that returns the network.")],
    original: Weights,
    unlearned: Weights,
    data: Annotated[Path, typer.Option(help="Training records, .npz or .parquet.")],
    forget: Annotated[Path, typer.Option(help="Ids to forget: text file, one a line.")],
    test: Annotated[Path, typer.Option(help="Records that no model was trained on.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Where the report goes.")],
    retrained: Annotated[
        list[Path] | None, typer.Option(help="Models without the records; file or folder.")
    ] = None,
    second_retrain: Annotated[
        list[Path] | None, typer.Option(help="More of them; else half of --retrained.")
    ] = None,
    train: Annotated[
        str, typer.Option(help="module:callable (inputs, labels, seed) -> trained network.")
    ] = "",
    unlearn: Annotated[
        str,
        typer.Option(help="module:callable (network, retain, forget) -> network; each (x, y)."),
    ] = "",
    pool_size: Annotated[int, typer.Option(min=4, help="Models in each trained pool.")] = 32,
    high_risk: Ids = None,
    canaries: Ids = None,
    steps: Json = None,
    history: Annotated[
        list[Path] | None, typer.Option(help="evidence.json of earlier batches, oldest first.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="Of Parquet files.")] = "id",
    label_column: Annotated[str, typer.Option(help="Of Parquet files.")] = "label",
    inputs_column: Annotated[str, typer.Option(help="Of Parquet files; else all others.")] = "",
    exact: Annotated[bool, typer.Option(help="The candidate never saw the records.")] = False,
    seed: Annotated[int, typer.Option(help="Of trained pools.")] = 0,
    salt_file: Annotated[
        Path | None, typer.Option(help="Salt of record labels; made where it is missing.")
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page; no personal data.")] = "",
    as_json: AsJson = False,
) -> None:
    """Judge any unlearned model against retrained ones: evidence.json and one page.

    Exit code 3 where the model is not accepted. No workspace is needed. With too few retrained
    models the verdict is *refuse*.
    """
    from r2u_tasks.forgetting_report import EvaluationSettings, ForgettingData, evaluate, files
    from r2u_tasks.forgetting_report.pools import ModelPools

    build = files.find_callable(network)

    def records(path: Path) -> Any:
        return files.read_records(
            path, id_column=id_column, label_column=label_column, inputs_column=inputs_column
        )

    def models(given: list[Path] | None) -> list[nn.Module]:
        return [files.load_network(build, path) for path in files.weight_paths(given or [])]

    with progress_bars() as bars:
        report = evaluate(
            ForgettingData(
                training=records(data),
                forget_ids=files.read_ids(forget),
                test=records(test),
                high_risk_ids=files.read_ids(high_risk) if high_risk else (),
                canary_ids=files.read_ids(canaries) if canaries else (),
            ),
            ModelPools(
                original=models(original),
                unlearned=models(unlearned),
                retrained=models(retrained),
                second_retrain=models(second_retrain),
            ),
            build=build,
            train=_trainer(files.find_callable(train)) if train else None,
            unlearn=_unlearner(files.find_callable(unlearn)) if unlearn else None,
            settings=EvaluationSettings(pool_size=pool_size, seed=seed, exact=exact),
            salt=files.load_or_make_salt(salt_file) if salt_file else None,
            steps=files.read_json_file(steps) if steps else (),
            history=[files.read_json_file(one) for one in history or []],
            title=title,
            progress=bars.pools,
        )
    out_folder.mkdir(parents=True, exist_ok=True)
    _write(out_folder, report.evidence, report.page)
    if as_json:
        print_json(report.evidence)
    else:
        _show(report.evidence, out_folder)
    if report.verdict != "accept":
        raise typer.Exit(EXIT_REFUSED)


def _trainer(train: Callable[..., Any]) -> Callable[..., Any]:
    return lambda records, seed: train(records.inputs, records.labels, seed)


def _unlearner(unlearn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda model, retain, forget: unlearn(
        model, (retain.inputs, retain.labels), (forget.inputs, forget.labels)
    )


def _write(folder: Path, evidence: dict[str, Any], page: str) -> None:
    from governance.digests import write_json

    write_json(folder / "evidence.json", evidence)
    (folder / "evidence.html").write_text(page, encoding="utf-8")


def _show(evidence: dict[str, Any], folder: Path) -> None:
    colour = {"accept": "green", "retrain": "yellow", "refuse": "red"}[evidence["verdict"]]
    out.print(f"verdict [bold {colour}]{evidence['verdict']}[/]")
    for reason in evidence["reasons"]:
        out.print(f"  - {reason}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True, min_width=23)
    for name in ("original", "unlearned", "second retrain"):
        table.add_column(name, justify="right")
    table.add_column("target")
    table.add_column("reading", no_wrap=True)
    for row in evidence["suite"]["rows"]:
        values = [c["value"] for c in row["columns"].values()]
        if any(value is not None for value in values):
            shown = ["-" if value is None else f"{value:.3f}" for value in values]
            table.add_row(row["name"], *shown, row["target"], row["outcome"].replace("_", " "))
    out.print(table)
    out.print(f"{folder / 'evidence.html'}", markup=False, highlight=False)
