"""Erasing the planned rows from every table, physically, with a count before and after."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import pyarrow as pa

from governance.storage import erase_records, purge_history, table_exists
from governance.suppression import add_tombstones
from r2u_tasks.batch import read_rows
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.unlearn.steps import (
    approved_plan,
    asked_records,
    leased_requests,
    move,
    now,
    once,
    record_keys,
    subject_keys,
)


def erase_rows(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Erase the planned rows from every table, physically, and prove that only they are gone."""
    context = open_context(dataset, root_uri)
    return once(context, batch_id, "erasure", lambda: _erase(context, batch_id, token))


def _erase(context: StageContext, batch_id: str, token: int) -> JSON:
    workspace = context.workspace
    plan = approved_plan(context, batch_id)
    rows = read_rows(workspace.batch(batch_id))
    id_column = context.declaration.columns.record_id
    ids = rows[id_column].combine_chunks()
    context.ledger.append(
        "erasure_started",
        {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "n_records": len(ids)},
    )
    asked = [asked_records(row) for row in leased_requests(context, batch_id)]
    planned = set(plan["requests"])
    add_tombstones(
        workspace.tombstones,
        record_keys=record_keys(context, rows),
        subject_keys=[r.subject_key for r in asked if r.subject_key and r.request_id in planned],
        touched_subject_keys=subject_keys(context, rows),
        batch_id=batch_id,
        erased_at=now(),
    )
    tables = (
        ("raw", workspace.raw, id_column),
        ("classified", workspace.classified, id_column),
        ("salts", workspace.salts, "record_id"),
    )
    counts = {
        name: once(
            context, batch_id, f"erasure-{name}", partial(_erase_table, path, ids, batch_id, column)
        )
        for name, path, column in tables
        if table_exists(path)
    }
    result = {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "tables": counts}
    context.ledger.append("rows_erased", {"batch_id": batch_id, "tables": counts})
    for request_id in plan["requests"]:
        move(context, request_id, "data_erased", token)
    return result


def _erase_table(path: Path, ids: pa.Array, batch_id: str, column: str) -> JSON:
    """Erase and purge one table; its counts are kept at once, as a repeat would count nothing."""
    erased = erase_records(path, ids, batch_id=batch_id, record_id_column=column)
    purged = purge_history(path)
    return {**asdict(erased), "files_removed": purged.files_removed}
