"""The approximate lane: change the weights, then test against models that never saw the records."""

from __future__ import annotations

import logging
import time

from governance.digests import write_json
from governance.errors import UnlearningError
from governance.removal import remove_folder
from r2u_tasks.evidence import SCHEMA, judge, train_pools, unlearn_pool
from r2u_tasks.evidence import unlearn_model as unlearn_one
from r2u_tasks.evidence_suite import add_suite
from r2u_tasks.models import load_model, load_record, usable_checkpoints
from r2u_tasks.pools import PoolProgress
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
from r2u_tasks.stages.unlearn.sequence import retrain_reasons, sequence_with
from r2u_tasks.stages.unlearn.steps import approved_plan, once
from r2u_tasks.training import STABLE

_log = logging.getLogger(__name__)


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
    return once(
        context,
        batch_id,
        "approximate",
        lambda: _approximate(context, batch_id, token, method, progress),
    )


def _approximate(
    context: StageContext,
    batch_id: str,
    token: int,
    method: str | None,
    progress: PoolProgress | None,
) -> JSON:
    del token
    plan = approved_plan(context, batch_id)
    if plan["n_trained_records"] == 0:
        return _untouched(context, batch_id, plan)
    if plan["n_unfinished_records"] > 0:
        reason = (
            f"the serving model also knows {plan['n_unfinished_records']} erased records of an "
            "unfinished batch; only a model that is made without them can replace it"
        )
        return {"verdict": "retrain", "claim": None, "reasons": [reason], "model_key": None}
    parent = load_record(context.workspace, plan["model_key"])
    due = retrain_reasons(context, parent)
    if due:
        return {"verdict": "retrain", "claim": None, "reasons": due, "model_key": None}
    model_key = f"approximate-{batch_id}"
    begin_model(context, model_key)
    splits, data = batch_data(context, batch_id, parent)
    original = load_model(context.workspace, context.declaration, parent)
    segment = data.first_segment
    # An earlier approximate batch may have dropped the checkpoint before these records.
    usable = usable_checkpoints(context.workspace, parent)
    has_reference = segment > STABLE and segment in usable
    reference = model_before(context, parent, segment) if has_reference else None
    try:
        candidate, seconds, curve, why = unlearn_one(
            context.declaration, original, reference, data, method=method
        )
    except UnlearningError as error:
        _log.warning("batch %s: the approximate lane failed: %s", batch_id, error)
        remove_folder(context.workspace.model(model_key))
        return {"verdict": "retrain", "claim": None, "reasons": [str(error)], "model_key": None}
    started = time.perf_counter()
    pools = train_pools(
        context.declaration, data, folder=context.workspace.pools, progress=progress
    )
    unlearned = unlearn_pool(context.declaration, pools.original, data)
    evidence = judge(
        context.declaration,
        data,
        pools,
        original=original,
        candidate=candidate,
        lane="approximate",
        unlearned_pool=unlearned,
    )
    add_suite(
        evidence,
        context.declaration,
        data,
        pools,
        candidate=candidate,
        unlearned_pool=unlearned,
        salt=label_salt(context, batch_id),
        curve=curve,
    )
    evidence["sequence"] = sequence_with(context, parent, evidence, batch_id)
    evidence["stopped_because"] = why
    evidence["method"] = method or context.declaration.unlearning.method
    cost = cost_of(parent, seconds, time.perf_counter() - started)
    keep = tuple(k for k in usable if k <= segment)
    record = save_candidate(
        context, batch_id, candidate, splits, data, parent, evidence, keep, cost
    )
    write_evidence(context, batch_id, evidence, record, parent, cost)
    return summary(evidence, record)


def _untouched(context: StageContext, batch_id: str, plan: JSON) -> JSON:
    """Accept the serving model when its manifest names none of the records."""
    record = load_record(context.workspace, plan["model_key"])
    reason = "none of the records is in the training manifest of the serving model"
    evidence = {
        "schema": SCHEMA,
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
