"""MLflow: lineage and evidence for people. The only importer of it.

MLflow lets finished runs be edited, so it is a window and never the truth: hashes go into params
(which it refuses to change) and are repeated as tags on the version, and finalising a batch writes
ledger and evidence first. Every call is idempotent: a run is found again by its key.

The registered input example is zeros of the right shape, never a training row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from governance.errors import TrackingUnavailableError
from governance.lineage import LineageGraph, ModelNode

_log = logging.getLogger(__name__)

_KEY_TAG = "r2u.key"
_REMOVED_TAG = "weights"
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""MLflow's own defaults wait for minutes on a server that is down; a batch owes and goes on."""


class Tracker(Protocol):
    """What the stages need of a tracking server."""

    def record_run(
        self,
        *,
        key: str,
        name: str,
        dataset: str,
        params: dict[str, str],
        metrics: dict[str, float],
        tags: dict[str, str],
        artifacts: dict[str, Path],
    ) -> str:
        """Record a training, an unlearning or a batch once and return its run id.

        Args:
            key: What the run is found by again: ``model:<model_key>:<weights digest>`` or
                ``batch:<batch_id>``.
            name: What people read in the list of runs.
            dataset: Experiment.
            params: Digests and ids; what was written first stays.
            metrics: Accuracies as fractions, costs in seconds.
            tags: What may change later.
            artifacts: Files for people, without personal data.
        """
        ...

    def register_version(
        self,
        *,
        name: str,
        run_id: str,
        model_object: Any,
        input_example: np.ndarray,
        weights_path: Path,
        tags: dict[str, str],
    ) -> str:
        """Register the model of a run once and return its version.

        Args:
            name: Registered model.
            run_id: From ``record_run``; its params become tags of the version.
            model_object: The model; None when its weights are gone: the version says so.
            input_example: Zeros of the right shape.
            weights_path: Registered alone where the model cannot be exported.
            tags: More tags.
        """
        ...

    def model_runs(self, dataset: str) -> dict[str, dict[str, str]]:
        """Return the params of every run that recorded weights, deleted runs too, by run id."""
        ...

    def remove_weights(self, name: str, run_id: str) -> None:
        """Delete the files of a run; versions that were made of it stay, tagged, for lineage.

        A repeat deletes nothing more. The files go also when somebody deleted the version itself.
        """
        ...

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        ...

    def remove_alias(self, name: str, alias: str) -> None:
        """Let an alias point to nothing; a repeat changes nothing."""
        ...

    def aliases(self, name: str) -> dict[str, str]:
        """Return the version that each alias points to; empty for an unknown model."""
        ...

    def version_params(self, name: str, version: str) -> dict[str, str]:
        """Return the params of a version's run; empty when there is no run of ours behind it."""
        ...

    def run_params(self, dataset: str, param: str) -> dict[str, str]:
        """Return one param of every run of an experiment that has it, by the name of the run."""
        ...


