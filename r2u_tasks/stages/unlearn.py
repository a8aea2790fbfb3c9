"""Stage ``unlearn``: from leased requests to a tested model and a closed batch.

Steps, in order: ``lease_batch``, ``plan_batch``, ``erase_rows``, ``unlearn_model`` (approximate
lane), ``replay_model`` (exact lane, when the gate asks for it), ``promote_model``, ``close_batch``.
Each step publishes its result under the batch and returns it when it is run again, so a killed run
goes on where it stopped. Before anything is destroyed, the ledger says what is about to happen.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import nn

from governance.certificate import seal_bundle
from governance.deletion_queue import RequestRow
from governance.digests import digest_file, read_json, write_json
from governance.errors import DataError, ReleaseBlockedError, UnlearningError
from governance.manifest import read_members
from governance.report import render_evidence
from governance.signing import load_or_make_signing_key
from governance.storage import erase_records, purge_history, read_table, table_exists
from governance.suppression import add_tombstones, pseudonyms, read_tombstones
from r2u_tasks.batch import (
    AskedRecords,
    MatchedRecords,
    choose_lane,
    drop_rows,
    keep_rows,
    match_requests,
    plan_digest,
    read_rows,
)
from r2u_tasks.checkpoint import load_weights, save_weights
from r2u_tasks.config import readiness_config, training_config
from r2u_tasks.evidence import (
    BatchData,
    judge,
    pools_to_keep,
    require_absent,
    train_pools,
    unlearn_pool,
)
from r2u_tasks.evidence import unlearn_model as unlearn_one
from r2u_tasks.model import build_model
from r2u_tasks.models import (
    ModelRecord,
    checkpoint_path,
    copy_checkpoints,
    load_model,
    load_record,
    read_champion,
    save_record,
    update_record,
)
from r2u_tasks.pools import PoolProgress, drop_pools
from r2u_tasks.records import Splits, encode_splits
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.train import commit_training, evaluate, promote_alias, register_model
from r2u_tasks.training import STABLE, ProgressCallback, train_segments

_log = logging.getLogger(__name__)


def lease_batch(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Lease the requests that are due first; the same run gets the same batch."""
    context = open_context(dataset, root_uri)
    settings = context.declaration.queue
    lease = context.queue.lease_batch(
        run_id, lease_s=settings.lease_s, max_items=settings.max_batch, now=_now()
    )
    return {
        "batch_id": lease.batch_id,
        "token": lease.token,
        "n_requests": len(lease.request_ids),
    }


def release_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Give the requests of an unfinished batch back to the queue."""
    context = open_context(dataset, root_uri)
    context.queue.release_lease(batch_id, token)
    return {"batch_id": batch_id, "released": True}


def plan_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Find the records of the batch, keep them for unlearning, and choose the lane.

    Requests without any record close here: as *not found*, or as *already forgotten* when a
    tombstone names the person.
    """
    context = open_context(dataset, root_uri)
    return _once(context, batch_id, "plan", lambda: _plan(context, batch_id, token))


