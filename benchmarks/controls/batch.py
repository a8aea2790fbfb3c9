"""The batch tier in the study: a qualification made on other requests decides on one.

Request k is decided with the limits from the models of all other requests: no model that is judged
had a part in its limits. Models that fix limits are not those that give the rates of the
qualification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np

from benchmarks.controls.cases import ORIGINAL, STABLE, Case, Measured
from benchmarks.controls.sizes import ERROR_LEVEL, MAX_ACCURACY_DROP, Sizes
from governance.batch_tier import BatchModel, References, batch_statistics
from governance.qualification import COVERED, Evidence, decide_batch, make_qualification

MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)
N_STABLE = 24
"""Reference models of phase A, shared by all batches of a training run."""

Filter = Callable[[Measured], np.ndarray]


class BatchGate:
    """References, qualifications and verdicts of one data set."""

    def __init__(self, case: Case, sizes: Sizes) -> None:
        """Bind; qualifications are made when they are asked for."""
        self._case, self._sizes = case, sizes
        self._covers = dict.fromkeys(COVERED, case.task.name)
        self.qualification = cache(self._qualify)

    def verdict(
        self,
        number: int,
        candidate: Measured,
        original: Measured,
        *,
        filtered: Filter | None = None,
        never: bool = False,
        n_records: int | None = None,
    ) -> dict[str, Any]:
        """Return the verdict on a candidate of a request.

        Args:
            number: The request.
            candidate: Model.
            original: Model that was trained on the records.
            filtered: Margins of the request's records, where an output filter changes them.
            never: Whether the request names records that no model was trained on.
            n_records: Only the first so many records are asked for.
        """
        forget = (self._case.never_learned if never else self._case.requests)[number][:n_records]
        record = self.qualification(number)
        empty: dict[str, float] = {}
        values = own = empty
        if len(forget) > 1:
            own = self._values(forget, candidate, never=never, filtered=filtered)
            values = self._values(forget, original, never=never)
        verdict, reasons = decide_batch(
            record,
            own,
            values,
            covers=self._covers,
            n_records=len(forget),
            at=MADE_AT,
        )
        return {
            "verdict": verdict,
            "n_forget": len(forget),
            "reasons": reasons,
            "values": {name: float(f"{value:.4g}") for name, value in own.items()},
        }

    def _qualify(self, number: int) -> dict[str, Any]:
        """Return the qualification that decides a request: made of all others."""
        others = [k for k in range(len(self._case.requests)) if k != number]
        n, case = self._sizes.pool, self._case
        originals = case.pool(ORIGINAL, 5 * n)
        each: dict[str, list[dict[str, float]]] = {}
        for position, k in enumerate(others):
            forget, away = case.requests[k], case.pool(f"without-{k}", 2 * n)
            first = position % 5 * n
            models = {
                "limits_from": away[:n],
                "retrained": away[n:],
                "original": originals[first : first + n],
                "half": case.pool(f"half-{k}", n),
            }
            for role, pool in models.items():
                each.setdefault(role, []).extend(self._values(forget, m) for m in pool)
        found = {
            role: {name: np.array([v[name] for v in values]) for name in values[0]}
            for role, values in each.items()
        }
        size = len(case.requests[0])
        return make_qualification(
            Evidence(**found),
            covers=self._covers,
            n_records=(size, size),
            error_level=ERROR_LEVEL,
            max_accuracy_drop=MAX_ACCURACY_DROP,
            made_at=MADE_AT,
        )

    def _values(
        self,
        forget: np.ndarray,
        measured: Measured,
        *,
        never: bool = False,
        filtered: Filter | None = None,
    ) -> dict[str, float]:
        stable: Sequence[Measured] = self._case.pool(STABLE, N_STABLE)

        def of(model: Measured) -> np.ndarray:
            return (model.unseen if never else model.train)[forget]

        stays = np.ones(len(measured.train), dtype=bool)
        if not never:
            stays[forget] = False
        return batch_statistics(
            References(np.stack([of(m) for m in stable]), np.stack([m.test for m in stable])),
            BatchModel(
                forget=of(measured) if filtered is None else filtered(measured),
                unseen=measured.test,
                retain_accuracy=float((measured.train[stays] > 0).mean()),
                test_accuracy=float((measured.test > 0).mean()),
            ),
        )
