"""The batch tier of the forgetting test: one model, judged without retraining anything.

Reference models A never saw any revocable record (phase A of the training makes them; all batches
of a training run share them). Other records that nobody ever saw (``unseen``) are scored beside the
records to forget. For a model that was retrained without the records, both are alike; a model that
still knows the records scores them higher, one that hides them lower. Unlike in the full tier the
references have seen fewer records than the model, which moves both kinds alike.

    shift       Welch's t between the z-scores of the records and of the unseen ones; two-sided
    spread      difference of the logs of their mean z^2; two-sided
    likelihood  difference of their mean offline LiRA scores; not above
    rmia        difference of their mean RMIA scores; not above
    accuracies  on retained and on test records; not below

How these vary between retrained models is not known from A. A *qualification*
(``governance.qualification``) measured it before, and fixed the limits.

Shapes: N reference models, n records to forget, m unseen records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from governance.errors import DataError
from governance.forgetting_metrics.likelihood import fit_gaussians
from governance.forgetting_metrics.membership import lira_offline, rmia

SIDES = {
    "shift": "both",
    "spread": "both",
    "likelihood": "high",
    "rmia": "high",
    "retain_accuracy": "low",
    "test_accuracy": "low",
}
"""Conditions and the side on which they fail."""

MEMBERSHIP = ("shift", "spread", "likelihood", "rmia")
"""Those that are about the records to forget."""

MIN_REFERENCES = 4
MIN_RECORDS = 2
_LARGEST_SCORE = 10.0


@dataclass(frozen=True, slots=True)
class References:
    """Margins of the models that never saw a revocable record, in nats.

    Attributes:
        forget: ``[N, n]``.
        unseen: ``[N, m]``.
    """

    forget: np.ndarray
    unseen: np.ndarray


@dataclass(frozen=True, slots=True)
class BatchModel:
    """What is measured of the model under test.

    Attributes:
        forget: Margins of the records to forget ``[n]``, in nats.
        unseen: Margins of records that no model saw ``[m]``, in nats.
        retain_accuracy: 0-1.
        test_accuracy: 0-1.
    """

    forget: np.ndarray
    unseen: np.ndarray
    retain_accuracy: float
    test_accuracy: float


def batch_statistics(references: References, model: BatchModel) -> dict[str, float]:
    """Return the value of each condition.

    Raises:
        DataError: Too few models or records, shapes that do not fit, or a value that is not finite.
    """
    _require(references, model)
    level = model.unseen.mean()
    levels = references.unseen.mean(axis=1, keepdims=True)
    found, scores = {}, {}
    for name in ("forget", "unseen"):
        out = getattr(references, name) - levels
        own = getattr(model, name) - level
        mean, sd = fit_gaussians(out, shrinkage=0.5)
        found[name] = (own - mean) / sd
        lira = lira_offline(own[None], out)[0]
        scores[name] = float(np.minimum(lira, _LARGEST_SCORE).mean())
    own_p, out_p = ((_probability(m.forget), _probability(m.unseen)) for m in (model, references))
    beaten = rmia(own_p[0], out_p[0], own_p[1], out_p[1])
    beaten_unseen = rmia(own_p[1], out_p[1], own_p[1], out_p[1])
    n, m = len(found["forget"]), len(found["unseen"])
    variance = found["forget"].var(ddof=1) / n + found["unseen"].var(ddof=1) / m
    return {
        "shift": float(
            (found["forget"].mean() - found["unseen"].mean()) / np.sqrt(max(variance, 1e-12))
        ),
        "spread": float(np.log((found["forget"] ** 2).mean() + 1e-12))
        - float(np.log((found["unseen"] ** 2).mean() + 1e-12)),
        "likelihood": scores["forget"] - scores["unseen"],
        "rmia": float(beaten.mean() - beaten_unseen.mean()),
        "retain_accuracy": model.retain_accuracy,
        "test_accuracy": model.test_accuracy,
    }


def limits_of(
    retrained: Mapping[str, np.ndarray], *, error_level: float, max_accuracy_drop: float
) -> dict[str, tuple[float | None, float | None]]:
    """Return the limits (low, high) that a retrained model keeps, all at once, at an error level.

    Each condition has an equal part of the level (Bonferroni), and the predictive t interval of a
    new value among those of ``retrained``.

    Args:
        retrained: Values of each condition for retrained models, ``[K]``, K at least 4.
        error_level: 0-1, over all conditions.
        max_accuracy_drop: Tolerated loss of accuracy, fraction 0-1.
    """
    limits: dict[str, tuple[float | None, float | None]] = {}
    for name, side in SIDES.items():
        values = np.asarray(retrained[name], dtype=np.float64)
        n = len(values)
        if n < MIN_REFERENCES or not np.isfinite(values).all():
            message = f"{name}: expected at least {MIN_REFERENCES} finite values, got {n}"
            raise DataError(message)
        tail = error_level / len(SIDES) / (2 if side == "both" else 1)
        reach = stats.t.isf(tail, df=n - 1) * values.std(ddof=1) * (1 + 1 / n) ** 0.5
        slack = max_accuracy_drop if name.endswith("accuracy") else 0.0
        limits[name] = (
            None if side == "high" else float(values.mean() - reach - slack),
            None if side == "low" else float(values.mean() + reach),
        )
    return limits


def broken_limits(
    values: Mapping[str, float], limits: Mapping[str, tuple[float | None, float | None]]
) -> list[str]:
    """Return the conditions that a model does not keep.

    Raises:
        DataError: A condition is missing or not finite: nothing is skipped.
    """
    if set(limits) != set(values):
        message = f"batch tier: expected values of {', '.join(limits)}, got other ones"
        raise DataError(message)
    if not all(np.isfinite(value) for value in values.values()):
        message = "batch tier: expected finite values, got NaN or infinity"
        raise DataError(message)
    return [
        name
        for name, (low, high) in limits.items()
        if (low is not None and values[name] < low) or (high is not None and values[name] > high)
    ]


def is_audited(batch_id: str, qualification_digest: str, *, one_in: int = 20) -> bool:
    """Say whether a batch is drawn for the full tier; anyone can draw it again.

    >>> sum(is_audited(f"batch-{i}", "sha256:00") for i in range(2000))
    119
    """
    digest = hashlib.sha256(f"{qualification_digest}\0{batch_id}".encode()).digest()
    return int.from_bytes(digest, "big") % one_in == 0


def _probability(margins: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(margins, -500, 500))))


def _require(references: References, model: BatchModel) -> None:
    for name in ("forget", "unseen"):
        own, out = getattr(model, name), getattr(references, name)
        if own.ndim != 1 or out.ndim != 2 or out.shape[1] != len(own):
            message = (
                f"batch tier, {name}: expected margins [n] and [N, n] of the same records, got "
                f"{own.shape} and {out.shape}"
            )
            raise DataError(message)
        if len(own) < MIN_RECORDS or len(out) < MIN_REFERENCES:
            message = (
                f"batch tier, {name}: expected at least {MIN_RECORDS} records and "
                f"{MIN_REFERENCES} reference models, got {len(own)} and {len(out)}"
            )
            raise DataError(message)
        if not (np.isfinite(own).all() and np.isfinite(out).all()):
            message = f"batch tier, {name}: expected finite margins, got NaN or infinity"
            raise DataError(message)
