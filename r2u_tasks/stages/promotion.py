"""Letting a model serve: the one place where an alias moves, and the guard in front of it.

Batches and trainings promote what they made; a person promotes or goes back by ``r2u promote`` and
``r2u rollback``. A tainted model is refused, however old the wish to have it back.
"""

from __future__ import annotations

from datetime import UTC, datetime

from governance.digests import write_json
from governance.errors import DataError, ReleaseBlockedError
from governance.ledger import read_entries
from governance.storage import exclusive
from r2u_tasks.models import ModelRecord, load_record, read_champion
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.mirror import or_owe, point_alias
from r2u_tasks.stages.taint import require_untainted


def promote(*, model: str, dataset: str, root_uri: str) -> JSON:
    """Let a model of the workspace serve.

    Args:
        model: Its key, or its version in the registry.
        dataset: Declaration.
        root_uri: Workspace.

    Returns:
        ``model_key``, ``model_version``, ``before`` (what served).

    Raises:
        ReleaseBlockedError: It knows an erased person, or its weights are gone.
        DataError: There is no such model.
    """
    context = open_context(dataset, root_uri)
    record = load_record(context.workspace, _key_of(context, model))
    before = read_champion(context.workspace)
    promote_alias(context, record, batch_id=None)
    return {
        "model_key": record.model_key,
        "model_version": record.model_version,
        "before": before,
    }


def roll_back(*, dataset: str, root_uri: str) -> JSON:
    """Let the model serve that served before; otherwise like ``promote``.

    Raises:
        ReleaseBlockedError: It knows an erased person; an older one is not tried by itself.
        DataError: No other model served before.
    """
    context = open_context(dataset, root_uri)
    champion = read_champion(context.workspace)
    served = [
        entry["body"]["model_key"]
        for entry in read_entries(context.workspace.ledger)
        if entry["kind"] == "model_promoted"
    ]
    earlier = [key for key in served if key != champion]
    if not earlier:
        message = "rollback: expected a model that served before, got none"
        raise DataError(message)
    return promote(model=earlier[-1], dataset=dataset, root_uri=root_uri)


def promote_alias(context: StageContext, record: ModelRecord, *, batch_id: str | None) -> None:
    """Let a model serve: ledger first, then the champion file, then MLflow's alias.

    Raises:
        ReleaseBlockedError: It knows an erased person, or its weights are gone.
    """
    with exclusive(context.workspace.champion):  # no erasure begins between question and answer
        require_untainted(context, record.model_key)
        if not (context.workspace.model(record.model_key) / "weights.safetensors").exists():
            message = f"model {record.model_key}: expected its weights, got none; they were purged"
            raise ReleaseBlockedError(message)
        body = {
            "model_key": record.model_key,
            "weights_digest": record.weights_digest,
            "batch_id": batch_id,
            "model_version": record.model_version,
        }
        if _last_promotion(context) != body:
            context.ledger.append("model_promoted", body)
        write_json(
            context.workspace.champion,
            {
                "model_key": record.model_key,
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
                "batch_id": batch_id,
            },
        )
    or_owe(f"alias of {record.model_key}", lambda: point_alias(context, record))


def _last_promotion(context: StageContext) -> JSON | None:
    entries = read_entries(context.workspace.ledger)
    bodies: list[JSON] = [e["body"] for e in entries if e["kind"] == "model_promoted"]
    return bodies[-1] if bodies else None


def _key_of(context: StageContext, model: str) -> str:
    """Return the key of a model that is named by key or by version."""
    for path in sorted(context.workspace.models.glob("*/model.json")):
        record = load_record(context.workspace, path.parent.name)
        if model in (record.model_key, record.model_version):
            return record.model_key
    message = f"promote: expected a model of this workspace, got {model!r}; see `r2u lineage`"
    raise DataError(message)
