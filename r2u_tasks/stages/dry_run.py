"""Stage ``dry_run``: what a request would touch, take and cost, if a batch served it alone now.

Changes nothing: no table, no queue, no ledger, no model. It matches like the plan of a batch, with
the same function, so a batch that follows finds the same records; torch is not needed for it.

The estimate stands on measured seconds of former trainings and batches of this workspace and says
which, and how many. Where nothing was measured it says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from governance.deletion_queue import Pseudonyms, RequestRow, State
from governance.digests import read_json
from governance.errors import DataError
from governance.manifest import find_members
from governance.request_rows import parse_request
from governance.storage import read_table, table_exists
from governance.suppression import pseudonyms, read_tombstones
from r2u_tasks.batch import AskedRecords, choose_lane, match_requests, was_erased
from r2u_tasks.kept_checkpoints import checkpoint_problems, parse_kept
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.requests import row_rules

_PREVIEW = "not-submitted"


def plan_request(*, request_id: str, dataset: str, root_uri: str) -> JSON:
    """Return the dry run of a request that is in the queue.

    Raises:
        RequestError: There is no such request.
    """
    context = open_context(dataset, root_uri)
    row = context.queue.get(request_id)
    ahead = _ahead(context, row)
    return {
        "request_id": request_id,
        "state": row.state,
        "due_at": row.due_at.isoformat(),
        **_dry_run(context, request_id, row.pseudonyms, ahead=ahead, due_at=row.due_at),
    }


def plan_target(
    *,
    dataset: str,
    root_uri: str,
    subject_id: str | None = None,
    record_ids: Sequence[str] = (),
    select: str | None = None,
) -> JSON:
    """Return the dry run of a request that is not submitted.

    Raises:
        RequestError: It asks for nothing, or names a column that cannot be selected.
    """
    context = open_context(dataset, root_uri)
    cells = {
        "subject_id": subject_id or "",
        "record_ids": ";".join(record_ids),
        "select": select or "",
        "request_id": _PREVIEW,
    }
    request = parse_request(cells, row_rules(context))
    targets = request.pseudonyms
    ahead = context.queue.counts().get(State.QUEUED, 0)
    return {"request_id": None, **_dry_run(context, _PREVIEW, targets, ahead=ahead, due_at=None)}


def _dry_run(
    context: StageContext,
    request_id: str,
    targets: Sequence[Pseudonyms],
    *,
    ahead: int,
    due_at: datetime | None,
) -> JSON:
    tables, keys, n_kept = _tables(context, AskedRecords.of(request_id, targets[0]))
    n_records = len(keys) // len(context.key_ring.keys)
    models, segments = _models(context, keys)
    erased = read_tombstones(context.workspace.tombstones)
    unfinished = _unfinished(context, erased["record"] - set(keys))
    lane = _lane(context, tables, n_records, segments, unfinished)
    estimate = _estimate(context, lane)
    absent = None
    if tables and not keys:
        absent = _absent_outcome(targets, erased, still_known=bool(unfinished))
    batches = 1 + ahead // context.declaration.queue.max_batch
    return {
        "tables": tables,
        "n_records": n_records,
        "n_kept": n_kept,
        "closes_at_once_as": absent,
        "models": models,
        "n_pool_files": sum(1 for path in context.workspace.pools.rglob("*") if path.is_file()),
        "lane": lane,
        "estimate": {**estimate, **_finish(estimate, batches, due_at), "batches": batches},
        "changes": "nothing was changed",
    }


def _tables(context: StageContext, asked: AskedRecords) -> tuple[list[JSON], list[str], int]:
    """Return the rows asked for, table by table, the pseudonyms of the records, and how many stay.

    The pseudonyms are under every key of the ring, as every model is asked under its own. If
    another request keeps only one of the records, a batch holds the request and erases none.
    """
    n_kept = 0
    workspace, columns = context.workspace, context.declaration.columns
    wanted = [columns.record_id, columns.subject_id, columns.label.name, *columns.governance]
    tables: list[JSON] = []
    keys: list[str] = []
    for name, path in (("raw", workspace.raw), ("classified", workspace.classified)):
        if not table_exists(path):
            continue
        table = read_table(path, columns=wanted)
        mask = match_requests(table, context.declaration, context.key_ring, [asked]).mask
        hit = table.filter(pa.array(mask))
        n_kept = _count_kept(context, hit, asked)
        subjects = hit[columns.subject_id].unique()
        tables.append(_table(name, hit.num_rows, table.num_rows, len(subjects)))
        ids = hit[columns.record_id]
        names = [str(i) for i in ids.to_pylist()]
        keys = [name for key in context.key_ring.keys for name in pseudonyms(key, "record", names)]
    if table_exists(workspace.salts) and tables:
        salts = read_table(workspace.salts, columns=["record_id"])
        found = len(set(salts["record_id"].to_pylist()) & set(ids.to_pylist()))
        tables.append(_table("salts", found, salts.num_rows, None))
    return tables, keys, n_kept


def _count_kept(context: StageContext, hit: pa.Table, asked: AskedRecords) -> int:
    """Return how many of the rows stay because of a hold or an exemption of another request."""
    others = [
        AskedRecords.of(target.request.request_id, target.request.pseudonyms[0])
        for target in context.queue.keeping().targets
        if target.request.request_id != asked.request_id
    ]
    matched = match_requests(hit, context.declaration, context.key_ring, [asked], kept=others)
    return int(matched.kept.sum())


def _table(name: str, n_rows: int, n_total: int, n_subjects: int | None) -> JSON:
    return {"table": name, "n_rows": n_rows, "n_total": n_total, "n_subjects": n_subjects}


def _models(context: StageContext, keys: list[str]) -> tuple[list[JSON], list[int]]:
    """Return every model that saw one of the records, and the segments of the serving one."""
    champion = _champion(context)
    models, segments = [], []
    for path in sorted(context.workspace.models.glob("*/model.json")) if keys else ():
        folder, record = path.parent, read_json(path)
        try:
            members = find_members(folder / "members.parquet", keys)
        except DataError:
            members = None  # nobody knows what it saw, so it counts as having seen them
        if members == {}:
            continue
        serves = folder.name == champion
        if serves and members:
            segments = sorted(members.values())
        models.append(_model(folder, record, members, serves=serves))
    return models, segments


def _model(
    folder: Path, record: dict[str, Any], members: dict[str, int] | None, *, serves: bool
) -> JSON:
    first = min(members.values(), default=0) if members is not None else 0
    return {
        "model_key": folder.name,
        "model_version": record.get("model_version"),
        "kind": record.get("kind"),
        "serves": serves,
        "weights_present": (folder / "weights.safetensors").exists(),
        "n_records": len(members) if members is not None else None,
        "checkpoints_that_saw_them": [
            int(file.stem)
            for file in sorted((folder / "checkpoints").glob("*.safetensors"))
            if int(file.stem) > first
        ],
    }


def _unfinished(context: StageContext, erased: Collection[str]) -> list[int]:
    """Return the segments of records that an unfinished batch erased and the model still knows."""
    champion = _champion(context)
    if champion is None:
        return []
    members = find_members(context.workspace.model(champion) / "members.parquet", list(erased))
    return sorted(members.values())


def _lane(
    context: StageContext,
    tables: list[JSON],
    n_records: int,
    segments: list[int],
    unfinished: list[int],
) -> JSON:
    if not tables:
        return {"first": "none", "if_refused": None, "why": "no table was classified yet"}
    if not n_records:
        why = "no table holds such a record"
        if unfinished:
            why += _STILL_KNOWN.format(len(unfinished)) + "; who may be meant waits in the queue"
        return {"first": "none", "if_refused": None, "why": why}
    champion = _champion(context)
    if champion is None:
        return {"first": "none", "if_refused": None, "why": "no model serves yet"}
    if not segments:
        why = "the serving model never saw the records; only rows are erased"
        return {"first": "none", "if_refused": None, "why": why}
    why = f"the serving model saw {len(segments)} of the {n_records} records"
    folder = context.workspace.model(champion)
    manifest = read_json(folder / "manifest.json")
    trained = {n for n, part in enumerate(manifest["segments"]) if part["n_records"]}
    kept = parse_kept(read_json(folder / "model.json")["checkpoints"])
    usable = kept.keys() - checkpoint_problems(folder, kept).keys()
    exact, first_segment = choose_lane([*segments, *unfinished], trained, usable)
    if unfinished:  # the approximate lane gives up at once
        why += _STILL_KNOWN.format(len(unfinished))
        return {"first": exact, "if_refused": None, "first_segment": first_segment, "why": why}
    return {
        "first": "approximate",
        "if_refused": exact,
        "first_segment": first_segment,
        "why": why,
    }


_STILL_KNOWN = ", and still knows {} erased records of an unfinished batch"


def _estimate(context: StageContext, lane: JSON) -> JSON:
    """Return seconds if the first lane is accepted and if the exact lane must follow."""
    if lane["first"] == "none":
        nothing = {"value": 0.0, "n": 0, "from": "no model has to change"}
        return {"low_s": 0.0, "high_s": 0.0, "basis": {"models": nothing}}
    records = [read_json(path) for path in sorted(context.workspace.models.glob("*/model.json"))]
    served = {name: [r for r in records if r.get("lane") == name] for name in _LANES}
    exact = lane["if_refused"] or lane["first"]
    basis = {
        "evidence_s": _measured([r for rs in served.values() for r in rs], "evidence_s"),
        f"{exact}_s": _measured(served[exact], "unlearn_s")
        or _from_training(context, exact, lane["first_segment"]),
    }
    if lane["first"] == "approximate":
        basis = {"approximate_s": _measured(served["approximate"], "unlearn_s"), **basis}
    first = _sum_of(basis, f"{lane['first']}_s", "evidence_s")
    both = _sum_of(basis, *basis, "evidence_s") if lane["if_refused"] else first
    missing = {"value": None, "n": 0, "from": "never measured in this workspace"}
    return {
        "low_s": first,
        "high_s": both,
        "basis": {name: part or missing for name, part in basis.items()},
    }


def _sum_of(basis: dict[str, JSON | None], *names: str) -> float | None:
    """Return the sum of some measured seconds; none where one of them was never measured."""
    parts = [basis[name] for name in names]
    return None if None in parts else float(sum(part["value"] for part in parts if part))


_LANES = ("approximate", "replay", "retrain")


def _measured(records: list[dict[str, Any]], metric: str) -> JSON | None:
    seconds = [r["metrics"][metric] for r in records if metric in r.get("metrics", {})]
    if not seconds:
        return None
    return {
        "value": round(median(seconds), 3),
        "n": len(seconds),
        "from": f"median of {metric} of {len(seconds)} former models of this lane",
    }


def _from_training(context: StageContext, exact: str, first_segment: int) -> JSON | None:
    """Return the seconds of an exact lane from the training of the serving model."""
    key = _champion(context)
    record = read_json(context.workspace.model(key) / "model.json") if key else {}
    trained = record.get("metrics", {}).get("train_s") or record.get("metrics", {}).get("retrain_s")
    if not trained:
        return None
    n_segments = 1 + context.declaration.training.n_slices
    share = 1.0 if exact == "retrain" else (n_segments - first_segment) / n_segments
    return {
        "value": round(trained * share, 3),
        "n": 1,
        "from": f"training of the serving model took {trained:.1f} s; {share:.0%} of its segments "
        "would be run again",
    }


def _finish(estimate: JSON, batches: int, due_at: datetime | None) -> JSON:
    """Return when it would be done if the batches ran now, one after another."""
    high = estimate["high_s"]
    if high is None:
        return {"finish_if_started_now": None, "in_time": None}
    finish = datetime.now(UTC) + timedelta(seconds=high * batches)
    return {
        "finish_if_started_now": finish.isoformat(timespec="seconds"),
        "in_time": None if due_at is None else finish <= due_at,
    }


def _absent_outcome(
    targets: Sequence[Pseudonyms], erased: dict[str, set[str]], *, still_known: bool
) -> str | None:
    """Return how a request without rows ends; none while the model may still know who is meant."""
    known = was_erased(erased, targets)
    if known and still_known:
        return None
    return "already_forgotten" if known else "not_found"


def _ahead(context: StageContext, row: RequestRow) -> int:
    """Return how many queued requests are due before this one."""
    waiting = context.queue.list_requests(State.QUEUED)
    return sum((w.due_at, w.request_id) < (row.due_at, row.request_id) for w in waiting)


def _champion(context: StageContext) -> str | None:
    path = context.workspace.champion
    return str(read_json(path)["model_key"]) if path.exists() else None
