"""``make demo``: the whole story on a real Airflow scheduler, from raw table to certificates.

Starts Airflow's api-server, scheduler and dag-processor as plain processes in their own process
groups, triggers the DAGs over the REST API, waits with visible progress, prints a short table, and
stops everything, also on Ctrl-C and on failure. ``keep`` leaves the pages up until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from governance.declaration import EMBEDDED_DIGITS
from governance.digests import read_json, write_json
from r2u_tasks.child import stop_children
from r2u_tasks.embedded import resolve
from r2u_tasks.embedded.digits import write_demo_requests
from r2u_tasks.stages.requests import list_requests

_out = Console()

_POLL_S = 0.5
_HEALTHY_S = 180.0
_ANSWER_S = 120  # a busy machine answers late; a dead server is seen by its process
_RUN_S = 600.0
_STOP_S = 15.0

STORY = (
    "classify_data",
    "train_ready_model",
    "intake_requests",
    "unlearn_batch",
    "sentinel",
    "governance_report",
)
"""DAGs in the order of the story."""


class DemoError(Exception):
    """The demo cannot go on; the message says why and where to look."""


@dataclass
class Services:
    """Running processes of the demo, and how to reach them."""

    home: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Address of Airflow's pages and REST API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Start a process in a group of its own, with its own log."""
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603 - our own command lines
                command,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                cwd=self.home,  # in the checkout Airflow would find our plugin twice
            )

    def require_running(self) -> None:
        """Raise if a process ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                message = f"{name} ended with exit code {process.returncode}; see its log: "
                raise DemoError(message + str(self.home / f"{name}.log"))

    def stop(self) -> None:
        """Stop every process and what it started."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()


