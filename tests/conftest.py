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

_PEOPLE = """
name: people
task: tabular
source: {path: people.csv, format: csv}
columns:
  record_id: id
  subject_id: person
  label: {name: churned, classes: [0, 1]}
  features: [{name: age, kind: numeric}]
  governance: []
deletion: {deletion_class: customers}
policy: policy.yaml
model: {factory: "my_net:build"}
"""


@pytest.fixture(scope="session")
def repository():
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def declare_people():
    """Write the declaration of a table of people into a folder, and return its path.

    ``changes`` has the text that differs, by what stands there otherwise; ``more`` is appended.
    """

    def declare(folder, governance="", *, changes=None, more=""):
        text = _PEOPLE.replace("governance: []", f"governance: [{governance}]")
        for former, new in (changes or {}).items():
            assert former in text
            text = text.replace(former, new)
        path = folder / "people.yaml"
        path.write_text(text + more)
        return path

    return declare


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
