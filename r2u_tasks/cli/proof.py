"""Commands about proof: report, sentinel, verify, prove."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape

from governance.declaration import EMBEDDED_DIGITS
from governance.errors import DataError
from r2u_tasks.cli.console import (
    EXIT_REFUSED,
    AsJson,
    Dataset,
    Root,
    RunId,
    common,
    out,
    print_json,
    progress_bars,
    root_folder,
    show,
    waiting,
)

if TYPE_CHECKING:
    from governance.verifier import VerificationResult

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


@app.command(
    epilog="Examples: `r2u verify ROOT/batches/B/certificates/R.json`; `r2u verify ROOT`; "
    "`r2u verify CERTIFICATE --head sha256:... --members --replay -d people.yaml`. Exit codes: 0 "
    "all holds, 1 a check failed, 2 unreadable, 3 the replay is not possible."
)
def verify(
    certificate: Annotated[
        list[Path], typer.Argument(help="Certificates, or folders with certificates below.")
    ],
    public_key: Annotated[
        Path | None, typer.Option(help="Public key you trust; default: the workspace's own.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the batch.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Ledger file.")] = None,
    model: Annotated[Path | None, typer.Option(help="Weight file that is in use.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Ledger head that was noted elsewhere, sha256:<hex>.")
    ] = None,
    request: Annotated[
        str | None, typer.Option(help="Request that the certificate has to be about.")
    ] = None,
    proof: Annotated[Path | None, typer.Option(help="Proof about a record (r2u prove).")] = None,
    members: Annotated[
        bool, typer.Option("--members", help="Count the set difference of the models again.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Run an exact batch again and compare the weights.")
    ] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Replay from random weights, not a checkpoint.")
    ] = False,
    note: Annotated[
        bool, typer.Option("--note", help="Write a replay that succeeded into the ledger.")
    ] = False,
    dataset: Dataset = EMBEDDED_DIGITS,
    as_json: AsJson = False,
) -> None:
    """Verify certificates with bundle, ledger and model, as an auditor would."""
    from governance.verifier import find_certificates, verify_certificate

    paths = _require_certificates(find_certificates(certificate), head, request, proof)
    results: dict[Path, VerificationResult] = {}
    cache: dict[str, object] = {}
    impossible = False
    for path in paths:
        folder = bundle or path.resolve().parent.parent
        result = results[path] = verify_certificate(
            path,
            public_key_path=public_key or folder.resolve().parent.parent / "keys/signing.pub.pem",
            bundle_dir=folder,
            ledger_path=ledger,
            model_path=model,
            expected_head=head,
            request_id=request,
            proof_path=proof,
            cache=cache,
        )
        if result.ok and members:
            _count_again(folder, result, cache)
        if result.ok and replay:
            options = {"from_scratch": from_scratch, "note": note}
            impossible |= _run_again(folder, dataset, options, result, cache)
    if as_json:
        print_json([{"certificate": str(p), **r.to_dict()} for p, r in results.items()])
    else:
        _print_results(results)
    if not all(result.ok for result in results.values()):
        raise typer.Exit(1)
    if impossible:
        raise typer.Exit(EXIT_REFUSED)


@app.command(
    epilog="Examples: `r2u prove r-17 -d people.yaml --out proof.json`; `r2u prove - < id.txt` "
    "keeps the id out of the shell's history; `r2u prove --check proof.json`."
)
def prove(
    record: Annotated[
        str | None, typer.Argument(help="Id of a record in clear, or - to read it from stdin.")
    ] = None,
    dataset: Dataset = EMBEDDED_DIGITS,
    root: Root = None,
    target: Annotated[Path | None, typer.Option("--out", help="Where to write the proof.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", help="Check a proof against the manifests.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove in which models a record is, and in which it is not any more.

    The proof names no one: it holds the record's salted commitment and hashes of its neighbours.
    """
    from governance.digests import write_json
    from r2u_tasks.stages.proofs import check_proof, prove_record

    place = str(root_folder(dataset, root))
    if (record is None) == (check is None):
        message = "expected a record, or a proof with --check"
        raise typer.BadParameter(message)
    if check is not None:
        out.print(f"[green]ok[/] {check_proof(proof=check, root_uri=place)}")
        return
    asked = sys.stdin.readline().strip() if record == "-" else str(record)
    with waiting("prove"):
        result = prove_record(record_id=asked, dataset=dataset, root_uri=place)
    if target is not None:
        write_json(target, result)
    if as_json:
        print_json(result)
        return
    for statement in result["statements"]:
        name, kind = statement["model_key"], statement["kind"]
        other = kind == "absence" and name in result["held_by"]
        shown = "in it under another commitment" if other else _SHOWN[kind]
        out.print(f"{name}: {shown} ({statement['n_records']} records)")


