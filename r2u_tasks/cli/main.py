"""Command line ``r2u``: every stage without Airflow, and the entry point of child processes.

Exit codes: 0 done; 2 the input or the request is wrong and a retry cannot help; 3 a gate refused
(no model is released); 75 try again later; 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.markup import escape

from governance.digests import read_json, write_json
from governance.errors import PermanentError, R2UError, ReleaseBlockedError, TransientError
from r2u_tasks.cli import (
    data,
    drop,
    evidence,
    keys,
    lineage,
    models,
    proof,
    queue,
    recipients,
    requests,
    scan,
)
from r2u_tasks.cli import policy as policies
from r2u_tasks.cli.console import EXIT_PERMANENT, EXIT_REFUSED, EXIT_TRANSIENT, err

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Make trained models forget on request, and prove it.",
    epilog="First day: `r2u check`, `r2u classify`, `r2u train`, `r2u request add`, `r2u unlearn`, "
    "`r2u report`. Set R2U_DATASET and R2U_ROOT to leave out `--dataset` and `--root`.",
)
app.add_typer(data.app)
app.add_typer(scan.app)
app.add_typer(policies.app, name="policy")
app.add_typer(policies.review_app, name="review")
app.add_typer(policies.override_app, name="override")
app.add_typer(policies.calibrate_app)
app.add_typer(models.app)
app.add_typer(requests.app, name="request")
app.add_typer(requests.intake_app)
app.add_typer(queue.app, name="queue")
app.add_typer(drop.app, name="drop")
app.add_typer(proof.app)
app.add_typer(evidence.app)
app.add_typer(keys.app, name="keys")
app.add_typer(recipients.app, name="recipients")
app.add_typer(lineage.app)


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show log messages.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_path=False)],
    )
    for package in ("governance", "r2u_tasks"):
        logging.getLogger(package).setLevel(level)


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
        err.print("interrupted; run the same command again to go on")
        sys.exit(130)


def _fail(error: R2UError, code: int) -> None:
    err.print(f"[red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    sys.exit(code)
