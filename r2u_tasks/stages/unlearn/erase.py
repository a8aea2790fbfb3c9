"""Erasing the planned rows from every table, physically, with a count before and after."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from governance.deletion_queue import AFTER_ERASURE, Keeping, State
from governance.lineage import write_erased
from governance.storage import (
    RowCensus,
    count_rows,
    erase_records,
    purge_history,
    table_exists,
)
from governance.suppression import add_tombstones, pseudonyms
from r2u_tasks.batch import read_rows
from r2u_tasks.stages.calibrate import observe_requests
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.memorisation import erase_memorisation
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.unlearn.overlap import match
from r2u_tasks.stages.unlearn.plan import make_plan
from r2u_tasks.stages.unlearn.steps import (
    approved_plan,
    asked_records,
    is_in_batch,
    leased_requests,
    move_all,
    now,
    once,
    record_keys,
    step_path,
    subject_keys,
)


def erase_rows(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Erase the planned rows from every table, physically, and prove that only they are gone.

    Requests that were held or cancelled since the plan are left out, and so are those of which a
    hold or an exemption that was placed since keeps some records: the plan is made again.
    """
    context = open_context(dataset, root_uri)
    return once(context, batch_id, "erasure", lambda: _erase(context, batch_id, token))


def _erase(context: StageContext, batch_id: str, token: int) -> JSON:
    workspace = context.workspace
    plan = _begin(context, batch_id, token)
    rows = read_rows(workspace.batch(batch_id))
    id_column = context.declaration.columns.record_id
    ids = rows[id_column].combine_chunks()
    note_once(
        context,
        "erasure_started",
        {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "n_records": len(ids)},
    )
    asked = [asked_records(row) for row in leased_requests(context, batch_id)]
    received: dict[str, datetime] = {}
    for row in leased_requests(context, batch_id):
        if row.subject_key:
            earlier = received.get(row.subject_key, row.received_at)
            received[row.subject_key] = min(earlier, row.received_at)
    observe_requests(context, batch_id=batch_id, rows=rows, received=received)
    planned = set(plan["requests"])
    add_tombstones(
        workspace.tombstones,
        record_keys=record_keys(context, rows),
        subject_keys=[r.subject_key for r in asked if r.subject_key and r.request_id in planned],
        touched_subject_keys=subject_keys(context, rows),
        selector_keys=[r.selector[1] for r in asked if r.selector and r.request_id in planned],
        batch_id=batch_id,
        erased_at=now(),
    )
    subjects = rows[context.declaration.columns.subject_id].to_pylist()
    write_erased(
        workspace.batch(batch_id),
        pseudonyms(context.pseudonym_key, "subject", subjects),
        record_keys(context, rows),
    )
    tables = (
        ("raw", workspace.raw, id_column),
        ("classified", workspace.classified, id_column),
        ("salts", workspace.salts, "record_id"),
    )
    counts = {
        name: _erase_table(context, batch_id, name, path, ids, column)
        for name, path, column in tables
        if table_exists(path)
    }
    erase_memorisation(context, batch_id, record_keys(context, rows))
    result = {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "tables": counts}
    note_once(context, "rows_erased", {"batch_id": batch_id, "tables": counts})
    return result


def _begin(context: StageContext, batch_id: str, token: int) -> JSON:
    """Pass the point of no return with a plan that no hold or exemption contradicts; return it.

    What is compared and what the queue knows at that moment are the same: if a hold came in
    between, the queue refuses to begin, and the plan is compared again.
    """
    reason = "the erasure begins"
    if any(State(row.state) in AFTER_ERASURE for row in leased_requests(context, batch_id)):
        plan = approved_plan(context, batch_id)
        # Nothing moves any more, but an old token is refused.
        move_all(context, plan["requests"], "data_erased", token=token, reason=reason)
        return plan
    while True:
        keeping = context.queue.keeping()
        plan = _binding_plan(context, batch_id, token, keeping)
        # No way back from here: a run that is killed later is taken over, not given back.
        if context.queue.begin_erasure(
            plan["requests"], token=token, n_placed=keeping.n_placed, reason=reason, now=now()
        ):
            return plan


def _binding_plan(context: StageContext, batch_id: str, token: int, keeping: Keeping) -> JSON:
    """Return the plan, made again if a request left the batch or a row must stay since."""
    plan = approved_plan(context, batch_id)
    rows = [row for row in leased_requests(context, batch_id) if is_in_batch(row)]
    planned = [row for row in rows if row.request_id in set(plan["requests"])]
    kept = read_rows(context.workspace.batch(batch_id))
    if len(planned) == len(plan["requests"]) and not match(context, kept, planned, keeping).held:
        return plan
    step_path(context, batch_id, "plan").unlink()
    once(context, batch_id, "plan", lambda: make_plan(context, batch_id, token))
    return approved_plan(context, batch_id)


def _erase_table(
    context: StageContext, batch_id: str, name: str, path: Path, ids: pa.Array, column: str
) -> JSON:
    """Erase and purge one table; the rows before are counted once, so that a repeat knows them."""

    def erase() -> JSON:
        before = once(
            context,
            batch_id,
            f"erasure-{name}-before",
            lambda: asdict(count_rows(path, ids, record_id_column=column)),
        )
        erased = erase_records(
            path, ids, batch_id=batch_id, record_id_column=column, before=RowCensus(**before)
        )
        return {**asdict(erased), "files_removed": purge_history(path).files_removed}

    return once(context, batch_id, f"erasure-{name}", erase)
