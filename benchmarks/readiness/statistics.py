"""Intervals of the study: over training seeds, paired where two arms share a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % t-interval; the bounds are None for fewer than two seeds."""

    value: float
    low: float | None
    high: float | None
    n: int

    def text(self, digits: int = 1, factor: float = 1.0) -> str:
        """Return ``value (low to high)``."""
        if self.n == 0:
            return "not reached"
        shown = f"{factor * self.value:.{digits}f}"
        if self.low is None or self.high is None:
            return shown
        return f"{shown} ({factor * self.low:.{digits}f} to {factor * self.high:.{digits}f})"


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean with its interval."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, None, None, 0)
    centre = float(np.mean(values))
    if n == 1:
        return Estimate(centre, None, None, 1)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Estimate(centre, centre - half, centre + half, n)


def ratio(over: Sequence[float], under: Sequence[float]) -> Estimate:
    """Return the geometric mean of paired ratios with its interval."""
    logs = [math.log(a / b) for a, b in zip(over, under, strict=True) if a > 0 and b > 0]
    found = mean(logs)
    if found.n == 0:
        return found
    low, high = (None if bound is None else math.exp(bound) for bound in (found.low, found.high))
    return Estimate(math.exp(found.value), low, high, found.n)


def likelihood_ratio_auc(unlearned: np.ndarray, retrained: np.ndarray) -> Estimate:
    """Return the AUC of the per-record likelihood ratio between two pools of models.

    Each model is left out of the fit of both pools, by its number, when it is scored. The interval
    resamples whole models: scores of one model are not independent.

    Args:
        unlearned: Margins, ``[models, records]``.
        retrained: The same of models that never saw the records; as many models.

    Source: ``LLR(x) = log N(phi; unlearned) - log N(phi; retrained)``, efficacy game of RULI
        (arXiv 2506.13009).
    """
    n = len(unlearned)
    scores = np.stack([_scores(unlearned, retrained, index) for index in range(n)])
    generator = np.random.default_rng(0)
    resampled = [_auc(scores[generator.integers(n, size=n)]) for _ in range(200)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(_auc(scores), float(low), float(high), n)


def _scores(unlearned: np.ndarray, retrained: np.ndarray, index: int) -> np.ndarray:
    keep = np.arange(len(unlearned)) != index
    fits = [
        (pool[keep].mean(axis=0), np.maximum(pool[keep].std(axis=0, ddof=1), 0.1))
        for pool in (unlearned, retrained)
    ]
    (mean_u, sd_u), (mean_r, sd_r) = fits
    return np.stack(
        [
            stats.norm.logpdf(pool[index], mean_u, sd_u)
            - stats.norm.logpdf(pool[index], mean_r, sd_r)
            for pool in (unlearned, retrained)
        ]
    )


def _auc(scores: np.ndarray) -> float:
    """Return the AUC of ``[models, 2, records]``: unlearned against retrained."""
    positive, negative = scores[:, 0].ravel(), scores[:, 1].ravel()
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))
