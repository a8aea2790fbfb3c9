"""### Train a model that is ready to forget

**Purpose.** Trains on stable data first and on revocable data last, with the Ready2Unlearn
objective, so that a later deletion takes few steps and keeps the model's quality. Never sees an
erased record.

**In:** the classified table. **Out:** a registered model with its manifest (a commitment to exactly
the records it saw), checkpoints, and a report that says whether it may be called *ready*.

**If it fails:** the serving model is unchanged. A repeated run goes on with the same child process
or reads its result.
"""

from __future__ import annotations

from airflow.sdk import AssetOrTimeSchedule, dag, task
from wiring import CLASSIFIED_DATA, DAG_DEFAULTS, READY_MODEL, cron, in_child

MONTHLY = AssetOrTimeSchedule(timetable=cron("0 3 1 * *"), assets=[CLASSIFIED_DATA])


@dag(schedule=MONTHLY, doc_md=__doc__, **DAG_DEFAULTS)
def train_ready_model() -> None:
    """Train in a child process."""

    @task(outlets=[READY_MODEL])
    def train_model(run_id: str) -> dict:
        return in_child("train", "train_ready_model", run_id, run_id=run_id)

    train_model()


train_ready_model()