def erase_rows(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Erase the planned rows from every table, physically, and prove that only they are gone."""
    context = open_context(dataset, root_uri)
    return _once(context, batch_id, "erasure", lambda: _erase(context, batch_id, token))


def unlearn_model(
    *,
    batch_id: str,
    token: int,
    dataset: str,
    root_uri: str,
    method: str | None = None,
    progress: PoolProgress | None = None,
) -> JSON:
    """Run the approximate lane and test it.

    Args:
        batch_id: Leased batch with a plan and an erasure.
        token: Fencing token of the lease.
        dataset: Declaration.
        root_uri: Workspace.
        method: Another method than the declared one, for controls.
        progress: Called after each reference model.

    Returns:
        ``verdict`` (``accept``, ``retrain``, or ``accept`` with ``untouched`` when the model never
        saw any of the records), ``claim``, ``model_key``, reasons.
    """
    context = open_context(dataset, root_uri)
    return _once(
        context,
        batch_id,
        "approximate",
        lambda: _approximate(context, batch_id, token, method, progress),
    )


def replay_model(
    *,
    batch_id: str,
    token: int,
    dataset: str,
    root_uri: str,
    progress: ProgressCallback | None = None,
) -> JSON:
    """Run the exact lane, unless the approximate model was accepted."""
    context = open_context(dataset, root_uri)
    return _once(context, batch_id, "exact", lambda: _exact(context, batch_id, token, progress))


def promote_model(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Let the accepted model serve and withdraw the one that knew the records.

    Raises:
        ReleaseBlockedError: No lane gave a model that the gate accepts; a person must decide.
    """
    context = open_context(dataset, root_uri)
    return _once(context, batch_id, "promotion", lambda: _promote(context, batch_id, token))


def close_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Seal the evidence, issue a certificate for each request, and delete what still remembers."""
    context = open_context(dataset, root_uri)
    result = _once(context, batch_id, "result", lambda: _close(context, batch_id, token))
    # In this order: a killed run still needs the rows before the result is there, and as long as a
    # request is open the queue hands the batch to the next run.
    drop_rows(context.workspace.batch(batch_id))
    for request_id in _approved_plan(context, batch_id)["requests"]:
        context.queue.close(
            request_id,
            outcome="forgotten",
            claim=result["claim"],
            token=token,
            now=_now(),
            details={"batch_id": batch_id, "model_key": result["model_key"]},
        )
    context.queue.release_lease(batch_id, token)
    return result


def run_batch(
    *,
    run_id: str,
    dataset: str,
    root_uri: str,
    method: str | None = None,
    pool_progress: PoolProgress | None = None,
    progress: ProgressCallback | None = None,
) -> JSON:
    """Run all steps in this process: the command line's way."""
    lease = lease_batch(run_id=run_id, dataset=dataset, root_uri=root_uri)
    if lease["n_requests"] == 0:
        return {**lease, "outcomes": {}}
    arguments: dict[str, Any] = {
        "batch_id": lease["batch_id"],
        "token": lease["token"],
        "dataset": dataset,
        "root_uri": root_uri,
    }
    plan_batch(**arguments)
    erase_rows(**arguments)
    unlearn_model(**arguments, method=method, progress=pool_progress)
    replay_model(**arguments, progress=progress)
    promote_model(**arguments)
    return close_batch(**arguments)


def _plan(context: StageContext, batch_id: str, token: int) -> JSON:
    rows = _leased(context, batch_id)
    table = read_table(context.workspace.classified)
    asked = [_asked(row) for row in rows]
    matched = match_requests(table, context.declaration, context.pseudonym_key, asked)
    absent = _close_absent(context, rows, matched, token)
    forget = table.filter(pa.array(matched.mask))
    champion = load_record(context.workspace, read_champion(context.workspace))
    members = read_members(context.workspace.model(champion.model_key) / "members.parquet")
    keys = _record_keys(context, forget)
    segments = [members[key] for key in keys if key in members]
    plan: JSON = {
        "batch_id": batch_id,
        "model_key": champion.model_key,
        "requests": sorted(r for r, n in matched.found.items() if n > 0),
        "records_by_request": {r: n for r, n in matched.found.items() if n > 0},
        "n_requests": sum(n > 0 for n in matched.found.values()),
        "not_found": absent["not_found"],
        "already_forgotten": absent["already_forgotten"],
        "n_records": forget.num_rows,
        "n_trained_records": len(segments),
        "n_subjects": len(set(forget[context.declaration.columns.subject_id].to_pylist())),
        "exact_lane": choose_lane(segments) if segments else "none",
        "first_segment": min(segments) if segments else None,
        "policy_digest": champion.policy_digest,
        "parent_manifest_root": champion.manifest_root,
        "parent_weights_digest": champion.weights_digest,
    }
    plan["plan_digest"] = plan_digest(plan)
    keep_rows(context.workspace.batch(batch_id), forget)
    context.ledger.append(
        "batch_planned",
        {
            "batch_id": batch_id,
            "plan_digest": plan["plan_digest"],
            "n_requests": plan["n_requests"],
            "n_records": plan["n_records"],
        },
    )
    for request_id in plan["requests"]:
        _move(context, request_id, "planned", token)
        _move(context, request_id, "approved", token)
    return plan


def _erase(context: StageContext, batch_id: str, token: int) -> JSON:
    workspace = context.workspace
    plan = _approved_plan(context, batch_id)
    rows = read_rows(workspace.batch(batch_id))
    id_column = context.declaration.columns.record_id
    ids = rows[id_column].combine_chunks()
    context.ledger.append(
        "erasure_started",
        {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "n_records": len(ids)},
    )
    asked = [_asked(row) for row in _leased(context, batch_id)]
    planned = set(plan["requests"])
    add_tombstones(
        workspace.tombstones,
        record_keys=_record_keys(context, rows),
        subject_keys=[r.subject_key for r in asked if r.subject_key and r.request_id in planned],
        touched_subject_keys=_subject_keys(context, rows),
        batch_id=batch_id,
        erased_at=_now(),
    )
    tables = (
        ("raw", workspace.raw, id_column),
        ("classified", workspace.classified, id_column),
        ("salts", workspace.salts, "record_id"),
    )
    counts = {
        name: _once(
            context, batch_id, f"erasure-{name}", partial(_erase_table, path, ids, batch_id, column)
        )
        for name, path, column in tables
        if table_exists(path)
    }
    result = {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "tables": counts}
    context.ledger.append("rows_erased", {"batch_id": batch_id, "tables": counts})
    for request_id in plan["requests"]:
        _move(context, request_id, "data_erased", token)
    return result


def _erase_table(path: Path, ids: pa.Array, batch_id: str, column: str) -> JSON:
    """Erase and purge one table; its counts are kept at once, as a repeat would count nothing."""
    erased = erase_records(path, ids, batch_id=batch_id, record_id_column=column)
    purged = purge_history(path)
    return {**asdict(erased), "files_removed": purged.files_removed}


def _approximate(
    context: StageContext,
    batch_id: str,
    token: int,
    method: str | None,
    progress: PoolProgress | None,
) -> JSON:
    del token
    plan = _approved_plan(context, batch_id)
    if plan["n_trained_records"] == 0:
        return _untouched(context, batch_id, plan)
    parent = load_record(context.workspace, plan["model_key"])
    splits, data = _batch_data(context, batch_id, parent)
    original = load_model(context.workspace, context.declaration, parent)
    segment = data.first_segment
    reference = _before(context, parent, segment) if segment > STABLE else None
    try:
        candidate, seconds, curve, why = unlearn_one(
            context.declaration, original, reference, data, method=method
        )
    except UnlearningError as error:
        _log.warning("batch %s: the approximate lane failed: %s", batch_id, error)
        return {"verdict": "retrain", "claim": None, "reasons": [str(error)], "model_key": None}
    started = time.perf_counter()
    pools = train_pools(
        context.declaration, data, folder=context.workspace.pools, progress=progress
    )
    evidence = judge(
        context.declaration,
        data,
        pools,
        original=original,
        candidate=candidate,
        lane="approximate",
        unlearned_pool=unlearn_pool(context.declaration, pools.original, data),
        curve=curve,
    )
    evidence["stopped_because"] = why
    evidence["method"] = method or context.declaration.unlearning.method
    cost = _cost(parent, seconds, time.perf_counter() - started)
    keep = tuple(k for k in parent.checkpoints if k <= segment)
    record = _save_candidate(
        context, batch_id, candidate, splits, data, parent, evidence, keep, cost
    )
    _write_evidence(context, batch_id, evidence, record, parent, cost)
    return _summary(evidence, record)


def _exact(
    context: StageContext, batch_id: str, token: int, progress: ProgressCallback | None
) -> JSON:
    del token
    approximate = _result(context, batch_id, "approximate")
    if approximate["verdict"] == "accept":
        return {"skipped": True, "reason": "the approximate model was accepted"}
    plan = _approved_plan(context, batch_id)
    declaration = context.declaration
    parent = load_record(context.workspace, plan["model_key"])
    splits, data = _batch_data(context, batch_id, parent)
    segment, lane = data.first_segment, plan["exact_lane"]
    remaining = data.after
    require_absent(data.forget.ids, remaining.records.ids)
    model = (
        _before(context, parent, segment)
        if lane == "replay"
        else build_model(declaration, declaration.training.seed)
    )
    model_key = f"{lane}-{batch_id}"
    cost = train_segments(
        model,
        remaining,
        training=training_config(declaration.training),
        readiness=readiness_config(declaration.readiness),
        first_segment=segment,
        checkpoints=context.workspace.model(model_key) / "checkpoints",
        progress=progress,
    )
    started = time.perf_counter()
    pools = train_pools(declaration, data, folder=context.workspace.pools)
    evidence = judge(
        declaration,
        data,
        pools,
        original=load_model(context.workspace, declaration, parent),
        candidate=model,
        lane=lane,
        unlearned_pool=None,
    )
    evidence["escalated_because"] = approximate["reasons"]
    costs = _cost(parent, cost.seconds, time.perf_counter() - started)
    keep = tuple(k for k in parent.checkpoints if k <= segment and lane == "replay")
    record = _save_candidate(context, batch_id, model, splits, data, parent, evidence, keep, costs)
    _write_evidence(context, batch_id, evidence, record, parent, costs)
    return _summary(evidence, record)


def _promote(context: StageContext, batch_id: str, token: int) -> JSON:
    plan = _approved_plan(context, batch_id)
    accepted = _accepted(context, batch_id)
    if accepted is None:
        reasons = _result(context, batch_id, "exact")["reasons"]
        for request_id in plan["requests"]:
            _move(context, request_id, "needs_person", token, reason="no lane was accepted")
        message = (
            f"batch {batch_id}: no model was accepted, the one that knew the records was not "
            f"replaced: {'; '.join(reasons)}. Look at evidence.html of the batch and decide"
        )
        raise ReleaseBlockedError(message)
    record = load_record(context.workspace, accepted["model_key"])
    for request_id in plan["requests"]:
        _move(context, request_id, "model_unlearned", token)
        _move(context, request_id, "verified_forgotten", token)
    if not accepted.get("untouched"):
        context.ledger.append(
            "model_unlearned",
            {
                "batch_id": batch_id,
                "model_key": record.model_key,
                "parent": record.parent,
                "lane": accepted["lane"],
                "claim": accepted["claim"],
                "weights_digest": record.weights_digest,
                "manifest_root": record.manifest_root,
            },
        )
        model = load_model(context.workspace, context.declaration, record)
        record = register_model(
            context,
            record,
            model,
            tags={"verdict": accepted["verdict"], "batch_id": batch_id},
        )
        promote_alias(context, record, batch_id=batch_id)
    return {
        "batch_id": batch_id,
        "model_key": record.model_key,
        "model_version": record.model_version,
        "lane": accepted["lane"],
        "claim": accepted["claim"],
    }


def _close(context: StageContext, batch_id: str, token: int) -> JSON:
    """Do all of the closing but what the queue says, which comes last."""
    workspace = context.workspace
    folder = workspace.batch(batch_id)
    plan = _approved_plan(context, batch_id)
    promotion = _result(context, batch_id, "promotion")
    accepted = _accepted(context, batch_id) or {}
    removed = _forget_leftovers(context, batch_id, plan, promotion)
    for request_id in plan["requests"]:
        _move(context, request_id, "propagated", token)
    write_json(folder / "result-model.json", promotion)
    rows = {row.request_id: row for row in _leased(context, batch_id)}
    answered = _once(
        context, batch_id, "answers", lambda: {"at": _now().isoformat(timespec="seconds")}
    )
    requests = [
        {
            "request_id": request_id,
            "outcome": "forgotten",
            "claim": promotion["claim"],
            "lane": promotion["lane"],
            "received_at": rows[request_id].received_at.isoformat(),
            "due_at": rows[request_id].due_at.isoformat(),
            "answered_at": answered["at"],
        }
        for request_id in plan["requests"]
    ]
    sealed: JSON = {"root": None}
    if requests:
        sealed = seal_bundle(
            folder,
            requests,
            signing_key=load_or_make_signing_key(workspace.keys),
            ledger=context.ledger,
            ledger_path=workspace.ledger,
        )
    _record_batch(context, batch_id, plan, promotion, accepted, sealed)
    context.ledger.append(
        "batch_closed", {"batch_id": batch_id, "bundle_root": sealed["root"], **removed}
    )
    outcomes = {"forgotten": len(requests)}
    outcomes |= {name: plan[name] for name in ("not_found", "already_forgotten") if plan[name]}
    return {
        "batch_id": batch_id,
        "closed": sum(outcomes.values()),
        "outcomes": outcomes,
        "claim": promotion["claim"],
        "lane": promotion["lane"],
        "model_key": promotion["model_key"],
        "removed": removed,
    }


def _untouched(context: StageContext, batch_id: str, plan: JSON) -> JSON:
    """Accept the serving model when its manifest names none of the records."""
    record = load_record(context.workspace, plan["model_key"])
    reason = "none of the records is in the training manifest of the serving model"
    evidence = {
        "schema": "r2u-evidence/1",
        "batch_id": batch_id,
        "lane": "replay",
        "verdict": "accept",
        "claim": "exact",
        "reasons": [reason],
        "n_forget": 0,
        "lineage": {"manifest_root": record.manifest_root, "weights_digest": record.weights_digest},
    }
    write_json(context.workspace.batch(batch_id) / "evidence.json", evidence)
    return {
        "verdict": "accept",
        "claim": "exact",
        "lane": "replay",
        "untouched": True,
        "reasons": [reason],
        "model_key": record.model_key,
    }


def _batch_data(
    context: StageContext, batch_id: str, parent: ModelRecord
) -> tuple[Splits, BatchData]:
    """Return the remaining splits and the batch: remaining rows plus the kept ones."""
    workspace, declaration = context.workspace, context.declaration
    kept = read_rows(workspace.batch(batch_id))
    table = read_table(workspace.classified)
    members = read_members(workspace.model(parent.model_key) / "members.parquet")

    def segments_of(rows: pa.Table) -> dict[str, int]:
        ids = rows[declaration.columns.record_id].to_pylist()
        keys = _record_keys(context, rows)
        return {
            record_id: members[key]
            for record_id, key in zip(ids, keys, strict=True)
            if key in members
        }

    segments = segments_of(table)
    after = encode_splits(table, declaration, scale=parent.scale, segments=segments)
    both = pa.concat_tables([table, kept.select(table.column_names)])
    before = encode_splits(
        both, declaration, scale=parent.scale, segments={**segments, **segments_of(kept)}
    )
    gone = ~np.isin(before.training.records.ids, after.training.records.ids)
    return after, BatchData(
        before=before.training,
        forget=before.training.records.select(gone),
        validation=after.validation,
        holdout=after.holdout,
    )


def _save_candidate(
    context: StageContext,
    batch_id: str,
    model: nn.Module,
    splits: Splits,
    data: BatchData,
    parent: ModelRecord,
    evidence: JSON,
    keep: tuple[int, ...],
    cost: dict[str, float],
) -> ModelRecord:
    workspace, lane = context.workspace, evidence["lane"]
    kind = {"approximate": "unlearned", "replay": "replayed", "retrain": "retrained"}[lane]
    model_key = f"{lane}-{batch_id}"
    weights = save_weights(model, workspace.model(model_key) / "weights.safetensors")
    copy_checkpoints(workspace, parent.model_key, model_key, keep)
    table = read_table(workspace.classified)
    manifest = commit_training(context, model_key, table, data.after)
    made = tuple(
        k
        for k in range(1, data.before.n_segments)
        if checkpoint_path(workspace, model_key, k).exists()
    )
    record = ModelRecord(
        model_key=model_key,
        kind=kind,
        parent=parent.model_key,
        lane=lane,
        claim=evidence["claim"],
        batch_id=batch_id,
        weights_digest=weights,
        manifest_digest=manifest.digest,
        manifest_root=manifest.root,
        policy_digest=manifest.policy_digest,
        declaration_digest=manifest.declaration_digest,
        feature_scale=parent.feature_scale,
        checkpoints=made,
        created_at=manifest.created_at,
        verdict=evidence["verdict"],
        metrics={**parent.metrics, **evaluate(model, splits), **cost},
    )
    save_record(workspace, record)
    return record


def _write_evidence(
    context: StageContext,
    batch_id: str,
    evidence: JSON,
    record: ModelRecord,
    parent: ModelRecord,
    cost: dict[str, float],
) -> None:
    evidence["batch_id"] = batch_id
    evidence["cost"] = cost
    evidence["lineage"] = {
        "parent_model_key": parent.model_key,
        "parent_weights_digest": parent.weights_digest,
        "parent_manifest_root": parent.manifest_root,
        "model_key": record.model_key,
        "weights_digest": record.weights_digest,
        "manifest_root": record.manifest_root,
        "policy_digest": record.policy_digest,
        "declaration_digest": record.declaration_digest,
    }
    folder = context.workspace.batch(batch_id)
    name = "evidence" if evidence["lane"] == "approximate" else "evidence-replay"
    write_json(folder / f"{name}.json", evidence)
    (folder / f"{name}.html").write_text(render_evidence(evidence), encoding="utf-8")
    context.ledger.append(
        "evidence_recorded",
        {
            "batch_id": batch_id,
            "lane": evidence["lane"],
            "verdict": evidence["verdict"],
            "evidence_digest": digest_file(folder / f"{name}.json"),
        },
    )


def _forget_leftovers(
    context: StageContext, batch_id: str, plan: JSON, promotion: JSON
) -> dict[str, int]:
    """Delete weights, checkpoints and pools of every model that was trained on the records.

    Older models count like the one that served, here and in the registry. A model whose members
    cannot be read may have seen them and goes too.
    """
    workspace = context.workspace
    erased = set(_record_keys(context, read_rows(workspace.batch(batch_id))))
    removed = 0
    for path in sorted(workspace.models.glob("*/model.json")):
        key = path.parent.name
        # The rejected candidate of this batch was changed from weights that knew the records.
        rejected = read_json(path).get("batch_id") == batch_id
        if key == promotion["model_key"] or not (rejected or _may_hold(path.parent, erased)):
            continue
        record = load_record(workspace, key)
        if record.model_version:
            context.tracker.remove_weights(context.registered_model, record.model_version)
        if (path.parent / "weights.safetensors").exists():
            (path.parent / "weights.safetensors").unlink()
            removed += 1
        shutil.rmtree(path.parent / "checkpoints", ignore_errors=True)
        update_record(workspace, key, checkpoints=())
    _, data = _batch_data(context, batch_id, load_record(workspace, plan["model_key"]))
    pools = drop_pools(workspace.pools, keep=pools_to_keep(context.declaration, data))
    return {"models_removed": removed, "pools_removed": pools}


def _may_hold(folder: Path, record_keys: Collection[str]) -> bool:
    try:
        members = read_members(folder / "members.parquet")
    except DataError:
        return True
    return not members.keys().isdisjoint(record_keys)


def _record_batch(
    context: StageContext,
    batch_id: str,
    plan: JSON,
    promotion: JSON,
    accepted: JSON,
    sealed: JSON,
) -> None:
    folder = context.workspace.batch(batch_id)
    names = ("plan.json", "erasure.json", "evidence.json", "evidence-replay.json", "bundle.json")
    pages = ("evidence.html", "evidence-replay.html")
    parent = load_record(context.workspace, plan["model_key"])
    model = load_record(context.workspace, promotion["model_key"])
    context.tracker.record_run(
        key=f"batch:{batch_id}",
        name=f"batch {batch_id}",
        dataset=context.declaration.name,
        params={
            "batch_id": batch_id,
            "lane": promotion["lane"],
            "claim": promotion["claim"],
            "plan_digest": plan["plan_digest"],
            "policy_digest": plan["policy_digest"],
            "parent_model_key": parent.model_key,
            "parent_version": parent.model_version or "none",
            "parent_manifest_root": plan["parent_manifest_root"],
            "model_key": model.model_key,
            "model_version": model.model_version or "none",
            "manifest_root": model.manifest_root,
            "bundle_root": sealed["root"] or "none",
            "ledger_head": context.ledger.head(),
        },
        metrics={
            "n_requests": float(plan["n_requests"]),
            "n_records": float(plan["n_records"]),
            **model.metrics,
        },
        tags={"verdict": accepted.get("verdict", "accept"), "claim": promotion["claim"]},
        artifacts={name: folder / name for name in (*names, *pages) if (folder / name).exists()},
    )


def _close_absent(
    context: StageContext, rows: list[RequestRow], matched: MatchedRecords, token: int
) -> dict[str, int]:
    tombstones = read_tombstones(context.workspace.tombstones)
    counts = {"not_found": 0, "already_forgotten": 0}
    for row in rows:
        if matched.found[row.request_id] > 0:
            continue
        subjects = tombstones["subject"] | tombstones["touched_subject"]
        known = row.subject_key in subjects or bool(set(row.record_keys) & tombstones["record"])
        outcome = "already_forgotten" if known else "not_found"
        counts[outcome] += 1
        context.ledger.append("request_closed", {"request_id": row.request_id, "outcome": outcome})
        context.queue.close(
            row.request_id, outcome=outcome, claim=None, token=token, now=_now(), details=None
        )
    return counts


def _before(context: StageContext, parent: ModelRecord, segment: int) -> nn.Module:
    path = checkpoint_path(context.workspace, parent.model_key, segment)
    return load_weights(build_model(context.declaration, 0), path)


def _leased(context: StageContext, batch_id: str) -> list[RequestRow]:
    return context.queue.batch_requests(batch_id)


def _asked(row: RequestRow) -> AskedRecords:
    selector = None
    if row.selector is not None:
        selector = (row.selector["column"], row.selector["value"])
    return AskedRecords(row.request_id, row.subject_key, tuple(row.record_keys), selector)


def _record_keys(context: StageContext, rows: pa.Table) -> list[str]:
    ids = rows[context.declaration.columns.record_id].to_pylist()
    return pseudonyms(context.pseudonym_key, "record", ids)


def _subject_keys(context: StageContext, rows: pa.Table) -> list[str]:
    ids = rows[context.declaration.columns.subject_id].unique().to_pylist()
    return pseudonyms(context.pseudonym_key, "subject", ids)


def _move(
    context: StageContext, request_id: str, state: str, token: int, reason: str | None = None
) -> None:
    context.queue.transition(request_id, state, token=token, now=_now(), reason=reason)


def _approved_plan(context: StageContext, batch_id: str) -> JSON:
    plan = _result(context, batch_id, "plan")
    if plan["plan_digest"] != plan_digest(plan):
        message = f"batch {batch_id}: the plan was changed after it was made; plan again"
        raise ReleaseBlockedError(message)
    return plan


def _accepted(context: StageContext, batch_id: str) -> JSON | None:
    for step in ("approximate", "exact"):
        result = _result(context, batch_id, step)
        if result.get("verdict") == "accept":
            return result
    return None


def _summary(evidence: JSON, record: ModelRecord) -> JSON:
    return {
        "verdict": evidence["verdict"],
        "claim": evidence["claim"],
        "lane": evidence["lane"],
        "reasons": evidence["reasons"],
        "model_key": record.model_key,
    }


def _cost(parent: ModelRecord, seconds: float, evidence_s: float) -> dict[str, float]:
    retrain_s = parent.metrics["train_s"]
    return {
        "unlearn_s": seconds,
        "evidence_s": evidence_s,
        "retrain_s": retrain_s,
        "share_of_retrain": seconds / retrain_s if retrain_s > 0 else 0.0,
    }


def _once(context: StageContext, batch_id: str, step: str, work: Callable[[], JSON]) -> JSON:
    path = _step_path(context, batch_id, step)
    if not path.exists():
        write_json(path, work())
    return _result(context, batch_id, step)


def _result(context: StageContext, batch_id: str, step: str) -> JSON:
    result: JSON = read_json(_step_path(context, batch_id, step))
    return result


def _step_path(context: StageContext, batch_id: str, step: str) -> Path:
    return context.workspace.batch(batch_id) / f"{step}.json"


def _now() -> datetime:
    return datetime.now(UTC)
