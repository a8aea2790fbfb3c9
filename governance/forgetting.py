"""The forgetting test: is a model told apart from models that never saw the records?

Pure statistics on numbers, no models: margins phi = log(p_y / (1 - p_y)) of the records to forget
under pools of models, and accuracies.

    O   original pool: trained with the records          (must be told apart: power control)
    R   reference pool: retrained without them           (the yardstick)
    R'  second retrain pool: retrained without them      (must not be told apart: null control)
    U   unlearned pool: the method applied to O          (what the algorithm does)
    and the one original and the one candidate model that would be released.

Margins are taken relative to the model's own mean margin on unseen records (difference in
differences). Three views of them, each calibrated by leaving reference models out one at a time:

* shift       mean over records of z = (phi - mean_R) / sd_R; two-sided, so that hidden,
              over-forgotten records fail like visible ones;
* spread      log of the mean of z^2: some records still visible, others pushed too far;
* likelihood  mean of log N(phi; O) - log N(phi; R), one-sided: still like a model that was trained
              on the records (offline likelihood ratio over the batch).

plus one-sided accuracy on retained and on test records. A single model is judged by the predictive
t distribution of the reference pool, the pool U by Welch's t test against R'. All p-values of one
verdict share one error level (Holm).

Rules: unknown is the stricter side; a void control gives no *accept*; NaN anywhere is an error.

Source: Carlini et al. 2022 (LiRA), Hayes et al. 2024 (2403.01218), RULI (2506.13009) for the
per-example ratio; the batch as the unit of test and the leave-one-out calibration are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from governance.errors import DataError
from governance.forgetting_metrics.intervals import bootstrap_models, holm, mean_interval
from governance.forgetting_metrics.likelihood import auc, fit_gaussians, log_likelihood_ratio
from governance.forgetting_metrics.statuses import (
    INDISTINGUISHABLE,
    OVER_FORGOTTEN,
    STILL_VISIBLE,
    UNDERPOWERED,
    RecordTests,
    model_statuses,
)

MIN_POOL = 4
_CONTROL_LEVEL = 0.01
POWER_FACTOR = 0.01
"""The original must fail at a hundredth of the error level: luck must not vouch for power."""

_STATISTICS = ("shift", "spread", "likelihood")
_N_CONDITIONS = 8
"""Of a model with its pool: three views of the model and of the pool, and two accuracies."""

_SHRINKAGE = 0.5
"""A dozen models give a rough deviation per record: half of its weight is the typical one's."""


