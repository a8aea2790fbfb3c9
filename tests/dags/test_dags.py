"""Laws of the DAGs: thin, importable, wired by assets, and the whole story runs through them."""

import json
import subprocess
import sys
import time
from pathlib import Path

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


REVIEW_TASKS = ("review_band", "take_answer", "was_answered", "classify_again")


def assert_green_without_review(result):
    """With no record in the review band nobody is asked, and everything else succeeds."""
    state, tasks = result
    assert {tasks.pop(name) for name in REVIEW_TASKS} == {"skipped"}
    assert_all_green((state, tasks))


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


@pytest.fixture
def reviewed_workspace(tmp_path, monkeypatch):
    """A workspace of the embedded data whose policy has records in the review band."""
    from r2u_tasks import embedded

    root = tmp_path / "workspace"
    dataset = embedded.resolve("embedded:digits", root)
    policy = dataset.parent / "policy.yaml"
    policy.write_text(policy.read_text().replace("review: [0.40, 0.50]", "review: [0.20, 0.50]"))
    extra = {"root_uri": str(root), "dataset": str(dataset)}
    connection = json.dumps({"conn_type": "generic", "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_R2U_WORKSPACE", connection)
    return {"root_uri": str(root), "dataset": str(dataset)}


def test_a_review_is_answered_by_a_person_and_takes_effect(bag, reviewed_workspace, monkeypatch):
    """The band counts as high; the answer *All low* is stored with its author and lowers it."""
    from r2u_tasks.stages.review import list_overrides, list_reviews

    seen = {}
    operator = bag.dags["classify_data"].task_dict["review_band"]

    def answer(context):
        seen["text"] = f"{context['task'].subject} {context['task'].body}"
        seen["reviews"] = list_reviews(**reviewed_workspace)["groups"]
        return {
            "chosen_options": ["All low"],
            "params_input": {"low_groups": "", "valid_days": 90, "why": "checked"},
            "responded_by_user": {"id": "dpo", "name": "dpo"},
        }

    monkeypatch.setattr(operator, "execute", answer)
    assert_all_green(run(bag, "classify_data"))

    assert seen["reviews"]
    assert f"{sum(g['n_records'] for g in seen['reviews'])} records" in seen["text"]
    assert "SYN-" not in seen["text"]
    assert list_reviews(**reviewed_workspace)["groups"] == []
    stored = list_overrides(**reviewed_workspace)["active"]
    assert {(o["who"], o["why"], o["level"]) for o in stored} == {("dpo", "checked", "low")}
    results = sorted(Path(reviewed_workspace["root_uri"]).glob("runs/classify/*/result.json"))
    before, after = sorted(
        (json.loads(p.read_text()) for p in results), key=lambda r: -r["levels"]["high"]
    )
    n_reviewed = sum(group["n_records"] for group in seen["reviews"])
    assert after["levels"]["high"] == before["levels"]["high"] - n_reviewed
    assert after["moved"]["high_to_low"] == n_reviewed


def test_an_unanswered_review_stays_high(bag, reviewed_workspace, monkeypatch):
    """The default of the task, taken when time is over, stores nothing and changes nothing."""
    from r2u_tasks.stages.review import list_overrides, list_reviews

    operator = bag.dags["classify_data"].task_dict["review_band"]
    nobody = {"chosen_options": operator.defaults, "params_input": {}, "responded_by_user": None}
    monkeypatch.setattr(operator, "execute", lambda context: nobody)
    state, tasks = run(bag, "classify_data")

    assert (state, tasks["was_answered"], tasks["classify_again"]) == (
        "success",
        "success",
        "skipped",
    )
    assert list_reviews(**reviewed_workspace)["groups"]
    assert list_overrides(**reviewed_workspace)["active"] == []


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

    assert_green_without_review(run(bag, "classify_data"))
    assert_all_green(run(bag, "train_ready_model"))
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
