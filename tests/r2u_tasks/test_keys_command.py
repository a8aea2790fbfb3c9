"""Laws of `r2u keys` and of certificates around a rotation, through the command line."""

import json

import pytest
from typer.testing import CliRunner

from governance.errors import PermanentError
from governance.ledger import Ledger, read_entries, verify_chain
from governance.signing import KEY_VARIABLE, PUBLIC_NAME, key_id, load_or_make_signing_key
from r2u_tasks.cli.main import app


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    keys = load_or_make_signing_key(tmp_path / "keys")
    Ledger(tmp_path / "ledger.jsonl", keys).append("batch_closed", {"batch_id": "b1"})
    return tmp_path


def r2u(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_rotation_by_command_leaves_a_ledger_that_both_keys_verify(root, tmp_path):
    """Shown before and after; the old public key still leads to the end of the chain."""
    old = (root / "keys" / PUBLIC_NAME).read_bytes()
    (tmp_path / "old.pem").write_bytes(old)
    before = json.loads(r2u("keys", "show", "--root", root, "--json").stdout)
    rotated = json.loads(r2u("keys", "rotate", "--root", root, "--json").stdout)
    after = json.loads(r2u("keys", "show", "--root", root, "--json").stdout)

    assert key_id(old) == before["key"]
    assert rotated["key"] == after["key"] != before["key"]
    assert 2 == len(after["ledger"])
    assert ["batch_closed", "key_rotated"] == [
        e["kind"] for e in read_entries(root / "ledger.jsonl")
    ]
    for key in (tmp_path / "old.pem", root / "keys" / PUBLIC_NAME):
        assert verify_chain(root / "ledger.jsonl", key).ok


def test_a_key_from_elsewhere_is_not_rotated_into_a_file(root, monkeypatch):
    """Who keeps the key in a variable or a service says where the next one is."""
    monkeypatch.setenv(KEY_VARIABLE, "anything")
    with pytest.raises(PermanentError, match="expected --to"):
        r2u("keys", "rotate", "--root", root)
    with pytest.raises(PermanentError, match="expected hook:"):
        r2u("keys", "rotate", "--root", root, "--to", "nowhere")
    assert 1 == len(read_entries(root / "ledger.jsonl"))


def test_a_workspace_without_keys_says_so(tmp_path):
    """Nothing is made by looking."""
    with pytest.raises(PermanentError, match="no stage ran yet"):
        r2u("keys", "show", "--root", tmp_path)
    assert [] == list(tmp_path.iterdir())
