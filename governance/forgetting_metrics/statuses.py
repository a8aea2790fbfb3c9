"""One status for each record: the worst case is what a person asks about.

Shapes: N models under test, M retrained models, n records.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from scipy import stats

from governance.forgetting_metrics.estimates import require_pools
from governance.forgetting_metrics.intervals import holm
from governance.forgetting_metrics.overforgetting import z_scores

INDISTINGUISHABLE = "indistinguishable"
STILL_VISIBLE = "still_visible"
OVER_FORGOTTEN = "over_forgotten"
UNDERPOWERED = "underpowered"
STATUSES = (INDISTINGUISHABLE, STILL_VISIBLE, OVER_FORGOTTEN, UNDERPOWERED)


@dataclass(frozen=True, slots=True)
class RecordTests:
    """Test of each record.

    Attributes:
        p_values: Two-sided, ``[n]``.
        adjusted: After Holm's correction over the records, ``[n]``.
        statuses: One of ``STATUSES`` for each record.
    """

    p_values: np.ndarray
    adjusted: np.ndarray
    statuses: list[str]

    def counts(self) -> dict[str, int]:
        """Return how many records have each status that occurs."""
        return {name: self.statuses.count(name) for name in STATUSES if name in self.statuses}


def pool_statuses(
    models: np.ndarray, retrained: np.ndarray, *, error_level: float = 0.05
) -> RecordTests:
    """Test each record by two-sided Mann-Whitney tests of a pool against retrained models.

    ``underpowered`` where not even complete separation could be told from chance after Holm's
    correction at these sizes.

    Raises:
        DataError: Bad pools.
    """
    ours, theirs = require_pools(models, retrained)
    test = stats.mannwhitneyu(ours, theirs, axis=0, alternative="two-sided", method="auto")
    p_values = np.atleast_1d(np.asarray(test.pvalue, dtype=np.float64))
    smallest = 2 / comb(len(ours) + len(theirs), len(ours))
    higher = np.median(ours, axis=0) > np.median(theirs, axis=0)
    return _statuses(p_values, higher, smallest, error_level)


def model_statuses(
    model: np.ndarray,
    retrained: np.ndarray,
    *,
    error_level: float = 0.05,
    shrinkage: float = 0.0,
) -> RecordTests:
    """Test each record of one model by the predictive t distribution of retrained models.

    Args:
        model: Margins ``[n]``.
        retrained: Margins ``[M, n]``.
        error_level: Joint over the records, 0-1.
        shrinkage: As in ``fit_gaussians``.

    Raises:
        DataError: Bad or too small pools.
    """
    z = z_scores(np.asarray(model)[None, :], retrained, shrinkage=shrinkage)[0]
    degrees = len(retrained) - 1
    p_values = 2 * stats.t.sf(np.abs(z), df=degrees)
    # The t tail of a difference that no one would dispute.
    smallest = 2 * stats.t.sf(50.0, df=degrees)
    return _statuses(p_values, z > 0, float(smallest), error_level)


def _statuses(
    p_values: np.ndarray, is_higher: np.ndarray, smallest: float, error_level: float
) -> RecordTests:
    adjusted = np.array(holm(p_values.tolist()))
    if smallest * len(p_values) > error_level:
        return RecordTests(p_values, adjusted, [UNDERPOWERED] * len(p_values))
    statuses = [
        INDISTINGUISHABLE if p > error_level else STILL_VISIBLE if higher else OVER_FORGOTTEN
        for p, higher in zip(adjusted, is_higher, strict=True)
    ]
    return RecordTests(p_values, adjusted, statuses)
