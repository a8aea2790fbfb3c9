"""Deleting what still remembers the erased records: weights, checkpoints and pools."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from governance.digests import read_json
from governance.errors import DataError
from governance.manifest import read_members
from r2u_tasks.batch import read_rows
from r2u_tasks.evidence import pools_to_keep
from r2u_tasks.models import load_record, update_record
from r2u_tasks.pools import drop_pools
from r2u_tasks.stages.context import JSON, StageContext
from r2u_tasks.stages.unlearn.candidate import batch_data
from r2u_tasks.stages.unlearn.steps import record_keys


def forget_leftovers(
    context: StageContext, batch_id: str, plan: JSON, promotion: JSON
) -> dict[str, int]:
    """Delete weights, checkpoints and pools of every model that was trained on the records.

    Older models count like the one that served, here and in the registry. A model whose members
    cannot be read may have seen them and goes too.
    """
    workspace = context.workspace
    erased = set(record_keys(context, read_rows(workspace.batch(batch_id))))
    removed = 0
    for path in sorted(workspace.models.glob("*/model.json")):
        key = path.parent.name
        # The rejected candidate of this batch was changed from weights that knew the records.
        rejected = read_json(path).get("batch_id") == batch_id
        if key == promotion["model_key"] or not (rejected or _may_hold(path.parent, erased)):
            continue
        record = load_record(workspace, key)
        if record.model_version:
            context.tracker.remove_weights(context.registered_model, record.model_version)
        if (path.parent / "weights.safetensors").exists():
            (path.parent / "weights.safetensors").unlink()
            removed += 1
        shutil.rmtree(path.parent / "checkpoints", ignore_errors=True)
        update_record(workspace, key, checkpoints=())
    _, data = batch_data(context, batch_id, load_record(workspace, plan["model_key"]))
    pools = drop_pools(workspace.pools, keep=pools_to_keep(context.declaration, data))
    return {"models_removed": removed, "pools_removed": pools}


def _may_hold(folder: Path, record_keys: Collection[str]) -> bool:
    try:
        members = read_members(folder / "members.parquet")
    except DataError:
        return True
    return not members.keys().isdisjoint(record_keys)
