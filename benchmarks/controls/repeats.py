"""One repeat: draw the pools, judge one candidate of each control with the functions of the gate.

Pools of one repeat have no model in common, and no candidate is ever part of a pool. Each control
is judged as the approximate lane is: the candidate, and a pool of what the same "algorithm" makes
of other originals. What a control does is done by an independent training, as thoroughly as it can
be done: *half* was trained without half of the records, *wrong* without other ones.
Accuracies are shares of records whose label has more than half of the probability (margin above 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.controls.batch import BatchGate, Filter
from benchmarks.controls.cases import ORIGINAL, RANDOM, Case, Measured
from benchmarks.controls.sizes import ERROR_LEVEL, MAX_ACCURACY_DROP, ONE_RECORD_CANDIDATES, Sizes
from governance.forgetting import PoolMargins, Reference, check_controls, judge_model
from r2u_tasks.evidence import EXACT_ERROR_FACTOR, decide


@dataclass(frozen=True)
class Draw:
    """Models of one repeat."""

    reference: list[Measured]
    second: list[Measured]
    original_pool: list[Measured]
    original: Measured
    random: Measured


class Repeat:
    """One request and repeat."""

    def __init__(self, case: Case, sizes: Sizes, gate: BatchGate, number: int, repeat: int) -> None:
        """Bind; nothing is trained yet."""
        self._gate = gate
        self._case, self._sizes, self._number, self._repeat = case, sizes, number, repeat
        self._random = np.random.default_rng([case.base_seed, 23, number, repeat])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each control of a batch."""
        case, sizes, number = self._case, self._sizes, self._number
        forget = case.requests[number]
        away, half = self._pool("without"), self._pool("half")
        wrong = self._named(f"without-{number ^ 1}")
        originals, held = self._originals()
        gone = case.pool(f"class-{number % sizes.one_record}", self._n_class)
        drawn = self._draw(away[: sizes.drawn], 3)
        n, index = sizes.pool, sizes.drawn + self._repeat
        noise = case.pool(RANDOM, 3 * n)
        draw = Draw(drawn[0], drawn[1], originals, held[0], self._noise(noise))
        test = _Test(draw, forget, forget)
        hidden, lowered = (lambda m: m.suppressed[forget]), test.lowered_to_level
        tried: dict[str, tuple[Measured, list[Measured], Filter | None]] = {
            "retrain": (away[index], drawn[2], None),
            "no_op": (held[0], originals, None),
            "random_init": (self._noise(noise), noise[:n], None),
            "wrong_records": (wrong[index], self._draw(wrong[: sizes.drawn], 1)[0], None),
            "half": (half[n + self._repeat], half[:n], None),
            "label_suppression": (held[0], originals, hidden),
            "suppression_at_level": (held[0], originals, lowered),
            "class_for_batch": (gone[n + self._repeat % sizes.repeats], gone[:n], None),
        }
        rows = [*self._never_learned()]
        for control, (model, pool, filtered) in tried.items():
            full = test.verdict(model, pool, filtered=filtered)
            batch = self._gate.verdict(number, model, held[0], filtered=filtered)
            rows += [self._row(control, "full", full), self._row(control, "batch", batch)]
        for control in ("retrain", "no_op", "half"):
            rows.append(self._row(control, "exact", test.verdict(tried[control][0], None)))
        return rows

    def one_record_rows(self) -> list[dict[str, Any]]:
        """Return the rows of a request for the first record of a batch."""
        case, sizes = self._case, self._sizes
        forget = case.one_record(self._number)
        away = case.pool(f"one-{self._number}", sizes.drawn + ONE_RECORD_CANDIDATES)
        gone = case.pool(f"class-{self._number}", self._n_class)
        originals, held = self._originals()
        drawn = self._draw(away[: sizes.drawn], 3)
        n = sizes.pool
        noise = self._noise(case.pool(RANDOM, 3 * n))
        test = _Test(Draw(drawn[0], drawn[1], originals, held[0], noise), forget, forget)
        tried = {
            "whole_class": (gone[n + self._repeat % sizes.repeats], gone[:n]),
            "one_record_retrain": (
                away[sizes.drawn + self._repeat % ONE_RECORD_CANDIDATES],
                drawn[2],
            ),
            "one_record_no_op": (held[0], originals),
        }
        rows = []
        for control, (model, pool) in tried.items():
            batch = self._gate.verdict(self._number, model, held[0], n_records=1)
            rows += [
                self._row(control, "full", test.verdict(model, pool)),
                self._row(control, "batch", batch),
            ]
        return rows

    @property
    def _n_class(self) -> int:
        return self._sizes.pool + self._sizes.repeats

    def _never_learned(self) -> list[dict[str, Any]]:
        """Judge unlearning of records that the original never saw: all pools are alike."""
        everyone = self._all_originals()
        order = self._random.permutation(len(everyone))
        n = self._sizes.pool
        parts = [[everyone[i] for i in order[k * n : (k + 1) * n]] for k in range(4)]
        rest = [everyone[i] for i in order[4 * n :]]
        noise = self._noise(self._case.pool(RANDOM, 3 * n))
        draw = Draw(parts[0], parts[1], parts[2], rest[0], noise)
        test = _Test(draw, self._case.never_learned[self._number], None)
        batch = self._gate.verdict(self._number, rest[1], rest[0], never=True)
        return [
            self._row("never_learned", "full", test.verdict(rest[1], parts[3])),
            self._row("never_learned", "batch", batch),
        ]

    def _noise(self, models: Sequence[Measured]) -> Measured:
        return models[int(self._random.integers(self._sizes.pool, len(models)))]

    def _pool(self, kind: str) -> list[Measured]:
        return self._named(f"{kind}-{self._number}")

    def _named(self, name: str) -> list[Measured]:
        sizes = self._sizes
        first = sizes.pool if name.startswith("half") else sizes.drawn
        return self._case.pool(name, first + sizes.candidates)

    def _all_originals(self) -> list[Measured]:
        return self._case.pool(ORIGINAL, 5 * self._sizes.pool)

    def _originals(self) -> tuple[list[Measured], list[Measured]]:
        """Return O and the originals outside of it."""
        everyone = self._all_originals()
        order = self._random.permutation(len(everyone))
        n = self._sizes.pool
        return [everyone[i] for i in order[:n]], [everyone[i] for i in order[n:]]

    def _draw(self, pool: Sequence[Measured], parts: int) -> list[list[Measured]]:
        order = self._random.permutation(len(pool))
        n = self._sizes.pool
        return [[pool[i] for i in order[k * n : (k + 1) * n]] for k in range(parts)]

    def _row(self, control: str, tier: str, found: dict[str, Any]) -> dict[str, Any]:
        where = {"request": self._number, "repeat": self._repeat}
        return {"control": control, "tier": tier, **where, **found}


