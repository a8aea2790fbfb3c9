"""### Classify data into high and low risk

**Purpose.** Reads the source table, drops rows of persons who were erased before, checks the rest,
and gives every record a risk level with its reasons by the policy of the data owners. Unknown
counts as high. What is likely to be erased is trained last, so that forgetting it is cheap.

**In:** the declared source table and the risk policy. **Out:** the classified table; it wakes
`train_ready_model`.

**If it fails:** the message names the check, the column and the number of rows. The former tables
are untouched.
"""

from __future__ import annotations

from airflow.sdk import AssetOrTimeSchedule, dag, task
from wiring import CLASSIFIED_DATA, DAG_DEFAULTS, RAW_DATA, cron, workspace

WEEKLY = AssetOrTimeSchedule(timetable=cron("0 2 * * 0"), assets=[RAW_DATA])


@dag(schedule=WEEKLY, doc_md=__doc__, **DAG_DEFAULTS)
def classify_data() -> None:
    """Ingest, gate, classify, gate, publish."""

    @task(outlets=[CLASSIFIED_DATA])
    def classify_records(run_id: str) -> dict:
        from r2u_tasks.stages.classify import classify_data as stage

        return stage(run_id=run_id, **workspace())

    classify_records()


classify_data()