_SHOWN = {"inclusion": "[red]in it[/]", "absence": "[green]not in it[/]"}


def _require_certificates(
    paths: list[Path], head: str | None, request: str | None, proof: Path | None
) -> list[Path]:
    """Refuse what cannot be verified, before anything is.

    Raises:
        DataError: A file is missing, or one option is given for several certificates.
    """
    problem = None
    missing = [path for path in paths if not path.is_file()]
    if missing:
        problem = f"expected a certificate at {missing[0]}, got no file"
    elif not paths:
        problem = "expected at least one certificate, got a folder without any"
    elif len(paths) > 1 and (request or proof):
        problem = "expected one certificate with --request or --proof, got several"
    elif head is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", head):
        problem = "expected --head as sha256: and 64 hex digits in small letters"
    if problem is not None:
        raise DataError(f"verify: {problem}")
    return paths


def _count_again(folder: Path, result: VerificationResult, cache: dict[str, object]) -> None:
    from r2u_tasks.stages.proofs import check_members

    key = f"members {folder}"
    if key not in cache:
        cache[key] = check_members(batch_dir=folder)
    answer = cast("dict[str, Any]", cache[key])
    if answer["ok"] is None:
        result.not_checked.append(f"members: {answer['detail']}")
    else:
        result.checks.append(("members", answer["ok"], answer["detail"]))
        result.ok &= answer["ok"]


def _run_again(
    folder: Path,
    dataset: str,
    options: dict[str, bool],
    result: VerificationResult,
    cache: dict[str, object],
) -> bool:
    """Replay a batch once for all of its certificates; tell whether that is impossible."""
    from r2u_tasks.stages.replay import replay_batch

    key = f"replay {folder}"
    if key not in cache:
        root = folder.resolve().parent.parent
        with progress_bars() as bars:
            cache[key] = replay_batch(
                batch_id=folder.resolve().name,
                dataset=dataset,
                root_uri=str(root),
                progress=bars.epochs,
                **options,
            )
    answer = cast("dict[str, Any]", cache[key])
    if answer["outcome"] == "impossible":
        result.not_checked.append(f"replay: cannot be run again: {answer['detail']}")
        return True
    result.checks.append(("replay", answer["outcome"] == "same", answer["detail"]))
    result.ok &= answer["outcome"] == "same"
    return False


def _print_results(results: dict[Path, VerificationResult]) -> None:
    several = len(results) > 1
    for path, result in results.items():
        if several:
            sign = "[green]ok[/]  " if result.ok else "[red]FAIL[/]"
            detail = f"{len(result.checks)} checks hold" if result.ok else result.problem
            out.print(f"{sign} {escape(str(path))}: {escape(str(detail))}", soft_wrap=True)
            continue
        for name, passed, detail in result.checks:
            sign = "[green]ok[/]  " if passed else "[red]FAIL[/]"
            out.print(f"{sign} {name}: {escape(detail)}", soft_wrap=True)
    for line in dict.fromkeys(line for r in results.values() for line in r.not_checked):
        out.print(f"[yellow]not checked[/] {escape(line)}", soft_wrap=True)
