"""Laws of the hook that takes the pseudonym keys from an Airflow connection."""

import json

import pytest

from governance.errors import PermanentError
from governance.key_files import key_name
from governance.key_ring import HOOK_VARIABLE, open_ring

HOOK = {HOOK_VARIABLE: "r2u_airflow.pseudonym_keys:from_connection"}
OLD, NEW = bytes(range(32)), bytes(range(32, 64))

pytestmark = pytest.mark.airflow


def connect(monkeypatch, password):
    connection = json.dumps({"conn_type": "generic", "password": password})
    monkeypatch.setenv("AIRFLOW_CONN_R2U_PSEUDONYMS", connection)


def test_the_ring_comes_from_the_connection(tmp_path, monkeypatch, airflow_database):
    """Keys in the order of the password; none of them reaches the workspace."""
    connect(monkeypatch, OLD.hex())
    ring = open_ring(tmp_path / "keys", HOOK)
    connect(monkeypatch, f"{NEW.hex()}, {OLD.hex()}")

    assert (OLD,) == ring.keys == open_ring(tmp_path / "keys", HOOK).keys
    assert not list(tmp_path.rglob("*.key"))
    assert key_name(OLD) in (tmp_path / "keys" / "pseudonym.json").read_text()


@pytest.mark.parametrize("password", [None, "", "secret", f"{OLD.hex()},{OLD.hex()[:-2]}"])
def test_another_connection_is_refused_and_not_repeated(
    tmp_path, monkeypatch, airflow_database, password
):
    """No connection, no password, no keys: an error that holds nothing of the password."""
    if password is None:
        monkeypatch.delenv("AIRFLOW_CONN_R2U_PSEUDONYMS", raising=False)
    else:
        connect(monkeypatch, password)
    with pytest.raises(PermanentError, match="connection r2u_pseudonyms") as refused:
        open_ring(tmp_path / "keys", HOOK)

    assert OLD.hex()[:8] not in str(refused.value)
    assert "secret" not in str(refused.value)
