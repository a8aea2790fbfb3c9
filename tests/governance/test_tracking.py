"""Laws of tracking: one suite over real MLflow on SQLite and the in-memory twin."""

import os
from pathlib import Path

import numpy as np
import pytest

from governance.errors import TrackingUnavailableError
from governance.tracking import MemoryTracker, MlflowTracker

SECRET = bytes(range(256)) * 4
"""Stands for weights: bytes that are easy to find again."""

PARAMS = {"model_key": "ready-a", "manifest_root": "sha256:1", "policy_digest": "sha256:2"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One SQLite store for the module: making its tables takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(params=["mlflow", "memory"])
def tracker(request, store):
    if request.param == "memory":
        return MemoryTracker()
    return MlflowTracker(f"sqlite:///{store / 'mlflow.db'}", store / "artifacts")


@pytest.fixture
def name(request):
    """A registered model of its own for each test."""
    return f"people-{abs(hash(request.node.name))}"


def record(tracker, name, model_key="ready-a"):
    return tracker.record_run(
        key=f"model:{name}:{model_key}",
        name=model_key,
        dataset="people",
        params={**PARAMS, "model_key": model_key},
        metrics={"test_accuracy": 0.9},
        tags={"ready": "true"},
        artifacts={},
    )


def register(tracker, name, folder, model_key="ready-a"):
    weights = folder / "weights.safetensors"
    weights.write_bytes(SECRET)
    return tracker.register_version(
        name=name,
        run_id=record(tracker, name, model_key),
        model_object=object(),  # cannot be exported: its weights are registered alone
        input_example=np.zeros((1, 3), np.float32),
        weights_path=weights,
        tags={"kind": "ready"},
    )


def files_with_weights(folder: Path):
    return [p for p in folder.rglob("*") if p.is_file() and SECRET in p.read_bytes()]


def test_a_run_is_recorded_once(tracker, name):
    """The same key is the same run, and its params stay those of the first call."""
    assert record(tracker, name) == record(tracker, name)


def test_each_alias_is_listed_with_its_version(tracker, name, tmp_path):
    """Every alias is in the list, not only ours; an unknown model has none."""
    first = register(tracker, name, tmp_path, "ready-a")
    second = register(tracker, name, tmp_path, "ready-b")
    assert tracker.aliases(name) == {}
    tracker.set_alias(name, "champion", second)
    tracker.set_alias(name, "shadow", first)

    assert {"champion": second, "shadow": first} == tracker.aliases(name)
    assert {} == tracker.aliases(f"{name}-unknown")
    assert tracker.version_params(name, first)["model_key"] == "ready-a"
    assert tracker.version_params(name, "77") == {}


def test_a_param_is_listed_for_every_run_that_has_it(tracker, name):
    """By the name of the run; another experiment and a run without it do not count."""
    for dataset, run in ((name, "a"), (name, "b"), (f"{name}-other", "c")):
        tracker.record_run(
            key=f"batch:{dataset}:{run}",
            name=f"batch {run}",
            dataset=dataset,
            params={"ledger_head": f"head of {run}"} if run != "b" else {},
            metrics={},
            tags={},
            artifacts={},
        )

    assert {"batch a": "head of a"} == tracker.run_params(name, "ledger_head")
    assert {"batch c": "head of c"} == tracker.run_params(f"{name}-other", "ledger_head")
    assert {} == tracker.run_params(f"{name}-unknown", "ledger_head")


def test_an_alias_to_no_version_is_refused(tracker, name, tmp_path):
    """An alias cannot point to a version that is not there."""
    register(tracker, name, tmp_path)
    with pytest.raises(TrackingUnavailableError):
        tracker.set_alias(name, "champion", "77")


def test_purge_deletes_the_bytes_and_can_be_repeated(store, name, tmp_path):
    """After the purge no file of MLflow holds the weights; the version stays; twice is safe."""
    tracker = MlflowTracker(f"sqlite:///{store / 'mlflow.db'}", store / name)
    with tracker._client() as client:
        client.create_experiment(name, artifact_location=(store / name).as_uri())
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(SECRET)
    versions, runs = [], []
    for model_key in ("ready-a", "ready-b"):
        run_id = tracker.record_run(
            key=f"model:{name}:{model_key}",
            name=model_key,
            dataset=name,
            params={**PARAMS, "model_key": model_key},
            metrics={},
            tags={},
            artifacts={},
        )
        runs.append(run_id)
        versions.append(
            tracker.register_version(
                name=name,
                run_id=run_id,
                model_object=object(),
                input_example=np.zeros((1, 3), np.float32),
                weights_path=weights,
                tags={},
            )
        )
    assert len(files_with_weights(store / name)) == 2
    tracker.remove_weights(name, runs[0])
    assert len(files_with_weights(store / name)) == 1
    tracker.remove_weights(name, runs[0])
    assert len(files_with_weights(store / name)) == 1
    with tracker._client() as client:
        old, new = (client.get_model_version(name, version) for version in versions)
        assert old.tags["weights"] == "removed"
        assert old.tags["manifest_root"] == "sha256:1"  # lineage outlives the weights
        assert "weights" not in new.tags
        client.delete_model_version(name, versions[1])  # behind our back: its files stay
    tracker.remove_weights(name, runs[1])

    assert files_with_weights(store / name) == []
    tracker.remove_weights(name, runs[1])
    tracker.remove_weights(name, "f" * 32)


def test_a_version_repeats_its_params_as_tags(store, name, tmp_path):
    """What a run says immutably is also on the version, where people look."""
    tracker = MlflowTracker(f"sqlite:///{store / 'mlflow.db'}", store / "artifacts")
    version = register(tracker, name, tmp_path)
    with tracker._client() as client:
        tags = client.get_model_version(name, version).tags

    assert {**PARAMS, "kind": "ready", "servable": "false"} == tags


def test_a_model_whose_weights_are_gone_is_registered_without(tracker, store, name, tmp_path):
    """Lineage needs no weights: the version is there, repeats the params, and holds no file."""
    arguments = {
        "name": name,
        "run_id": record(tracker, name),
        "model_object": None,
        "input_example": np.zeros((1, 3), np.float32),
        "weights_path": tmp_path / "there-is-none",
        "tags": {"kind": "ready"},
    }
    version = tracker.register_version(**arguments)

    assert tracker.register_version(**arguments) == version
    assert tracker.version_params(name, version) == PARAMS
    if isinstance(tracker, MlflowTracker):
        with tracker._client() as client:
            tags = client.get_model_version(name, version).tags
        assert tags == {**PARAMS, "kind": "ready", "servable": "false", "weights": "removed"}


def test_a_server_that_is_down_is_said_to_be_unavailable(tmp_path):
    """Nobody listens at this port: a transient error of ours, which a stage turns into a debt."""
    tracker = MlflowTracker("http://127.0.0.1:9", tmp_path)
    with pytest.raises(TrackingUnavailableError):
        tracker.aliases("people")


def test_a_version_without_a_run_of_ours_has_no_params(store, name, tmp_path):
    """A version that somebody registered by hand is unknown, not an error."""
    tracker = MlflowTracker(f"sqlite:///{store / 'mlflow.db'}", store / "artifacts")
    with tracker._client() as client:
        client.create_registered_model(name)
        client.create_model_version(name, source=tmp_path.as_uri())

    assert tracker.version_params(name, "1") == {}


@pytest.mark.parametrize("chosen", [None, "http://127.0.0.1:9"])
def test_a_tracker_leaves_the_address_that_others_of_its_process_ask_for(
    store, monkeypatch, chosen
):
    """MLflow writes its own into the environment; a second workspace would be logged there."""
    if chosen is None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", chosen)
    tracker = MlflowTracker(f"sqlite:///{store / 'mlflow.db'}", store / "artifacts")

    tracker.run_params("people", "ledger_head")

    assert os.environ.get("MLFLOW_TRACKING_URI") == chosen
