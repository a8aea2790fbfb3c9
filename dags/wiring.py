"""What the DAGs share: assets, defaults, and where the workspace is.

Assets only wake a consumer; the queue and the tables hold the truth. The workspace comes from the
connection ``r2u_workspace`` (extra: ``root_uri`` and ``dataset``), read inside a task, never at
parse time.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import Asset, Connection, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.timetables.trigger import CronTriggerTimetable

RAW_DATA = Asset("r2u://raw_data")
CLASSIFIED_DATA = Asset("r2u://classified_data")
READY_MODEL = Asset("r2u://ready_model")
DELETION_QUEUE = Asset("r2u://deletion_queue")
UNLEARNED_MODEL = Asset("r2u://unlearned_model")

DEFAULT_ARGS = {
    "owner": "data-governance",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(exception="governance.errors.PermanentError", action=RetryAction.FAIL),
            RetryRule(exception="governance.errors.TransientError", action=RetryAction.RETRY),
        ]
    ),
}

# No start date: with one, unpausing a DAG starts a run for the cron time that has just passed.
DAG_DEFAULTS = {
    "catchup": False,
    "max_active_runs": 1,
    "default_args": DEFAULT_ARGS,
    "tags": ["ready2unlearn"],
}


def cron(expression: str) -> CronTriggerTimetable:
    """Return a schedule in UTC whose first run lies in the future, also right after a cron time."""
    return CronTriggerTimetable(expression, timezone="UTC", run_immediately=timedelta(0))


def workspace() -> dict[str, str]:
    """Return ``root_uri`` and ``dataset`` of the connection; call it inside a task."""
    extra = Connection.get("r2u_workspace").extra_dejson
    return {"root_uri": extra["root_uri"], "dataset": extra["dataset"]}


def in_child(module: str, function: str, run_key: str, **arguments: object) -> dict[str, object]:
    """Run a heavy stage in a child process that a retried task finds again by its run key."""
    from governance.workspace import safe_key
    from r2u_tasks.child import run_child

    place = workspace()
    folder = Path(place["root_uri"]) / "runs" / function / safe_key(run_key)
    return run_child(module, function, {**place, **arguments}, folder=folder)
