"""Records that a model is *less* sure of, or surer, than models that never saw them.

A record that stands out among never-learned ones is a disclosure too (the Streisand effect), and
one-sided measures reward it.

Shapes: N models under test, M retrained models, n records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from governance.errors import DataError
from governance.forgetting_metrics.estimates import Estimate, require_pools
from governance.forgetting_metrics.intervals import mean_interval
from governance.forgetting_metrics.likelihood import MIN_DEVIATION_NATS, MIN_MODELS, fit_gaussians

COVERAGE = 0.99
"""Share of retrained models inside the range of a record."""

MAX_SHARE = 0.02
"""Share of records outside of it that is still fine."""


@dataclass(frozen=True, slots=True)
class BeyondRange:
    """Share of records outside the 99 % range of retrained models, a mean over models.

    Attributes:
        beyond: Either side, 0-1; 0.01 is expected of a retrained model.
        below: Over-forgotten: a margin below the range.
        above: Still visible: a margin above it.
    """

    beyond: Estimate
    below: Estimate
    above: Estimate

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return {
            "share_beyond_99": self.beyond.to_dict(),
            "share_below_99": self.below.to_dict(),
            "share_above_99": self.above.to_dict(),
        }


def z_scores(
    values: np.ndarray,
    retrained: np.ndarray,
    *,
    shrinkage: float = 0.0,
    floor: float = MIN_DEVIATION_NATS,
) -> np.ndarray:
    """Return (value - mean) / (deviation sqrt(1 + 1/M)) of each model and record, ``[N, n]``.

    Under the null they follow a t distribution with M - 1 degrees of freedom: the prediction of a
    new model from M ones.

    Args:
        values: Margins, losses or entropies ``[N, n]``.
        retrained: The same of retrained models ``[M, n]``, M at least ``MIN_MODELS``.
        shrinkage: As in ``fit_gaussians``; above 0 the t distribution is an approximation.
        floor: As in ``fit_gaussians``, in the unit of the values; the default is for margins.

    Raises:
        DataError: Bad or too small pools.
    """
    tested, reference = require_pools(values, retrained)
    if len(reference) < MIN_MODELS:
        message = f"z-scores: needs at least {MIN_MODELS} retrained models, got {len(reference)}"
        raise DataError(message)
    mean, deviation = fit_gaussians(reference, shrinkage=shrinkage, floor=floor)
    return np.asarray((tested - mean) / (deviation * np.sqrt(1 + 1 / len(reference))))


def share_beyond_range(values: np.ndarray, retrained: np.ndarray) -> BeyondRange:
    """Return the share of records outside the range that holds 99 % of retrained models.

    Args:
        values: Margins ``[N, n]`` of the models under test.
        retrained: Margins ``[M, n]``.

    Raises:
        DataError: Bad or too small pools.
    """
    z = z_scores(values, retrained)
    limit = float(stats.t.ppf((1 + COVERAGE) / 2, len(retrained) - 1))
    return BeyondRange(
        *(_share(hit) for hit in (np.abs(z) > limit, z < -limit, z > limit)),
    )


def _share(hits: np.ndarray) -> Estimate:
    """Return the mean share of records over models, with a t interval inside 0-1."""
    shares = hits.mean(axis=1)
    if len(shares) == 1:
        return Estimate.exact(float(shares[0]), 1)
    low, high = mean_interval(shares)
    return Estimate(float(shares.mean()), max(0.0, low), min(1.0, high), len(shares))
