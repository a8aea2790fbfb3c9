"""The accuracy family: UA, RA, TA, MIA against a retrained model, as fractions 0-1.

No value is good by itself: random forgetting leaves a retrained model with a forget accuracy of
95 %, and a lower one is over-forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from governance.errors import DataError
from governance.forgetting_metrics.estimates import Estimate, require_finite
from governance.forgetting_metrics.intervals import mean_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """Four outcomes of one model.

    Attributes:
        unlearn: UA, 1 - accuracy on the records to forget, 0-1.
        retain: RA, accuracy on the retained records, 0-1.
        test: TA, accuracy on records never trained on, 0-1.
        mia: Share of the records to forget that an attack calls non-members, 0-1.
    """

    unlearn: float
    retain: float
    test: float
    mia: float

    def __post_init__(self) -> None:
        """Refuse what is no fraction.

        Raises:
            DataError: A number below 0, above 1, or NaN.
        """
        if not all(0 <= value <= 1 for value in astuple(self)):
            message = f"outcomes: expected fractions between 0 and 1, got {astuple(self)}"
            raise DataError(message)


def average_gap(model: Outcomes, retrained: Outcomes) -> float:
    """Return Avg. Gap, the mean absolute difference of the four outcomes, in points (0-100).

    Target 0. Source: Fan et al. 2024 (SalUn, 2310.12508), table 1.
    """
    pairs = zip(astuple(model), astuple(retrained), strict=True)
    return 100 * float(np.mean([abs(a - b) for a, b in pairs]))


def tug_of_war(model: Outcomes, retrained: Outcomes) -> float:
    """Return ToW = (1 - |dFA|) (1 - |dRA|) (1 - |dTA|), 0-1; target 1.

    Source: Zhao et al. 2024 (2406.01257), equation 1.
    """
    gaps = (
        model.unlearn - retrained.unlearn,
        model.retain - retrained.retain,
        model.test - retrained.test,
    )
    return float(np.prod([1 - abs(gap) for gap in gaps]))


def tug_of_war_over_seeds(models: Sequence[Outcomes], retrained: Sequence[Outcomes]) -> Estimate:
    """Return ToW over training seeds, each model against the retrained one at its position.

    Raises:
        DataError: The pools have two lengths, or none.
    """
    return _over_seeds(models, retrained, tug_of_war)


def average_gap_over_seeds(models: Sequence[Outcomes], retrained: Sequence[Outcomes]) -> Estimate:
    """Return Avg. Gap over training seeds, in points, paired as in ``tug_of_war_over_seeds``."""
    return _over_seeds(models, retrained, average_gap)


def calibration_error(confidences: np.ndarray, is_right: np.ndarray, *, n_bins: int = 15) -> float:
    """Return the expected calibration error, 0-1: how far confidence and accuracy are apart.

    Bins are of equal width; one at (k - 1) / n to k / n takes its upper end, as in the source.

    Args:
        confidences: Probability of the predicted class, ``[B]``.
        is_right: Whether it is the label, ``[B]``.
        n_bins: Number of bins.

    Raises:
        DataError: Empty, not finite, or of two lengths.

    Source: Guo et al. 2017 (1706.04599), equation 3.

    >>> calibration_error(np.array([0.9, 0.9]), np.array([1, 0]))
    0.4
    """
    p = require_finite("confidences", confidences, n_dimensions=1)
    hit = require_finite("hits", is_right, n_dimensions=1)
    if len(p) != len(hit):
        message = f"calibration: expected one hit for each confidence, got {len(hit)} and {len(p)}"
        raise DataError(message)
    bins = np.clip(np.ceil(p * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, weights=p - hit, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(p))


def _over_seeds(
    models: Sequence[Outcomes],
    retrained: Sequence[Outcomes],
    measure: Callable[[Outcomes, Outcomes], float],
) -> Estimate:
    if not models or len(models) != len(retrained):
        message = (
            "outcomes: expected as many retrained models as models, at least one, "
            f"got {len(retrained)} and {len(models)}"
        )
        raise DataError(message)
    values = np.array([measure(a, b) for a, b in zip(models, retrained, strict=True)])
    if len(values) == 1:
        return Estimate.exact(float(values[0]), 1)
    low, high = mean_interval(values)
    return Estimate(float(values.mean()), low, high, len(values))
