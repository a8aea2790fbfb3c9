"""Intervals and corrections: binomial, means, whole models drawn again, many tests at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from governance.errors import DataError


def clopper_pearson(
    successes: int, n: int, *, confidence: float = 0.95, side: str = "both"
) -> tuple[float, float]:
    """Return the exact binomial interval of a rate.

    Args:
        successes: 0 to ``n``.
        n: Number of independent trials, at least 1.
        confidence: Coverage, 0-1.
        side: ``both``; ``upper`` or ``lower`` puts the whole error on that end and leaves the
            other at 0 or 1.

    Raises:
        DataError: Counts that are none.

    Source: Clopper and Pearson 1934. The upper limit for 0 of N, one-sided, is 1 - (1 - c)^(1/N).

    >>> round(clopper_pearson(0, 16, side="upper")[1], 4)
    0.1707
    """
    if n < 1 or not 0 <= successes <= n:
        message = f"Clopper-Pearson: expected 0 <= successes <= n with n >= 1, got {successes}, {n}"
        raise DataError(message)
    error = (1 - confidence) / (2 if side == "both" else 1)
    low = 0.0 if successes == 0 else float(stats.beta.ppf(error, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.isf(error, successes + 1, n - successes))
    return (0.0 if side == "upper" else low), (1.0 if side == "lower" else high)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the t interval of a mean; both ends are the value itself for one model."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def bootstrap_models(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    n_first: int,
    n_second: int,
    *,
    draws: int = 400,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a 95 % percentile interval over whole models, drawn again with replacement.

    Scores of one model share its training, so records are never drawn one by one.

    Args:
        statistic: Of the positions drawn in the first and in the second pool.
        n_first: Models of the first pool.
        n_second: Models of the second pool.
        draws: Number of resamples.
        seed: Of the resamples.
    """
    generator = np.random.default_rng(seed)
    values = [
        statistic(
            generator.integers(0, n_first, n_first), generator.integers(0, n_second, n_second)
        )
        for _ in range(draws)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
