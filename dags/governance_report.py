"""### Governance report

**Purpose.** One page and one JSON file for auditors and data-protection officers: every request
with its deadline and outcome, every model with its origin, the evidence of every batch, the
ledger's state, and what remains.

Also a letter to the person for every answered request that has none yet.

**In:** queue, ledger, models, evidence. **Out:** `reports/latest/report.html` and `letters/` in the
workspace.

**If it fails:** nothing is changed; it only reads.
"""

from __future__ import annotations

from airflow.sdk import AssetOrTimeSchedule, dag, task
from wiring import DAG_DEFAULTS, READY_MODEL, UNLEARNED_MODEL, cron, workspace

MONTHLY = AssetOrTimeSchedule(
    timetable=cron("0 6 1 * *"),
    assets=(READY_MODEL | UNLEARNED_MODEL),
)


@dag(schedule=MONTHLY, doc_md=__doc__, **DAG_DEFAULTS)
def governance_report() -> None:
    """Write the report, and letters to persons."""

    @task
    def write_report(run_id: str) -> dict:
        from r2u_tasks.stages.report import governance_report as stage

        return stage(run_id=run_id, **workspace())

    @task
    def write_letters() -> dict:
        from r2u_tasks.stages.letters import write_letters as stage

        result = stage(**workspace())
        return {name: len(result[name]) for name in ("written", "skipped", "missing")}

    write_report()
    write_letters()


governance_report()
