"""Gaussian likelihood ratio of two pools: for each record, and summed over the batch.

Both pools lose one model before a model is scored. Dropping it from its own pool only leaves the
other fit with one model more and biases the null (0.43 instead of 0.50 at N = 16).

Shapes: N models of the positive pool (unlearned or original), M of the negative one (retrained),
n records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from governance.errors import DataError
from governance.forgetting_metrics.estimates import Estimate, require_pools, too_few_models
from governance.forgetting_metrics.intervals import bootstrap_models, clopper_pearson

MIN_MODELS = 4
"""Smallest pool with a deviation worth the name after one model is left out."""

MIN_DEVIATION_NATS = 0.05
"""Floor of a record's standard deviation: below it, a difference is not a disclosure."""


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of each model and record; larger means more like the positive pool.

    Attributes:
        positive: ``[N, n]``, in nats.
        negative: ``[M, n]``, in nats.
    """

    positive: np.ndarray
    negative: np.ndarray


def fit_gaussians(
    margins: np.ndarray, *, shrinkage: float = 0.0, floor: float = MIN_DEVIATION_NATS
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each record over a pool, ``[n]`` each.

    Args:
        margins: ``[N, n]`` with N at least 2.
        shrinkage: Weight, 0-1, of the median variance over the records. A dozen models give a
            rough deviation for one record; part of the typical one (empirical Bayes in the
            simplest form) keeps single records from dominating.
        floor: Smallest typical deviation, and without shrinkage the smallest of any record.

    Source: Carlini et al. 2022 (LiRA), section VI-C; the shrinkage is ours.
    """
    mean, variance = margins.mean(axis=0), margins.var(axis=0, ddof=1)
    return mean, _deviation(variance, shrinkage, floor)


