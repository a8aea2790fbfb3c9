"""Heavy stages in a child process: a fresh interpreter, its own log, found again by its folder.

A training in the worker of an orchestrator dies with the worker's heartbeat, forks with held locks,
and keeps gigabytes. So the task starts ``python -m r2u_tasks.cli stage ...`` in a session of its
own and waits for it. A retried task finds the running child by its process id and start time, or
the result that it published.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from governance import errors
from governance.digests import read_json, write_json

_POLL_S = 0.2
_TERMINATE_S = 10.0


def run_child(
    module: str, function: str, arguments: dict[str, Any], *, folder: Path
) -> dict[str, Any]:
    """Run a stage function in a child process and return its result.

    Args:
        module: Module under ``r2u_tasks.stages``.
        function: Its function.
        arguments: Keyword arguments as JSON.
        folder: Folder of arguments, log and result; the same folder re-attaches.

    Raises:
        R2UError: What the child raised, as the same kind of error.
        TransientError: The child died without a word; run it again.
    """
    result_path, marker = folder / "child-result.json", folder / "child.json"
    if not _succeeded(result_path):
        if not _is_running(marker):
            result_path.unlink(missing_ok=True)
            _start(module, function, arguments, folder)
        _wait(marker)
    if not result_path.exists():
        log = folder / "log.txt"
        message = f"{module}.{function}: the child process ended without a result; see {log.name}"
        raise errors.TransientError(message)
    result: dict[str, Any] = read_json(result_path)
    if "error" in result:
        raise _rebuild(result["error"])
    return result


def stop_children(root: Path) -> int:
    """Terminate every child that still runs under a workspace; return how many there were."""
    markers = [path for path in root.rglob("child.json") if _is_running(path)]
    for marker in markers:
        _signal(marker, signal.SIGTERM)
    deadline = time.monotonic() + _TERMINATE_S
    while time.monotonic() < deadline and any(_is_running(marker) for marker in markers):
        time.sleep(_POLL_S)
    for marker in markers:
        if _is_running(marker):
            _signal(marker, signal.SIGKILL)
    return len(markers)


def _start(module: str, function: str, arguments: dict[str, Any], folder: Path) -> None:
    write_json(folder / "arguments.json", arguments)
    command = [
        *(sys.executable, "-m", "r2u_tasks.cli", "stage", module, function),
        *("--arguments", str(folder / "arguments.json")),
        *("--result", str(folder / "child-result.json")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
            command, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    write_json(folder / "child.json", {"pid": process.pid, "started": _started(process.pid)})


def _wait(marker: Path) -> None:
    pid = read_json(marker)["pid"]
    while _is_running(marker):
        with suppress(ChildProcessError):  # another task's child is not ours to reap
            os.waitpid(pid, os.WNOHANG)
        time.sleep(_POLL_S)


def _is_running(marker: Path) -> bool:
    if not marker.exists():
        return False
    child = read_json(marker)
    started = _started(child["pid"])
    return started is not None and started == child["started"]


def _started(pid: int) -> str | None:
    """Return the kernel's start time of a live process: process ids are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _signal(marker: Path, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(read_json(marker)["pid"], number)


def _succeeded(path: Path) -> bool:
    return path.exists() and "error" not in read_json(path)


def _rebuild(error: dict[str, str]) -> errors.R2UError:
    kind: type[errors.R2UError] = getattr(errors, error["kind"], errors.PermanentError)
    message = f"{error['kind']}: {error['message']}"
    if issubclass(kind, errors.TransientError):
        return errors.TransientError(message)
    if issubclass(kind, errors.ReleaseBlockedError):
        return errors.ReleaseBlockedError(message)
    return errors.PermanentError(message)
