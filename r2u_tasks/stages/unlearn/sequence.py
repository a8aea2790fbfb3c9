"""The approximate batches in a row that a model is made of: their drift, and when to retrain."""

from __future__ import annotations

from governance.digests import read_json
from governance.forgetting_suite.sequence import BatchPoint, point_of, sequence_of
from r2u_tasks.models import ModelRecord
from r2u_tasks.stages.context import JSON, StageContext

_FILE = "evidence.json"


def sequence_with(
    context: StageContext, parent: ModelRecord, evidence: JSON, batch_id: str
) -> JSON:
    """Return the drift over the approximate batches before this one and with it."""
    points = [*_points_before(context, parent), point_of(evidence, batch_id)]
    return sequence_of(points, budget=context.declaration.evidence.max_accuracy_drop)


def retrain_reasons(context: StageContext, parent: ModelRecord) -> list[str]:
    """Return why no further approximate batch may start from this model; none if one may."""
    if parent.lane != "approximate" or parent.batch_id is None:
        return []
    path = context.workspace.batch(parent.batch_id) / _FILE
    sequence = read_json(path).get("sequence") if path.exists() else None
    if not sequence or not sequence["retrain_due"]:
        return []
    return [f"drift over the batches before: {reason}" for reason in sequence["reasons"]]


def _points_before(context: StageContext, parent: ModelRecord) -> list[BatchPoint]:
    """Return the points that the parent's evidence holds; none after an exact model.

    Evidence of schema 2 has no sequence: its own point is taken, and older ones are not known.
    """
    if parent.lane != "approximate" or parent.batch_id is None:
        return []
    path = context.workspace.batch(parent.batch_id) / _FILE
    if not path.exists():
        return []
    evidence = read_json(path)
    if "sequence" in evidence:
        return [BatchPoint(**point) for point in evidence["sequence"]["points"]]
    return [point_of(evidence, parent.batch_id)]
