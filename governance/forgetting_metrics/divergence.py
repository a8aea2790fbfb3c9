"""How far the outputs of two models are apart; the target is what two retrained models give.

Shapes: B records, C classes.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from governance.errors import DataError
from governance.forgetting_metrics.estimates import require_finite, require_probabilities


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, ``[B]``, 0 to ln 2.

    0 log 0 = 0, so exact one-hot rows are fine. (The often copied form with ``kl_div(log p, m)``
    averages the reversed divergence over all elements and gives 3.1 where ln 2 is the maximum.)

    Args:
        first: Distributions ``[B, C]``.
        second: Distributions ``[B, C]``.

    Raises:
        DataError: No distributions, or two shapes.

    Source: Lin 1991, in nats.
    """
    p, q = _same_shape(
        require_probabilities("first distribution", first),
        require_probabilities("second distribution", second),
    )
    middle = (p + q) / 2
    total = special.rel_entr(p, middle).sum(axis=1) + special.rel_entr(q, middle).sum(axis=1)
    return np.asarray(np.clip(total / 2, 0.0, np.log(2)))


def zrf(model: np.ndarray, untrained: np.ndarray) -> float:
    """Return ZRF = 1 - mean JS(model, randomly initialised model), in [1 - ln 2, 1].

    The target is the ZRF of a retrained model, not 1.

    Source: Chundawat et al. 2023 (2205.08096), with a correct JS in nats.
    """
    return float(1 - jensen_shannon(model, untrained).mean())


def activation_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean over records of the Euclidean distance of two distributions, 0 to sqrt 2.

    Source: Golatkar et al. 2021; Chundawat et al. 2023. The mean of distances, not the root of the
    mean square that goes by the same name elsewhere.
    """
    p, q = _same_shape(
        require_probabilities("first distribution", first),
        require_probabilities("second distribution", second),
    )
    return float(np.linalg.norm(p - q, axis=1).mean())


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of records, 0-1, with the same predicted class (*completeness*).

    Args:
        first: Predicted classes ``[B]``, or for sequences the predicted tokens one after another.
        second: The same of the other model.
    """
    one, two = _same_shape(
        require_finite("first predictions", first, n_dimensions=1),
        require_finite("second predictions", second, n_dimensions=1),
    )
    return float((one == two).mean())


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return statistic and two-sided p-value of the two-sample test on one number a record.

    The p-value depends on the number of records: never compare it between forget sets of two sizes.

    Raises:
        DataError: Empty or not finite.
    """
    result = stats.ks_2samp(
        require_finite("first sample", first, n_dimensions=1),
        require_finite("second sample", second, n_dimensions=1),
    )
    return float(result.statistic), float(result.pvalue)


def _same_shape(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if first.shape != second.shape:
        message = f"divergence: expected two arrays of one shape, got {first.shape}, {second.shape}"
        raise DataError(message)
    return first, second
