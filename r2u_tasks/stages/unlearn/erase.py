"""Erasing the planned rows from every table, physically, with a count before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from governance.deletion_queue import RequestRow
from governance.lineage import write_erased
from governance.storage import RowCensus, count_rows, erase_records, purge_history
from governance.suppression import pseudonyms
from r2u_tasks.batch import read_rows
from r2u_tasks.stages.calibrate import observe_requests
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.memorisation import erase_memorisation
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.unlearn.binding import bind_plan, erasure_tables
from r2u_tasks.stages.unlearn.erased import subjects_by_request_key
from r2u_tasks.stages.unlearn.steps import leased_requests, once, record_keys


def erase_rows(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Erase the planned rows from every table, physically, and prove that only they are gone.

    Requests that were held or cancelled since the plan are left out, and so are those of which a
    hold or an exemption that was placed since keeps some records: the plan is made again. So it is
    when a load changed the tables or another model serves since.
    """
    context = open_context(dataset, root_uri)
    return once(context, batch_id, "erasure", lambda: _erase(context, batch_id, token))


def _erase(context: StageContext, batch_id: str, token: int) -> JSON:
    workspace = context.workspace
    plan = bind_plan(context, batch_id, token)
    rows = read_rows(workspace.batch(batch_id))
    ids = rows[context.declaration.columns.record_id].combine_chunks()
    subjects = rows[context.declaration.columns.subject_id].to_pylist()
    received = _received(context, leased_requests(context, batch_id), sorted(set(subjects)))
    observe_requests(context, batch_id=batch_id, rows=rows, received=received)
    write_erased(
        workspace.batch(batch_id),
        [name for key in context.key_ring.keys for name in pseudonyms(key, "subject", subjects)],
        record_keys(context, rows),
    )
    counts = {
        name: _erase_table(context, batch_id, name, path, ids, column)
        for name, path, column in erasure_tables(context)
    }
    erase_memorisation(context, batch_id, record_keys(context, rows))
    result = {"batch_id": batch_id, "plan_digest": plan["plan_digest"], "tables": counts}
    note_once(context, "rows_erased", {"batch_id": batch_id, "tables": counts})
    return result


def _received(
    context: StageContext, requests: Sequence[RequestRow], persons: Sequence[str]
) -> dict[str, datetime]:
    """Return when those who asked for all of their data did so, by id."""
    asked = [row for row in requests if row.subject_key is not None]
    known = subjects_by_request_key(context, persons, asked)
    found: dict[str, datetime] = {}
    for row in asked:
        person = known[context.key_ring.id_of(row.key_id)].get(str(row.subject_key))
        if person is not None:
            found[person] = min(found.get(person, row.received_at), row.received_at)
    return found


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