class MlflowTracker:
    """A tracker over an MLflow tracking server or SQLite store."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        """Remember where the server is; it is contacted at the first call."""
        self._uri = uri
        self._artifacts = artifacts

    def record_run(
        self,
        *,
        key: str,
        name: str,
        dataset: str,
        params: dict[str, str],
        metrics: dict[str, float],
        tags: dict[str, str],
        artifacts: dict[str, Path],
    ) -> str:
        """Record a training, an unlearning or a batch once and return its run id."""
        with self._client() as client:
            experiment = self._experiment(client, dataset)
            found = client.search_runs([experiment], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1)
            if found and found[0].info.status == "FINISHED":
                return str(found[0].info.run_id)
            labels = {_KEY_TAG: key, "mlflow.runName": name, **tags}
            run = found[0] if found else client.create_run(experiment, tags=labels)
            run_id = str(run.info.run_id)
            for param in params.keys() - run.data.params.keys():  # a killed call wrote the others
                client.log_param(run_id, param, params[param])
            for metric, number in metrics.items():
                client.log_metric(run_id, metric, float(number))
            for path in artifacts.values():
                client.log_artifact(run_id, str(path), "evidence")
            client.set_terminated(run_id)
            return run_id

    def register_version(
        self,
        *,
        name: str,
        run_id: str,
        model_object: Any,
        input_example: np.ndarray,
        weights_path: Path,
        tags: dict[str, str],
    ) -> str:
        """Register the model of a run once and return its version."""
        with self._client() as client:
            known = [
                version
                for version in client.search_model_versions(f"name = '{name}'")
                if version.run_id == run_id
            ]
            if known:
                return str(known[0].version)
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            uri, servable = f"runs:/{run_id}/model", False
            if model_object is None:
                tags = {**tags, _REMOVED_TAG: "removed"}
            else:
                exported = self._log_model(client, run_id, model_object, input_example)
                uri, servable = exported or uri, exported is not None
                if not servable:
                    client.log_artifact(run_id, str(weights_path), "model")
            version = client.create_model_version(
                name,
                source=uri,
                run_id=run_id,
                tags={
                    **client.get_run(run_id).data.params,
                    **tags,
                    "servable": str(servable).lower(),
                },
            )
            return str(version.version)

    def model_runs(self, dataset: str) -> dict[str, dict[str, str]]:
        """Return the params of every run that recorded weights, deleted runs too, by run id."""
        with self._client() as client:
            return {
                str(run.info.run_id): dict(run.data.params)
                for run in _runs(client, dataset, deleted=True)
                if {"model_key", "weights_digest"} <= run.data.params.keys()
            }

    def remove_weights(self, name: str, run_id: str) -> None:
        """Delete the files of a run; versions that were made of it stay, tagged, for lineage.

        A repeat deletes nothing more. The files go also when somebody deleted the version itself.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._client() as client:
            run = _known(partial(client.get_run, run_id))
            for place in [] if run is None else _weight_places(client, run):
                repository = get_artifact_repository(place)
                if repository.list_artifacts():
                    repository.delete_artifacts()
            for version in client.search_model_versions(f"name = '{name}'"):
                if version.run_id == run_id:
                    client.set_model_version_tag(
                        name, str(version.version), _REMOVED_TAG, "removed"
                    )

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        with self._client() as client:
            client.set_registered_model_alias(name, alias, version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Let an alias point to nothing; a repeat changes nothing."""
        with self._client() as client:
            client.delete_registered_model_alias(name, alias)

    def aliases(self, name: str) -> dict[str, str]:
        """Return the version that each alias points to; empty for an unknown model."""
        with self._client() as client:
            models = client.search_registered_models(f"name = '{name}'")
            if not models:
                return {}
            return {alias: str(version) for alias, version in models[0].aliases.items()}

    def version_params(self, name: str, version: str) -> dict[str, str]:
        """Return the params of a version's run; empty when there is no run of ours behind it."""
        with self._client() as client:
            found = _known(partial(client.get_model_version, name, version))
            if found is None or not found.run_id:
                return {}
            run = _known(partial(client.get_run, found.run_id))
            return {} if run is None else dict(run.data.params)

    def run_params(self, dataset: str, param: str) -> dict[str, str]:
        """Return one param of every run of an experiment that has it, by the name of the run."""
        with self._client() as client:
            return {
                run.data.tags.get("mlflow.runName", run.info.run_id): run.data.params[param]
                for run in _runs(client, dataset)
                if param in run.data.params
            }

    def _experiment(self, client: Any, dataset: str) -> str:
        known = client.get_experiment_by_name(dataset)
        if known is not None:
            return str(known.experiment_id)
        location = None
        if self._uri.startswith("sqlite:"):
            self._artifacts.mkdir(parents=True, exist_ok=True)
            location = self._artifacts.as_uri()
        return str(client.create_experiment(dataset, artifact_location=location))

    def _log_model(
        self, client: Any, run_id: str, model_object: Any, input_example: np.ndarray
    ) -> str | None:
        """Log the model as an exported program; None where it cannot be exported."""
        import mlflow.pytorch

        del client
        try:
            with mlflow.start_run(run_id=run_id):
                info = mlflow.pytorch.log_model(
                    model_object,
                    name="model",
                    input_example=input_example,
                    pip_requirements=_requirements(),  # inferring them takes seconds each time
                )
        except Exception as error:  # export fails with many types, all of the user's own network
            _log.warning(
                "the model cannot be exported for serving (%s); its weights are registered alone",
                type(error).__name__,
            )
            return None
        return str(info.model_uri)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for setting, value in _PATIENCE.items():
            os.environ.setdefault(setting, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow
        from mlflow.exceptions import MlflowException

        for name in ("mlflow", "mlflow.store", "mlflow.models.model"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if self._uri.startswith("sqlite:///"):
            Path(self._uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        chosen = os.environ.get(_URI_VARIABLE)
        try:
            mlflow.set_tracking_uri(self._uri)
            mlflow.set_registry_uri(self._uri)
            yield mlflow.MlflowClient(self._uri, self._uri)
        except (MlflowException, ConnectionError) as error:
            message = f"MLflow: expected an answer, got {type(error).__name__}; try again later"
            raise TrackingUnavailableError(message) from error
        finally:
            # MLflow writes its address into the variable: the next workspace of this process, which
            # asks it, would be logged to this one's.
            os.environ.pop(_URI_VARIABLE, None)
            if chosen is not None:
                os.environ[_URI_VARIABLE] = chosen


def _requirements() -> list[str]:
    """Return what an exported program needs to be served; local labels (+cpu) are on no index."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in ("mlflow", "numpy", "torch")]


def _known(ask: Callable[[], Any]) -> Any:
    """Return the answer of MLflow, None where it says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            return None
        raise


def _runs(client: Any, dataset: str, *, deleted: bool = False) -> Iterator[Any]:
    """Yield every run of an experiment, page by page."""
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(dataset)
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    token: str | None = None
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], run_view_type=view, page_token=token)
        yield from page
        token = page.token or None
        if token is None:
            return


def _weight_places(client: Any, run: Any) -> list[str]:
    """Return every artifact folder in which weights of a run may lie."""
    places = [f"{run.info.artifact_uri}/model"]
    base = client.get_experiment(run.info.experiment_id).artifact_location
    for output in run.outputs.model_outputs if run.outputs else []:
        model_id = output.model_id
        model = _known(partial(client.get_logged_model, model_id))
        fallback = f"{base}/models/{model_id}/artifacts"  # its files outlive a deleted entry
        places.append(fallback if model is None else str(model.artifact_location))
    return places


@dataclass
class MemoryTracker:
    """The in-memory twin for tests: the same rules, no MLflow."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pointers: dict[str, dict[str, str]] = field(default_factory=dict)

    def record_run(self, *, key: str, **content: Any) -> str:
        """Record a training, an unlearning or a batch once and return its run id."""
        self.runs.setdefault(key, content)
        return key

    def register_version(
        self, *, name: str, run_id: str, model_object: Any, tags: dict[str, str], **_: Any
    ) -> str:
        """Register the model of a run once and return its version."""
        versions = self.versions.setdefault(name, [])
        known = [i for i, version in enumerate(versions, 1) if version["run_id"] == run_id]
        if known:
            return str(known[0])
        tags = {**self.runs[run_id]["params"], **tags, "servable": "false"}
        if model_object is None:
            tags[_REMOVED_TAG] = "removed"
        versions.append({"run_id": run_id, "tags": tags})
        return str(len(versions))

    def model_runs(self, dataset: str) -> dict[str, dict[str, str]]:
        """Return the params of every run that recorded weights, by run id."""
        return {
            run_id: dict(run["params"])
            for run_id, run in self.runs.items()
            if run["dataset"] == dataset and {"model_key", "weights_digest"} <= run["params"].keys()
        }

    def remove_weights(self, name: str, run_id: str) -> None:
        """Delete the files of a run; versions that were made of it stay, tagged, for lineage."""
        for entry in self.versions.get(name, []):
            if entry["run_id"] == run_id:
                entry["tags"][_REMOVED_TAG] = "removed"

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        if self._entry(name, version) is None:
            message = "MLflow: expected a version of the model, got none; register it first"
            raise TrackingUnavailableError(message)
        self.pointers.setdefault(name, {})[alias] = version

    def remove_alias(self, name: str, alias: str) -> None:
        """Let an alias point to nothing; a repeat changes nothing."""
        self.pointers.get(name, {}).pop(alias, None)

    def aliases(self, name: str) -> dict[str, str]:
        """Return the version that each alias points to; empty for an unknown model."""
        return dict(self.pointers.get(name, {}))

    def version_params(self, name: str, version: str) -> dict[str, str]:
        """Return the params of a version's run; empty when there is no run of ours behind it."""
        entry = self._entry(name, version)
        return {} if entry is None else dict(self.runs.get(entry["run_id"], {}).get("params", {}))

    def run_params(self, dataset: str, param: str) -> dict[str, str]:
        """Return one param of every run of an experiment that has it, by the name of the run."""
        return {
            run["name"]: run["params"][param]
            for run in self.runs.values()
            if run["dataset"] == dataset and param in run["params"]
        }

    def _entry(self, name: str, version: str) -> dict[str, Any] | None:
        versions = self.versions.get(name, [])
        number = int(version)
        return versions[number - 1] if 1 <= number <= len(versions) else None


def open_tracker(uri: str, artifacts: Path) -> Tracker:
    """Return the tracker of a tracking URI."""
    return MlflowTracker(uri, artifacts)


def compare_lineage(tracker: Tracker, name: str, graph: LineageGraph) -> list[str]:
    """Return how MLflow differs from our own records, one sentence each; empty when it does not.

    Args:
        tracker: MLflow.
        name: Registered model.
        graph: Our own lineage, which is the truth.

    Raises:
        TrackingUnavailableError: MLflow did not answer.
    """
    found = []
    serving = None
    for node in graph.models:
        if node.serving and node.serving[-1].end is None:
            serving = node
        if node.model_version is not None:
            params = tracker.version_params(name, node.model_version)
            found += _version_differences(node, params)
        elif node.serving:
            found.append(f"{node.model_key} served and has no version; run `r2u mirror`")
    pointed = tracker.aliases(name).get("champion")
    expected = serving.model_version if serving else None
    if pointed != expected:
        found.append(
            f"alias champion: expected version {expected or 'none'}, got {pointed or 'none'}; "
            "run `r2u mirror`, and find out who moved it"
        )
    return found


def lineage_params(node: ModelNode) -> dict[str, str]:
    """Return what MLflow's run of a model must say, as params, which it refuses to change."""
    return {
        "model_key": node.model_key,
        "kind": node.kind,
        "parent_model_key": node.parent or "none",
        "lane": node.lane or "none",
        "claim": node.claim or "none",
        "batch_id": node.batch_id or "none",
        "weights_digest": node.weights_digest,
        "manifest_root": node.manifest_root,
        "policy_digest": node.policy_digest,
    }


def _version_differences(node: ModelNode, params: dict[str, str]) -> list[str]:
    where = f"version {node.model_version} ({node.model_key})"
    if not params:
        return [f"{where}: expected a run of ours behind it, got none"]
    return [
        f"{where}: expected {param} {wanted[:24]}, got {params.get(param, 'none')[:24]}"
        for param, wanted in lineage_params(node).items()
        if params.get(param) != wanted
    ]
