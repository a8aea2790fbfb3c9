"""Erasing the planned rows from every table, physically, with a count before and after."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

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

    Requests that were held or cancelled since the plan are left out: it is made again.
    """
    context = open_context(dataset, root_uri)
    return once(context, batch_id, "erasure", lambda: _erase(context, batch_id, token))


def _erase(context: StageContext, batch_id: str, token: int) -> JSON:
    workspace = context.workspace
    plan = _binding_plan(context, batch_id, token)
    rows = read_rows(workspace.batch(batch_id))
    id_column = context.declaration.columns.record_id
    ids = rows[id_column].combine_chunks()
    # No way back from here: a run that is killed below is taken over, not given back to the queue.
    move_all(context, plan["requests"], "data_erased", token=token, reason="the erasure begins")
    note_once(
        context,
        "erasure_started",
        {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "n_records": len(ids)},
    )
    asked = [asked_records(row) for row in leased_requests(context, batch_id)]
    own = [request.subject_key for request in asked if request.subject_key]
    observe_requests(context, batch_id=batch_id, rows=rows, subject_keys=own)
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


def _binding_plan(context: StageContext, batch_id: str, token: int) -> JSON:
    """Return the plan, made again if one of its requests left the batch since."""
    plan = approved_plan(context, batch_id)
    here = {row.request_id for row in leased_requests(context, batch_id) if is_in_batch(row)}
    if set(plan["requests"]) <= here:
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
