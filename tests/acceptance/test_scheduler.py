"""Laws on a real scheduler: LocalExecutor, REST API, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from r2u_tasks.demo import Services, call, run_dag, start_airflow, wait_until_ready
from r2u_tasks.demo import _free_port as free_port

pytestmark = pytest.mark.acceptance


def started_by(pid):
    """Return all live processes below one; Airflow renames its own, so only ancestry is sure."""
    return psutil.Process(pid).children(recursive=True)


def alive(processes):
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def clean_environment(monkeypatch):
    """The demo's own settings, not those of the test session."""
    for name in [n for n in os.environ if n.startswith("AIRFLOW")]:
        monkeypatch.delenv(name)


def test_a_run_on_the_real_scheduler_is_green_and_leaves_nothing(clean_environment, tmp_path):
    """Classification by scheduler, LocalExecutor and API server: run and tasks succeed."""
    home = tmp_path / "airflow"
    home.mkdir()
    services = Services(home, free_port())
    try:
        start_airflow(services, tmp_path / "workspace")
        wait_until_ready(services)
        state = run_dag(services, "classify_data")
        runs = call(services, "GET", "/api/v2/dags/classify_data/dagRuns")["dag_runs"]
        started = [c for p in services.processes.values() for c in started_by(p.pid)]
        path = f"/api/v2/dags/classify_data/dagRuns/{runs[0]['dag_run_id']}/taskInstances"
        tasks = call(services, "GET", path)["task_instances"]
    finally:
        services.stop()

    assert state == "success"
    assert [run["run_type"] for run in runs] == ["manual"]
    assert {task["state"] for task in tasks} == {"success", "skipped"}
    skipped = {task["task_id"] for task in tasks if task["state"] == "skipped"}
    assert skipped == {"review_band", "take_answer", "was_answered", "classify_again"}
    assert len(started) >= 3
    assert alive(started) == []
    assert is_free(services.port)


def test_ctrl_c_stops_the_demo_and_all_it_started(clean_environment, tmp_path):
    """An interrupt in the middle of a run: exit code 130, no process left."""
    root = tmp_path / "demo"
    demo = subprocess.Popen(
        [sys.executable, "-m", "r2u_tasks.cli", "demo", "--root", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if "classify_data" in line:
            break
    time.sleep(2)
    started = started_by(demo.pid)
    assert len(started) >= 3, lines
    demo.send_signal(signal.SIGINT)
    said = "".join([*lines, demo.communicate(timeout=60)[0]])

    assert demo.returncode == 130, said
    assert "make demo" in said
    assert alive(started) == []
    assert not (root / "demo.pid").exists()
