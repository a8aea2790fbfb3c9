"""Finding the records that a batch is about, and choosing the exact lane."""

from __future__ import annotations

import pyarrow as pa

from governance.deletion_queue import RequestRow
from governance.manifest import read_members
from governance.storage import read_table
from governance.suppression import read_tombstones
from r2u_tasks.batch import MatchedRecords, choose_lane, keep_rows, match_requests, plan_digest
from r2u_tasks.models import load_record, read_champion
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.unlearn.steps import (
    asked_records,
    leased_requests,
    move,
    now,
    once,
    record_keys,
)


def plan_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Find the records of the batch, keep them for unlearning, and choose the lane.

    Requests without any record close here: as *not found*, or as *already forgotten* when a
    tombstone names the person.
    """
    context = open_context(dataset, root_uri)
    return once(context, batch_id, "plan", lambda: _plan(context, batch_id, token))


def _plan(context: StageContext, batch_id: str, token: int) -> JSON:
    rows = leased_requests(context, batch_id)
    table = read_table(context.workspace.classified)
    asked = [asked_records(row) for row in rows]
    matched = match_requests(table, context.declaration, context.pseudonym_key, asked)
    absent = _close_absent(context, rows, matched, token)
    forget = table.filter(pa.array(matched.mask))
    champion = load_record(context.workspace, read_champion(context.workspace))
    members = read_members(context.workspace.model(champion.model_key) / "members.parquet")
    keys = record_keys(context, forget)
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
        move(context, request_id, "planned", token)
        move(context, request_id, "approved", token)
    return plan


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
            row.request_id, outcome=outcome, claim=None, token=token, now=now(), details=None
        )
    return counts
