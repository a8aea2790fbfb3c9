"""The accuracy family: UA, RA, TA, MIA against a retrained model, as fractions 0-1.

No value is good by itself: random forgetting leaves a retrained model with a forget accuracy of
95 %, and a lower one is over-forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from governance.errors import DataError
from governance.forgetting_metrics.estimates import Estimate
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