def run_demo(root: Path, *, keep: bool = False) -> int:
    """Run the story and return an exit code: 0 when every DAG run succeeded.

    Args:
        root: Folder of the demo; a second run goes on with what is there.
        keep: Leave Airflow and MLflow up and print their addresses.
    """
    root = root.resolve()
    home = root / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(root), _services(root, home) as services:
            seconds = _tell_story(services, root)
            _print_summary(root, seconds)
            if keep:
                _keep_up(services, root)
    except DemoError as error:
        _out.print(f"[red]error[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        _out.print("stopped; `make demo` goes on with what is there, `make clean` starts anew")
        return 130
    return 0


def airflow_environment(home: Path, workspace: Path, port: int) -> dict[str, str]:
    """Return the environment of Airflow's processes: SQLite, LocalExecutor, no examples."""
    repository = Path(__file__).resolve().parent.parent
    connection = {
        "conn_type": "generic",
        "extra": {"root_uri": str(workspace), "dataset": EMBEDDED_DIGITS},
    }
    binaries = str(Path(sys.executable).parent)
    settings = {
        "CORE__DAGS_FOLDER": str(repository / "dags"),
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": "only-for-the-demo-on-this-machine-0123456789abcdef",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "LOGGING__LOGGING_LEVEL": "INFO",
    }
    return {
        **os.environ,
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_R2U_WORKSPACE": json.dumps(connection),
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "OMP_NUM_THREADS": "1",
    }


def start_airflow(services: Services, workspace: Path) -> None:
    """Start Airflow's processes; the caller stops them, also when this raises.

    Raises:
        DemoError: The metadata database could not be made.
    """
    environment = airflow_environment(services.home, workspace, services.port)
    airflow = [sys.executable, "-m", "airflow"]
    migrated = subprocess.run(  # noqa: S603 - our own command line
        [*airflow, "db", "migrate"], env=environment, capture_output=True, check=False
    )
    if migrated.returncode != 0:
        raise DemoError("airflow db migrate failed:\n" + migrated.stderr.decode()[-2000:])
    for name in ("api-server", "scheduler", "dag-processor"):
        services.start(name, [*airflow, name], environment)


def wait_until_ready(services: Services, dag_ids: tuple[str, ...] = STORY) -> None:
    """Wait until the API answers and every DAG is parsed.

    Raises:
        DemoError: It took too long, or a process ended.
    """

    def parsed() -> bool:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            found = call(services, "GET", "/api/v2/dags?limit=100")["dags"]
            return set(dag_ids) <= {dag["dag_id"] for dag in found}
        return False

    _wait(services, parsed, _HEALTHY_S, "Airflow to start")


def run_dag(services: Services, dag_id: str) -> str:
    """Trigger a DAG, wait for the run and return its state.

    A run of the same DAG that an asset woke meanwhile is waited for too: both do the work once.
    """
    call(services, "PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})
    body = {"logical_date": None}
    run_id = call(services, "POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"]
    quoted = urllib.request.quote(run_id, safe="")  # type: ignore[attr-defined]
    state: dict[str, str] = {}

    def finished() -> bool:
        run = call(services, "GET", f"/api/v2/dags/{dag_id}/dagRuns/{quoted}")
        state["state"] = run["state"]
        return run["state"] in {"success", "failed"}

    _wait(services, finished, _RUN_S, f"{dag_id} to finish")
    return state["state"]


def call(services: Services, method: str, path: str, body: object = None) -> Any:
    """Call Airflow's REST API and return the JSON answer."""
    request = urllib.request.Request(  # noqa: S310 - a loopback address of our own
        services.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {_token(services)}"},
    )
    with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310
        return json.loads(answer.read() or b"null")


def _token(services: Services) -> str:
    with urllib.request.urlopen(services.url + "/auth/token", timeout=_ANSWER_S) as answer:  # noqa: S310
        token: str = json.loads(answer.read())["access_token"]
    return token


def _tell_story(services: Services, root: Path) -> dict[str, float]:
    seconds: dict[str, float] = {}
    with _timed("start Airflow", seconds):
        wait_until_ready(services)
    workspace = root / "workspace"
    resolve(EMBEDDED_DIGITS, workspace)
    for dag_id in STORY:
        if dag_id == "intake_requests":
            write_demo_requests(workspace)
        with _timed(dag_id, seconds):
            state = run_dag(services, dag_id)
            if state != "success":
                message = f"{dag_id} ended as {state}; see the logs under {services.home / 'logs'}"
                raise DemoError(message)
    return seconds


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    started = time.monotonic()
    with _out.status(f"{name} ..."):
        yield
    seconds[name] = round(time.monotonic() - started, 1)
    _out.print(f"[green]done[/] {name:<20} {seconds[name]:6.1f} s")


@contextmanager
def _services(root: Path, home: Path) -> Iterator[Services]:
    previous = signal.signal(signal.SIGTERM, _interrupt)
    services = Services(home, _free_port())
    try:
        start_airflow(services, root / "workspace")
        yield services
    finally:
        services.stop()
        stop_children(root / "workspace")
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    marker = root / "demo.pid"
    if marker.exists() and _is_alive(int(marker.read_text() or 0)):
        message = f"another demo runs in {root} (process {marker.read_text()}); stop it first"
        raise DemoError(message)
    marker.write_text(str(os.getpid()))
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)


def _keep_up(services: Services, root: Path) -> None:
    workspace = root / "workspace"
    port = _free_port()
    executable = shutil.which("mlflow", path=str(Path(sys.executable).parent)) or "mlflow"
    command = [executable, "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{workspace / 'mlflow.db'}"]
    services.start("mlflow", command, dict(os.environ))
    _out.print(f"Airflow  {services.url}\nMLflow   http://127.0.0.1:{port}\nCtrl-C stops both.")
    while True:
        services.require_running()
        time.sleep(1)


def _print_summary(root: Path, seconds: dict[str, float]) -> None:
    workspace = root / "workspace"
    requests = list_requests(dataset=EMBEDDED_DIGITS, root_uri=str(workspace))
    models = [read_json(path) for path in sorted(workspace.glob("models/*/model.json"))]
    models.sort(key=lambda model: model["created_at"])
    certificates = sorted(workspace.glob("batches/*/certificates/*.json"))
    report = workspace / "reports" / "latest" / "report.html"
    summary: dict[str, Any] = {
        "requests": [
            {
                name: row[name]
                for name in (
                    "request_id",
                    "state",
                    "outcome",
                    "claim",
                    "days_used",
                    "duplicate_of",
                    "batch_id",
                )
            }
            for row in requests
        ],
        "models": [
            {
                "model_key": model["model_key"],
                "kind": model["kind"],
                "version": model["model_version"],
                "test_accuracy": model["metrics"].get("test_accuracy"),
                "verdict": model["verdict"],
                "claim": model["claim"],
            }
            for model in models
        ],
        "report": str(report),
        "certificates": [str(path) for path in certificates],
        "seconds": seconds,
    }
    write_json(root / "summary.json", summary)
    table = Table("request", "outcome", "claim", "days used", title="Deletion requests")
    for row in summary["requests"]:
        outcome = row["outcome"] or row["state"]
        if row["duplicate_of"]:
            outcome += f" of {row['duplicate_of']}"
        table.add_row(row["request_id"], outcome, row["claim"] or "", str(row["days_used"]))
    _out.print(table)
    table = Table("model", "registry", "test accuracy", "forgetting verdict", title="Models")
    for model in summary["models"]:
        version = f"v{model['version']}" if model["version"] else "not released"
        accuracy = f"{model['test_accuracy']:.3f}" if model["test_accuracy"] is not None else ""
        verdict = model["verdict"] or "not a batch"
        table.add_row(model["model_key"], version, accuracy, verdict)
    _out.print(table)
    _out.print(f"report       {report}", soft_wrap=True)
    _out.print(f"summary      {root / 'summary.json'}", soft_wrap=True)
    if certificates:
        _out.print(f"verify with  .venv/bin/r2u verify {certificates[-1]}", soft_wrap=True)


def _wait(services: Services, ready: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        services.require_running()
        if time.monotonic() > deadline:
            message = f"waited {limit_s:.0f} s for {what}; see the logs in {services.home}"
            raise DemoError(message)
        time.sleep(_POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _is_alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
