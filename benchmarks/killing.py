"""One step of a batch, killed by ``kill -9`` at some moment, and the next run that finishes it.

The parent imports everything once and forks a child for each thing that is done; it never opens a
table or trains itself, because a fork must not inherit threads that are gone. The workspace lies at
one place (MLflow keeps absolute paths) and is put back to a snapshot before each try.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltalake  # noqa: F401 - imported before the fork
import duckdb  # noqa: F401
import numpy as np
from torch import nn

from benchmarks.planted import (
    ERASED,
    N_PERSONS,
    RECORDS_EACH,
    planted_in,
    search,
    subject_of,
    write_data_set,
)
from governance.digests import read_json
from governance.ledger import read_entries, verify_chain
from governance.storage import read_table
from governance.tracking import open_tracker
from governance.verifier import verify_certificate
from r2u_tasks.stages import unlearn
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.taint import why_tainted
from r2u_tasks.stages.train import train_ready_model

STEPS = (
    "lease_batch",
    "plan_batch",
    "erase_rows",
    "unlearn_model",
    "replay_model",
    "promote_model",
    "purge_leftovers",
    "close_batch",
)
"""Steps of ``unlearn_batch``, in its order."""

_ONCE = (
    "erasure_started",
    "rows_erased",
    "purge_started",
    "leftovers_purged",
    "recipient_told",
    "bundle_sealed",
    "batch_closed",
)
_ORDER = (
    "erasure_started",
    "rows_erased",
    "evidence_recorded",
    "model_unlearned",
    "purge_started",
    "recipient_told",
    "leftovers_purged",
    "bundle_sealed",
    "batch_closed",
)
_LIMIT_S = 300.0
_LEASE_S = 1.2
"""A little more than the lease that the declaration of the study gives."""


@dataclass(frozen=True)
class Try:
    """One kill and what became of it.

    Attributes:
        step: Step that ran.
        at_s: Seconds after its start at which it was killed.
        killed: False: it had finished before.
        same_run: Whether the next run was a retry of the same run, or another night's.
        problems: What was wrong after the next run; empty is good.
    """

    step: str
    at_s: float
    killed: bool
    same_run: bool
    problems: tuple[str, ...]


class KillStudy:
    """A workspace at a fixed place, with a snapshot before each step of a batch."""

    def __init__(self, folder: Path) -> None:
        """Make the data set and train, in a child."""
        self.folder = folder
        self.home = folder / "work"
        self.seconds: dict[str, float] = {}
        warm_up(folder / "warm")
        declaration = write_data_set(self.home)
        sys.path.insert(0, str(self.home))
        self.place = {"dataset": str(declaration), "root_uri": str(self.home / "root")}
        _in_child(self._prepare)
        self._keep(STEPS[0])

    def snapshots(self) -> None:
        """Run the batch step by step, keeping the state before each step, and how long it takes."""
        for step, following in zip(STEPS, (*STEPS[1:], "end"), strict=True):
            started = time.monotonic()
            _in_child(lambda step=step: self._run(step))
            self.seconds[step] = time.monotonic() - started
            self._keep(following)

    def kill(self, step: str, *, at_s: float, same_run: bool) -> Try:
        """Put the state before a step back, kill the step at a moment, and let the next run go."""
        self.restore(step)
        ended_s = _kill_child(lambda: self._run(step), at_s)
        if ended_s is not None:  # it is faster than we thought: the next moments lie within it
            self.seconds[step] = min(self.seconds[step], ended_s)
        run_id = "night" if same_run else "next"
        if not same_run:
            time.sleep(_LEASE_S)  # another run gets the requests when the lease has run out
        problems: list[str] = []
        if error := _in_child(lambda: self._finish(run_id), check=False):
            problems.append(f"the next run failed: {error.strip().splitlines()[-1]}")
        else:
            problems += self.audit_in_child()
        return Try(step, at_s, ended_s is None, same_run, tuple(problems))

    def restore(self, step: str) -> None:
        """Put the state before a step back."""
        shutil.rmtree(self.home)
        shutil.copytree(self.folder / f"before-{step}", self.home, symlinks=True)

    def audit_in_child(self) -> list[str]:
        """Return everything that is wrong with a finished batch; this process opens no table."""
        problems: list[str] = json.loads(_in_child_output(self.audit))
        return problems

    def audit(self) -> list[str]:
        """Return everything that is wrong with a finished batch."""
        context = open_context(**self.place)
        root = context.workspace.root
        problems = []
        rows = context.queue.list_requests()
        for row in rows:
            if (row.state, row.outcome) != ("closed", "forgotten"):
                problems.append(f"request {row.request_id} is {row.state}, {row.outcome}")
            closings = [e for e in context.queue.events(row.request_id) if e.to_state == "closed"]
            if len(closings) != 1:
                problems.append(f"request {row.request_id} was closed {len(closings)} times")
        problems += self._audit_tables(context)
        problems += self._audit_ledger(root)
        certificates = sorted(root.glob("batches/*/certificates/*.json"))
        if len(certificates) != len(ERASED):
            problems.append(f"{len(certificates)} certificates")
        for path in certificates:
            verified = verify_certificate(path, public_key_path=next(root.rglob("*.pub.pem")))
            if not verified.ok:
                problems.append(f"certificate: {verified.problem}")
        champion = read_json(context.workspace.champion)["model_key"]
        if why := why_tainted(context, champion):
            problems.append(f"the champion: {why}")
        for path in root.glob("models/*/weights.safetensors"):
            if why_tainted(context, path.parent.name):
                problems.append(f"weights of {path.parent.name} are left")
        problems += [f"{p.parent.name}: rows are kept" for p in root.glob("batches/*/private")]
        found = search(self.home, [thing for person in ERASED for thing in planted_in(person)])
        problems += [f"{what} in {places[0]}" for what, places in found.items()]
        return problems

    def _audit_tables(self, context: Any) -> list[str]:
        expected = (N_PERSONS - len(ERASED)) * RECORDS_EACH
        tables = {"raw": context.workspace.raw, "classified": context.workspace.classified}
        counts = {name: read_table(path).num_rows for name, path in tables.items()}
        problems = [f"{n} rows in {name}" for name, n in counts.items() if n != expected]
        erased = 0
        for path in context.workspace.root.glob("batches/*/erasure.json"):
            erased += read_json(path)["tables"]["raw"]["erased"]
        if erased != len(ERASED) * RECORDS_EACH:
            problems.append(f"{erased} rows counted as erased")
        return problems

    def _audit_ledger(self, root: Path) -> list[str]:
        chain = verify_chain(root / "ledger.jsonl", next(root.rglob("*.pub.pem")))
        entries = read_entries(root / "ledger.jsonl")
        kinds = Counter(entry["kind"] for entry in entries)
        problems = [] if chain.ok else [f"ledger: {chain.problem}"]
        problems += [f"{kinds[kind]} entries {kind}" for kind in _ONCE if kinds[kind] != 1]
        promoted = [e for e in entries if e["kind"] == "model_promoted" and e["body"]["batch_id"]]
        if len(promoted) != 1:
            problems.append(f"{len(promoted)} entries model_promoted of a batch")
        order = [e["kind"] for e in entries if e["kind"] in _ORDER]
        if list(dict.fromkeys(order)) != [kind for kind in _ORDER if kind in order]:
            problems.append(f"the ledger's order is {order}")
        return problems

    def _prepare(self) -> None:
        classify_data(run_id="c", **self.place)
        train_ready_model(run_id="t", **self.place)
        for person in ERASED:
            submit_request(request_id=f"ask-{person}", subject_id=subject_of(person), **self.place)

    def _run(self, step: str) -> None:
        if step == "lease_batch":
            unlearn.lease_batch(run_id="night", **self.place)
            return
        context = open_context(**self.place)
        lease = context.queue.open_leases()[0]
        getattr(unlearn, step)(batch_id=lease.batch_id, token=1, **self.place)

    def _finish(self, run_id: str) -> None:
        unlearn.run_batch(run_id=run_id, **self.place)

    def _keep(self, step: str) -> None:
        shutil.copytree(self.home, self.folder / f"before-{step}", symlinks=True)


def random_moment(step_s: float, chance: random.Random) -> float:
    """Return a moment within a step."""
    return chance.uniform(0.0, step_s)


def _kill_child(work: Callable[[], None], at_s: float) -> float | None:
    """Start work in a process group of its own and kill it; return when it ended by itself."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _become(work)
    deadline = time.monotonic() + at_s
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return time.monotonic() - started
        time.sleep(0.002)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # killed before it had a group of its own
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _in_child(work: Callable[[], object], *, check: bool = True) -> str:
    """Run work in a child and return its traceback, empty if there was none."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _become(work, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        error = pipe.read().decode()
    os.waitpid(pid, 0)
    if error and check:
        raise RuntimeError(error)
    return error


def _in_child_output(work: Callable[[], object]) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _become(lambda: os.write(write, json.dumps(work()).encode()), write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read().decode()
    os.waitpid(pid, 0)
    return output


def _become(work: Callable[[], object], report: int | None = None) -> None:
    """Do the work as a forked child and end without the parent's clean-up."""
    try:
        signal.alarm(int(_LIMIT_S))
        work()
    except BaseException:  # a child has nobody to raise to
        if report is not None:
            os.write(report, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def warm_up(folder: Path) -> None:
    """Let MLflow and torch's exporter load what they load at first use, before the forks.

    The folder stays: SQLite remembers the file by its inode, which another file would get.
    """
    tracker = open_tracker(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    run_id = tracker.record_run(
        key="warm", name="warm", dataset="warm", params={}, metrics={}, tags={}, artifacts={}
    )
    tracker.register_version(
        name="warm",
        run_id=run_id,
        model_object=nn.Linear(1, 1).eval(),
        input_example=np.zeros((1, 1), np.float32),
        weights_path=folder / "none",
        tags={},
    )
