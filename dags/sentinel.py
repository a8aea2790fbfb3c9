"""### Sentinel

**Purpose.** Looks every hour for what would otherwise be seen too late: deadlines at 50, 80 and 100
%, batches whose run died, a ledger that was changed, a serving model that knows an erased person.
Writes to MLflow what is owed since it was down.

**In:** queue, ledger, models. **Out:** a list of warnings, each with what to do.

**If it fails:** the checks did not run; treat that as a warning itself. Warnings do not fail it.
"""

from __future__ import annotations

from airflow.sdk import dag, task
from wiring import DAG_DEFAULTS, cron, workspace


@dag(schedule=cron("0 * * * *"), doc_md=__doc__, **DAG_DEFAULTS)
def sentinel() -> None:
    """Check everything that may not be forgotten."""

    @task
    def look_around(run_id: str) -> dict:
        from r2u_tasks.stages.sentinel import check

        return check(run_id=run_id, **workspace())

    @task
    def mirror_to_mlflow() -> dict:
        from r2u_tasks.stages.mirror import mirror

        return mirror(**workspace())

    look_around()
    mirror_to_mlflow()


sentinel()
