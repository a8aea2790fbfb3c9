"""Letting the accepted model serve."""

from __future__ import annotations

import logging

from governance.errors import ReleaseBlockedError
from governance.manifest import Drift, SetDifference
from governance.suppression import read_tombstones
from r2u_tasks.batch import read_rows
from r2u_tasks.models import ModelRecord, load_model, load_record, read_champion
from r2u_tasks.stages import events
from r2u_tasks.stages.commitment import compare_members
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.promotion import promote_alias
from r2u_tasks.stages.taint import require_untainted
from r2u_tasks.stages.train import register_model
from r2u_tasks.stages.unlearn.steps import (
    accepted_model,
    approved_plan,
    move_all,
    once,
    record_keys,
    result_of,
)

_log = logging.getLogger(__name__)


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
    if not accepted.get("untouched"):
        _require_changed(context, batch_id, plan, record, token)
    _require_difference(context, batch_id, plan, record.model_key, token)
    serves = read_champion(context.workspace)
    stays = accepted.get("untouched") and serves == record.model_key
    if not stays:
        _require_may_serve(context, batch_id, plan, record.model_key, token)
    if serves not in (record.model_key, plan["model_key"]):
        _log.warning(
            "batch %s: %s was promoted while it ran; %s takes its place, as its certificates are "
            "about that one. `r2u promote %s` goes back",
            *(batch_id, serves, record.model_key, serves),
        )
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
    if not stays:
        promote_alias(context, record, batch_id=batch_id)
    return {
        "batch_id": batch_id,
        "model_key": record.model_key,
        "model_version": record.model_version,
        "lane": accepted["lane"],
        "claim": accepted["claim"],
    }


def _require_changed(
    context: StageContext, batch_id: str, plan: JSON, record: ModelRecord, token: int
) -> None:
    """Refuse the weights that knew the records, whatever made them and whatever its evidence says.

    No certificate of them could be verified, so it has to be said before they serve again.

    Raises:
        ReleaseBlockedError: They are the same; a person must look.
    """
    if record.weights_digest != plan["parent_weights_digest"]:
        return
    why = "the accepted model is the one that knew the records: nothing was changed"
    move_all(context, plan["requests"], "needs_person", token=token, reason=why)
    events.batch_failed(context, batch_id, ReleaseBlockedError.__name__)
    message = f"batch {batch_id}: expected weights other than {plan['model_key']}'s, got: {why}"
    raise ReleaseBlockedError(message)


def _require_may_serve(
    context: StageContext, batch_id: str, plan: JSON, model_key: str, token: int
) -> None:
    """Leave it to a person if the accepted model knows persons of another, refused batch.

    Raises:
        ReleaseBlockedError: It does; nobody is certified.
    """
    try:
        require_untainted(context, model_key)
    except ReleaseBlockedError:
        why = "the accepted model knows erased persons of another batch"
        move_all(context, plan["requests"], "needs_person", token=token, reason=why)
        events.batch_failed(context, batch_id, ReleaseBlockedError.__name__)
        raise


def _require_difference(
    context: StageContext, batch_id: str, plan: JSON, model_key: str, token: int
) -> None:
    """Compare the records of the new model with those of the old one: exactly the asked ones left.

    They are those that the plan counted, or no certificate would fit it.

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
    asked = 0 if untouched else plan["n_trained_records"] + plan["n_unfinished_records"]
    if difference.holds_but_for(drift) and difference.asked == asked:
        return
    why = "other records than the asked ones left, came or changed"
    move_all(context, plan["requests"], "needs_person", token=token, reason=why)
    message = (
        f"batch {batch_id}: expected the {difference.parent} records of {plan['model_key']} less "
        f"the {asked} planned ones in {model_key}, got {difference.asked} asked ones, "
        f"{difference.asked_left} of them left, {difference.added} new and {difference.missing} "
        "missing; was the table loaded anew while the batch ran? Train again, then look at the "
        "batch"
    )
    raise ReleaseBlockedError(message)