class _Test:
    """The gate of one request: calibrated once, asked for each control."""

    def __init__(self, draw: Draw, forget: np.ndarray, retained: np.ndarray | None) -> None:
        """Calibrate.

        Args:
            draw: Models.
            forget: Positions of the records asked for: of training records, or of validation
                records where ``retained`` is None.
            retained: Positions of training records that do not stay.
        """
        self._forget, self._never = forget, retained is None
        self._draw = draw
        self._reference = Reference(
            self._pool(draw.reference),
            self._pool(draw.original_pool),
            max_accuracy_drop=MAX_ACCURACY_DROP,
        )
        self._second = self._pool(draw.second)
        self._level = float(self._pool(draw.reference).relative.mean())

    def verdict(
        self,
        candidate: Measured,
        pool: Sequence[Measured] | None,
        *,
        filtered: Filter | None = None,
    ) -> dict[str, Any]:
        """Return verdict, controls and p-values of a candidate; no pool means the exact lane."""
        exact = pool is None
        controls = check_controls(
            self._reference,
            original_model=self._pool([self._draw.original]),
            second_retrain=self._second,
            random_model=self._pool([self._draw.random]),
            error_level=ERROR_LEVEL,
        )
        conditions = judge_model(
            self._reference,
            self._pool([candidate], filtered),
            error_level=ERROR_LEVEL * (EXACT_ERROR_FACTOR if exact else 1.0),
            pool=None if pool is None else self._pool(pool, filtered),
            second_retrain=self._second,
        )
        verdict, _ = decide(controls, conditions, exact=exact)
        return {
            "verdict": verdict,
            "n_forget": len(self._forget),
            "controls": controls.to_dict(),
            "p": {c.name: float(f"{c.adjusted_p:.3g}") for c in conditions},
            "raw": {c.name: float(f"{c.p_value:.3g}") for c in conditions},
            "numbers": {k: float(f"{v:.3g}") for k, v in controls.numbers.items()},
        }

    def lowered_to_level(self, measured: Measured) -> np.ndarray:
        """Return margins lowered by what makes their mean that of retrained models."""
        margins = measured.train[self._forget]
        excess = float(margins.mean() - measured.test.mean()) - self._level
        return np.asarray(margins - excess)

    def _pool(self, models: Sequence[Measured], filtered: Filter | None = None) -> PoolMargins:
        def of(measured: Measured) -> np.ndarray:
            if filtered is not None:
                return np.asarray(filtered(measured))
            return (measured.unseen if self._never else measured.train)[self._forget]

        stays = np.ones(len(models[0].train), dtype=bool)
        if not self._never:
            stays[self._forget] = False
        return PoolMargins(
            margins=np.stack([of(m) for m in models]),
            retain_accuracy=np.array([(m.train[stays] > 0).mean() for m in models]),
            test_accuracy=np.array([(m.test > 0).mean() for m in models]),
            test_margin=np.array([m.test.mean() for m in models]),
        )
