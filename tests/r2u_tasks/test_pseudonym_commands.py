"""Laws of `r2u keys list`, `rotate-pseudonyms` and `drop`: kills, repeats, what is printed."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from governance.errors import PermanentError
from governance.key_ring import KEYS_VARIABLE, open_ring
from governance.ledger import Ledger, read_entries
from governance.signing import load_or_make_signing_key
from r2u_tasks.cli.main import app
from r2u_tasks.stages.requests import submit_request

DATASET = "embedded:digits"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A workspace with a ledger, a pseudonym key, and a request under it."""
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    keys = load_or_make_signing_key(tmp_path / "keys")
    Ledger(tmp_path / "ledger.jsonl", keys).append("batch_closed", {"batch_id": "b1"})
    submit_request(dataset=DATASET, root_uri=str(tmp_path), subject_id="p", request_id="one")
    return tmp_path


def r2u(root, *arguments):
    words = ["keys", *map(str, arguments), "--root", str(root)]
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def rotations(root):
    entries = read_entries(root / "ledger.jsonl")
    return [entry["body"] for entry in entries if entry["kind"] == "pseudonym_key_rotated"]


def test_a_rotation_says_what_it_did_and_what_the_former_key_is_for(root):
    """By ids alone; a repeat for the same key does nothing and says so."""
    first = open_ring(root / "keys", {}).ids[0]
    said = r2u(root, "rotate-pseudonyms")
    ring = open_ring(root / "keys", {})
    again = json.loads(r2u(root, "rotate-pseudonyms", "--from", first, "--json"))
    listed = json.loads(r2u(root, "list", "--json"))
    shown = r2u(root, "list")

    assert all(key in said for key in (*ring.ids, "Back up the new key"))
    assert (ring.ids[0], first) == (again["key"], again["former"])
    assert not again["rotated"]
    assert [{"old_key": first, "new_key": ring.ids[0]}] == rotations(root)
    assert ["current", "earlier"] == [one["role"] for one in listed["keys"]]
    assert {"open requests": 1} == listed["keys"][1]["needed_by"]
    assert "1 open requests" in shown
    assert not any(key.hex() in said + shown for key in ring.keys)
    with pytest.raises(PermanentError, match="needed by 1 open requests"):
        r2u(root, "drop", first)
    with pytest.raises(PermanentError, match=f"expected the current key {ring.ids[0]}"):
        r2u(root, "rotate-pseudonyms", "--from", "000000000000")


def test_a_key_of_a_variable_is_rotated_when_the_next_one_is_there(root, monkeypatch):
    """Handed to every machine first; the command lets it count."""
    (old,) = open_ring(root / "keys", {}).keys
    new = bytes(range(32))
    monkeypatch.setenv(KEYS_VARIABLE, old.hex())
    with pytest.raises(PermanentError, match="put the new key before it on every machine"):
        r2u(root, "rotate-pseudonyms")
    monkeypatch.setenv(KEYS_VARIABLE, f"{new.hex()},{old.hex()}")
    r2u(root, "rotate-pseudonyms")

    assert (new, old) == open_ring(root / "keys", dict(os.environ)).keys
    assert 1 == len(rotations(root))


def test_a_workspace_without_keys_says_so(tmp_path):
    """Nothing is made by looking, and nothing is rotated before there is anything."""
    for command in ("list", "rotate-pseudonyms"):
        with pytest.raises(PermanentError, match="no stage ran yet"):
            r2u(tmp_path, command)
    assert not (tmp_path / "keys").exists()


_KILLS = """
import json, os, shutil, signal, sys, traceback
from pathlib import Path

from governance.key_ring import open_ring
from governance.ledger import read_entries
from r2u_tasks.stages.pseudonym_keys import rotate_pseudonyms


def child(root, left, kills):
    def counted(work):
        def call(*arguments, **more):
            nonlocal left
            if kills and left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return work(*arguments, **more)
        return call

    for name in ("open", "link", "replace", "unlink", "fsync", "chmod"):
        setattr(os, name, counted(getattr(os, name)))
    Path.unlink, Path.open = counted(Path.unlink), counted(Path.open)
    rotate_pseudonyms(dataset="embedded:digits", root_uri=str(root), only_from=FIRST)


def run(root, left, kills):
    pid = os.fork()
    if pid == 0:
        try:
            child(root, left, kills)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


origin = Path(sys.argv[1])
FIRST = open_ring(origin / "keys", {}).ids[0]
for left in range(200):
    root = shutil.copytree(origin, origin.with_name(f"try-{left}"))
    killed = run(root, left, True)
    between = len(open_ring(root / "keys", {}).keys)
    ended = run(root, 0, False)
    kinds = [entry["kind"] for entry in read_entries(root / "ledger.jsonl")]
    n_keys, n_entries = len(open_ring(root / "keys", {}).keys), kinds.count("pseudonym_key_rotated")
    print(json.dumps([killed, between, ended, n_keys, n_entries]))
    if killed == 0:
        break
"""


def test_a_kill_at_any_point_is_completed_by_the_same_command(root, repository, tmp_path_factory):
    """SIGKILL before each write of the whole stage in turn: one new key, one entry, in the end."""
    origin = shutil.copytree(root, tmp_path_factory.mktemp("kills") / "origin")
    done = subprocess.run(
        [sys.executable, "-c", _KILLS, str(origin)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    tries = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]

    assert tries, done.stderr[-2000:]
    *killed, last = tries
    assert [0, 2, 0, 2, 1] == last
    assert len(killed) >= 15
    assert {-9} == {one[0] for one in killed}
    assert {1, 2} == {one[1] for one in killed}  # before and after it counted
    assert {(0, 2, 1)} == {tuple(one[2:]) for one in killed}, done.stderr[-2000:]
