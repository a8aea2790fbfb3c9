"""Laws of distributed training, on two real processes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from r2u_tasks.team import Team

MEMBER = Path(__file__).with_name("team_member.py")


def test_shares_cover_a_batch_once_and_weights_sum_to_one():
    """Every record is with exactly one process; one without records counts as nothing."""
    team = [Team(rank, 3) for rank in range(3)]
    index = torch.arange(10, 17)

    assert sorted(torch.cat([t.share(index) for t in team]).tolist()) == index.tolist()
    assert sum(t.weight(7) for t in team) == pytest.approx(1.0)
    assert [t.weight(1) for t in team] == [1.0, 0.0, 0.0]
    assert [len(t.share(index[:1])) for t in team] == [1, 1, 1]


@pytest.mark.ml
def test_two_processes_give_the_gradients_and_weights_of_one(tmp_path):
    """Two gloo processes: every order, form and step rule, and a whole run, within 1e-5 of one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(MEMBER.parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(MEMBER), str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = load_file(tmp_path / "results.safetensors")

    spec = importlib.util.spec_from_file_location("team_member", MEMBER)
    member = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(member)
    alone = member.gradients() | member.trained_weights(tmp_path / "alone")

    assert set(alone) == set(together)
    for name, value in alone.items():
        error = float((value - together[name]).abs().max() / value.abs().max().clamp(min=1e-3))
        assert error <= 1e-5, (name, error)
    finished = load_file(tmp_path / "checkpoints" / "finished.safetensors")
    assert torch.equal(finished["0.weight"], together["weights/0.weight"])
