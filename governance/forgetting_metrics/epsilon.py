"""How far two pools are apart for one record, in the terms of differential privacy.

``record_epsilons`` follows the scorer of the NeurIPS 2023 unlearning challenge; it estimates, and
two pools of one and the same distribution give about 1.1, whatever N. ``certified_epsilons`` gives
a lower bound with a confidence level instead: thresholds are chosen on one half of the models, and
upper confidence limits of the error rates are taken from the other half.

Shapes: N unlearned and M retrained models, n records.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import optimize, stats

from governance.errors import DataError
from governance.forgetting_metrics.estimates import require_pools
from governance.forgetting_metrics.intervals import clopper_pearson

DELTA = 1e-5
MAX_EPSILON = 50.0
BIN_WIDTH = 0.5
N_BINS = 13
_NARROW = 0.01
_NULL_RECORDS = 400
_CHUNK = 256


def gaussian_epsilon(distance: float, delta: float = DELTA) -> float:
    """Return the epsilon of two Gaussians of unit deviation, from the best single threshold.

    Args:
        distance: Difference of the means in units of their common deviation, above 0.
        delta: 0-1.

    Returns:
        The root e of delta = Phi(d/2 - e/d) - exp(e) Phi(-d/2 - e/d); 0 where even e = 0 has a
        smaller delta.

    Raises:
        DataError: A distance of 0 or less.

    Source: Balle and Wang 2018 (1805.06530), theorem 8.

    >>> round(gaussian_epsilon(1.0), 3)
    4.377
    """
    if not distance > 0:
        message = f"epsilon of two Gaussians: expected a distance above 0, got {distance}"
        raise DataError(message)

    def excess(epsilon: float) -> float:
        tail = epsilon + stats.norm.logcdf(-distance / 2 - epsilon / distance)
        return float(stats.norm.cdf(distance / 2 - epsilon / distance) - math.exp(tail) - delta)

    if excess(0.0) <= 0:
        return 0.0
    upper = 1.0
    while excess(upper) > 0:
        upper *= 2
    return float(optimize.brentq(excess, 0.0, upper, xtol=1e-10))


def record_epsilons(
    unlearned: np.ndarray,
    retrained: np.ndarray,
    *,
    double_thresholds: bool = False,
    delta: float = DELTA,
) -> np.ndarray:
    """Return the estimated epsilon of each record, ``[n]``, 0 to ``MAX_EPSILON``.

    The pool with the larger median counts as positive. A rule with both errors at 0 gives the
    maximum, one with exactly one of them at 0 is left out. Where one pool's range is less than a
    hundredth of the other's, the record has the maximum.

    Args:
        unlearned: ``[N, n]`` margins.
        retrained: ``[M, n]`` margins.
        double_thresholds: Also intervals between two thresholds, and what is outside of them.
        delta: 0-1.

    Raises:
        DataError: Bad pools.

    Source: NeurIPS 2023 unlearning challenge, evaluation notes. Thresholds are all midpoints of the
    pooled margins, not a grid.
    """
    first, second = require_pools(unlearned, retrained)
    swap = np.median(first, axis=0) < np.median(second, axis=0)
    n, m = len(first), len(second)
    above_first, above_second = _counts_above(first, second)
    epsilons = np.zeros(first.shape[1])
    for start in range(0, first.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        a, b = above_first[:, part] / n, above_second[:, part] / m
        if double_thresholds:
            low, high = np.triu_indices(len(a), k=1)
            a, b = a[low] - a[high], b[low] - b[high]  # between two thresholds; all of it included
            a, b = np.concatenate([a, 1 - a]), np.concatenate([b, 1 - b])
        positive, negative = np.where(swap[part], b, a), np.where(swap[part], a, b)
        epsilons[part] = _best_rule(negative, 1 - positive, delta).max(axis=0)
    span_first, span_second = np.ptp(first, axis=0), np.ptp(second, axis=0)
    narrow = np.minimum(span_first, span_second) < _NARROW * np.maximum(span_first, span_second)
    return np.where(narrow, MAX_EPSILON, np.clip(epsilons, 0, MAX_EPSILON))


def forgetting_score(epsilons: np.ndarray) -> float:
    """Return F = mean over records of H(epsilon), 0-1; larger is better, but see ``score_null``.

    H(s) = 2 / 2^k for epsilon in bin k = 1 ... 13 of width 0.5, and 0 beyond.

    Source: NeurIPS 2023 unlearning challenge, with 13 bins as in its text (its scorer has 14).

    >>> forgetting_score(np.array([0.2, 0.7, 9.0]))
    0.5
    """
    bins = np.floor(np.asarray(epsilons) / BIN_WIDTH)
    return float(np.where(bins < N_BINS, 2.0**-bins, 0.0).mean())


@cache
def score_null(n_unlearned: int, n_retrained: int, *, double_thresholds: bool = False) -> float:
    """Return F of two pools of one Gaussian: what a perfect unlearner gets at this size.

    Simulated over 400 records with a fixed seed.
    """
    generator = np.random.default_rng(0)
    pools = [generator.normal(size=(n, _NULL_RECORDS)) for n in (n_unlearned, n_retrained)]
    return forgetting_score(record_epsilons(*pools, double_thresholds=double_thresholds))


def certified_epsilon(
    false_positives: int,
    n_negative: int,
    false_negatives: int,
    n_positive: int,
    *,
    confidence: float = 0.95,
    delta: float = DELTA,
) -> float:
    """Return a lower bound of epsilon from errors of a rule that was chosen on other models.

    Args:
        false_positives: Of the negative models.
        n_negative: Negative models.
        false_negatives: Of the positive models.
        n_positive: Positive models.
        confidence: One-sided, of each of both rates; jointly at least 2 * confidence - 1.
        delta: 0-1.

    Returns:
        The bound, at least 0.

    >>> round(certified_epsilon(0, 16, 0, 16), 2)
    1.58
    """
    fpr = clopper_pearson(false_positives, n_negative, confidence=confidence, side="upper")[1]
    fnr = clopper_pearson(false_negatives, n_positive, confidence=confidence, side="upper")[1]
    terms = [
        math.log((1 - delta - a) / b) for a, b in ((fpr, fnr), (fnr, fpr)) if 1 - delta - a > 0
    ]
    return max(0.0, *terms) if terms else 0.0


def largest_certifiable_epsilon(n: int, *, confidence: float = 0.95, delta: float = DELTA) -> float:
    """Return the bound for no error in n models of either pool: what N allows at most.

    >>> [round(largest_certifiable_epsilon(n), 2) for n in (16, 64, 128, 512)]
    [1.58, 3.04, 3.74, 5.14]
    """
    return certified_epsilon(0, n, 0, n, confidence=confidence, delta=delta)


def certified_epsilons(
    unlearned: np.ndarray,
    retrained: np.ndarray,
    *,
    confidence: float = 0.975,
    delta: float = DELTA,
) -> np.ndarray:
    """Return a lower bound of epsilon for each record, ``[n]``, jointly 95 % for each record.

    The first half of each pool chooses direction and threshold, the other half gives the rates.

    Args:
        unlearned: ``[N, n]`` margins, N at least 4.
        retrained: ``[M, n]`` margins, M at least 4.
        confidence: One-sided, of each rate; 0.975 makes 95 % for both.
        delta: 0-1.

    Raises:
        DataError: Bad pools, or fewer than 4 models.
    """
    first, second = require_pools(unlearned, retrained)
    n, m = len(first) // 2, len(second) // 2
    if min(n, m) < 2:
        message = (
            "epsilon bound: needs at least 4 models in each pool, "
            f"got {len(first)} and {len(second)}"
        )
        raise DataError(message)
    bounds = np.empty(first.shape[1])
    for record in range(first.shape[1]):
        threshold, is_above = _choose_rule(first[:n, record], second[:m, record])
        called = [(part[:, record] > threshold) == is_above for part in (first[n:], second[m:])]
        bounds[record] = certified_epsilon(
            int(called[1].sum()),
            len(called[1]),
            int((~called[0]).sum()),
            len(called[0]),
            confidence=confidence,
            delta=delta,
        )
    return bounds


def _choose_rule(positive: np.ndarray, negative: np.ndarray) -> tuple[float, bool]:
    """Return the threshold with the fewest errors, and whether positive models are above it."""
    thresholds = _midpoints(np.concatenate([positive, negative])[:, None])[:, 0]
    above = [(part[None, :] > thresholds[:, None]).sum(axis=1) for part in (positive, negative)]
    gap = above[0] * len(negative) - above[1] * len(positive)  # whole numbers: ties stay ties
    best = int(np.abs(gap).argmax())
    return float(thresholds[best]), bool(gap[best] >= 0)


def _counts_above(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many models of each pool are above each threshold, ``[N + M + 1, n]`` each."""
    thresholds = _midpoints(np.concatenate([first, second]))
    counts = []
    for pool in (first, second):
        above = [(pool > threshold).sum(axis=0) for threshold in thresholds]
        counts.append(np.array(above, dtype=np.float64))
    return counts[0], counts[1]


def _midpoints(values: np.ndarray) -> np.ndarray:
    """Return thresholds below, between and above the values of each column, ``[K + 1, n]``."""
    ordered = np.sort(values, axis=0)
    between = ordered[:-1] + (ordered[1:] - ordered[:-1]) / 2
    return np.concatenate([ordered[:1] - 1, between, ordered[-1:] + 1])


def _best_rule(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
    """Return the epsilon of each rule, 0 where it is left out."""
    none, one = (fpr == 0) & (fnr == 0), (fpr == 0) != (fnr == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [
            np.where(1 - delta - a > 0, np.log(np.maximum(1 - delta - a, 1e-300) / b), 0.0)
            for a, b in ((fpr, fnr), (fnr, fpr))
        ]
    best = np.where(one, 0.0, np.maximum(*terms))
    return np.where(none, MAX_EPSILON, best)
