"""The exact lane: train again without the records, from a state that never saw them."""

from __future__ import annotations

import logging
import time

from r2u_tasks.config import readiness_config, training_config
from r2u_tasks.evidence import judge, require_absent, train_pools
from r2u_tasks.evidence_suite import add_suite
from r2u_tasks.model import build_model
from r2u_tasks.models import load_model, load_record, usable_checkpoints
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.unfinished import begin_model
from r2u_tasks.stages.unlearn.candidate import (
    batch_data,
    cost_of,
    label_salt,
    model_before,
    save_candidate,
    summary,
    write_evidence,
)
from r2u_tasks.stages.unlearn.steps import approved_plan, once, result_of
from r2u_tasks.training import STABLE, ProgressCallback, train_segments

_log = logging.getLogger(__name__)


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
    return once(context, batch_id, "exact", lambda: _exact(context, batch_id, token, progress))


def _exact(
    context: StageContext, batch_id: str, token: int, progress: ProgressCallback | None
) -> JSON:
    del token
    approximate = result_of(context, batch_id, "approximate")
    if approximate["verdict"] == "accept":
        return {"skipped": True, "reason": "the approximate model was accepted"}
    plan = approved_plan(context, batch_id)
    declaration = context.declaration
    parent = load_record(context.workspace, plan["model_key"])
    usable = usable_checkpoints(context.workspace, parent)
    segment, lane, reasons = plan["first_segment"], plan["exact_lane"], approximate["reasons"]
    if lane == "replay" and segment not in usable:
        # Damaged since the plan: an exact claim does not rest on it.
        why = f"the checkpoint before slice {segment} is not the one that training wrote"
        segment, lane, reasons = STABLE, "retrain", [*reasons, why]
        _log.warning("batch %s: %s; the model is trained from the beginning", batch_id, why)
    model_key = f"{lane}-{batch_id}"
    begin_model(context, model_key)
    splits, data = batch_data(context, batch_id, parent, lane=lane)
    remaining = data.after
    require_absent(data.forget.ids, remaining.records.ids)
    model = (
        model_before(context, parent, segment)
        if lane == "replay"
        else build_model(declaration, declaration.training.seed)
    )
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
    add_suite(
        evidence,
        declaration,
        data,
        pools,
        candidate=model,
        unlearned_pool=None,
        salt=label_salt(context, batch_id),
    )
    evidence["escalated_because"] = reasons
    costs = cost_of(parent, cost.seconds, time.perf_counter() - started)
    keep = tuple(k for k in usable if k <= segment and lane == "replay")
    record = save_candidate(context, batch_id, model, splits, data, parent, evidence, keep, costs)
    write_evidence(context, batch_id, evidence, record, parent, costs)
    return summary(evidence, record)
