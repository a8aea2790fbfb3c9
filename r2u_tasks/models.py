"""Models on disk: weights, checkpoints, manifest and the record that joins them to their origin."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from torch import nn

from governance.declaration import Declaration
from governance.digests import read_json, write_json
from governance.errors import DataError
from governance.workspace import Workspace
from r2u_tasks.checkpoint import load_weights
from r2u_tasks.data import FeatureScale
from r2u_tasks.kept_checkpoints import checkpoint_problems, parse_kept
from r2u_tasks.model import build_model

CHILD = "child"
"""Kind of a model that was fine-tuned outside of this workspace from one of its models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """What a model is and where it comes from; ``model.json`` in its folder.

    Attributes:
        model_key: Name of the folder.
        kind: ``ready``, ``unlearned``, ``replayed``, ``retrained`` or ``child``.
        parent: Key of the model that it was made from, if any.
        lane: Lane that made it, if a batch did.
        claim: ``exact`` or ``approximate``, if a batch made it.
        checkpoints: Digest of the weights before each segment k that are kept, in
            ``checkpoints/<k>.safetensors``; None in records of older versions, which noted none.
        metrics: Accuracies as fractions, costs in seconds.
    """

    model_key: str
    kind: str
    parent: str | None
    lane: str | None
    claim: str | None
    batch_id: str | None
    weights_digest: str
    manifest_digest: str
    manifest_root: str
    policy_digest: str
    declaration_digest: str
    feature_scale: dict[str, dict[str, float]]
    checkpoints: dict[int, str | None]
    created_at: str
    metrics: dict[str, float] = field(default_factory=dict)
    verdict: str | None = None
    mlflow_run_id: str | None = None
    model_version: str | None = None

    @property
    def scale(self) -> FeatureScale:
        """Scale of the numeric features that the weights were trained with."""
        return FeatureScale.from_dict(self.feature_scale)


def save_record(workspace: Workspace, record: ModelRecord) -> None:
    """Write ``model.json``."""
    write_json(workspace.model(record.model_key) / "model.json", asdict(record))


def load_record(workspace: Workspace, model_key: str) -> ModelRecord:
    """Read ``model.json``.

    Raises:
        DataError: There is no such model.
    """
    path = workspace.model(model_key) / "model.json"
    if not path.exists():
        message = f"model {model_key}: expected {path.name} in its folder, got nothing"
        raise DataError(message)
    content = read_json(path)
    return ModelRecord(**{**content, "checkpoints": parse_kept(content["checkpoints"])})


def update_record(workspace: Workspace, model_key: str, **changes: object) -> ModelRecord:
    """Change some fields of ``model.json`` and return the new record."""
    record = replace(load_record(workspace, model_key), **changes)  # type: ignore[arg-type]
    save_record(workspace, record)
    return record


def load_model(workspace: Workspace, declaration: Declaration, record: ModelRecord) -> nn.Module:
    """Return the model with its committed weights.

    Raises:
        DigestMismatchError: The weights are not those of the record.
    """
    path = workspace.model(record.model_key) / "weights.safetensors"
    model = build_model(declaration, 0)
    return load_weights(model, path, expected_digest=record.weights_digest)


def usable_checkpoints(workspace: Workspace, record: ModelRecord) -> list[int]:
    """Return the segments before which the model has weights that an exact lane may start from."""
    problems = checkpoint_problems(workspace.model(record.model_key), record.checkpoints)
    return sorted(record.checkpoints.keys() - problems.keys())


def read_champion(workspace: Workspace) -> str:
    """Return the key of the serving model.

    Raises:
        DataError: No model serves yet.
    """
    if not workspace.champion.exists():
        message = "champion: expected a trained model, got none; run `r2u train` first"
        raise DataError(message)
    key: str = read_json(workspace.champion)["model_key"]
    return key
