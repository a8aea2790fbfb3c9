"""Laws of the DAGs: thin, importable, wired by assets, and the whole story runs through them."""

import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.airflow

NAMES = (
    "classify_data",
    "governance_report",
    "intake_requests",
    "sentinel",
    "train_ready_model",
    "unlearn_batch",
)
HEAVY = ("torch", "mlflow", "great_expectations", "pandas", "pyarrow", "r2u_tasks")


@pytest.fixture(scope="session")
def bag(airflow_database, repository):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(repository / "dags"))


def run(bag, name):
    """Run a DAG and return the state of every task; ``dag.test`` itself does not raise."""
    result = bag.dags[name].test()
    return str(result.state), {ti.task_id: str(ti.state) for ti in result.get_task_instances()}


def assert_all_green(result):
    """Both count: a run can be a success while a task of it was skipped."""
    state, tasks = result
    assert tasks
    assert (state, set(tasks.values())) == ("success", {"success"}), tasks


def leaves(condition):
    """Return the assets below an AssetAll or AssetAny; none for a schedule by time alone."""
    if hasattr(condition, "objects"):
        return [asset for part in condition.objects for asset in leaves(part)]
    return [condition] if hasattr(condition, "uri") else []


def test_every_dag_loads(bag):
    """No import error, and the dag id is the file name."""
    assert bag.import_errors == {}
    assert sorted(bag.dags) == list(NAMES)


def test_every_dag_explains_itself_to_a_data_officer(bag):
    """The documentation says purpose, inputs, and what a failure means."""
    for dag in bag.dags.values():
        assert "**Purpose.**" in dag.doc_md
        assert "**If it fails:**" in dag.doc_md


def test_what_a_dag_waits_for_is_produced_by_another(bag):
    """Every asset that wakes a DAG has a producer, except the raw data that come from outside."""
    produced = {
        asset.uri for dag in bag.dags.values() for task in dag.tasks for asset in task.outlets
    }
    awaited = set()
    for dag in bag.dags.values():
        awaited |= {asset.uri for asset in leaves(getattr(dag.timetable, "asset_condition", None))}

    assert awaited - produced == {"r2u://raw_data/"}
    assert len(produced) == 4


@pytest.mark.parametrize("name", NAMES)
def test_importing_a_dag_file_imports_nothing_heavy(name, repository):
    """A fresh interpreter that imports a DAG file has none of the heavy packages loaded."""
    code = f"import sys, {name}; print([m for m in {HEAVY!r} if m in sys.modules])"
    folder = str(repository / "dags")
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_unlearning_without_requests_is_no_error(bag):
    """An empty queue skips the batch and the run is a success."""
    state, tasks = run(bag, "unlearn_batch")

    assert state == "success"
    assert tasks.pop("lease_batch") == "success"
    assert tasks.pop("has_requests") == "success"
    assert set(tasks.values()) == {"skipped"}


@pytest.mark.parametrize(
    "now", ["2026-11-01T03:00:30", "2026-11-01T06:01:00", "2026-11-08T02:04:00", "2026-11-24T01:02"]
)
def test_unpausing_a_dag_starts_nothing_by_itself(bag, monkeypatch, now):
    """The first scheduled run lies in the future, also seconds after a cron time."""
    import pendulum
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables import trigger
    from airflow.timetables.base import TimeRestriction

    moment = pendulum.parse(now, tz="UTC")
    monkeypatch.setattr(trigger, "utcnow", lambda: moment)
    for declared in bag.dags.values():
        dag = DagSerialization.from_dict(DagSerialization.to_dict(declared))
        first = dag.timetable.next_dagrun_info(
            last_automated_data_interval=None,
            restriction=TimeRestriction(dag.start_date, None, catchup=False),
        )
        assert first.run_after > moment, declared.dag_id


@pytest.mark.acceptance
def test_the_whole_story_through_the_dags(bag, workspace_root):
    """Classify, train, take in, forget, report: all runs and all tasks succeed."""
    from r2u_tasks.embedded.digits import write_demo_requests
    from r2u_tasks.stages.requests import list_requests

    for name in ("classify_data", "train_ready_model"):
        assert_all_green(run(bag, name))
    write_demo_requests(workspace_root)
    assert_all_green(run(bag, "intake_requests"))
    started = time.perf_counter()
    state, tasks = run(bag, "unlearn_batch")
    assert tasks.pop("give_back") == "skipped"
    assert (state, set(tasks.values())) == ("success", {"success"}), tasks
    assert time.perf_counter() - started < 600
    for name in ("sentinel", "governance_report"):
        assert_all_green(run(bag, name))

    rows = {
        row["request_id"].removeprefix("demo-1-"): row
        for row in list_requests(dataset="embedded:digits", root_uri=str(workspace_root))
    }
    outcomes = {name: (row["state"], row["outcome"]) for name, row in rows.items()}
    assert outcomes == {
        "person-1": ("closed", "forgotten"),
        "person-2": ("closed", "forgotten"),
        "person-3": ("closed", "forgotten"),
        "tenant": ("closed", "forgotten"),
        "held": ("held", None),
        "unknown": ("closed", "not_found"),
        "duplicate": ("closed", "duplicate"),
    }
    assert rows["duplicate"]["duplicate_of"] == "demo-1-person-1"
