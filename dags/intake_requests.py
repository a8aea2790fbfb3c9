"""### Take in deletion requests

**Purpose.** Reads the request files that were put into the inbox and stores every valid row in the
deletion queue, with its legal deadline. Rows that cannot be understood go to the rejects folder
with the reason, so that nothing is lost in silence; a file that was read before changes nothing.

**In:** CSV, JSON Lines or Parquet files in the inbox, dropped there or sent over the API, or a ZIP
of California's DROP.
**Out:** the deletion queue; it wakes `unlearn_batch`.

**If it fails:** no request is lost and none is stored twice; a file that was not read to its end
stays in the inbox and is read at the next run.
"""

from __future__ import annotations

from airflow.sdk import dag, task
from wiring import DAG_DEFAULTS, DELETION_QUEUE, cron, workspace


@dag(schedule=cron("*/15 * * * *"), doc_md=__doc__, **DAG_DEFAULTS)
def intake_requests() -> None:
    """Read the inbox into the queue."""

    @task(outlets=[DELETION_QUEUE])
    def read_inbox(run_id: str) -> dict:
        from r2u_tasks.stages.intake import intake_requests as stage

        return stage(run_id=run_id, **workspace())

    read_inbox()


intake_requests()
