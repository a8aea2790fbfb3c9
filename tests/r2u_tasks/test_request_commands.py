"""Laws of ``r2u request``: every command has JSON and an example, and does what its name says."""

import json

import pytest
from typer.testing import CliRunner

from r2u_tasks.cli.main import app

COMMANDS = ("add", "list", "show", "verify", "hold", "release", "exempt", "cancel", "reject")
COMMANDS += ("extend", "answer", "plan", "withdraw")


@pytest.fixture
def r2u(tmp_path, declare_people):
    """Run a command in an empty workspace and return its JSON."""
    path = declare_people(tmp_path, "tenant")
    place = ["-d", str(path), "--root", str(tmp_path / "root")]

    def run(*words, expected=0):
        result = CliRunner().invoke(app, [*words, *place, "--json"])
        assert expected == result.exit_code, result.output + str(result.exception)
        return json.loads(result.stdout) if expected == 0 else result

    return run


def test_every_command_shows_an_example():
    """``--help`` of each ends with a line that can be copied."""
    for name in COMMANDS:
        result = CliRunner().invoke(app, ["request", name, "--help"])
        assert result.exit_code == 0
        assert f"r2u request {name}" in " ".join(result.stdout.split()), name


def test_a_request_goes_its_way_by_commands_alone(r2u):
    """Add unverified, verify, hold, release, plan, cancel, show: each state is the next one."""
    states = [r2u("request", "add", "--subject", "p-1", "--id", "r-1", "--unverified")["state"]]
    for words in (["verify"], ["hold", "--ground", "legal_claim"], ["release"]):
        states.append(r2u("request", words[0], "r-1", *words[1:])["state"])
    plan = r2u("request", "plan", "r-1")
    states.append(r2u("request", "cancel", "r-1", "--reason", "withdrawn")["state"])
    shown = r2u("request", "show", "r-1")

    assert ["unverified", "queued", "held", "queued", "closed"] == states
    assert (0, [], None) == (plan["n_records"], plan["tables"], plan["closes_at_once_as"])
    assert "cancelled" == shown["outcome"]
    assert ["r-1"] == [row["request_id"] for row in r2u("request", "list")]


def test_an_exemption_is_granted_and_withdrawn(r2u):
    """The request awaits its answer, then is queued again; twice is an error."""
    r2u("request", "add", "--subject", "p-1", "--id", "r-1")
    granted = r2u("request", "exempt", "r-1", "--ground", "legal_obligation")
    withdrawn = r2u("request", "withdraw", "r-1")

    assert ("exempt", "queued") == (granted["state"], withdrawn["state"])
    again = r2u("request", "withdraw", "r-1", expected=1)
    assert "expected an open exemption" in str(again.output) + str(again.exception)


def test_a_plan_is_for_one_thing(r2u):
    """Neither a request nor a target, or both: refused as wrong use, exit code 2."""
    r2u("request", "plan", expected=2)
    r2u("request", "plan", "r-1", "--subject", "p-1", expected=2)
