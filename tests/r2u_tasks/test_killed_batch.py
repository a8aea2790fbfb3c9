"""Law of a killed batch: whenever it dies, the next run ends it as if it had not been killed."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ml


def test_every_step_may_be_killed(repository):
    """``kill -9`` in each step once; queue, tables, ledger, certificates and files are whole after.

    In an interpreter of its own, because a fork must not inherit the threads of other tests. The
    full study (``make study-kill``) does the same twenty times in each step.
    """
    command = [sys.executable, "-m", "benchmarks.kill", "--repeats", "1", "--no-results"]
    done = subprocess.run(
        command,
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    assert lines, done.stderr[-2000:]
    control, *tries = lines
    assert control["control"] == []
    assert len(control["found_before"]) == 5
    assert [one["step"] for one in tries if one["problems"]] == [], tries
    assert len({one["step"] for one in tries}) == 8
    assert done.returncode == 0
