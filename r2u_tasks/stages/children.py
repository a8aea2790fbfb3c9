"""Child models: fine-tuned outside of this workspace from one of its models.

A child inherits the training manifest of its parent: it knows whom the parent knew. So an erasure
reaches it, and as nothing here can make it forget, it is retired: its weights are deleted, its
aliases are removed, and its owner makes it again from the model that replaced the parent. A child
without a known parent is refused, because nobody could tell whom it knew.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from governance.digests import read_json, write_json
from governance.errors import DataError
from governance.workspace import safe_key
from r2u_tasks.checkpoint import save_weights
from r2u_tasks.model import build_model, weights_digest
from r2u_tasks.models import CHILD, load_record, save_record
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.mirror import mirror_model, or_owe
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.taint import require_untainted


def register_child(
    *, model_key: str, parent: str, weights: str, dataset: str, root_uri: str
) -> JSON:
    """Register a model that was fine-tuned from one of this workspace.

    Args:
        model_key: Its name from now on; the same weights again under it change nothing.
        parent: Key of the model that it was made from.
        weights: safetensors file; it is copied.
        dataset: Declaration; the child has the declared network.
        root_uri: Workspace.

    Returns:
        ``model_key``, ``parent``, ``weights_digest``, ``model_version``.

    Raises:
        DataError: The parent is not known, the key is taken, or the weights are not of the network.
        ReleaseBlockedError: The parent knows an erased person, so the child does.
    """
    context = open_context(dataset, root_uri)
    if model_key != safe_key(model_key):
        message = "model key: expected up to 80 letters, digits, '.', '_' and '-'"
        raise DataError(message)
    origin = load_record(context.workspace, parent)
    require_untainted(context, parent)
    model = _read_weights(context, Path(weights))
    digest = weights_digest(model)
    record = replace(
        origin,
        model_key=model_key,
        kind=CHILD,
        parent=parent,
        lane=None,
        claim=None,
        batch_id=None,
        weights_digest=digest,
        checkpoints={},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics={},
        verdict=None,
        mlflow_run_id=None,
        model_version=None,
    )
    path = context.workspace.model(model_key) / "model.json"
    if not path.exists():
        _keep(context, model_key, parent, model)
        save_record(context.workspace, record)
    elif read_json(path)["weights_digest"] != digest:
        message = f"model {model_key}: expected a free key, got one of other weights"
        raise DataError(message)
    note_once(
        context,
        "child_registered",
        {"model_key": model_key, "parent": parent, "weights_digest": digest},
    )
    record = load_record(context.workspace, model_key)
    or_owe(f"child {model_key}", lambda: mirror_model(context, record, model))
    record = load_record(context.workspace, model_key)
    return {
        "model_key": model_key,
        "parent": parent,
        "weights_digest": digest,
        "model_version": record.model_version,
    }


def _read_weights(context: StageContext, path: Path) -> nn.Module:
    model = build_model(context.declaration, 0)
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise many types
        message = (
            f"child {path.name}: expected safetensors weights of the declared network, got "
            f"{type(error).__name__}"
        )
        raise DataError(message) from error
    return model


def _keep(context: StageContext, model_key: str, parent: str, model: nn.Module) -> None:
    """Copy weights and the parent's manifest into the child's folder, before its record."""
    home, origin = context.workspace.model(model_key), context.workspace.model(parent)
    save_weights(model, home / "weights.safetensors")
    shutil.copyfile(origin / "members.parquet", home / "members.parquet")
    write_json(home / "manifest.json", read_json(origin / "manifest.json"))
