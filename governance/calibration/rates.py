"""From counts to rates: which hazard a probability means, and what requests say about it.

A policy's probability p is about a horizon of H days. Under a constant hazard h per subject and
day, p = 1 - exp(-h H). Over an exposure of E subject-days, the number of requests is then Poisson
with mean h E. Intervals of a Poisson mean: Garwood (1936), from chi-squared quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from scipy.stats import chi2, norm

from governance.calibration.observations import Observation
from governance.calibration.timeline import trace
from governance.classification.runs import RunRecord

_MAX_PROBABILITY = 0.999


@dataclass(frozen=True, slots=True)
class GroupRate:
    """A risk group against its requests.

    Attributes:
        group: Short digest of the pattern.
        pattern: Names that matched.
        level: Risk level.
        probability: What the policy says, within its horizon.
        n_subjects: Subjects classified, mean over the days.
        exposure_days: Subject-days at risk.
        asked: Subjects who asked themselves, received in these days.
        expected: How many the policy's probability would mean.
        observed: Estimated probability within the horizon, with 95 % interval ``low``, ``high``.
    """

    group: str
    pattern: tuple[str, ...]
    level: str
    probability: float
    n_subjects: float
    exposure_days: float
    asked: int
    expected: float
    observed: float
    low: float
    high: float


def hazard(probability: float, horizon_days: float) -> float:
    """Return the hazard per day that gives a probability within a horizon.

    >>> round(hazard(0.5, 365) * 365, 4)
    0.6931
    """
    return -math.log1p(-min(probability, _MAX_PROBABILITY)) / horizon_days


def within(rate_per_day: float, horizon_days: float) -> float:
    """Return the probability of an event within a horizon: the inverse of ``hazard``."""
    return -math.expm1(-rate_per_day * horizon_days)


def poisson_interval(count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval that holds the mean of a Poisson count with at least this probability.

    >>> [round(end, 2) for end in poisson_interval(10)]
    [4.8, 18.39]
    """
    tail = (1.0 - level) / 2.0
    low = float(chi2.ppf(tail, 2 * count) / 2.0) if count else 0.0
    return low, float(chi2.ppf(1.0 - tail, 2 * count + 2) / 2.0)


def wilson_interval(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval of a share (Wilson 1927); all of [0, 1] if there is nothing.

    >>> [round(end, 3) for end in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2.0))
    share = hits / n
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def group_rates(
    runs: Sequence[RunRecord],
    observations: Sequence[Observation],
    *,
    until: datetime,
) -> list[GroupRate]:
    """Hold the requests against every risk group of one policy.

    Args:
        runs: Classifications, oldest first; those of the newest one's policy count.
        observations: Batches of requests.
        until: End of the time at risk: the oldest receipt that is not decided yet, or now.
    """
    horizon = runs[-1].horizon_days
    timeline = trace(runs, observations, until=until)
    rates = []
    for index, group in sorted(enumerate(timeline.groups), key=lambda pair: pair[1].group):
        time = float(timeline.at_risk[:, index].sum())
        count = int(timeline.asked[:, index].sum())
        if time <= 0:
            continue
        low, high = poisson_interval(count)
        rates.append(
            GroupRate(
                group=group.group,
                pattern=group.pattern,
                level=group.decision.level,
                probability=group.decision.probability,
                n_subjects=float(timeline.classified[:, index].mean()),
                exposure_days=time,
                asked=count,
                expected=hazard(group.decision.probability, horizon) * time,
                observed=within(count / time, horizon),
                low=within(low / time, horizon),
                high=within(high / time, horizon),
            )
        )
    return rates
