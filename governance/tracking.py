"""MLflow: lineage and evidence for people. The only importer of it.

MLflow lets finished runs be edited, so it is a window and never the truth: hashes go into params
(which it refuses to change), and finalising a batch writes ledger and evidence first. Every call is
idempotent: a run is found again by its model key or batch id.

The registered input example is zeros of the right shape, never a training row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from governance.errors import TrackingUnavailableError

_log = logging.getLogger(__name__)

_KEY_TAG = "r2u.key"


class Tracker(Protocol):
    """What the stages need of a tracking server."""

    def record_training(
        self,
        *,
        dataset: str,
        model_key: str,
        params: dict[str, str],
        metrics: dict[str, float],
        tags: dict[str, str],
        artifacts: dict[str, Path],
    ) -> str:
        """Record a training or unlearning run once and return its run id."""
        ...

    def record_batch(
        self,
        *,
        dataset: str,
        batch_id: str,
        params: dict[str, str],
        metrics: dict[str, float],
        tags: dict[str, str],
        artifacts: dict[str, Path],
    ) -> str:
        """Record a batch once and return its run id."""
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
        """Register the model of a run once and return its version."""
        ...

    def remove_weights(self, name: str, version: str) -> None:
        """Delete the files of a version; its entry stays, tagged, for lineage."""
        ...

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        ...

    def alias_version(self, name: str, alias: str) -> str | None:
        """Return the version that an alias points to."""
        ...

    def model_key_of(self, name: str, version: str) -> str | None:
        """Return the model key that a version was registered for."""
        ...


class MlflowTracker:
    """A tracker over an MLflow tracking server or SQLite store."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        """Remember where the server is; it is contacted at the first call."""
        self._uri = uri
        self._artifacts = artifacts

    def record_training(self, *, model_key: str, **content: Any) -> str:
        """Record a training or unlearning run once and return its run id."""
        return self._record(key=f"model:{model_key}", name=model_key, **content)

    def record_batch(self, *, batch_id: str, **content: Any) -> str:
        """Record a batch once and return its run id."""
        return self._record(key=f"batch:{batch_id}", name=f"batch {batch_id}", **content)

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
            uri, servable = self._log_model(client, run_id, model_object, input_example)
            if not servable:
                client.log_artifact(run_id, str(weights_path), "model")
                uri = f"runs:/{run_id}/model"
            version = client.create_model_version(
                name,
                source=uri,
                run_id=run_id,
                tags={**tags, "servable": str(servable).lower()},
            )
            return str(version.version)

    def remove_weights(self, name: str, version: str) -> None:
        """Delete the files of a version; its entry stays, tagged, for lineage."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._client() as client:
            found = client.get_model_version(name, version)
            run = client.get_run(found.run_id)
            models = run.outputs.model_outputs if run.outputs else []
            places = [client.get_logged_model(m.model_id).artifact_location for m in models]
            for place in (*places, f"{run.info.artifact_uri}/model"):
                repository = get_artifact_repository(place)
                if repository.list_artifacts():
                    repository.delete_artifacts()
            client.set_model_version_tag(name, version, "weights", "removed")

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        with self._client() as client:
            client.set_registered_model_alias(name, alias, version)

    def alias_version(self, name: str, alias: str) -> str | None:
        """Return the version that an alias points to."""
        with self._client() as client:
            models = client.search_registered_models(f"name = '{name}'")
            if not models:
                return None
            version = models[0].aliases.get(alias)
            return None if version is None else str(version)

    def model_key_of(self, name: str, version: str) -> str | None:
        """Return the model key that a version was registered for."""
        with self._client() as client:
            run_id = client.get_model_version(name, version).run_id
            key = client.get_run(run_id).data.params.get("model_key")
            return None if key is None else str(key)

    def _record(
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
        with self._client() as client:
            experiment = self._experiment(client, dataset)
            found = client.search_runs([experiment], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1)
            if found and found[0].info.status == "FINISHED":
                return str(found[0].info.run_id)
            labels = {_KEY_TAG: key, "mlflow.runName": name, **tags}
            run = found[0] if found else client.create_run(experiment, tags=labels)
            run_id = str(run.info.run_id)
            for param, value in params.items():
                client.log_param(run_id, param, value)
            for metric, number in metrics.items():
                client.log_metric(run_id, metric, float(number))
            for path in artifacts.values():
                client.log_artifact(run_id, str(path), "evidence")
            client.set_terminated(run_id)
            return run_id

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
    ) -> tuple[str, bool]:
        """Log the model as an exported program; weights alone where it cannot be exported."""
        import mlflow.pytorch

        del client
        try:
            with mlflow.start_run(run_id=run_id):
                info = mlflow.pytorch.log_model(
                    model_object, name="model", input_example=input_example
                )
        except Exception as error:  # export fails with many types, all of the user's own network
            _log.warning(
                "the model cannot be exported for serving (%s); its weights are registered alone",
                type(error).__name__,
            )
            return "", False
        return str(info.model_uri), True

    @contextmanager
    def _client(self) -> Iterator[Any]:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow
        from mlflow.exceptions import MlflowException

        for name in ("mlflow", "mlflow.store", "mlflow.models.model"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if self._uri.startswith("sqlite:///"):
            Path(self._uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            mlflow.set_tracking_uri(self._uri)
            mlflow.set_registry_uri(self._uri)
            yield mlflow.MlflowClient(self._uri, self._uri)
        except (MlflowException, ConnectionError) as error:
            message = f"MLflow: expected an answer, got {type(error).__name__}; try again later"
            raise TrackingUnavailableError(message) from error


@dataclass
class MemoryTracker:
    """The in-memory twin for tests: the same rules, no MLflow."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)

    def record_training(self, *, model_key: str, **content: Any) -> str:
        """Record a training or unlearning run once and return its run id."""
        return self._record(f"model:{model_key}", content)

    def record_batch(self, *, batch_id: str, **content: Any) -> str:
        """Record a batch once and return its run id."""
        return self._record(f"batch:{batch_id}", content)

    def register_version(self, *, name: str, run_id: str, tags: dict[str, str], **_: Any) -> str:
        """Register the model of a run once and return its version."""
        versions = self.versions.setdefault(name, [])
        known = [i for i, version in enumerate(versions, 1) if version["run_id"] == run_id]
        if known:
            return str(known[0])
        versions.append({"run_id": run_id, "tags": tags})
        return str(len(versions))

    def remove_weights(self, name: str, version: str) -> None:
        """Delete the files of a version; its entry stays, tagged, for lineage."""
        self.versions[name][int(version) - 1]["tags"]["weights"] = "removed"

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        self.aliases[(name, alias)] = version

    def alias_version(self, name: str, alias: str) -> str | None:
        """Return the version that an alias points to."""
        return self.aliases.get((name, alias))

    def model_key_of(self, name: str, version: str) -> str | None:
        """Return the model key that a version was registered for."""
        run_id = self.versions[name][int(version) - 1]["run_id"]
        key = self.runs[run_id]["params"].get("model_key")
        return None if key is None else str(key)

    def _record(self, key: str, content: dict[str, Any]) -> str:
        self.runs.setdefault(key, content)
        return key


def open_tracker(uri: str, artifacts: Path) -> Tracker:
    """Return the tracker of a tracking URI."""
    return MlflowTracker(uri, artifacts)
