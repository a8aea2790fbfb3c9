"""From rows to numbers: estimates over training seeds for each model of a case.

Only seeds that are complete count, so that every number of a case is about the same models.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.readiness.statistics import Estimate, likelihood_ratio_auc, mean, ratio
from benchmarks.unlearning.cases import ORDINARY, READY
from benchmarks.unlearning.choice import average_gap, level_of
from benchmarks.unlearning.measures import ACCURACIES, GAPS
from benchmarks.unlearning.runner import FIRST_TEST_SEED, RANDOM, REFERENCES, RETRAINED, SECOND

__all__ = ["RANDOM", "RETRAINED", "SECOND", "CaseRows", "tug_of_war"]
MIN_POOL = 5
"""Models on a side, at least, for the likelihood ratio; with fewer seeds a case is preliminary."""

_FLIP = 20.0

Row = Mapping[str, Any]


class CaseRows:
    """The rows of one task and request.

    Attributes:
        name: ``task/setting``.
        seeds: Complete test seeds.
        level: Mean of UA, RA, TA and MIA over the retrained models.
        methods: Methods, in order of trial.
    """

    def __init__(self, name: str, rows: Sequence[Row]) -> None:
        """Sort the rows; a case without a choice or a complete seed has no seeds."""
        self.name = name
        mine = [row for row in rows if f"{row['task']}/{row['setting']}" == name]
        self.choice: Row = next((row for row in mine if row["kind"] == "choice"), {})
        self._rows: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
        for row in mine:
            if row["kind"] == "reference":
                self._rows[row["training"], ""][row["seed"]] = row
            elif row["kind"] == "outcome" and self._is_chosen(row):
                training = ORDINARY if row["training"] == ORDINARY else READY
                self._rows[training, row["method"]][row["seed"]] = row
        self.methods = list(dict.fromkeys(method for _, method in self._rows if method))
        wanted = [(name, "") for name in REFERENCES]
        wanted += [(training, m) for training in (ORDINARY, READY) for m in self.methods]
        complete = set.intersection(*(set(self._rows[key]) for key in wanted))
        self.seeds = sorted(seed for seed in complete if self.choice and self.methods)
        if self.seeds:
            self.level = level_of(self.rows(RETRAINED))

    @property
    def title(self) -> str:
        """Name, with the number of seeds where there are too few."""
        return (
            self.name if len(self.seeds) >= MIN_POOL else f"{self.name} ({len(self.seeds)} seeds)"
        )

    def _is_chosen(self, row: Row) -> bool:
        if row["seed"] < FIRST_TEST_SEED or not self.choice:
            return False
        options = self.choice["options"].get(row["training"], {})
        return bool(options) and row["options"] == options.get(row["method"], row["options"])

    def rows(self, training: str, method: str = "") -> list[Row]:
        """Return the rows of a reference, or of a method on a training, by seed."""
        return [self._rows[training, method][seed] for seed in self.seeds]

    def gaps(self, training: str, method: str = "", names: Sequence[str] = GAPS) -> list[float]:
        """Return Avg. Gap in points of each seed; of fewer measures where ``names`` says so."""
        return [average_gap(row, self.level, names) for row in self.rows(training, method)]

    def measures(self, training: str, method: str = "") -> dict[str, Estimate]:
        """Return all estimates of a reference, or of a method on a training."""
        rows = self.rows(training, method)
        found = {name: mean([row[name] for row in rows]) for name in GAPS}
        found["gap"] = mean(self.gaps(training, method))
        found["accuracy_gap"] = mean(self.gaps(training, method, ACCURACIES))
        centre = {name: statistics.mean(row[name] for row in rows) for name in GAPS}
        found["gap_of_means"] = Estimate(average_gap(centre, self.level), None, None, len(rows))
        found["tow"] = mean([tug_of_war(row, self.level) for row in rows])
        theirs = self.rows(RETRAINED)
        level = statistics.mean(row["rebound"] for row in theirs)
        found["rebound"] = mean([row["rebound"] - level for row in rows])
        if len(rows) >= MIN_POOL and training != RETRAINED:
            pools = (np.array([row["margins"] for row in part]) for part in (rows, theirs))
            found["auc"] = likelihood_ratio_auc(*pools)
        if method:
            found["seconds"] = mean([row["cpu_s"] for row in rows])
            found["share"] = mean([100 * row["share"] for row in rows])
            found["steps"] = mean([row["steps"] for row in rows])
            found["refused"] = mean([float(row["refused"] is not None) for row in rows])
        return found

    def price(self) -> dict[str, Estimate]:
        """Return what the ready training costs before any request, against ordinary training."""
        pairs = list(zip(self.rows(READY, "no_op"), self.rows(ORDINARY, "no_op"), strict=True))
        return {
            "time": ratio(
                [a["train_cpu_s"] for a, _ in pairs], [b["train_cpu_s"] for _, b in pairs]
            ),
            "ta": mean([a["ta"] - b["ta"] for a, b in pairs]),
            "ua": mean([a["ua"] - b["ua"] for a, b in pairs]),
        }

    def flips(self) -> list[float]:
        """Return MIA of the retrained models where it is not stable: 20 points between seeds."""
        found = [round(row["mia"], 1) for row in self.rows(RETRAINED)]
        return found if max(found) - min(found) > _FLIP else []

    def difference(self, kind: str, names: Sequence[str] = GAPS) -> Estimate:
        """Return Avg. Gap of the ready training's pick minus that of the ordinary one's, paired."""
        ready, ordinary = (self.gaps(t, self.pick(t, kind), names) for t in (READY, ORDINARY))
        return mean([a - b for a, b in zip(ready, ordinary, strict=True)])

    def pick(self, training: str, kind: str) -> str:
        """Return the method that the validation seeds chose; ``kind``: fast or slow."""
        name = ORDINARY if training == ORDINARY else self.choice["ready"]
        return str(self.choice["picks"][name][kind])


def tug_of_war(row: Row, level: Mapping[str, float]) -> float:
    """Return ToW, 0-1: the product of 1 - distance to the retrained level, for FA, RA and TA.

    Source: Zhao et al. 2024 (arXiv 2406.01257).
    """
    product = 1.0
    for name in ("ua", "ra", "ta"):
        product *= 1 - abs(row[name] - level[name]) / 100
    return product
