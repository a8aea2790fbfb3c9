"""Laws of the container files that can be checked without a container engine."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="module")
def compose(repository):
    return yaml.safe_load((repository / "docker" / "compose.yaml").read_text())


def test_what_is_copied_into_the_image_exists(repository):
    """Every COPY source of the Dockerfile is in the repository."""
    lines = (repository / "docker" / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:] for line in lines if line.startswith("COPY")]
    sources = [
        source
        for words in copies
        if not any(word.startswith("--from") for word in words)
        for source in [word for word in words if not word.startswith("--")][:-1]
    ]

    assert len(sources) >= 5
    assert [source for source in sources if not (repository / source).exists()] == []


def test_every_command_of_a_service_is_one_that_we_install(compose):
    """Airflow, MLflow: the first word of each command is on the path of this environment."""
    commands = {s["command"][0] for s in compose["services"].values() if "command" in s}

    assert commands == {"airflow", "mlflow"}
    assert all(shutil.which(c, path=str(Path(sys.executable).parent)) for c in commands)


def test_no_secret_is_in_the_files_and_every_secret_is_asked_for(compose, repository):
    """Passwords come from the environment, and a missing one stops compose with a message."""
    example = (repository / "docker" / "env.example").read_text()
    text = (repository / "docker" / "compose.yaml").read_text()
    for name in ("POSTGRES_PASSWORD", "FERNET_KEY", "JWT_SECRET"):
        assert f"${{{name}:?" in text
        assert f"\n{name}=\n" in f"\n{example}"
    ports = [p for service in compose["services"].values() for p in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_long_running_service_has_a_memory_limit_and_restarts(compose):
    """Airflow's scheduler and API server grow; a limit and a restart keep the host alive."""
    for name, service in compose["services"].items():
        if name != "migrate":
            assert "mem_limit" in service, name
            assert service["restart"] == "unless-stopped", name