def log_likelihood_ratio(
    margins: np.ndarray,
    positive: tuple[np.ndarray, np.ndarray],
    negative: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return log N(phi; positive) - log N(phi; negative) of each margin, in nats.

    Args:
        margins: ``[..., n]``.
        positive: Mean and standard deviation, ``[n]`` each.
        negative: The same of the other pool.
    """
    (mean_p, sd_p), (mean_n, sd_n) = positive, negative
    z_p, z_n = (margins - mean_p) / sd_p, (margins - mean_n) / sd_n
    return np.asarray(np.log(sd_n) - np.log(sd_p) + (z_n**2 - z_p**2) / 2)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return P(positive > negative) + P(equal) / 2, 0-1; 0.5 is no difference.

    Of two Gaussians at distance d in units of their deviation it is Phi(d / sqrt 2).

    >>> auc(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    0.625
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    up_to = np.searchsorted(ordered, positive, side="right")
    return float((below + up_to).mean() / (2 * len(ordered)))


def score_pools(
    positive: np.ndarray, negative: np.ndarray, *, shrinkage: float = 0.5
) -> PairScores:
    """Score every model of both pools, each without itself and without one of the other pool.

    Raises:
        DataError: Bad pools, or fewer than ``MIN_MODELS`` in one of them.
    """
    first, second = require_pools(positive, negative)
    reason = too_few_models(min(len(first), len(second)), MIN_MODELS)
    if reason:
        message = f"likelihood ratio: {reason}"
        raise DataError(message)
    return _score_pools(first, second, shrinkage)


@dataclass(frozen=True, slots=True)
class LikelihoodRatioTest:
    """What the per-record test says of two pools.

    Attributes:
        auc: Over all models and records; 0.5 = not told apart. The interval draws whole models.
        tpr_at_1_percent: True positive rate where 1 % of the negative scores are above the
            threshold; target 0.01.
        tpr_at_01_percent: The same at 0.1 %; needs 1,000 negative scores.
        worst_decile: Mean over the tenth of the records that are told apart best of
            max(AUC, 1 - AUC), one AUC for each record.
        record_p95: 95th percentile over the records of the same.
    """

    auc: Estimate
    tpr_at_1_percent: Estimate
    tpr_at_01_percent: Estimate
    worst_decile: Estimate
    record_p95: Estimate

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return {
            "lrt_auc": self.auc.to_dict(),
            "lrt_tpr_at_1_percent": self.tpr_at_1_percent.to_dict(),
            "lrt_tpr_at_01_percent": self.tpr_at_01_percent.to_dict(),
            "record_auc_worst_decile": self.worst_decile.to_dict(),
            "record_auc_p95": self.record_p95.to_dict(),
        }


def likelihood_ratio_test(
    positive: np.ndarray, negative: np.ndarray, *, shrinkage: float = 0.5
) -> LikelihoodRatioTest:
    """Tell two pools apart record by record.

    Args:
        positive: ``[N, n]`` margins of unlearned (or original) models.
        negative: ``[M, n]`` margins of models that never saw the records.
        shrinkage: As in ``fit_gaussians``.

    Raises:
        DataError: Bad or too small pools.

    Source: efficacy game of RULI (2506.13009); U-LiRA (2403.01218).
    """
    scores = score_pools(positive, negative, shrinkage=shrinkage)
    per_record = record_aucs(scores.positive, scores.negative)
    told_apart = np.sort(np.maximum(per_record, 1 - per_record))
    decile = told_apart[-max(1, len(told_apart) // 10) :]
    n_models = min(len(scores.positive), len(scores.negative))
    return LikelihoodRatioTest(
        auc=pooled_auc(scores),
        tpr_at_1_percent=tpr_at_fpr(scores, 0.01),
        tpr_at_01_percent=tpr_at_fpr(scores, 0.001),
        worst_decile=Estimate.exact(float(decile.mean()), n_models),
        record_p95=Estimate.exact(float(np.quantile(told_apart, 0.95)), n_models),
    )


def pooled_auc(scores: PairScores) -> Estimate:
    """Return the AUC over all models and records, with an interval over whole models."""
    n, m = len(scores.positive), len(scores.negative)
    pairs = np.empty((n, m))
    for column, negative in enumerate(np.sort(scores.negative, axis=1)):
        below = np.searchsorted(negative, scores.positive, side="left")
        up_to = np.searchsorted(negative, scores.positive, side="right")
        pairs[:, column] = (below + up_to).mean(axis=1) / (2 * len(negative))
    low, high = bootstrap_models(lambda i, j: float(pairs[np.ix_(i, j)].mean()), n, m)
    return Estimate(float(pairs.mean()), low, high, min(n, m))


def tpr_at_fpr(scores: PairScores, fpr: float) -> Estimate:
    """Return the true positive rate at a false positive rate of at most ``fpr``.

    The interval is the wider one, at each end, of Clopper-Pearson over the pooled scores (too
    narrow, for they share models) and of whole models drawn again.

    Args:
        scores: ``[N, n]`` and ``[M, n]``.
        fpr: 0-1; fewer than 1 / fpr negative scores give an underpowered estimate.
    """
    negative, positive = scores.negative.ravel(), scores.positive.ravel()
    n = min(len(scores.positive), len(scores.negative))
    if round(fpr * len(negative), 9) < 1:
        reason = f"needs {round(1 / fpr)} scores of retrained models, got {len(negative)}"
        return Estimate.missing(reason, n)
    hits = int((positive > threshold_at(negative, fpr)).sum())
    low, high = clopper_pearson(hits, len(positive))

    def again(i: np.ndarray, j: np.ndarray) -> float:
        drawn = threshold_at(scores.negative[j].ravel(), fpr)
        return float((scores.positive[i] > drawn).mean())

    drawn_low, drawn_high = bootstrap_models(again, *map(len, (scores.positive, scores.negative)))
    value = hits / len(positive)
    return Estimate(value, min(low, drawn_low), max(high, drawn_high), n)


def threshold_at(negative: np.ndarray, fpr: float) -> float:
    """Return the smallest negative score with at most ``fpr`` of the negative scores above it."""
    allowed = int(np.floor(round(fpr * len(negative), 9)))
    position = len(negative) - 1 - allowed
    return float(np.partition(negative, position)[position])


def record_aucs(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return the AUC over models for each record, ``[n]``."""
    n, m = len(positive), len(negative)
    ranks = stats.rankdata(np.concatenate([positive, negative]), axis=0)[:n]
    return np.asarray((ranks.sum(axis=0) - n * (n + 1) / 2) / (n * m))


@dataclass(frozen=True, slots=True)
class BatchTest:
    """The batch as the unit of test.

    Attributes:
        auc: Of the summed log ratio, between the pools; 0.5 = not told apart.
        p_value: Share of permutations of the pool labels with an AUC at least as large.
        n_permutations: How many were drawn.
    """

    auc: Estimate
    p_value: float
    n_permutations: int

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return {
            "batch_auc": self.auc.to_dict(),
            "batch_p": self.p_value,
            "permutations": self.n_permutations,
        }


def batch_test(
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    shrinkage: float = 0.5,
    permutations: int = 999,
    seed: int = 0,
) -> BatchTest:
    """Tell two pools apart by T = sum over the records of the log likelihood ratio of a model.

    The p-value permutes the pool labels and fits everything anew each time, so it is exact for
    exchangeable models whatever the shape of the margins. Of n independent records at distance d
    each, the AUC tends to Phi(d sqrt(n / 2)).

    Raises:
        DataError: Bad or too small pools.
    """
    first, second = require_pools(positive, negative)
    scores = score_pools(first, second, shrinkage=shrinkage)
    totals = scores.positive.sum(axis=1), scores.negative.sum(axis=1)
    observed = auc(*totals)
    low, high = bootstrap_models(
        lambda i, j: auc(totals[0][i], totals[1][j]), len(first), len(second)
    )
    together, n = np.concatenate([first, second]), len(first)
    generator = np.random.default_rng(seed)
    at_least = 0
    for _ in range(permutations):
        order = generator.permutation(len(together))
        drawn = _score_pools(together[order[:n]], together[order[n:]], shrinkage)
        value = auc(drawn.positive.sum(axis=1), drawn.negative.sum(axis=1))
        at_least += value >= observed - 1e-12
    p_value = (1 + at_least) / (1 + permutations)
    return BatchTest(Estimate(observed, low, high, min(n, len(second))), p_value, permutations)


def _score_pools(first: np.ndarray, second: np.ndarray, shrinkage: float) -> PairScores:
    fits_first, fits_second = _fits_without(first, shrinkage), _fits_without(second, shrinkage)

    def fits(of: tuple[np.ndarray, np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(n) % len(of[0])
        return of[0][positions], of[1][positions]

    n, m = len(first), len(second)
    return PairScores(
        log_likelihood_ratio(first, fits_first, fits(fits_second, n)),
        log_likelihood_ratio(second, fits(fits_first, m), fits_second),
    )


def _fits_without(margins: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each record without model i, in row i, ``[N, n]`` each."""
    n = len(margins)
    centre = margins.mean(axis=0)
    away = margins - centre
    mean = -away / (n - 1)  # of the others, about the centre
    squares = (away**2).sum(axis=0) - away**2 - (n - 1) * mean**2
    variance = np.maximum(squares, 0.0) / (n - 2)
    return centre + mean, _deviation(variance, shrinkage, MIN_DEVIATION_NATS)


def _deviation(variance: np.ndarray, shrinkage: float, floor: float) -> np.ndarray:
    """Return deviations along the last axis, shrunk to their median and not below the floor."""
    if shrinkage == 0:
        return np.asarray(np.maximum(np.sqrt(variance), floor))
    typical = np.maximum(np.median(np.sqrt(variance), axis=-1, keepdims=True), floor)
    return np.asarray(np.sqrt((1 - shrinkage) * variance + shrinkage * typical**2))
