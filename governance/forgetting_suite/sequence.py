"""Drift over a sequence of approximate batches, and when it is time to retrain.

Each approximate batch starts from the model that the last one left, so small losses add up. An
exact model (replayed or retrained) starts the count anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_BATCHES = 20
"""Approximate batches in a row after which a retrain is due, whatever the numbers say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPoint:
    """One approximate batch.

    Attributes:
        batch: Its name; no personal data.
        n_forget: Records that it was asked to forget.
        test_gap: Test accuracy of retrained models less that of the released one, fraction 0-1.
        retain_gap: The same for retained records.
        shift: Mean z of the margins of its forget records.
        batch_auc: Of its unlearned pool against retrained models; None without a pool.
    """

    batch: str
    n_forget: int
    test_gap: float
    retain_gap: float
    shift: float
    batch_auc: float | None = None


def point_of(evidence: dict[str, Any], batch: str) -> BatchPoint:
    """Return the point of an evidence document (schema 2 or 3)."""
    candidate, columns = evidence["candidate"], evidence["columns"]
    retrained = columns["retrained"]
    return BatchPoint(
        batch=batch,
        n_forget=int(evidence["n_forget"]),
        test_gap=retrained["test_accuracy"]["value"] - candidate["test_accuracy"],
        retain_gap=retrained["retain_accuracy"]["value"] - candidate["retain_accuracy"],
        shift=candidate["shift"],
        batch_auc=columns["unlearned"]["batch_auc_likelihood"]["value"],
    )


def sequence_of(points: Sequence[BatchPoint], *, budget: float) -> dict[str, Any]:
    """Return E8: the drift curve, the forget-size curve and whether a retrain is due.

    Args:
        points: Approximate batches since the last exact model, oldest first; the last is this one.
        budget: Tolerated loss of test or retain accuracy against retrained models, fraction 0-1.
    """
    reasons = []
    for name in ("test_gap", "retain_gap"):
        lost = getattr(points[-1], name) if points else 0.0
        if lost > budget:
            words = name.replace("_gap", " accuracy")
            reasons.append(f"{words} is {lost:.3f} below retrained models; the budget is {budget}")
    if len(points) >= MAX_BATCHES:
        reasons.append(f"{len(points)} approximate batches in a row; at most {MAX_BATCHES}")
    total = 0
    sizes = []
    for point in points:
        total += point.n_forget
        sizes.append(total)
    return {
        "points": [asdict(point) for point in points],
        "n_forgotten": sizes,
        "budget": budget,
        "retrain_due": bool(reasons),
        "reasons": reasons,
    }
