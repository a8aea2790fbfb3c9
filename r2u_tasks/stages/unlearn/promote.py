"""Letting the accepted model serve."""

from __future__ import annotations

from governance.errors import ReleaseBlockedError
from governance.manifest import Drift, SetDifference
from governance.suppression import read_tombstones
from r2u_tasks.batch import read_rows
from r2u_tasks.models import load_model, load_record
from r2u_tasks.stages import events
from r2u_tasks.stages.commitment import compare_members
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.promotion import promote_alias
from r2u_tasks.stages.train import register_model
from r2u_tasks.stages.unlearn.steps import (
    accepted_model,
    approved_plan,
    move_all,
    once,
    record_keys,
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
        events.batch_failed(context, batch_id, ReleaseBlockedError.__name__)
        raise ReleaseBlockedError(message)
    record = load_record(context.workspace, accepted["model_key"])
    _require_difference(context, batch_id, plan, record.model_key, token)
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
                "manifest_digest": record.manifest_digest,
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


def _require_difference(
    context: StageContext, batch_id: str, plan: JSON, model_key: str, token: int
) -> None:
    """Compare the records of the new model with those of the old one: exactly the asked ones left.

    Raises:
        ReleaseBlockedError: Others left, came or changed; a person must look.
    """
    keys = set(record_keys(context, read_rows(context.workspace.batch(batch_id))))
    untouched = plan["n_trained_records"] == 0
    if not untouched:  # with those of a batch that nobody finished
        keys |= read_tombstones(context.workspace.tombstones)["record"]
    members = once(
        context,
        batch_id,
        "members",
        lambda: compare_members(
            context, batch_id, parent=plan["model_key"], child=model_key, asked_keys=keys
        ),
    )
    drift = Drift(0, 0) if untouched else Drift(**plan["drift"])
    difference = SetDifference(**members["difference"])
    if difference.holds_but_for(drift):
        return
    why = "other records than the asked ones left, came or changed"
    move_all(context, plan["requests"], "needs_person", token=token, reason=why)
    message = (
        f"batch {batch_id}: expected the {difference.parent} records of {plan['model_key']} less "
        f"the {difference.asked} asked ones in {model_key}, got {difference.asked_left} of those, "
        f"{difference.added} new and {difference.missing} missing; was the table loaded anew while "
        "the batch ran? Train again, then look at the batch"
    )
    raise ReleaseBlockedError(message)
