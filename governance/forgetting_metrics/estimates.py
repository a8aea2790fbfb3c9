"""A number as it is printed: with interval and sample size, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from governance.errors import DataError


@dataclass(frozen=True, slots=True)
class Estimate:
    """One estimated number.

    Attributes:
        value: The estimate; None where too few models or records allow none.
        low: Lower end of the 95 % interval; None without one.
        high: Upper end of the 95 % interval; None without one.
        n: Sample size: models, unless the metric says otherwise.
        why_none: Why there is no value; None where there is one.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    why_none: str | None = None

    def __post_init__(self) -> None:
        """Refuse a value that is not finite, and a missing one without a reason.

        Raises:
            DataError: One of the two.
        """
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not np.isfinite(number):
                message = f"estimate: expected a finite {name}, got {number}"
                raise DataError(message)
        if (self.value is None) == (self.why_none is None):
            message = "estimate: expected a value or the reason why there is none"
            raise DataError(message)

    @classmethod
    def exact(cls, value: float, n: int) -> Estimate:
        """Return a number without an interval."""
        return cls(float(value), None, None, n)

    @classmethod
    def missing(cls, reason: str, n: int) -> Estimate:
        """Return what stands where too few models or records allow no number."""
        return cls(None, None, None, n, reason)

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Return plain JSON, rounded to six places: no decision is made from it."""
        numbers = {
            name: None if number is None else round(float(number), 6)
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return {**numbers, "n": self.n, "why_none": self.why_none}


def require_finite(name: str, values: np.ndarray, *, n_dimensions: int) -> np.ndarray:
    """Return the values as float64.

    Raises:
        DataError: They are empty, of another number of dimensions, or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != n_dimensions or array.size == 0:
        message = (
            f"{name}: expected a non-empty array of {n_dimensions} dimensions, got {array.shape}"
        )
        raise DataError(message)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        message = f"{name}: expected finite numbers, got {bad} that are NaN or infinite"
        raise DataError(message)
    return array


def require_pools(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two pools of margins ``[N, n]`` and ``[M, n]`` of the same records, as float64.

    Raises:
        DataError: A pool is empty or not finite, or the pools are about other numbers of records.
    """
    one = require_finite("first pool", first, n_dimensions=2)
    two = require_finite("second pool", second, n_dimensions=2)
    if one.shape[1] != two.shape[1]:
        message = (
            f"pools: expected margins of the same records, got {one.shape[1]} and {two.shape[1]}"
        )
        raise DataError(message)
    return one, two


def require_probabilities(name: str, values: np.ndarray) -> np.ndarray:
    """Return distributions ``[B, C]`` as float64.

    Raises:
        DataError: A number below 0, or a row that does not sum to 1 within 1e-4 (float32).
    """
    array = require_finite(name, values, n_dimensions=2)
    if (array < 0).any() or (np.abs(array.sum(axis=1) - 1) > 1e-4).any():
        message = f"{name}: expected rows of probabilities that sum to 1; apply softmax first"
        raise DataError(message)
    return array


def too_few_models(n_models: int, needed: int) -> str | None:
    """Return the reason why a pool is too small; None where it is not."""
    if n_models >= needed:
        return None
    return f"needs at least {needed} models, got {n_models}"
