"""Letting the accepted model serve."""

from __future__ import annotations

from governance.errors import ReleaseBlockedError
from r2u_tasks.models import load_model, load_record
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.train import promote_alias, register_model
from r2u_tasks.stages.unlearn.steps import (
    accepted_model,
    approved_plan,
    move_all,
    note_once,
    once,
    result_of,
)


def promote_model(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Let the accepted model serve and withdraw the one that knew the records.

    Raises:
        ReleaseBlockedError: No lane gave a model that the gate accepts; a person must decide.
    """
    context = open_context(dataset, root_uri)
    return once(context, batch_id, "promotion", lambda: _promote(context, batch_id, token))


def _promote(context: StageContext, batch_id: str, token: int) -> JSON:
    plan = approved_plan(context, batch_id)
    accepted = accepted_model(context, batch_id)
    if accepted is None:
        reasons = result_of(context, batch_id, "exact")["reasons"]
        why = "no lane was accepted"
        move_all(context, plan["requests"], "needs_person", token=token, reason=why)
        message = (
            f"batch {batch_id}: no model was accepted, the one that knew the records was not "
            f"replaced: {'; '.join(reasons)}. Look at evidence.html of the batch and decide"
        )
        raise ReleaseBlockedError(message)
    record = load_record(context.workspace, accepted["model_key"])
    move_all(context, plan["requests"], "model_unlearned", "verified_forgotten", token=token)
    if not accepted.get("untouched"):
        note_once(
            context,
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
        record = register_model(context, record, model)
        promote_alias(context, record, batch_id=batch_id)
    return {
        "batch_id": batch_id,
        "model_key": record.model_key,
        "model_version": record.model_version,
        "lane": accepted["lane"],
        "claim": accepted["claim"],
    }
