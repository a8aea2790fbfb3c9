"""Stage ``report``: the governance report from queue, ledger, models and evidence.

Reads only, writes ``reports/<run>/report.{json,html}`` and a copy under ``reports/latest``. The
same run id writes the same place again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from governance.deletion_queue import State
from governance.digests import digest_json, read_json, write_atomic, write_json
from governance.ledger import verify_chain
from governance.report import render_evidence, render_governance
from governance.signing import PUBLIC_NAME, load_or_make_signing_key
from governance.workspace import safe_key
from r2u_tasks.stages.context import JSON, StageContext, open_context

_EVIDENCE = ("evidence", "evidence-replay")


def governance_report(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Write the governance report.

    Args:
        run_id: Names the report.
        dataset: Declaration.
        root_uri: Workspace.

    Returns:
        Paths of ``html`` and ``json``, the report's digest and counts.
    """
    context = open_context(dataset, root_uri)
    report = collect(context)
    home = context.workspace.reports / safe_key(run_id)
    for folder in (home, context.workspace.reports / "latest"):
        linked = _with_links(report, folder)
        write_json(folder / "report.json", linked)
        write_atomic(folder / "report.html", render_governance(linked).encode("utf-8"))
    return {
        "html": str(home / "report.html"),
        "json": str(home / "report.json"),
        "digest": digest_json(report),
        "n_requests": len(report["requests"]),
        "n_batches": len(report["batches"]),
    }


def collect(context: StageContext) -> JSON:
    """Gather everything that the report shows, as JSON without personal data."""
    workspace, declaration = context.workspace, context.declaration
    requests = [row.to_dict() for row in context.queue.list_requests()]
    closed = [row["outcome"] for row in requests if row["state"] == State.CLOSED]
    load_or_make_signing_key(workspace.keys)
    chain = verify_chain(workspace.ledger, workspace.keys / PUBLIC_NAME)
    models = sorted(
        (read_json(path) for path in workspace.models.glob("*/model.json")),
        key=lambda model: (model["created_at"], model["model_key"]),
    )
    champion = read_json(workspace.champion)["model_key"] if workspace.champion.exists() else None
    return {
        "schema": "r2u-report/1",
        "dataset": declaration.name,
        "synthetic_subjects": declaration.synthetic_subjects,
        "deletion_class": declaration.deletion.deletion_class,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "requests": requests,
        "outcomes": {name: closed.count(name) for name in sorted(set(closed))},
        "open": len(requests) - len(closed),
        "batches": [_batch(path) for path in sorted(workspace.root.glob("batches/*/plan.json"))],
        "models": models,
        "champion": champion,
        "readiness": _readiness(workspace.models, models),
        "classification": _latest(workspace.root / "runs" / "classify"),
        "ledger": {
            "ok": chain.ok,
            "n_entries": chain.n_entries,
            "head": chain.head,
            "problem": chain.problem,
        },
        "remains": _remains(context),
    }


def _batch(plan_path: Path) -> JSON:
    folder, plan = plan_path.parent, read_json(plan_path)
    result = read_json(folder / "result.json") if (folder / "result.json").exists() else {}
    pages = []
    reasons: list[str] = []
    for name in _EVIDENCE:
        path = folder / f"{name}.json"
        if path.exists():
            evidence = read_json(path)
            page = folder / f"{name}.html"
            write_atomic(page, render_evidence(evidence).encode("utf-8"))
            lane, verdict = evidence["lane"], evidence["verdict"]
            pages.append({"lane": lane, "verdict": verdict, "path": str(page)})
            reasons = evidence["reasons"]
    return {
        "batch_id": plan["batch_id"],
        "n_requests": plan["n_requests"],
        "n_records": plan["n_records"],
        "lane": result.get("lane"),
        "claim": result.get("claim"),
        "pages": pages,
        "reasons": reasons,
    }


def _readiness(folder: Path, models: list[dict[str, Any]]) -> JSON | None:
    paths = [folder / model["model_key"] / "readiness.json" for model in models]
    written = [path for path in paths if path.exists()]
    report: JSON | None = read_json(written[-1]) if written else None
    return report


def _latest(folder: Path) -> JSON | None:
    results = sorted(folder.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    found: JSON | None = read_json(results[-1]) if results else None
    return found


def _remains(context: StageContext) -> list[str]:
    """Say what may still hold erased records, and until when."""
    declaration, workspace = context.declaration, context.workspace
    lines = [
        f"The source file {declaration.source.path} is outside of this workspace and is not "
        "changed; its erased rows are dropped at every load. Erase them there too."
    ]
    days = declaration.deletion.backups_expire_days
    lines.append(
        "Backups: no expiry is declared (deletion.backups_expire_days)."
        if days is None
        else f"Backups expire {days} days after they were made."
    )
    rejects = len(list(workspace.rejects.glob("*"))) if workspace.rejects.exists() else 0
    if rejects:
        lines.append(f"{rejects} files of refused request rows in rejects/ (mode 600).")
    lines += [f"Recipient to be told (Art. 19): {name}" for name in declaration.deletion.recipients]
    return lines


def _with_links(report: JSON, folder: Path) -> JSON:
    """Return the report with links that are relative to a folder."""
    batches = []
    for batch in report["batches"]:
        pages = [
            {
                "lane": page["lane"],
                "verdict": page["verdict"],
                "href": Path(os.path.relpath(page["path"], folder)).as_posix(),
            }
            for page in batch["pages"]
        ]
        batches.append({**batch, "pages": pages})
    return {**report, "batches": batches}
