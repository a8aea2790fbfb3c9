"""Taking requests from the queue for one batch, and giving them back."""

from __future__ import annotations

from r2u_tasks.stages.context import JSON, open_context
from r2u_tasks.stages.unlearn.steps import now


def lease_batch(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Lease the requests that are due first; the same run gets the same batch."""
    context = open_context(dataset, root_uri)
    settings = context.declaration.queue
    lease = context.queue.lease_batch(
        run_id, lease_s=settings.lease_s, max_items=settings.max_batch, now=now()
    )
    return {
        "batch_id": lease.batch_id,
        "token": lease.token,
        "n_requests": len(lease.request_ids),
    }


def release_batch(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Give the requests of an unfinished batch back to the queue."""
    context = open_context(dataset, root_uri)
    context.queue.release_lease(batch_id, token)
    return {"batch_id": batch_id, "released": True}
