"""KLOM: KL divergence of binned margins between unlearned and retrained models, with its null.

Two pools from one distribution do not give 0: at N = 20 about 3, at N = 100 about 0.3. The null is
part of every number.

Shapes: N unlearned and M retrained models, n records.
"""

from __future__ import annotations

import numpy as np

from governance.errors import DataError
from governance.forgetting_metrics.estimates import require_pools

N_BINS = 20
MAX_MARGIN = 100.0
_FLOOR = 1e-5


def klom(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Return KL(unlearned || retrained) of the margins of each record, ``[n]``, in nats.

    20 equal bins over the joint range of a record, margins clipped to +-100, bins of the retrained
    pool floored at 1e-5 where the other pool has mass. The largest margin belongs to the last bin.

    Raises:
        DataError: Bad pools.

    Source: Georgiev et al. 2024 (2410.23232), section 2.2. Their released call swaps the arguments.
    """
    first, second = (
        np.clip(pool, -MAX_MARGIN, MAX_MARGIN) for pool in _pools(unlearned, retrained)
    )
    low = np.minimum(first.min(axis=0), second.min(axis=0))
    span = np.maximum(first.max(axis=0), second.max(axis=0)) - low
    width = np.where(span > 0, span, 1.0) / N_BINS
    p, q = (_shares(pool, low, width) for pool in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / np.maximum(q, _FLOOR)), 0.0)
    return np.asarray(terms.sum(axis=0))


def klom_null(
    retrained: np.ndarray, second_retrain: np.ndarray, *, draws: int = 200, seed: int = 0
) -> np.ndarray:
    """Return the mean KLOM over the records of pools that differ by nothing, ``[draws]``.

    The two pools of retrained models are shuffled and split anew each time, so sizes, records and
    what the records have in common are those of the real comparison.

    Raises:
        DataError: Bad pools.
    """
    first, second = _pools(retrained, second_retrain)
    together, n = np.concatenate([first, second]), len(first)
    generator = np.random.default_rng(seed)
    orders = (generator.permutation(len(together)) for _ in range(draws))
    return np.array([klom(together[o[n:]], together[o[:n]]).mean() for o in orders])


def _pools(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, two = require_pools(first, second)
    if min(len(one), len(two)) < 2:
        message = f"KLOM: needs at least 2 models in each pool, got {len(one)} and {len(two)}"
        raise DataError(message)
    return one, two


def _shares(pool: np.ndarray, low: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the share of models in each bin, ``[20, n]``."""
    n, n_records = pool.shape
    bins = np.minimum(((pool - low) / width).astype(np.int64), N_BINS - 1)
    flat = bins + N_BINS * np.arange(n_records)[None, :]
    counts = np.bincount(flat.ravel(), minlength=N_BINS * n_records)
    return np.asarray(counts.reshape(n_records, N_BINS).T / n)
