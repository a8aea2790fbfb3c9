"""Settings before any import of Airflow, and one metadata database for the whole session."""

import json
import os
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
_HOME = Path(tempfile.mkdtemp(prefix="r2u-airflow-"))
WORKSPACE = _HOME / "workspace"

os.environ.update(
    {
        "AIRFLOW_HOME": str(_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW_CONN_R2U_WORKSPACE": json.dumps(
            {
                "conn_type": "generic",
                "extra": {"root_uri": str(WORKSPACE), "dataset": "embedded:digits"},
            }
        ),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "OMP_NUM_THREADS": "1",
    }
)

import pytest  # noqa: E402 - the settings above come first


@pytest.fixture(scope="session")
def repository():
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def airflow_database():
    """Airflow's tables in a temporary SQLite file."""
    from airflow.utils.db import initdb

    initdb()
    return _HOME / "airflow.db"


@pytest.fixture(scope="session")
def workspace_root():
    """Workspace that the DAG tests share."""
    return WORKSPACE
