"""Finding the records that a batch is about, and choosing the exact lane."""

from __future__ import annotations

import logging

import pyarrow as pa

from governance.deletion_queue import RequestRow
from governance.errors import DataError
from governance.manifest import read_members
from governance.storage import read_table
from governance.suppression import read_tombstones
from r2u_tasks.batch import MatchedRecords, choose_lane, keep_rows, plan_digest
from r2u_tasks.kept_checkpoints import checkpoint_problems
from r2u_tasks.models import ModelRecord, load_record, read_champion
from r2u_tasks.stages import events
from r2u_tasks.stages.commitment import table_drift
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.unlearn.overlap import match_batch
from r2u_tasks.stages.unlearn.steps import (
    is_in_batch,
    leased_requests,
    move_all,
    now,
    once,
    record_keys,
)

_log = logging.getLogger(__name__)
_ABSENT = ("not_found", "already_forgotten")


def plan_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Find the records of the batch, keep them for unlearning, and choose the lane.

    Requests without any record close here: as *not found*, or as *already forgotten* when a
    tombstone names the person. Requests of which another one keeps some records are held.
    """
    context = open_context(dataset, root_uri)
    plan = once(context, batch_id, "plan", lambda: make_plan(context, batch_id, token))
    # Again, as a lease that ran out gave them back to the queue before this run took them again.
    here = {row.request_id for row in leased_requests(context, batch_id) if is_in_batch(row)}
    mine = [request_id for request_id in plan["requests"] if request_id in here]
    move_all(context, mine, "planned", "approved", token=token)
    events.batch_started(context, plan)
    return plan


def make_plan(context: StageContext, batch_id: str, token: int) -> JSON:
    """Make the plan of a batch and keep its rows."""
    rows = [row for row in leased_requests(context, batch_id) if _is_asked(row)]
    table = read_table(context.workspace.classified)
    _require_whole(context, table)
    batch = match_batch(context, batch_id, token, table, rows)
    matched = batch.matched
    forget = table.filter(pa.array(matched.mask))
    champion = load_record(context.workspace, read_champion(context.workspace))
    members = read_members(context.workspace.model(champion.model_key) / "members.parquet")
    still_known = bool(_unfinished(context, members, []))
    absent = _close_absent(context, rows, matched, token, still_known=still_known)
    keys = record_keys(context, forget)
    segments = [members[key] for key in keys if key in members]
    unfinished = _unfinished(context, members, keys)
    touched = [*segments, *unfinished]
    unusable = _unusable_checkpoints(context, batch_id, champion) if segments else {}
    lane, first_segment = (
        choose_lane(touched, set(members.values()), champion.checkpoints.keys() - unusable.keys())
        if segments
        else ("none", None)
    )
    served = {r: n for r, n in matched.found.items() if n > 0 and r not in matched.held}
    erased = read_tombstones(context.workspace.tombstones)["record"]
    drift = table_drift(context, table, champion.model_key, erased | set(keys))
    plan: JSON = {
        "batch_id": batch_id,
        "model_key": champion.model_key,
        "requests": sorted(served),
        "records_by_request": served,
        "n_requests": len(served),
        "not_found": absent["not_found"],
        "already_forgotten": absent["already_forgotten"],
        "kept_back": batch.kept_back,
        "n_records": forget.num_rows,
        "n_trained_records": len(segments),
        "n_subjects": len(set(forget[context.declaration.columns.subject_id].to_pylist())),
        "n_unfinished_records": len(unfinished),
        "exact_lane": lane,
        "first_segment": first_segment,
        "checkpoints_not_used": {str(segment): why for segment, why in unusable.items()},
        "drift": drift.to_dict(),
        "policy_digest": champion.policy_digest,
        "parent_manifest_root": champion.manifest_root,
        "parent_weights_digest": champion.weights_digest,
    }
    plan["plan_digest"] = plan_digest(plan)
    keep_rows(context.workspace.batch(batch_id), forget)
    note_once(
        context,
        "batch_planned",
        {
            "batch_id": batch_id,
            "plan_digest": plan["plan_digest"],
            "n_requests": plan["n_requests"],
            "n_records": plan["n_records"],
            "kept_back": plan["kept_back"],
        },
    )
    move_all(context, plan["requests"], "planned", "approved", token=token)
    return plan


def _is_asked(row: RequestRow) -> bool:
    """Say whether a request is the batch's: to be served, or closed by it as absent."""
    return is_in_batch(row) or row.outcome in _ABSENT


def _require_whole(context: StageContext, classified: pa.Table) -> None:
    """Refuse tables of which a killed classification published one: who is absent is not known.

    Raises:
        DataError: The raw table has other rows than the classified one.
    """
    n_raw = read_table(context.workspace.raw, columns=[context.declaration.columns.record_id])
    if n_raw.num_rows != classified.num_rows:
        message = (
            f"plan: expected as many classified rows as raw ones, got {classified.num_rows} and "
            f"{n_raw.num_rows}; run the classification again"
        )
        raise DataError(message)


def _unfinished(context: StageContext, members: dict[str, int], keys: list[str]) -> list[int]:
    """Return the segments of records that an unfinished batch erased and the model still knows."""
    erased = read_tombstones(context.workspace.tombstones)["record"]
    return [members[key] for key in (erased & members.keys()) - set(keys)]


def _unusable_checkpoints(
    context: StageContext, batch_id: str, champion: ModelRecord
) -> dict[int, str]:
    """Return why checkpoints of the serving model are left alone, and say so before the erasure."""
    folder = context.workspace.model(champion.model_key)
    problems = checkpoint_problems(folder, champion.checkpoints)
    for segment, why in problems.items():
        _log.warning("batch %s: checkpoint %d is not used: %s", batch_id, segment, why)
    return problems


def _close_absent(
    context: StageContext,
    rows: list[RequestRow],
    matched: MatchedRecords,
    token: int,
    *,
    still_known: bool,
) -> dict[str, int]:
    """Close requests without any record, each as what is known of it.

    Nobody is told that they are forgotten while the serving model knows erased records
    (``still_known``: their batch was refused): those who may be meant go back to the queue when the
    batch ends.
    """
    tombstones = read_tombstones(context.workspace.tombstones)
    subjects = tombstones["subject"] | tombstones["touched_subject"]
    outcomes = {}
    for row in rows:
        if matched.found[row.request_id] == 0:
            known = row.subject_key in subjects or bool(set(row.record_keys) & tombstones["record"])
            known |= row.selector is not None and row.selector["value"] in tombstones["selector"]
            if not (known and still_known):
                outcomes[row.request_id] = "already_forgotten" if known else "not_found"
    bodies = [{"request_id": name, "outcome": outcome} for name, outcome in outcomes.items()]
    note_once(context, "request_closed", *bodies)
    for request_id, outcome in outcomes.items():
        context.queue.close(
            request_id, outcome=outcome, claim=None, token=token, now=now(), details=None
        )
    return {name: list(outcomes.values()).count(name) for name in _ABSENT}
