"""### Classify data into high and low risk

**Purpose.** Reads the source table, drops rows of persons who were erased before, checks the rest,
and gives every record a risk level with its reasons by the policy of the data owners. Unknown
counts as high. What is likely to be erased is trained last, so that forgetting it is cheap.

Records in the policy's review band wait for a person under *Required Actions*; they count as high
until somebody answers, and nothing waits for the answer. An answer is about the groups that the
form shows, under the policy of that run, and holds until its expiry.

**In:** the declared source table, the risk policy, what persons decided before. **Out:** the
classified table; it wakes `train_ready_model`.

**If it fails:** the message names the check, the column, the number of rows, and the file that
names them as pseudonyms. The former tables are untouched.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import AssetOrTimeSchedule, Param, TriggerRule, dag, task
from wiring import CLASSIFIED_DATA, DAG_DEFAULTS, RAW_DATA, cron, workspace

WEEKLY = AssetOrTimeSchedule(timetable=cron("0 2 * * 0"), assets=[RAW_DATA])
ANSWER_WITHIN = timedelta(days=5)  # before the next weekly run
FORM = {
    "low_groups": Param("", type="string", title="Groups that are low (with 'As listed')"),
    "valid_days": Param(180, type="integer", minimum=1, maximum=730),
    "why": Param("", type="string", title="Reason"),
}


# A run that waits for a person must not hold up the next classification.
@dag(schedule=WEEKLY, doc_md=__doc__, **{**DAG_DEFAULTS, "max_active_runs": 4})
def classify_data() -> None:
    """Ingest and gate, classify the buckets, gate and publish, ask a person where needed."""

    @task
    def ingest_rows(run_id: str) -> dict:
        from r2u_tasks.stages.classify import ingest_rows as stage

        return stage(run_id=run_id, **workspace())

    @task
    def list_parts(ingested: dict) -> list:
        return ingested["parts"]

    @task
    def classify_part(run_id: str, part: list) -> dict:
        from r2u_tasks.stages.classify import classify_part as stage

        return stage(run_id=run_id, part=part, **workspace())

    @task(outlets=[CLASSIFIED_DATA], trigger_rule=TriggerRule.NONE_FAILED)
    def publish_classified(run_id: str) -> dict:
        from r2u_tasks.stages.classify import publish_classified as stage

        return stage(run_id=run_id, **workspace())

    @task
    def prepare_review() -> dict:
        from r2u_tasks.stages.review import review_text as stage

        return stage(**workspace())

    @task.short_circuit
    def needs_review(review: dict) -> bool:
        return review["n_groups"] > 0

    review_band = HITLOperator(
        task_id="review_band",
        subject="{{ ti.xcom_pull(task_ids='prepare_review')['subject'] }}",
        body="{{ ti.xcom_pull(task_ids='prepare_review')['body'] }}",
        options=["All high", "All low", "As listed", "Not now"],
        defaults=["Not now"],
        params=FORM,
        response_timeout=ANSWER_WITHIN,
    )

    @task
    def take_answer(run_id: str, answer: dict, review: dict) -> dict:
        from r2u_tasks.stages.review import take_answer as stage

        return stage(run_id=run_id, answer=answer, form=review["form"], **workspace())

    @task.short_circuit
    def was_answered(taken: dict) -> bool:
        return taken["applies"]

    @task(outlets=[CLASSIFIED_DATA])
    def classify_again(run_id: str) -> dict:
        from r2u_tasks.stages.review import classify_again as stage

        return stage(run_id=run_id, **workspace())

    published = publish_classified()
    classify_part.expand(part=list_parts(ingest_rows())) >> published
    review = prepare_review()
    taken = take_answer(answer=review_band.output, review=review)
    published >> review
    needs_review(review) >> review_band
    was_answered(taken) >> classify_again()


classify_data()
