"""The real Airflow API server app, with four people and a queue of its own."""

import json

import pytest

ROLES = ("viewer", "user", "op", "admin")


@pytest.fixture(scope="session")
def airflow_app(airflow_database):
    """Airflow's own FastAPI app as the API server makes it, plugins found by entry point."""
    from airflow.api_fastapi.app import create_app, purge_cached_app
    from airflow.configuration import conf

    purge_cached_app()
    conf.set("core", "simple_auth_manager_users", ",".join(f"{r}:{r}" for r in ROLES))
    return create_app()


@pytest.fixture
def place(tmp_path, monkeypatch, declare_people):
    """An empty workspace that Airflow's connection points to."""
    path = declare_people(tmp_path, "tenant, email")
    (tmp_path / "people.csv").write_text("id,person,churned,age,tenant,email\n")
    place = {"dataset": str(path), "root_uri": str(tmp_path / "root")}
    connection = json.dumps({"conn_type": "generic", "extra": place})
    monkeypatch.setenv("AIRFLOW_CONN_R2U_WORKSPACE", connection)
    return place


@pytest.fixture
def client_of(airflow_app, place):
    """Make a client for a role; without a role nobody is logged in."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    def make(role=None):
        client = TestClient(airflow_app, raise_server_exceptions=False)
        if role is not None:
            user = SimpleAuthManagerUser(username=role, role=role)
            client.headers["Authorization"] = f"Bearer {get_auth_manager().generate_jwt(user)}"
        return client

    return make
