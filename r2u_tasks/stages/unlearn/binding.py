"""The plan of a batch, bound to queue, tables and serving model before anything is destroyed.

Between plan and erasure a hold may be placed, a load may publish another row of a person, a
training may let a model serve that saw the rows, and another batch may change both. What is erased
then would not be what was planned, and a certificate would speak of a model that does not serve.

So the point of no return is passed, and the tombstones are written, while no load can publish and
no model can be promoted, and only with a plan that is about the tables and the model of that
moment; otherwise the plan is made again. From then on no load brings the rows back and no model
that saw them is promoted.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from governance.deletion_queue import AFTER_ERASURE, Keeping, RequestRow, State
from governance.digests import write_json
from governance.errors import StoreBusyError
from governance.storage import count_rows, exclusive, table_exists, table_version
from governance.suppression import add_tombstones, read_tombstones
from r2u_tasks.batch import read_rows
from r2u_tasks.models import read_champion
from r2u_tasks.stages.context import JSON, StageContext
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.unlearn.erased import erased_under_all_keys
from r2u_tasks.stages.unlearn.overlap import match
from r2u_tasks.stages.unlearn.plan import make_plan
from r2u_tasks.stages.unlearn.steps import (
    approved_plan,
    is_in_batch,
    leased_requests,
    move_all,
    now,
    once,
    step_path,
)

_TRIES = 5
_REASON = "the erasure begins"


def bind_plan(context: StageContext, batch_id: str, token: int) -> JSON:
    """Pass the point of no return with a plan that fits, and return that plan.

    Raises:
        StoreBusyError: Loads, trainings or holds changed what was planned again and again, the
            pseudonym keys were rotated meanwhile, or another batch of the dataset is not finished.
            Nothing was destroyed.
    """
    workspace = context.workspace
    for _ in range(_TRIES):
        once(context, batch_id, "plan", lambda: make_plan(context, batch_id, token))
        keeping = context.queue.keeping()
        with ExitStack() as locks:
            for path in (workspace.raw, workspace.classified, workspace.champion):
                locks.enter_context(exclusive(path))
            context.require_same_ring()
            plan = approved_plan(context, batch_id)
            if _is_bound(context, batch_id):  # by a run that was killed: its plan is the one
                move_all(context, plan["requests"], "data_erased", token=token, reason=_REASON)
                return plan
            if _fits(context, batch_id, plan, keeping) and _begin(
                context, batch_id, plan, token, keeping
            ):
                return plan
            # Whose lease was taken over must not discard the plan of the new holder.
            lease_s = context.declaration.queue.lease_s
            context.queue.renew_lease(batch_id, token, lease_s=lease_s, now=now())
            step_path(context, batch_id, "plan").unlink()
    message = (
        f"batch {batch_id}: expected tables, serving model and holds to stay as planned, got other "
        f"ones {_TRIES} times; nothing was erased. Run it again when loads and trainings are over"
    )
    raise StoreBusyError(message)


def erasure_tables(context: StageContext) -> list[tuple[str, Path, str]]:
    """Return the tables that rows are erased from: name, place, column of the record's id."""
    workspace, id_column = context.workspace, context.declaration.columns.record_id
    tables = [
        ("raw", workspace.raw, id_column),
        ("classified", workspace.classified, id_column),
        ("salts", workspace.salts, "record_id"),
    ]
    return [table for table in tables if table_exists(table[1])]


def _is_bound(context: StageContext, batch_id: str) -> bool:
    erased = read_tombstones(context.workspace.tombstones, batch_id=batch_id)
    return any(erased.values())


def _fits(context: StageContext, batch_id: str, plan: JSON, keeping: Keeping) -> bool:
    """Say whether the plan is about the requests, holds, tables and model of this moment.

    Versions of tables are compared, not rows: a load that replaced other rows counts as well, as it
    changes the drift that the plan states. A hold that came after the point of no return is late.
    """
    workspace = context.workspace
    here = {"raw": table_version(workspace.raw), "classified": table_version(workspace.classified)}
    # A plan of an older version of this software names no tables, and is made again.
    if here != plan.get("table_versions") or read_champion(workspace) != plan["model_key"]:
        return False
    planned = _planned(context, batch_id, plan)
    rows = read_rows(workspace.batch(batch_id))
    waiting = [row for row in planned if not _has_begun(row)]
    is_whole = len(planned) == len(plan["requests"])
    return is_whole and not match(context, rows, waiting, keeping).held


def _begin(context: StageContext, batch_id: str, plan: JSON, token: int, keeping: Keeping) -> bool:
    """Pass the point of no return and write the tombstones, unless a hold came in between.

    A run that is killed within goes on here with the plan, or another one if the ground moved. The
    rows are counted before the tombstones, by which the next load takes them away.
    """
    if not context.queue.begin_erasure(
        plan["requests"], token=token, n_placed=keeping.n_placed, reason=_REASON, now=now()
    ):
        return False
    lost = [
        row.request_id
        for row in leased_requests(context, batch_id)
        if _has_begun(row) and row.request_id not in plan["requests"]
    ]
    why = "its rows left the tables, or are kept, since a run that was killed began to erase them"
    move_all(context, lost, "needs_person", token=token, reason=why)
    rows = read_rows(context.workspace.batch(batch_id))
    digest = plan["plan_digest"]
    body = {"batch_id": batch_id, "plan_digest": digest, "n_records": rows.num_rows}
    note_once(context, "erasure_started", body)
    ids = rows[context.declaration.columns.record_id].combine_chunks()
    for name, path, column in erasure_tables(context):
        before = count_rows(path, ids, record_id_column=column)
        write_json(step_path(context, batch_id, f"erasure-{name}-before"), asdict(before))
    planned = _planned(context, batch_id, plan)
    add_tombstones(
        context.workspace.tombstones,
        *erased_under_all_keys(context, rows, planned),
        batch_id=batch_id,
        erased_at=now(),
    )
    return True


def _planned(context: StageContext, batch_id: str, plan: JSON) -> list[RequestRow]:
    names = set(plan["requests"])
    rows = leased_requests(context, batch_id)
    return [row for row in rows if row.request_id in names and is_in_batch(row)]


def _has_begun(row: RequestRow) -> bool:
    return State(row.state) in AFTER_ERASURE
