"""Sealing the evidence, certifying each request, and closing the batch."""

from __future__ import annotations

from collections.abc import Sequence

from governance.certificate import seal_bundle
from governance.digests import write_json
from r2u_tasks.batch import drop_rows
from r2u_tasks.stages import events
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.mirror import catch_up, or_owe
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.unlearn.steps import (
    approved_plan,
    leased_requests,
    now,
    once,
    result_of,
)


def close_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Seal the evidence, issue a certificate for each request, and close them in the queue."""
    context = open_context(dataset, root_uri)
    result = once(context, batch_id, "result", lambda: _close(context, batch_id, token))
    # In this order: a killed run still needs the rows before the result is there, and as long as a
    # request is open the queue hands the batch to the next run.
    drop_rows(context.workspace.batch(batch_id))
    for request_id in approved_plan(context, batch_id)["requests"]:
        context.queue.close(
            request_id,
            outcome="forgotten",
            claim=result["claim"],
            token=token,
            now=now(),
            details={"batch_id": batch_id, "model_key": result["model_key"]},
        )
    context.queue.release_lease(batch_id, token)
    context.queue.truncate_log()
    events.batch_completed(context, batch_id)
    or_owe(f"batch {batch_id}", lambda: catch_up(context))
    return result


def _close(context: StageContext, batch_id: str, token: int) -> JSON:
    """Do all of the closing but what the queue says, which comes last."""
    workspace = context.workspace
    folder = workspace.batch(batch_id)
    plan = approved_plan(context, batch_id)
    promotion = result_of(context, batch_id, "promotion")
    purge = result_of(context, batch_id, "purge")
    removed = {name: purge[name] for name in ("models_removed", "pools_removed")}
    write_json(folder / "result-model.json", promotion)
    requests = answered_requests(context, batch_id, plan["requests"], promotion)
    sealed: JSON = {"root": None}
    if requests:
        sealed = seal_bundle(
            folder,
            requests,
            signer=context.signer,
            ledger=context.ledger,
            ledger_path=workspace.ledger,
        )
    note_once(
        context, "batch_closed", {"batch_id": batch_id, "bundle_root": sealed["root"], **removed}
    )
    outcomes = {"forgotten": len(requests)}
    outcomes |= {name: plan[name] for name in ("not_found", "already_forgotten") if plan[name]}
    return {
        "batch_id": batch_id,
        "closed": sum(outcomes.values()),
        "outcomes": outcomes,
        "kept_back": plan.get("kept_back"),
        "claim": promotion["claim"],
        "lane": promotion["lane"],
        "model_key": promotion["model_key"],
        "removed": removed,
    }


def answered_requests(
    context: StageContext, batch_id: str, request_ids: Sequence[str], promotion: JSON
) -> list[JSON]:
    """Return what the certificates say of the requests, fixed before the first is sealed.

    The sealed leaves are kept when a killed run is taken over. A period that an officer extends in
    between must not change what they were made of, or no certificate would ever fit them again.
    """

    def answer() -> JSON:
        rows = {row.request_id: row for row in leased_requests(context, batch_id)}
        answered_at = now().isoformat(timespec="seconds")
        requests = [
            {
                "request_id": request_id,
                "outcome": "forgotten",
                "claim": promotion["claim"],
                "lane": promotion["lane"],
                "received_at": rows[request_id].received_at.isoformat(),
                "due_at": rows[request_id].due_at.isoformat(),
                "answered_at": answered_at,
            }
            for request_id in request_ids
        ]
        return {"requests": requests}

    requests: list[JSON] = once(context, batch_id, "answers", answer)["requests"]
    return requests
