"""What readiness costs and when it pays: ratios, break-even, and cumulative seconds by batch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

_N_SHOWN_BATCHES = 12


@dataclass(frozen=True, slots=True)
class ReadinessCost:
    """Cost of a ready model against an ordinary one. Forgetting tests are not counted.

    Figures of a training that was resumed, or shared by several processes, are not those of a whole
    run; what rests on them is None then.

    Attributes:
        time_ratio: Training time against ordinary training.
        gradient_ratio: Gradient evaluations against ordinary training.
        peak_memory_ratio: Peak memory of a training step against ordinary training; None where
            the ordinary step had none to measure.
        break_even_batches: Deletion batches after which the ready model, unlearned each time, has
            cost no more than an ordinary one that is retrained each time; None if never.
        roi: For 0, 1, ... batches the seconds in total: ``batches``, ``retrain`` (ordinary,
            retrained every time), ``ordinary`` (ordinary, unlearned), ``ready`` (ready,
            unlearned); None where a simulated request failed.
    """

    time_ratio: float | None
    gradient_ratio: float | None
    peak_memory_ratio: float | None
    break_even_batches: int | None
    roi: dict[str, list[float] | None]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return asdict(self)


def compare_costs(
    *,
    ready_train_s: float | None,
    ordinary_train_s: float,
    ready_unlearning_s: float | None,
    ordinary_unlearning_s: float | None,
    gradients: tuple[int | None, int],
    peak_bytes: tuple[int, int],
) -> ReadinessCost:
    """Return the cost of a ready model; pairs are (ready, ordinary), None where not comparable.

    >>> cost = compare_costs(ready_train_s=30, ordinary_train_s=10, ready_unlearning_s=2,
    ...     ordinary_unlearning_s=4, gradients=(90, 30), peak_bytes=(4, 2))
    >>> cost.break_even_batches  # 20 s more, 10 - 2 = 8 s saved by a batch: 2.5, so 3
    3
    """

    def line(train_s: float | None, batch_s: float | None) -> list[float] | None:
        if train_s is None or batch_s is None:
            return None
        return [train_s + batch_s * n for n in range(_N_SHOWN_BATCHES + 1)]

    break_even = None
    if ready_train_s is not None and ready_unlearning_s is not None:
        saved_s = ordinary_train_s - ready_unlearning_s
        if saved_s > 0:
            break_even = max(0, math.ceil((ready_train_s - ordinary_train_s) / saved_s))
    return ReadinessCost(
        time_ratio=None if ready_train_s is None else ready_train_s / ordinary_train_s,
        gradient_ratio=None if gradients[0] is None else gradients[0] / max(1, gradients[1]),
        peak_memory_ratio=peak_bytes[0] / peak_bytes[1] if peak_bytes[1] > 0 else None,
        break_even_batches=break_even,
        roi={
            "batches": [float(n) for n in range(_N_SHOWN_BATCHES + 1)],
            "retrain": line(ordinary_train_s, ordinary_train_s),
            "ordinary": line(ordinary_train_s, ordinary_unlearning_s),
            "ready": line(ready_train_s, ready_unlearning_s),
        },
    )
