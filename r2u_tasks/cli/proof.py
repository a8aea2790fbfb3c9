"""Commands about proof: report, sentinel, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from governance.declaration import EMBEDDED_DIGITS
from r2u_tasks.cli.console import (
    EXIT_REFUSED,
    AsJson,
    Dataset,
    Root,
    RunId,
    common,
    out,
    show,
    waiting,
)

app = typer.Typer()


@app.command(epilog="Example: `r2u report -d people.yaml`")
def report(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Write the governance report (HTML and JSON)."""
    from r2u_tasks.stages.report import governance_report

    with waiting("report"):
        result = governance_report(**common(dataset, root, run_id))
    show(result, as_json, None)


@app.command(epilog="Example: `r2u sentinel -d people.yaml || notify`")
def sentinel(
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Check deadlines, leases, ledger and the serving model; exit 3 when there is a warning."""
    from r2u_tasks.stages.sentinel import check as run_check

    result = run_check(**common(dataset, root, run_id))
    show(result, as_json, None)
    if result["warnings"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command(epilog="Example: `r2u verify ROOT/batches/B/certificates/R.json`")
def verify(
    certificate: Annotated[Path, typer.Argument(help="Certificate of one request.")],
    public_key: Annotated[
        Path | None, typer.Option(help="Public key; default: workspace's.")
    ] = None,
) -> None:
    """Verify a certificate with its bundle and the ledger, as an auditor would."""
    from governance.verifier import verify_certificate

    folder = certificate.resolve().parent.parent
    root = folder.parent.parent
    result = verify_certificate(
        certificate,
        public_key_path=public_key or root / "keys" / "signing.pub.pem",
        bundle_dir=folder,
        ledger_path=root / "ledger.jsonl",
    )
    for name, passed, detail in result.checks:
        out.print(f"{'[green]ok[/]  ' if passed else '[red]FAIL[/]'} {name}: {detail}")
    if not result.ok:
        raise typer.Exit(1)
