"""### Forget a batch of requests

**Purpose.** Takes the requests that are due first, erases their rows, makes the model forget them,
and tests that it did, against models that never saw the records. If the fast way is not good
enough, the exact way (training again from a state that never saw the records) follows by itself.
What still remembers the records is purged; a list says what remains and until when. Each request
closes with a signed certificate. Then the risk policy is held against the requests.

**In:** the deletion queue. **Out:** the new serving model, evidence, certificates.

**If it fails:** requests go back to the queue, or wait for a person when the gate refused every
model. The model that knew the records is never certified. Nothing is erased twice.
"""

from __future__ import annotations

from itertools import pairwise

from airflow.sdk import AssetOrTimeSchedule, TriggerRule, dag, task
from wiring import DAG_DEFAULTS, DELETION_QUEUE, UNLEARNED_MODEL, cron, in_child, workspace

NIGHTLY = AssetOrTimeSchedule(timetable=cron("0 1 * * *"), assets=[DELETION_QUEUE])


@dag(schedule=NIGHTLY, doc_md=__doc__, **DAG_DEFAULTS)
def unlearn_batch() -> None:
    """Lease, plan, erase, unlearn, replay if asked, promote, purge, close."""

    @task
    def lease_batch(run_id: str) -> dict:
        from r2u_tasks.stages.unlearn import lease_batch as stage

        return stage(run_id=run_id, **workspace())

    @task.short_circuit
    def has_requests(lease: dict) -> bool:
        return lease["n_requests"] > 0

    @task
    def plan_batch(lease: dict) -> dict:
        from r2u_tasks.stages.unlearn import plan_batch as stage

        return stage(batch_id=lease["batch_id"], token=lease["token"], **workspace())

    @task
    def erase_rows(lease: dict) -> dict:
        from r2u_tasks.stages.unlearn import erase_rows as stage

        return stage(batch_id=lease["batch_id"], token=lease["token"], **workspace())

    @task
    def unlearn_model(lease: dict) -> dict:
        batch = {"batch_id": lease["batch_id"], "token": lease["token"]}
        return in_child("unlearn", "unlearn_model", lease["batch_id"], **batch)

    @task
    def replay_model(lease: dict) -> dict:
        batch = {"batch_id": lease["batch_id"], "token": lease["token"]}
        return in_child("unlearn", "replay_model", lease["batch_id"], **batch)

    @task
    def promote_model(lease: dict) -> dict:
        batch = {"batch_id": lease["batch_id"], "token": lease["token"]}
        return in_child("unlearn", "promote_model", lease["batch_id"], **batch)

    @task
    def purge_leftovers(lease: dict) -> dict:
        from r2u_tasks.stages.unlearn import purge_leftovers as stage

        return stage(batch_id=lease["batch_id"], token=lease["token"], **workspace())

    @task(outlets=[UNLEARNED_MODEL])
    def close_batch(lease: dict) -> dict:
        from r2u_tasks.stages.unlearn import close_batch as stage

        return stage(batch_id=lease["batch_id"], token=lease["token"], **workspace())

    @task(trigger_rule=TriggerRule.ONE_FAILED)
    def give_back(lease: dict) -> dict:
        from r2u_tasks.stages.unlearn import release_batch as stage

        return stage(batch_id=lease["batch_id"], token=lease["token"], **workspace())

    @task
    def calibrate_policy(lease: dict) -> dict:
        from r2u_tasks.stages.calibrate import calibrate as stage

        return stage(run_id=lease["batch_id"], **workspace())

    lease = lease_batch()
    steps = [
        has_requests(lease),
        plan_batch(lease),
        erase_rows(lease),
        unlearn_model(lease),
        replay_model(lease),
        promote_model(lease),
        purge_leftovers(lease),
        close_batch(lease),
    ]
    for before, after in pairwise(steps):
        before >> after
    steps[1:] >> give_back(lease)
    steps[-1] >> calibrate_policy(lease)


unlearn_batch()
