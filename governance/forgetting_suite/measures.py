"""What the suite needs of a pool of models, as arrays. No models here.

Shapes: N models, n records to forget, r retained and t test records, K of the N models that more
costly measurements were made on, S steps, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from governance.errors import DataError
from governance.forgetting import PoolMargins


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolMeasures:
    """Measurements of one pool.

    Attributes:
        forget_margins: phi of the records to forget in nats, ``[N, n]``.
        forget_accuracy: Share of each record predicted right, 0-1, ``[N, n]``.
        retain_margins: phi of a fixed sample of retained records, ``[N, r]``.
        retain_accuracy: Over all retained records, 0-1, ``[N]``.
        test_margins: phi of a fixed sample of records never trained on, ``[N, t]``.
        test_accuracy: Over all of them, 0-1, ``[N]``.
        predictions: Predicted class of each forget record, or each of its tokens, ``[N, p]``.
        calibration_errors: Expected calibration error on test records, 0-1, ``[N]``; None for
            sequences.
        entropies: Entropy of the output on forget records in nats, ``[N, n]``; None for sequences.
        modified_entropies: Of forget, retained and test records, ``[N, n + r + t]``; None for
            sequences.
        probabilities: Outputs on forget records, ``[K, n, C]``; None for sequences.
        relearn_losses: Mean loss on forget records while training on them, ``[K, S + 1]``; None
            where it was not measured.
        rebound_accuracy: Accuracy on forget records while training on retained ones,
            ``[K, S + 1]``; None where it was not measured.
        probe_accuracy: Of a linear probe of the features, 0-1, ``[K]``; None where the network
            has no linear last layer.
    """

    forget_margins: np.ndarray
    forget_accuracy: np.ndarray
    retain_margins: np.ndarray
    retain_accuracy: np.ndarray
    test_margins: np.ndarray
    test_accuracy: np.ndarray
    predictions: np.ndarray
    calibration_errors: np.ndarray | None = None
    entropies: np.ndarray | None = None
    modified_entropies: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    relearn_losses: np.ndarray | None = None
    rebound_accuracy: np.ndarray | None = None
    probe_accuracy: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite, and pools of two sizes.

        Raises:
            DataError: One of the two.
        """
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None and not np.isfinite(array).all():
                message = f"{field.name}: expected finite numbers, got NaN or infinity"
                raise DataError(message)
        sizes = {len(getattr(self, name)) for name in _EACH}
        if len(sizes) != 1 or 0 in sizes:
            message = f"measures: expected one number of models, at least 1, got {sorted(sizes)}"
            raise DataError(message)

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self.forget_margins)

    @property
    def n_forget(self) -> int:
        """Number of records to forget."""
        return int(self.forget_margins.shape[1])

    @property
    def relative(self) -> np.ndarray:
        """Forget margins less the model's own mean on test records, ``[N, n]``.

        How sure a model is in general varies between training seeds and would hide what it knows of
        these records in particular (a difference in differences).
        """
        return np.asarray(self.forget_margins - self.test_margins.mean(axis=1, keepdims=True))

    @property
    def relative_retained(self) -> np.ndarray:
        """The same of the retained sample, ``[N, r]``."""
        return np.asarray(self.retain_margins - self.test_margins.mean(axis=1, keepdims=True))

    def to_pool_margins(self) -> PoolMargins:
        """Return what the verdict needs."""
        return PoolMargins(
            margins=self.forget_margins,
            retain_accuracy=self.retain_accuracy,
            test_accuracy=self.test_accuracy,
            test_margin=self.test_margins.mean(axis=1),
        )


_EACH = (
    "forget_margins",
    "forget_accuracy",
    "retain_margins",
    "retain_accuracy",
    "test_margins",
    "test_accuracy",
    "predictions",
)


def confidence(margins: np.ndarray) -> np.ndarray:
    """Return the probability p of phi = log(p / (1 - p)), 0-1."""
    return np.asarray(1 / (1 + np.exp(-np.clip(margins, -500, 500))))
