"""Pseudonym keys from Airflow's connection ``r2u_pseudonyms``: the hook that stages call.

Set ``R2U_PSEUDONYM_KEYRING=r2u_airflow.pseudonym_keys:from_connection`` where stages run, and put
the keys into the password of the connection: 64 hexadecimal digits each, with commas between them,
a new one in front. Heavy steps run in a process of their own, which asks again and has no
supervisor: the connection has to come from a secrets backend or from
``AIRFLOW_CONN_R2U_PSEUDONYMS``.
"""

from __future__ import annotations

import sys

from airflow.exceptions import AirflowException
from airflow.models.connection import Connection
from airflow.sdk import Connection as TaskConnection

from governance.errors import PermanentError
from governance.key_ring import parse_keys

CONNECTION = "r2u_pseudonyms"


def from_connection() -> tuple[bytes, ...]:
    """Return the keys of the connection, in its order.

    Raises:
        PermanentError: There is no such connection, or its password is something else. The message
            holds nothing of it.
    """
    password = _password()
    if not password:
        message = (
            f"connection {CONNECTION}: expected the pseudonym keys in its password, got no such "
            "connection or no password; see docs/keys.md"
        )
        raise PermanentError(message)
    return parse_keys(password, f"connection {CONNECTION}")


def _password() -> str | None:
    """Return the password, None where there is none; Airflow is asked as its processes are."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    try:
        if hasattr(runner, "SUPERVISOR_COMMS"):
            found = TaskConnection.get(CONNECTION).password
        else:
            found = Connection.get_connection_from_secrets(CONNECTION).password
    except AirflowException:
        return None
    return None if found is None else str(found)
