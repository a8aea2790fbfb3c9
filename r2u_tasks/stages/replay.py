"""Stage ``replay``: run an exact batch again and compare the weights, bit for bit.

An exact claim says how a model was made: trained from a state that never saw the records, on the
records that stayed. Whoever has both can train again; on a CPU, with the same code and libraries,
the same bits come out. A later batch that erases some of those records ends this for good: a run
that succeeded before is therefore worth noting in the ledger (``note``).
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from governance.digests import read_json
from governance.errors import DigestMismatchError
from governance.ledger import read_entries
from governance.manifest import Drift, read_members
from governance.storage import read_table
from r2u_tasks.checkpoint import load_weights
from r2u_tasks.config import readiness_config, training_config
from r2u_tasks.kept_checkpoints import checkpoint_path
from r2u_tasks.model import build_model, weights_digest
from r2u_tasks.models import ModelRecord, load_record
from r2u_tasks.provenance import code_digest, library_versions
from r2u_tasks.records import encode_splits
from r2u_tasks.stages.commitment import table_drift
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.unlearn.steps import keys_as_in
from r2u_tasks.training import STABLE, ProgressCallback, SegmentedRecords, train_segments


def replay_batch(
    *,
    batch_id: str,
    dataset: str,
    root_uri: str,
    from_scratch: bool = False,
    note: bool = False,
    progress: ProgressCallback | None = None,
) -> JSON:
    """Train the model of an exact batch again.

    Args:
        batch_id: A closed batch.
        dataset: Declaration.
        root_uri: Workspace.
        from_scratch: Also for the lane ``replay``, start from the first random weights instead of
            the checkpoint: nothing has to be believed about the checkpoint then.
        note: Write a success into the ledger.
        progress: Called after each epoch.

    Returns:
        ``outcome`` (``same``, ``differs`` or ``impossible``) and ``detail``, in words.
    """
    context = open_context(dataset, root_uri)
    folder = context.workspace.batch(batch_id)
    plan, result = read_json(folder / "plan.json"), read_json(folder / "result-model.json")
    why = _impossible(context, plan, result, from_scratch=from_scratch)
    if why is not None:
        return {"outcome": "impossible", "detail": why + _noted(context, batch_id)}
    record = load_record(context.workspace, result["model_key"])
    scratch = from_scratch or result["lane"] == "retrain"
    first = STABLE if scratch else plan["first_segment"]
    try:
        model = _start(context, record, None if scratch else first, batch_id)
    except DigestMismatchError as error:
        detail = (
            f"the checkpoint before slice {first} is not the one of the sealed manifest: {error}; "
            "--from-scratch does not need it"
        )
        return {"outcome": "differs", "detail": detail}
    train_segments(
        model,
        _training_records(context, record),
        training=training_config(context.declaration.training),
        readiness=readiness_config(context.declaration.readiness),
        first_segment=first,
        progress=progress,
    )
    start = "the first random weights" if scratch else f"the checkpoint before slice {first}"
    got = weights_digest(model)
    if got != record.weights_digest:
        return {"outcome": "differs", "detail": _difference(context, record, got, start)}
    if note:
        body = {"batch_id": batch_id, "weights_digest": got, "from": start, "code": code_digest()}
        note_once(context, "replay_verified", body)
    return {"outcome": "same", "detail": f"trained again from {start}: the same bits, {got}"}


def _impossible(
    context: StageContext, plan: JSON, result: JSON, *, from_scratch: bool
) -> str | None:
    """Return why a batch cannot be run again, in words; None when it can."""
    if result["claim"] != "exact":
        return (
            "the claim is approximate: the weights were changed with the help of the erased "
            "records, which are gone. What can be repeated are the tests, on the certified weights"
        )
    if plan["n_trained_records"] == 0:
        return "nothing was trained: the model never knew the records, and stayed as it was"
    record = load_record(context.workspace, result["model_key"])
    table = read_table(context.workspace.classified)
    drift = table_drift(context, table, record.model_key, ())
    if drift != Drift(0, 0):
        return _missing(context, record, drift)
    if result["lane"] == "retrain" or from_scratch:
        return None
    first = plan["first_segment"]
    if not checkpoint_path(context.workspace.model(record.model_key), first).is_file():
        return "the checkpoint before the records is gone; --from-scratch does not need it"
    if _sealed_checkpoint(context, plan["batch_id"], first) is None:
        return (
            "the sealed manifest, of an older version, names no digest of the checkpoint before "
            "the records, so nobody can tell what it is; --from-scratch does not need it"
        )
    return None


def _sealed_checkpoint(context: StageContext, batch_id: str, segment: int) -> str | None:
    """Return the digest of the checkpoint that training of the model before committed to.

    It is that of the bundle's members.json, which the certificate signs: not what the workspace
    says now.
    """
    path = context.workspace.batch(batch_id) / "members.json"
    members = read_json(path) if path.exists() else {"parent": {}}  # of version 1
    digest: str | None = members["parent"].get("checkpoints", {}).get(str(segment))
    return digest


def _missing(context: StageContext, record: ModelRecord, drift: Drift) -> str:
    path = context.workspace.model(record.model_key) / "members.parquet"
    n_records = len(read_members(path))
    parts = []
    if drift.gone:
        parts.append(f"{drift.gone} were erased since, by later batches or in the source")
    if drift.changed:
        parts.append(f"{drift.changed} were changed by loads")
    return (
        f"of the {n_records} records that the model was trained on, {' and '.join(parts)}; without "
        "them the same weights cannot come out. The model that serves now is the one to check"
    )


def _noted(context: StageContext, batch_id: str) -> str:
    for entry in read_entries(context.workspace.ledger):
        if entry["kind"] == "replay_verified" and entry["body"].get("batch_id") == batch_id:
            return (
                f". It was run again with the same bits on {entry['at'][:10]}, as entry "
                f"{entry['seq']} of the ledger says"
            )
    return ". No earlier success is noted in the ledger"


def _start(
    context: StageContext, record: ModelRecord, segment: int | None, batch_id: str
) -> nn.Module:
    if segment is None:
        return build_model(context.declaration, context.declaration.training.seed)
    return load_weights(
        build_model(context.declaration, 0),
        checkpoint_path(context.workspace.model(record.model_key), segment),
        expected_digest=_sealed_checkpoint(context, batch_id, segment),
    )


def _training_records(context: StageContext, record: ModelRecord) -> SegmentedRecords:
    table = read_table(context.workspace.classified)
    path = context.workspace.model(record.model_key) / "members.parquet"
    members = read_members(path)
    ids = table[context.declaration.columns.record_id].to_pylist()
    keys = keys_as_in(context, table, path)
    segments = {i: members[key] for i, key in zip(ids, keys, strict=True) if key in members}
    splits = encode_splits(table, context.declaration, scale=record.scale, segments=segments)
    return splits.training


def _difference(context: StageContext, record: ModelRecord, got: str, start: str) -> str:
    made = read_json(Path(context.workspace.model(record.model_key)) / "manifest.json")
    text = f"trained again from {start}: expected {record.weights_digest}, got {got}"
    packages = library_versions()
    changed = sorted(n for n in packages if packages[n] != made["packages"].get(n))
    if made["code_digest"] != code_digest():
        changed.insert(0, "this project's code")
    if made["declaration_digest"] != context.declaration.digest:
        changed.insert(0, "the declaration")
    if changed:
        return f"{text}; it was made with another version of {', '.join(changed)}: use that one"
    return (
        f"{text}; code and libraries are the same: another processor, or another way of making it"
    )
