"""Bookkeeping of a batch: each step publishes one file, and returns it when it is run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from governance.deletion_queue import IN_BATCH, RequestRow, State
from governance.digests import read_json, write_json
from governance.errors import ReleaseBlockedError
from governance.manifest import key_of_members
from governance.suppression import pseudonyms
from r2u_tasks.batch import AskedRecords, plan_digest
from r2u_tasks.stages.context import JSON, StageContext


def once(context: StageContext, batch_id: str, step: str, work: Callable[[], JSON]) -> JSON:
    """Return the published result of a step, doing the work when there is none."""
    path = step_path(context, batch_id, step)
    if not path.exists():
        write_json(path, work())
    return result_of(context, batch_id, step)


def result_of(context: StageContext, batch_id: str, step: str) -> JSON:
    """Return the published result of a step."""
    result: JSON = read_json(step_path(context, batch_id, step))
    return result


def step_path(context: StageContext, batch_id: str, step: str) -> Path:
    """Return the file of a step's result."""
    return context.workspace.batch(batch_id) / f"{step}.json"


def approved_plan(context: StageContext, batch_id: str) -> JSON:
    """Return the plan.

    Raises:
        ReleaseBlockedError: It is not the plan that was made.
    """
    plan = result_of(context, batch_id, "plan")
    if plan["plan_digest"] != plan_digest(plan):
        message = f"batch {batch_id}: the plan was changed after it was made; plan again"
        raise ReleaseBlockedError(message)
    return plan


def accepted_model(context: StageContext, batch_id: str) -> JSON | None:
    """Return the outcome of the lane that the gate accepted, if one was."""
    for step in ("approximate", "exact"):
        result = result_of(context, batch_id, step)
        if result.get("verdict") == "accept":
            return result
    return None


def leased_requests(context: StageContext, batch_id: str) -> list[RequestRow]:
    """Return the requests of a batch, closed ones included."""
    return context.queue.batch_requests(batch_id)


def asked_records(row: RequestRow) -> AskedRecords:
    """Return what a request asks for, under the key that it came under."""
    return AskedRecords.of(row.request_id, row.pseudonyms[0])


def move_all(
    context: StageContext,
    request_ids: Sequence[str],
    *states: str,
    token: int,
    reason: str | None = None,
) -> None:
    """Move the requests of the batch through states, all of them or none; a repeat is no change."""
    for state in states:
        context.queue.transition_all(request_ids, state, token=token, now=now(), reason=reason)


def is_in_batch(row: RequestRow) -> bool:
    """Say whether a request is still to be served: not held, cancelled or closed meanwhile."""
    return State(row.state) in IN_BATCH


def record_keys(context: StageContext, rows: pa.Table) -> list[str]:
    """Return the pseudonyms of the rows' records under every key of the ring."""
    return [name for key in context.key_ring.keys for name in keys_under(context, rows, key)]


def keys_under(context: StageContext, rows: pa.Table, key: bytes) -> list[str]:
    """Return the pseudonym of each row's record under one key, in order."""
    return pseudonyms(key, "record", rows[context.declaration.columns.record_id].to_pylist())


def keys_as_in(context: StageContext, rows: pa.Table, members: Path) -> list[str]:
    """Return the pseudonym of each row's record as a members file has it, in order.

    Raises:
        PermanentError: The file is under a key that is not in the ring.
    """
    return keys_under(context, rows, key_of_members(context.key_ring, members))


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)