@dataclass(frozen=True, slots=True)
class PoolMargins:
    """What the test needs of a pool of models.

    Attributes:
        margins: ``[n_models, n_records]`` of the records to forget, in nats.
        retain_accuracy: ``[n_models]``, fractions 0-1.
        test_accuracy: ``[n_models]``, fractions 0-1.
        test_margin: ``[n_models]``, mean margin on records that no model was trained on, in nats.
    """

    margins: np.ndarray
    retain_accuracy: np.ndarray
    test_accuracy: np.ndarray
    test_margin: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """Margins less the model's own level on unseen records, ``[n_models, n_records]``.

        A difference in differences: how confident a model is in general varies between training
        seeds and would hide what it knows of these records in particular.
        """
        return np.asarray(self.margins - self.test_margin[:, None])

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self.margins)

    def model(self, index: int) -> PoolMargins:
        """Return the pool of one model."""
        part = slice(index, index + 1)
        return PoolMargins(
            self.margins[part],
            self.retain_accuracy[part],
            self.test_accuracy[part],
            self.test_margin[part],
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """One tested condition.

    Attributes:
        name: Short name.
        p_value: Probability of such a value for a retrained model.
        adjusted_p: After Holm's correction over all conditions of the verdict.
        passed: Whether the condition is not rejected at the joint error level.
        text: What it means, in words.
    """

    name: str
    p_value: float
    adjusted_p: float
    passed: bool
    text: str

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return {
            "name": self.name,
            "p_value": self.p_value,
            "adjusted_p": self.adjusted_p,
            "passed": self.passed,
            "text": self.text,
        }


TEXTS = {
    "shift": "mean margin of the records, against models that never saw them (two-sided)",
    "spread": "spread of the margins over the records, against models that never saw them",
    "likelihood": "likelihood ratio of 'trained on the records' to 'never saw them'",
    "retain_accuracy": "accuracy on retained records is not below that of retrained models",
    "test_accuracy": "accuracy on test records is not below that of retrained models",
    "pool_shift": "pool of unlearned models against second retrains: mean margin",
    "pool_spread": "pool of unlearned models against second retrains: spread",
    "pool_likelihood": "pool of unlearned models against second retrains: likelihood ratio",
}


class Reference:
    """The yardstick: statistics of the reference pool and what they look like under the null."""

    def __init__(
        self, reference: PoolMargins, original: PoolMargins, *, max_accuracy_drop: float
    ) -> None:
        """Calibrate.

        Args:
            reference: R, at least ``MIN_POOL`` models.
            original: O, at least ``MIN_POOL`` models.
            max_accuracy_drop: Tolerated loss of accuracy against retrained models, fraction 0-1.

        Raises:
            DataError: Too few models, no record, or a margin that is not finite.
        """
        for name, pool in (("reference", reference), ("original", original)):
            _require_finite(name, pool)
            if len(pool) < MIN_POOL:
                message = f"{name} pool: expected at least {MIN_POOL} models, got {len(pool)}"
                raise DataError(message)
        self.max_accuracy_drop = max_accuracy_drop
        self._reference = reference
        self._original = original
        self._mean_o, self._sd_o = fit_gaussians(original.relative, shrinkage=_SHRINKAGE)
        self._mean_r, self._sd_r = fit_gaussians(reference.relative, shrinkage=_SHRINKAGE)
        self.null = {name: np.array(values) for name, values in self._leave_one_out().items()}

    def statistics(self, relative: np.ndarray) -> dict[str, float]:
        """Return shift, spread and likelihood of one model's relative margins ``[n_records]``."""
        return _statistics(relative, self._mean_r, self._sd_r, self._mean_o, self._sd_o)

    def pool_statistics(self, pool: PoolMargins) -> dict[str, np.ndarray]:
        """Return each statistic for every model of a pool."""
        rows = [self.statistics(relative) for relative in pool.relative]
        return {name: np.array([row[name] for row in rows]) for name in self.null}

    def original_statistics(
        self, second_retrain: PoolMargins, kept: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return each statistic of O, every model without itself in what it is compared with.

        Scored with Gaussians that it was fitted on, a pool looks like itself whatever it knows.

        Args:
            second_retrain: R'.
            kept: bool ``[n_records]``; the other records are taken from R', as if an algorithm had
                forgotten them perfectly.
        """
        theirs = second_retrain.relative
        rows = []
        for index, relative in enumerate(self._original.relative):
            rest = np.delete(self._original.relative, index, axis=0)
            mean, sd = fit_gaussians(rest, shrinkage=_SHRINKAGE)
            mixed = relative
            if kept is not None:
                mixed = np.where(kept, relative, theirs[(index + 1) % len(theirs)])
            rows.append(_statistics(mixed, self._mean_r, self._sd_r, mean, sd))
        return {name: np.array([row[name] for row in rows]) for name in _STATISTICS}

    def record_tests(self, relative: np.ndarray) -> RecordTests:
        """Return the test of each record, from one model's relative margins ``[n_records]``."""
        return model_statuses(relative, self._reference.relative, shrinkage=_SHRINKAGE)

    def model_p_values(self, model: PoolMargins) -> dict[str, float]:
        """Return the p-value of each single-model condition for a pool of one model."""
        _require_finite("model", model)
        values = self.statistics(model.relative[0])
        p_values = {
            "shift": _predictive_p(values["shift"], self.null["shift"], side="both"),
            "spread": _predictive_p(values["spread"], self.null["spread"], side="both"),
            "likelihood": _predictive_p(values["likelihood"], self.null["likelihood"], side="high"),
        }
        slack = self.max_accuracy_drop
        for name in ("retain_accuracy", "test_accuracy"):
            pool = getattr(self._reference, name)
            value = float(getattr(model, name)[0]) + slack
            p_values[name] = _predictive_p(value, pool, side="low", floor=0.002)
        return p_values

    def _leave_one_out(self) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {name: [] for name in _STATISTICS}
        for index in range(len(self._reference)):
            rest = np.delete(self._reference.relative, index, axis=0)
            mean, sd = fit_gaussians(rest, shrinkage=_SHRINKAGE)
            row = _statistics(self._reference.relative[index], mean, sd, self._mean_o, self._sd_o)
            for name, value in row.items():
                values[name].append(value)
        return values


@dataclass(frozen=True, slots=True)
class Controls:
    """Whether the test can be believed.

    Attributes:
        original_fails: Told apart from retrained models, at a hundredth of the error level: the
            original with its pool, the pool alone by the likelihood ratio, and a pool that forgot
            one half.
        second_retrain_passes: The share of second retrains that are told apart fits the error
            level.
        random_fails: A randomly initialised model is told apart.
        numbers: What the three follow from: ``error_level`` and ``power_level``; the smallest
            adjusted p-value of the original, of a pool that forgot one half, and of the random
            model; the p-value of the original pool against second retrains; how many of how many
            second retrains were told apart.
    """

    original_fails: bool
    second_retrain_passes: bool
    random_fails: bool
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether all controls behave."""
        return self.original_fails and self.second_retrain_passes and self.random_fails

    def to_dict(self) -> dict[str, bool]:
        """Return plain JSON."""
        return {
            "original_fails": self.original_fails,
            "second_retrain_passes": self.second_retrain_passes,
            "random_fails": self.random_fails,
        }


def judge_model(
    reference: Reference,
    model: PoolMargins,
    *,
    error_level: float,
    pool: PoolMargins | None = None,
    second_retrain: PoolMargins | None = None,
) -> tuple[Condition, ...]:
    """Test one model, and its pool if there is one, at one joint error level.

    Args:
        reference: Calibrated yardstick.
        model: Pool of one: the model that would be released.
        error_level: Probability of rejecting a retrained model, 0-1, over all conditions.
        pool: U, the method applied to each original.
        second_retrain: R', the pool that U is compared with.
    """
    p_values = reference.model_p_values(model)
    if pool is not None and second_retrain is not None:
        ours = reference.pool_statistics(pool)
        p_values |= _pool_p_values(ours, reference.pool_statistics(second_retrain))
    adjusted = holm(list(p_values.values()))
    return tuple(
        Condition(name, p, q, q > error_level, TEXTS[name])
        for (name, p), q in zip(p_values.items(), adjusted, strict=True)
    )


def check_controls(
    reference: Reference,
    *,
    original_model: PoolMargins,
    second_retrain: PoolMargins,
    random_model: PoolMargins,
    error_level: float,
) -> Controls:
    """Return whether original and random model fail and second retrains pass.

    The original is judged by the very conditions that an unlearned model is judged by, as if an
    algorithm had done nothing; and so is a pool that forgot one half of the records perfectly and
    the other not at all. Both must be rejected at ``POWER_FACTOR`` times the error level.

    Args:
        reference: Calibrated yardstick; O is the pool that it was calibrated with.
        original_model: Pool of one, not part of O.
        second_retrain: R'.
        random_model: Pool of one untrained model.
        error_level: 0-1.
    """

    def smallest_p(model: PoolMargins) -> float:
        conditions = judge_model(reference, model, error_level=error_level)
        return min(condition.adjusted_p for condition in conditions)

    n_models = len(second_retrain)
    n_rejected = sum(
        smallest_p(second_retrain.model(index)) <= error_level for index in range(n_models)
    )
    too_many = stats.binomtest(n_rejected, n_models, error_level, alternative="greater").pvalue
    theirs = reference.pool_statistics(second_retrain)
    pool_p = _pool_p_values(reference.original_statistics(second_retrain), theirs)
    nothing_done = [*reference.model_p_values(original_model).values(), *pool_p.values()]
    original, apart = min(holm(nothing_done)), pool_p["pool_likelihood"]
    half = max(
        _half_forgotten_p(reference, second_retrain, theirs, first=first) for first in (0, 1)
    )
    random, power_level = smallest_p(random_model), POWER_FACTOR * error_level
    return Controls(
        original_fails=max(original, apart, half) <= power_level,
        second_retrain_passes=bool(too_many > _CONTROL_LEVEL),
        random_fails=random <= error_level,
        numbers={
            "error_level": error_level,
            "power_level": power_level,
            "original_adjusted_p": original,
            "original_pool_p": apart,
            "half_adjusted_p": half,
            "second_retrain_rejected": n_rejected,
            "second_retrain_models": n_models,
            "random_adjusted_p": random,
        },
    )


def record_statuses(reference: Reference, model: PoolMargins) -> dict[str, int]:
    """Count records by status: Holm over records on the predictive t of each record's z.

    Returns:
        Counts for ``indistinguishable``, ``still_visible``, ``over_forgotten``, or everything under
        ``underpowered`` when the pool is too small to reject any single record.
    """
    counts = reference.record_tests(model.relative[0]).counts()
    if UNDERPOWERED in counts:
        return counts
    return dict.fromkeys((INDISTINGUISHABLE, STILL_VISIBLE, OVER_FORGOTTEN), 0) | counts


def describe_pools(
    reference: Reference, pools: Mapping[str, PoolMargins]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``{column: {metric: {value, low, high, n}}}`` for the three-column table."""
    null = reference.pool_statistics(pools["second_retrain"])
    columns = {}
    for name, pool in pools.items():
        statistics = reference.pool_statistics(pool)
        values = {
            "forget_accuracy": (pool.margins > 0).mean(axis=1),
            "retain_accuracy": pool.retain_accuracy,
            "test_accuracy": pool.test_accuracy,
            "shift": statistics["shift"],
            "spread": statistics["spread"],
            "likelihood": statistics["likelihood"],
        }
        column = {}
        for metric, numbers in values.items():
            low, high = mean_interval(numbers)
            column[metric] = _entry(float(numbers.mean()), low, high, len(numbers))
        for metric in ("shift", "likelihood"):
            value, low, high = _auc_with_interval(statistics[metric], null[metric])
            column[f"batch_auc_{metric}"] = _entry(value, low, high, len(pool))
        columns[name] = column
    return columns


def _entry(value: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6), "n": n}


def _auc_with_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    interval = bootstrap_models(lambda i, j: auc(ours[i], theirs[j]), len(ours), len(theirs))
    return (auc(ours, theirs), *interval)


def _statistics(
    margins: np.ndarray,
    mean_r: np.ndarray,
    sd_r: np.ndarray,
    mean_o: np.ndarray,
    sd_o: np.ndarray,
) -> dict[str, float]:
    z = (margins - mean_r) / sd_r
    ratio = log_likelihood_ratio(margins, (mean_o, sd_o), (mean_r, sd_r))
    return {
        "shift": float(z.mean()),
        "spread": float(np.log((z**2).mean() + 1e-12)),
        "likelihood": float(np.clip(ratio, -10, 10).mean()),
    }


def _pool_p_values(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return the p-values of the pool conditions: Welch's t test of each statistic.

    A statistic is a mean over the records, so near a Gaussian. Ranks (Mann-Whitney) saturate: once
    a dozen models are separated from a dozen, they do not tell a small distance from a large one.
    """
    found = {}
    for name in _STATISTICS:
        side = "greater" if name == "likelihood" else "two-sided"
        with np.errstate(divide="ignore", invalid="ignore"):
            p_value = stats.ttest_ind(
                ours[name], theirs[name], equal_var=False, alternative=side
            ).pvalue
        # Both pools without any spread: equal, or different beyond doubt.
        same = bool(ours[name].mean() == theirs[name].mean())
        found[f"pool_{name}"] = float(same) if np.isnan(p_value) else float(p_value)
    return found


def _half_forgotten_p(
    reference: Reference,
    second_retrain: PoolMargins,
    theirs: Mapping[str, np.ndarray],
    *,
    first: int,
) -> float:
    """Return the smallest p-value, times the conditions, of a pool that knows every other record.

    Without a second record nothing is left of the half, and the p-value is large.
    """
    kept = np.arange(second_retrain.margins.shape[1]) % 2 == first
    ours = reference.original_statistics(second_retrain, kept)
    return min(1.0, _N_CONDITIONS * min(_pool_p_values(ours, theirs).values()))


def _predictive_p(value: float, null: np.ndarray, *, side: str, floor: float = 1e-9) -> float:
    """Return the p-value of one new value under the predictive t of a small null sample."""
    n = len(null)
    scale = max(float(null.std(ddof=1)), floor) * (1 + 1 / n) ** 0.5
    t = (value - float(null.mean())) / scale
    if side == "both":
        return float(2 * stats.t.sf(abs(t), df=n - 1))
    return float(stats.t.sf(t if side == "high" else -t, df=n - 1))


def _require_finite(name: str, pool: PoolMargins) -> None:
    if pool.margins.ndim != 2 or pool.margins.shape[1] == 0:
        message = f"{name} pool: expected margins of at least one record, got {pool.margins.shape}"
        raise DataError(message)
    arrays = (pool.margins, pool.retain_accuracy, pool.test_accuracy, pool.test_margin)
    if not all(np.isfinite(array).all() for array in arrays):
        message = f"{name} pool: expected finite margins and accuracies, got NaN or infinity"
        raise DataError(message)
