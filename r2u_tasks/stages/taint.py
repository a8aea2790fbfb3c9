"""Which models may not serve, because they know somebody who was erased.

A model is tainted when its manifest holds a record with a tombstone, when nobody can tell what it
was trained on, when the gate did not accept it, or when it was fine-tuned from a tainted model.
Every move of an alias asks here first; ``sentinel`` asks for the moves that went around us.
"""

from __future__ import annotations

from collections.abc import Mapping

from governance.errors import DataError, ReleaseBlockedError
from governance.manifest import find_members
from governance.suppression import read_tombstones
from r2u_tasks.models import CHILD, ModelRecord, load_record
from r2u_tasks.stages.context import StageContext


def require_untainted(context: StageContext, model_key: str) -> None:
    """Refuse to let a model serve that knows an erased person.

    Raises:
        ReleaseBlockedError: It is tainted; the message says by what, in counts.
    """
    why = why_tainted(context, model_key)
    if why is not None:
        message = f"model {model_key}: expected one that knows no erased record, got: {why}"
        raise ReleaseBlockedError(message)


def why_tainted(context: StageContext, model_key: str) -> str | None:
    """Return why a model may not serve, None when it may."""
    erased = read_tombstones(context.workspace.tombstones)["record"]
    return _why(context, model_key, erased)


def why_version_tainted(context: StageContext, params: Mapping[str, str]) -> str | None:
    """Return why a version in MLflow may not serve, None when it may.

    Args:
        context: Dataset and workspace.
        params: Params of the run behind it; empty where it is not one of ours.
    """
    model_key = params.get("model_key", "")
    why = why_tainted(context, model_key)
    if why is not None:
        return why
    if params.get("weights_digest") != load_record(context.workspace, model_key).weights_digest:
        return "its weights are not those of the model's record, so nobody can tell whom they know"
    return None


def _why(context: StageContext, model_key: str, erased: set[str]) -> str | None:
    try:
        record = load_record(context.workspace, model_key)
    except DataError:
        return "it is not one of this workspace, so nobody can tell what it was trained on"
    if record.verdict not in (None, "accept"):
        return f"the gate's verdict on it is {record.verdict!r}"
    folder = context.workspace.model(model_key)
    try:
        held = find_members(folder / "members.parquet", erased)
    except DataError:
        return "its training manifest cannot be read"
    if held:
        return f"its training manifest holds {len(held)} erased records"
    return _inherited(context, record, erased)


def _inherited(context: StageContext, record: ModelRecord, erased: set[str]) -> str | None:
    """Return the taint of the parent of a child: nothing was done to the child to forget."""
    if record.kind != CHILD or record.parent is None:
        return None
    why = _why(context, record.parent, erased)
    return None if why is None else f"it was fine-tuned from {record.parent}, of which {why}"
