"""Finding the records that a batch is about, and choosing the exact lane."""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.compute as pc

from governance.deletion_queue import AFTER_ERASURE, RequestRow, State
from governance.errors import StoreBusyError
from governance.manifest import read_members
from governance.storage import read_table, table_version
from governance.suppression import read_tombstones
from r2u_tasks.batch import MatchedRecords, choose_lane, keep_rows, plan_digest, was_erased
from r2u_tasks.kept_checkpoints import checkpoint_problems
from r2u_tasks.models import ModelRecord, load_record, read_champion
from r2u_tasks.stages import events
from r2u_tasks.stages.commitment import table_drift
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.unlearn.overlap import match_batch
from r2u_tasks.stages.unlearn.steps import (
    is_in_batch,
    keys_as_in,
    leased_requests,
    move_all,
    now,
    once,
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
    everyone = leased_requests(context, batch_id)
    rows = [row for row in everyone if is_in_batch(row)]
    # What an earlier plan closed was answered, whatever a load brought since.
    closed = [r.outcome for r in everyone if r.outcome in _ABSENT and not is_in_batch(r)]
    # Before they are read: what is published in between makes the plan an old one.
    versions = {
        "raw": table_version(context.workspace.raw),
        "classified": table_version(context.workspace.classified),
    }
    table = read_table(context.workspace.classified)
    _require_whole(context, table)
    batch = match_batch(context, batch_id, token, table, rows)
    matched = batch.matched
    forget = table.filter(pa.array(matched.mask))
    champion = load_record(context.workspace, read_champion(context.workspace))
    path = context.workspace.model(champion.model_key) / "members.parquet"
    members = read_members(path)
    still_known = bool(_unfinished(context, members, []))
    absent = [*closed, *_close_absent(context, rows, matched, token, still_known=still_known)]
    keys = keys_as_in(context, forget, path)
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
        "not_found": absent.count("not_found"),
        "already_forgotten": absent.count("already_forgotten"),
        "kept_back": batch.kept_back,
        "n_records": forget.num_rows,
        "n_trained_records": len(segments),
        "n_subjects": len(set(forget[context.declaration.columns.subject_id].to_pylist())),
        "n_unfinished_records": len(unfinished),
        "exact_lane": lane,
        "first_segment": first_segment,
        "checkpoints_not_used": {str(segment): why for segment, why in unusable.items()},
        "drift": drift.to_dict(),
        "table_versions": versions,
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


def _require_whole(context: StageContext, classified: pa.Table) -> None:
    """Refuse tables of which a load has published one only: who is absent is not known.

    Raises:
        StoreBusyError: The raw table has other records than the classified one.
    """
    id_column = context.declaration.columns.record_id
    raw = read_table(context.workspace.raw, columns=[id_column])[id_column]
    n_both = pc.sum(pc.is_in(raw, value_set=classified[id_column].combine_chunks())).as_py() or 0
    if not len(raw) == classified.num_rows == n_both:
        message = (
            f"plan: expected the same records raw and classified, got {len(raw)} and "
            f"{classified.num_rows}, {n_both} of them in both. Is a load or an erasure under way? "
            "Run it again when that is over; if a classification was killed, run that again first"
        )
        raise StoreBusyError(message)


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
) -> list[str]:
    """Close requests without any record, each as what is known of it; return how they end.

    Nobody is told that they are forgotten while the serving model knows erased records
    (``still_known``: their batch was refused): those who may be meant go back to the queue when the
    batch ends.
    """
    tombstones = read_tombstones(context.workspace.tombstones)
    outcomes = {}
    for row in rows:
        # If the erasure of one has begun, a load took its rows since: a person must look.
        if matched.found[row.request_id] == 0 and State(row.state) not in AFTER_ERASURE:
            known = was_erased(tombstones, row.pseudonyms)
            if not (known and still_known):
                outcomes[row.request_id] = "already_forgotten" if known else "not_found"
    bodies = [{"request_id": name, "outcome": outcome} for name, outcome in outcomes.items()]
    note_once(context, "request_closed", *bodies)
    for request_id, outcome in outcomes.items():
        context.queue.close(
            request_id, outcome=outcome, claim=None, token=token, now=now(), details=None
        )
    return list(outcomes.values())
