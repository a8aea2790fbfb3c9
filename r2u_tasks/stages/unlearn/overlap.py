"""Records that must stay, whoever asks for them: holds and exemptions of other requests.

A request of which some records are kept for another one erases nothing: it is held, with the ground
and the name of the other, until the hold or exemption that keeps them is over. The next run finds
that out and queues it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from governance.deletion_queue import Keeping, RequestRow
from governance.storage import read_table, table_exists
from r2u_tasks.batch import MatchedRecords, match_requests
from r2u_tasks.stages.context import JSON, StageContext
from r2u_tasks.stages.unlearn.steps import asked_records, now


@dataclass(frozen=True, slots=True)
class BatchMatch:
    """Which rows the requests of a batch mean, and what was kept back.

    Attributes:
        matched: Rows of the requests that are in the batch.
        kept_back: Numbers of records and of requests that were kept back, now or by an earlier
            plan of the batch.
    """

    matched: MatchedRecords
    kept_back: JSON


def match_batch(
    context: StageContext,
    batch_id: str,
    token: int,
    table: pa.Table,
    rows: Sequence[RequestRow],
) -> BatchMatch:
    """Match the requests of a batch with the rows that may go, and hold those that overlap others.

    Args:
        context: Dataset and workspace.
        batch_id: The batch.
        token: Of its lease.
        table: The classified rows.
        rows: Requests of the batch.
    """
    keeping = context.queue.keeping()
    matched = match(context, table, rows, keeping)
    earlier = match(context, table, _left_before(context, batch_id, rows), keeping)
    kept_for = {
        name: tuple(keeping.targets[n] for n in numbers) for name, numbers in matched.held.items()
    }
    context.queue.hold_overlaps(batch_id, kept_for, token=token, now=now())
    n_records = int((matched.kept | earlier.kept).sum())
    n_requests = len(matched.held) + len(earlier.held)
    return BatchMatch(matched, {"n_records": n_records, "n_requests": n_requests})


def match(
    context: StageContext, table: pa.Table, rows: Sequence[RequestRow], keeping: Keeping
) -> MatchedRecords:
    """Match requests, leaving out those of which another one keeps some records."""
    asked = [asked_records(row) for row in rows]
    kept = [asked_records(target.request) for target in keeping.targets]
    ring = context.key_ring
    return match_requests(table, context.declaration, ring, asked, kept=kept if asked else ())


def release_ended(context: StageContext) -> list[str]:
    """Queue the requests again whose overlap with kept data is over; return them."""
    waiting = context.queue.overlapping()
    if not waiting or not table_exists(context.workspace.classified):
        return []
    table = read_table(context.workspace.classified)
    held = match(context, table, waiting, context.queue.keeping()).held
    ended = [row.request_id for row in waiting if row.request_id not in held]
    context.queue.release_overlaps(ended, now=now())
    return ended


def _left_before(
    context: StageContext, batch_id: str, rows: Sequence[RequestRow]
) -> list[RequestRow]:
    """Return requests that an earlier plan of this batch kept back."""
    snapshot = set(context.queue.snapshot(batch_id)) - {row.request_id for row in rows}
    return [row for row in context.queue.overlapping() if row.request_id in snapshot]
