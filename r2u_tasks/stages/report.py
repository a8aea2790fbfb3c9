"""Stage ``report``: the governance report from queue, ledger, models and evidence.

Reads only, writes ``reports/<run>/report.{json,html}`` and a copy under ``reports/latest``. The
same run id writes the same place again. Each report notes the head of the ledger, and looks for
the heads that earlier ones noted: a ledger that was cut shows.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from governance.deletion_queue import RequestRow
from governance.digests import digest_json, read_json, write_atomic, write_json
from governance.ledger import read_entries, verify_chain
from governance.lineage import read_graph, to_json
from governance.lineage_answer import Answer, about_all
from governance.lineage_picture import draw_lineage
from governance.report import render_evidence, render_governance
from governance.report_numbers import (
    backups_until,
    batch_cost,
    batch_times,
    cost_numbers,
    deadline_numbers,
    head_problems,
    request_numbers,
    set_difference_holds,
)
from governance.signing import PUBLIC_NAME
from governance.source_erasure import is_ours
from governance.workspace import safe_key
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.letters import keeping_grounds
from r2u_tasks.stages.mirror import owed

_EVIDENCE = ("evidence", "evidence-replay")
_HEAD = "ledger-head.json"
_MIRRORED = "entry in MLflow"
_KEPT = ("kept_exempt", "partial")


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
    home = context.workspace.reports / safe_key(run_id)
    collector = Collector(context, datetime.now(UTC), home)
    report = collector.collect()
    picture = draw_lineage(collector.lineage, format_name="svg").decode("utf-8")
    for folder in (home, context.workspace.reports / "latest"):
        linked = _with_links(report, folder)
        write_json(folder / "report.json", linked)
        page = render_governance(linked, picture=picture[picture.index("<svg") :])
        write_atomic(folder / "report.html", page.encode("utf-8"))
    noted = {name: report["ledger"][name] for name in ("n_entries", "head")}
    write_json(home / _HEAD, {"made_at": report["made_at"], **noted})
    return {
        "html": str(home / "report.html"),
        "json": str(home / "report.json"),
        "digest": digest_json(report),
        "n_requests": len(report["requests"]),
        "n_batches": len(report["batches"]),
    }


class Collector:
    """Gathers everything that the report shows, as JSON without personal data."""

    def __init__(self, context: StageContext, now: datetime, home: Path) -> None:
        """Remember where to look.

        Args:
            context: Dataset and workspace.
            now: Time of the report.
            home: Its folder, so that it does not hold itself for an earlier one.
        """
        self._context = context
        self._now = now
        self._home = home

    def collect(self) -> JSON:
        """Return the report."""
        context = self._context
        workspace, declaration = context.workspace, context.declaration
        rows = context.queue.list_requests()
        requests = [row.to_dict() for row in rows]
        batches = [self._batch(path) for path in sorted(workspace.root.glob("batches/*/plan.json"))]
        batches.sort(key=lambda batch: batch["times"]["planned_at"] or "")
        champion = workspace.champion
        return {
            "schema": "r2u-report/2",
            "dataset": declaration.name,
            "synthetic_subjects": declaration.synthetic_subjects,
            "deletion_class": declaration.deletion.deletion_class,
            "made_at": self._now.isoformat(timespec="seconds"),
            "counts": request_numbers(requests),
            "deadlines": deadline_numbers(requests, self._now),
            "requests": requests,
            "kept": [self._kept(row) for row in rows if row.hold_ground or row.outcome in _KEPT],
            "batches": batches,
            "cost": cost_numbers(batches),
            "models": self._models,
            "champion": read_json(champion)["model_key"] if champion.exists() else None,
            "lineage": {
                "summary": self.lineage.summary,
                "tainted": list(self.lineage.left),
                "n_erased": self.lineage.n_records,
                "erasures": to_json(self.lineage.erasures),
            },
            "readiness": self._readiness(),
            "classification": _latest(workspace.root / "runs" / "classify"),
            "calibration": self._calibration(),
            "ledger": self._ledger(),
            "mirror_owed": owed(context),
            "letters": len(list(workspace.letters.glob("*.pdf"))),
            "remains": self._remains(batches),
        }

    @cached_property
    def lineage(self) -> Answer:
        """The lineage of all models."""
        graph = read_graph(self._context.workspace, now=self._now)
        return about_all(graph, self._context.declaration.name)

    @cached_property
    def _entries(self) -> list[JSON]:
        return read_entries(self._context.workspace.ledger)

    @cached_property
    def _models(self) -> list[JSON]:
        paths = self._context.workspace.models.glob("*/model.json")
        return sorted(map(read_json, paths), key=lambda m: (m["created_at"], m["model_key"]))

    def _batch(self, plan_path: Path) -> JSON:
        folder, plan = plan_path.parent, read_json(plan_path)
        result = read_json(folder / "result.json") if (folder / "result.json").exists() else {}
        erasure = read_json(folder / "erasure.json") if (folder / "erasure.json").exists() else {}
        tables = erasure.get("tables", {})
        evidences = {
            name: read_json(p) for name in _EVIDENCE if (p := folder / f"{name}.json").exists()
        }
        times = batch_times(self._entries, folder.name)
        expire_days = self._context.declaration.deletion.backups_expire_days
        return {
            "batch_id": plan["batch_id"],
            "n_requests": plan["n_requests"],
            "n_records": plan["n_records"],
            "n_trained_records": plan["n_trained_records"],
            "lane": result.get("lane"),
            "claim": result.get("claim"),
            "model_key": result.get("model_key"),
            "outcomes": result.get("outcomes", {}),
            "times": times,
            "tables": tables,
            "only_asked_rows_left": set_difference_holds(tables) if tables else None,
            "pages": [_page(folder, name, evidence) for name, evidence in evidences.items()],
            "reasons": list(evidences.values())[-1]["reasons"] if evidences else [],
            "cost": batch_cost(list(evidences.values())),
            "certificates": len(list(folder.glob("certificates/*.json"))),
            "backups_until": backups_until(times, expire_days),
        }

    def _kept(self, row: RequestRow) -> JSON:
        """Return a request whose data are kept, with the ground."""
        return {
            "request_id": row.request_id,
            "what": "held" if row.outcome is None else row.outcome,
            "grounds": list(keeping_grounds(self._context, row.request_id)) or ["unspecified"],
            "due_at": row.due_at.isoformat(),
        }

    def _ledger(self) -> JSON:
        workspace = self._context.workspace
        chain = verify_chain(workspace.ledger, workspace.keys / PUBLIC_NAME)
        paths = sorted(workspace.reports.glob(f"*/{_HEAD}"))
        heads = [read_json(path) for path in paths if path.parent != self._home]
        return {
            "ok": chain.ok,
            "n_entries": chain.n_entries,
            "head": chain.head,
            "problem": chain.problem,
            "n_earlier_heads": len(heads),
            "missing_heads": head_problems(self._entries, heads),
        }

    def _readiness(self) -> JSON | None:
        folder = self._context.workspace.models
        paths = [folder / model["model_key"] / "readiness.json" for model in self._models]
        written = [path for path in paths if path.exists()]
        report: JSON | None = read_json(written[-1]) if written else None
        return report

    def _calibration(self) -> JSON | None:
        path = self._context.workspace.root / "calibration" / "report.json"
        report: JSON | None = read_json(path) if path.exists() else None
        return report

    def _remains(self, batches: list[JSON]) -> list[JSON]:
        """Say what may still hold erased records, and until when; None: nobody has said yet.

        What each purge listed, of the same thing the latest; before the first purge, what the
        declaration says.
        """
        workspace = self._context.workspace
        folders = [workspace.batch(batch["batch_id"]) for batch in batches]
        listed = [read_json(p) for f in folders if (p := f / "remains.json").exists()]
        latest = {(e["what"], e["where"]): e for one in listed for e in one["remains"]}
        lines = [
            _line(f"{entry['what']} ({entry['where']}): {entry['why']}", entry["until"])
            for entry in latest.values()
            if entry["what"] != _MIRRORED  # what is owed now, the report says elsewhere
        ]
        n_traces = sum(len(one["found"]) for one in listed)
        if n_traces:
            what = f"{n_traces} files in which a string of an erased person is still readable"
            lines.insert(0, _line(f"{what}; see remains.json of the batches", None))
        lines = lines or self._declared_remains(batches)
        rejects = len(list(workspace.rejects.glob("*"))) if workspace.rejects.exists() else 0
        if rejects:
            what = f"{rejects} files of refused request rows in rejects/ (mode 600); delete them."
            lines.append(_line(what, None))
        return lines

    def _declared_remains(self, batches: list[JSON]) -> list[JSON]:
        declaration = self._context.declaration
        lines = []
        if not is_ours(declaration, self._context.workspace):
            text = (
                f"The source {declaration.source.path} is outside of this workspace and is not "
                "changed; its erased rows are dropped at every load. Erase them there too."
            )
            lines.append(_line(text, None))
        ends = [b["backups_until"] for b in batches if b["times"]["rows_erased_at"]]
        if declaration.deletion.backups_expire_days is None:
            what = "Backups: no expiry is declared (deletion.backups_expire_days)."
            lines.append(_line(what, None))
        elif ends:
            lines.append(_line("Backups that may hold erased rows.", max(ends)))
        return lines


def _line(what: str, until: str | None) -> JSON:
    return {"what": what, "until": until}


def _page(folder: Path, name: str, evidence: JSON) -> JSON:
    """Render the page of an evidence document again, and say where it lies."""
    page = folder / f"{name}.html"
    write_atomic(page, render_evidence(evidence).encode("utf-8"))
    return {"lane": evidence["lane"], "verdict": evidence["verdict"], "path": str(page)}


def _latest(folder: Path) -> JSON | None:
    results = sorted(folder.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    found: JSON | None = read_json(results[-1]) if results else None
    return found


def _with_links(report: JSON, folder: Path) -> JSON:
    """Return the report with links that are relative to a folder."""

    def linked(page: dict[str, Any]) -> JSON:
        href = Path(os.path.relpath(page["path"], folder)).as_posix()
        return {"lane": page["lane"], "verdict": page["verdict"], "href": href}

    batches = [{**b, "pages": [linked(page) for page in b["pages"]]} for b in report["batches"]]
    return {**report, "batches": batches}
