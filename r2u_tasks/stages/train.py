"""Stage ``train``: a Ready2Unlearn model from the classified table, with manifest and checkpoints.

Reads the classified table, publishes ``models/<model_key>/`` and makes it the champion. Twice is
safe: the model key follows from the run id, a finished run returns its published result, and a
killed one goes on from its last checkpoint.
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
from torch import nn

from governance.digests import write_json
from governance.errors import DataError, R2UError
from governance.storage import read_table, table_exists
from governance.suppression import read_tombstones, suppress
from governance.workspace import safe_key
from r2u_tasks.checkpoint import load_weights, save_weights
from r2u_tasks.config import readiness_config, training_config, unlearning_config
from r2u_tasks.kept_checkpoints import checkpoint_path
from r2u_tasks.metrics import accuracy
from r2u_tasks.model import build_model
from r2u_tasks.models import ModelRecord, load_record, save_record
from r2u_tasks.readiness_choice import choose_readiness
from r2u_tasks.readiness_report import ReadinessReport, compare_readiness
from r2u_tasks.records import Splits, encode_splits
from r2u_tasks.resume import checkpoint_digests
from r2u_tasks.stages import events
from r2u_tasks.stages.commitment import commit_training
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.memorisation import write_memorisation
from r2u_tasks.stages.mirror import mirror_model, or_owe
from r2u_tasks.stages.promotion import promote_alias
from r2u_tasks.stages.unfinished import begin_model, drop_untouched, require_not_erased
from r2u_tasks.team import current_team
from r2u_tasks.training import (
    ProgressCallback,
    TrainingCost,
    train_segments,
)

_log = logging.getLogger(__name__)


def train_ready_model(
    *,
    run_id: str,
    dataset: str,
    root_uri: str,
    progress: ProgressCallback | None = None,
) -> JSON:
    """Train a ready model and make it the champion.

    Args:
        run_id: Names the run; the same id returns the same model.
        dataset: Declaration.
        root_uri: Workspace.
        progress: Called after each epoch.

    Returns:
        ``model_key``, digests, ``ready`` with the guard's findings, metrics and seconds.

    Raises:
        DataError: There is no classified table, or a split is empty.
    """
    context = open_context(dataset, root_uri)

    def work() -> JSON:
        try:
            result: JSON = context.workspace.once(
                "train", run_id, lambda: _train(context, run_id, progress)
            )
        except R2UError:  # wrong input, mostly
            drop_untouched(context, _model_key(run_id))
            raise
        return result

    return events.observe(
        context,
        "train_ready_model",
        run_id,
        work,
        inputs=(events.table(context, "classified"),),
        outputs=lambda result: (events.model(context, result["model_key"]),),
    )


def train_together(
    *,
    run_id: str,
    dataset: str,
    root_uri: str,
    progress: ProgressCallback | None = None,
) -> JSON:
    """Train as one process of a team (``torchrun``) and leave the weights for publication.

    Writes checkpoints and final weights, nothing else; ``train_ready_model`` with the same run id
    then takes them over instead of training, tests and publishes. Twice is safe: a finished run is
    not trained again.

    Args:
        run_id: Names the run.
        dataset: Declaration.
        root_uri: Workspace that every process sees.
        progress: Called after each epoch, in the first process.

    Raises:
        DataError: There is no classified table, or a split is empty.
    """
    context = open_context(dataset, root_uri)
    if context.declaration.readiness.choose == "auto":
        message = (
            "readiness: expected settings, got 'auto' and no choice in this workspace yet; "
            "run `r2u train` once in one process, it chooses them"
        )
        raise DataError(message)
    _require_table(context)
    team = current_team()
    if team.is_leader:
        begin_model(context, _model_key(run_id))
    team.wait()  # noted before anybody reads the table
    _, splits = _read_splits(context, read_tombstones(context.workspace.tombstones))
    _, cost = _fit(context, run_id, splits, progress, keep_finished=True)
    return {"model_key": _model_key(run_id), "train_s": cost.seconds}


def _read_splits(context: StageContext, tombstones: dict[str, set[str]]) -> tuple[pa.Table, Splits]:
    """Read the table; rows that an erasure has named and not reached yet are left out."""
    columns = context.declaration.columns
    table, _ = suppress(
        read_table(context.workspace.classified),
        tombstones=tombstones,
        keys=context.key_ring.keys,
        record_id_column=columns.record_id,
        subject_id_column=columns.subject_id,
    )
    return table, encode_splits(table, context.declaration)


def _require_table(context: StageContext) -> None:
    if not table_exists(context.workspace.classified):
        message = "training: expected a classified table, got none; run `r2u classify` first"
        raise DataError(message)


def _model_key(run_id: str) -> str:
    return f"ready-{safe_key(run_id)}"


def _fit(
    context: StageContext,
    run_id: str,
    splits: Splits,
    progress: ProgressCallback | None,
    *,
    keep_finished: bool = False,
) -> tuple[nn.Module, TrainingCost]:
    declaration, model_key = context.declaration, _model_key(run_id)
    ids = splits.training.records.ids.tolist()
    model = build_model(declaration, declaration.training.seed)
    cost = train_segments(
        model,
        splits.training,
        training=training_config(declaration.training),
        readiness=readiness_config(declaration.readiness),
        checkpoints=context.workspace.model(model_key) / "checkpoints",
        progress=progress,
        resume=True,
        keep_finished=keep_finished,
        ask=lambda: require_not_erased(context, model_key, ids),
    )
    return model, cost


def _with_chosen_readiness(
    context: StageContext, splits: Splits, progress: ProgressCallback | None
) -> StageContext:
    """Choose the readiness settings where the declaration says ``auto``; once in a workspace."""
    if context.declaration.readiness.choose != "auto":
        return context
    choice = choose_readiness(
        context.declaration,
        splits,
        unlearning=unlearning_config(
            context.declaration.unlearning, seed=context.declaration.training.seed
        ),
        progress=progress,
    )
    write_json(context.workspace.readiness_choice, choice.to_dict())
    return context.with_choice()


def _train(context: StageContext, run_id: str, progress: ProgressCallback | None) -> JSON:
    _require_table(context)
    model_key = _model_key(run_id)
    table, splits = _read_splits(context, begin_model(context, model_key))
    context = _with_chosen_readiness(context, splits, progress)
    workspace, declaration = context.workspace, context.declaration
    folder, ids = workspace.model(model_key), splits.training.records.ids.tolist()
    model, cost = _fit(context, run_id, splits, progress)
    require_not_erased(context, model_key, ids)
    weights = save_weights(model, folder / "weights.safetensors")
    kept = checkpoint_digests(folder / "checkpoints")
    manifest = commit_training(context, model_key, table, splits.training, checkpoints=kept)
    require_not_erased(context, model_key, ids)
    phase_a = load_weights(
        build_model(declaration, 0), checkpoint_path(folder, 1), expected_digest=kept.get(1)
    )
    write_memorisation(context, model_key, table=table, splits=splits, model=model, phase_a=phase_a)
    guard = _compare(context, model, phase_a, splits, cost)
    record = ModelRecord(
        model_key=model_key,
        kind="ready",
        parent=None,
        lane=None,
        claim=None,
        batch_id=None,
        weights_digest=weights,
        manifest_digest=manifest.digest,
        manifest_root=manifest.root,
        policy_digest=manifest.policy_digest,
        declaration_digest=declaration.digest,
        feature_scale=splits.scale.to_dict(),
        checkpoints={k: kept.get(k) for k in range(1, splits.training.n_segments)},
        created_at=manifest.created_at,
        metrics={"train_s": cost.seconds, **evaluate(model, splits)},
    )
    require_not_erased(context, model_key, ids)  # the guard takes long
    save_record(workspace, record)
    write_json(folder / "readiness.json", guard.to_dict())
    context.ledger.append(
        "model_trained",
        {
            "model_key": model_key,
            "weights_digest": weights,
            "manifest_root": manifest.root,
            "manifest_digest": manifest.digest,
            "policy_digest": manifest.policy_digest,
            "ready": guard.is_ready,
        },
    )
    registered = register_model(context, record, model)
    promote_alias(context, registered, batch_id=None)
    return {
        "model_key": model_key,
        "weights_digest": weights,
        "manifest_root": manifest.root,
        "manifest_digest": manifest.digest,
        "n_records": manifest.n_records,
        "mlflow_run_id": registered.mlflow_run_id,
        "model_version": registered.model_version,
        "ready": guard.is_ready,
        "findings": list(guard.findings),
        "metrics": record.metrics,
        "seconds": cost.segment_seconds,
    }


def evaluate(model: nn.Module, splits: Splits) -> dict[str, float]:
    """Return accuracies as fractions on stable, revocable and holdout records."""
    stable = splits.training.segment == 0
    values = {
        "stable_accuracy": accuracy(model, splits.training.records.select(stable)),
        "revocable_accuracy": accuracy(model, splits.training.records.select(~stable)),
        "test_accuracy": accuracy(model, splits.holdout),
        "validation_accuracy": accuracy(model, splits.validation),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def register_model(context: StageContext, record: ModelRecord, model: nn.Module) -> ModelRecord:
    """Mirror a model into MLflow, or owe it; the record that comes back has a version or none."""
    or_owe(f"model {record.model_key}", lambda: mirror_model(context, record, model))
    return load_record(context.workspace, record.model_key)


def _compare(
    context: StageContext,
    model: nn.Module,
    before_revocable: nn.Module,
    splits: Splits,
    cost: TrainingCost,
) -> ReadinessReport:
    declaration = context.declaration
    return compare_readiness(
        declaration,
        model,
        before_revocable,
        splits,
        ready_cost=cost,
        unlearning=unlearning_config(declaration.unlearning, seed=declaration.training.seed),
    )
