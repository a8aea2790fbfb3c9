"""A candidate model of a batch: the records it is judged by, its record and its evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from torch import nn

from governance.digests import digest_file, write_json
from governance.errors import DigestMismatchError
from governance.manifest import read_members
from governance.report import render_evidence
from governance.storage import read_table
from governance.suppression import pseudonym
from r2u_tasks.batch import read_rows
from r2u_tasks.checkpoint import load_weights, save_weights
from r2u_tasks.data import FeatureScale
from r2u_tasks.evidence import BatchData
from r2u_tasks.kept_checkpoints import checkpoint_path, copy_checkpoints
from r2u_tasks.model import build_model
from r2u_tasks.models import ModelRecord, save_record
from r2u_tasks.records import Splits, encode_splits
from r2u_tasks.resume import checkpoint_digests
from r2u_tasks.stages.commitment import commit_training
from r2u_tasks.stages.context import JSON, StageContext
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.train import evaluate
from r2u_tasks.stages.unlearn.steps import keys_as_in


def batch_data(
    context: StageContext, batch_id: str, parent: ModelRecord, *, lane: str = "approximate"
) -> tuple[Splits, BatchData]:
    """Return the remaining splits and the batch: remaining rows plus the kept ones.

    The scale of the features is the parent's, measured on stable records. The lane ``retrain``
    measures it anew: the erased records are among them, and an exact model owes them nothing. The
    batch then also has the records in the parent's scale, for the parent and its pool.
    """
    workspace, declaration = context.workspace, context.declaration
    kept = read_rows(workspace.batch(batch_id))
    table = read_table(workspace.classified)
    path = workspace.model(parent.model_key) / "members.parquet"
    members = read_members(path)

    def segments_of(rows: pa.Table) -> dict[str, int]:
        ids = rows[declaration.columns.record_id].to_pylist()
        keys = keys_as_in(context, rows, path)
        return {
            record_id: members[key]
            for record_id, key in zip(ids, keys, strict=True)
            if key in members
        }

    segments = segments_of(table)
    both = pa.concat_tables([table, kept.select(table.column_names)])
    all_segments = {**segments, **segments_of(kept)}

    def encoded(scale: FeatureScale | None) -> tuple[Splits, BatchData]:
        after = encode_splits(table, declaration, scale=scale, segments=segments)
        before = encode_splits(both, declaration, scale=after.scale, segments=all_segments).training
        gone = ~np.isin(before.records.ids, after.training.records.ids)
        forget = before.records.select(gone)
        return after, BatchData(before, forget, after.validation, after.holdout)

    after, data = encoded(None if lane == "retrain" else parent.scale)
    if after.scale != parent.scale:
        data = replace(data, in_scale_of_original=encoded(parent.scale)[1])
    return after, data


def model_before(context: StageContext, parent: ModelRecord, segment: int) -> nn.Module:
    """Return a model as it was before a segment k >= 1.

    Raises:
        DigestMismatchError: The weights are not those that training wrote, or nobody noted them.
    """
    path = checkpoint_path(context.workspace.model(parent.model_key), segment)
    digest = parent.checkpoints.get(segment)
    if digest is None:
        message = f"checkpoint {path.name}: expected a noted digest, got none; retrain instead"
        raise DigestMismatchError(message)
    return load_weights(build_model(context.declaration, 0), path, expected_digest=digest)


def save_candidate(
    context: StageContext,
    batch_id: str,
    model: nn.Module,
    splits: Splits,
    data: BatchData,
    parent: ModelRecord,
    evidence: JSON,
    keep: tuple[int, ...],
    cost: dict[str, float],
) -> ModelRecord:
    """Write weights, kept checkpoints, manifest and record; a repeat writes them anew."""
    workspace, lane = context.workspace, evidence["lane"]
    kind = {"approximate": "unlearned", "replay": "replayed", "retrain": "retrained"}[lane]
    model_key = f"{lane}-{batch_id}"
    weights = save_weights(model, workspace.model(model_key) / "weights.safetensors")
    folder, origin = workspace.model(model_key), workspace.model(parent.model_key)
    made: dict[int, str] = {
        **checkpoint_digests(folder / "checkpoints"),
        **copy_checkpoints(origin, folder, parent.checkpoints, keep),
    }
    table = read_table(workspace.classified)
    manifest = commit_training(context, model_key, table, data.after, checkpoints=made)
    record = ModelRecord(
        model_key=model_key,
        kind=kind,
        parent=parent.model_key,
        lane=lane,
        claim=evidence["claim"],
        batch_id=batch_id,
        weights_digest=weights,
        manifest_digest=manifest.digest,
        manifest_root=manifest.root,
        policy_digest=manifest.policy_digest,
        declaration_digest=manifest.declaration_digest,
        feature_scale=splits.scale.to_dict(),
        checkpoints=dict(made),
        created_at=manifest.created_at,
        verdict=evidence["verdict"],
        metrics={**parent.metrics, **evaluate(model, splits), **cost},
    )
    save_record(workspace, record)
    return record


def write_evidence(
    context: StageContext,
    batch_id: str,
    evidence: JSON,
    record: ModelRecord,
    parent: ModelRecord,
    cost: dict[str, float],
) -> None:
    """Write the evidence with lineage and cost, its page, and its digest into the ledger."""
    evidence["batch_id"] = batch_id
    evidence["cost"] = cost
    evidence["lineage"] = {
        "parent_model_key": parent.model_key,
        "parent_weights_digest": parent.weights_digest,
        "parent_manifest_root": parent.manifest_root,
        "model_key": record.model_key,
        "weights_digest": record.weights_digest,
        "manifest_root": record.manifest_root,
        "policy_digest": record.policy_digest,
        "declaration_digest": record.declaration_digest,
    }
    folder = context.workspace.batch(batch_id)
    name = "evidence" if evidence["lane"] == "approximate" else "evidence-replay"
    write_json(folder / f"{name}.json", evidence)
    (folder / f"{name}.html").write_text(render_evidence(evidence), encoding="utf-8")
    note_once(
        context,
        "evidence_recorded",
        {
            "batch_id": batch_id,
            "lane": evidence["lane"],
            "verdict": evidence["verdict"],
            "evidence_digest": digest_file(folder / f"{name}.json"),
        },
    )


def label_salt(context: StageContext, batch_id: str) -> bytes:
    """Return the salt of the record labels of a batch: of the workspace's key, so a repeat has it.

    Only who holds that key can find the line of an id, and no label is the same in two batches.
    """
    return bytes.fromhex(pseudonym(context.pseudonym_key, "evidence", batch_id))


def summary(evidence: JSON, record: ModelRecord) -> JSON:
    """Return what later steps need to know of a lane's outcome."""
    return {
        "verdict": evidence["verdict"],
        "claim": evidence["claim"],
        "lane": evidence["lane"],
        "reasons": evidence["reasons"],
        "model_key": record.model_key,
    }


def cost_of(parent: ModelRecord, seconds: float, evidence_s: float) -> dict[str, float]:
    """Return seconds of unlearning and of its evidence, beside those of the first training."""
    retrain_s = parent.metrics["train_s"]
    return {
        "unlearn_s": seconds,
        "evidence_s": evidence_s,
        "retrain_s": retrain_s,
        "share_of_retrain": seconds / retrain_s if retrain_s > 0 else 0.0,
    }
