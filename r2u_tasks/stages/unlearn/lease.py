"""Taking requests from the queue for one batch, and giving them back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from governance.digests import read_json
from r2u_tasks.batch import drop_rows
from r2u_tasks.stages import events
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.unlearn.overlap import release_ended
from r2u_tasks.stages.unlearn.steps import is_in_batch, leased_requests, now


def lease_batch(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Lease the requests that are due first; the same run gets the same batch.

    Batches that a killed run left behind before anything was erased are cleared: their requests
    went back to the queue, and their rows may lie nowhere but in the tables. Requests that were
    held for records which nothing keeps any more are queued before.
    """
    context = open_context(dataset, root_uri)
    release_ended(context)
    settings = context.declaration.queue
    lease = context.queue.lease_batch(
        run_id, lease_s=settings.lease_s, max_items=settings.max_batch, now=now()
    )
    clear_abandoned(context, but=lease.batch_id)
    if _began_with_others(context, lease.batch_id, lease.request_ids):
        _clear(context, lease.batch_id)
    return {
        "batch_id": lease.batch_id,
        "token": lease.token,
        "n_requests": len(lease.request_ids),
    }


def release_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Give the requests of an unfinished batch back to the queue."""
    context = open_context(dataset, root_uri)
    context.queue.release_lease(batch_id, token)
    events.batch_failed(context, batch_id, "released")
    return {"batch_id": batch_id, "released": True}


def clear_abandoned(context: StageContext, *, but: str | None = None) -> list[str]:
    """Delete the kept rows of every batch that no request waits for any more; return the batches.

    Args:
        context: Dataset and workspace.
        but: A batch that was just leased.
    """
    cleared = []
    for private in sorted(context.workspace.root.glob("batches/*/private")):
        batch_id = private.parent.name
        if batch_id == but or any(map(is_in_batch, leased_requests(context, batch_id))):
            continue
        if any(row.state == "needs_person" for row in leased_requests(context, batch_id)):
            continue
        _clear(context, batch_id)
        cleared.append(batch_id)
    return cleared


def _began_with_others(context: StageContext, batch_id: str, request_ids: Sequence[str]) -> bool:
    """Say whether the plan of a run that is tried again is about requests that it lost since."""
    path = context.workspace.batch(batch_id) / "plan.json"
    if not path.exists() or _erasure_began(context, batch_id):
        return False
    return not set(read_json(path)["requests"]) <= set(request_ids)


def _clear(context: StageContext, batch_id: str) -> None:
    folder = context.workspace.batch(batch_id)
    if _erasure_began(context, batch_id):
        drop_rows(folder)
    else:
        shutil.rmtree(folder)


def _erasure_began(context: StageContext, batch_id: str) -> bool:
    return any(context.workspace.batch(batch_id).glob("erasure*.json"))
