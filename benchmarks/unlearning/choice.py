"""What is chosen on validation seeds, and by which rule; the reported seeds choose nothing.

Rules. (1) *Settings* of a method, for each training: the smallest mean Avg. Gap. (2) *Ready
training*: of the candidates that before any request lose at most 1 point, on records that stay and
on records to forget, against ordinary training, the one whose best method has the smallest mean
Avg. Gap within the budget of time; if no method of any candidate is within it, at any time; if no
candidate is that good before, of all. (3) *Fast pick*, for each training: of the methods whose
mean share of a retrain is at most 5 %, the smallest mean Avg. Gap (none: the cheapest). (4) *Slow
pick*: the smallest mean Avg. Gap at any time.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.unlearning.measures import GAPS

BUDGET = 0.05
"""Share of the time of a retrain that a fast method may take."""
MAX_PRICE = 1.0
"""Points that a ready training may lose before any request."""
CONTROL = "no_op"


def level_of(retrained: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over retrained models: what unlearning should come to."""
    rows = list(retrained)
    return {name: statistics.mean(row[name] for row in rows) for name in GAPS}


def average_gap(
    row: Mapping[str, Any], level: Mapping[str, float], names: Sequence[str] = GAPS
) -> float:
    """Return Avg. Gap in points: mean distance of UA, RA, TA and MIA to the retrained level."""
    return statistics.mean(abs(row[name] - level[name]) for name in names)


@dataclass(frozen=True)
class Tried:
    """One method with one setting on one training, over the validation seeds.

    Attributes:
        gap: Mean Avg. Gap in points.
        share: Mean share of the time of a retrain.
    """

    training: str
    method: str
    options: str
    gap: float
    share: float


def tried_from(rows: Iterable[Mapping[str, Any]], level: Mapping[str, float]) -> list[Tried]:
    """Return the means over seeds of each training, method and setting; controls are left out."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["method"] != CONTROL:
            groups[row["training"], row["method"], row["options"]].append(row)
    return [
        Tried(
            *names,
            gap=statistics.mean(average_gap(row, level) for row in group),
            share=statistics.mean(row["share"] for row in group),
        )
        for names, group in groups.items()
    ]


def best_options(tried: Sequence[Tried], training: str, method: str) -> str:
    """Return the settings of a method by rule 1."""
    own = [one for one in tried if (one.training, one.method) == (training, method)]
    return min(own, key=lambda one: one.gap).options


def ready_training(tried: Sequence[Tried], price: Mapping[str, float]) -> str:
    """Return the ready training by rule 2.

    Args:
        tried: Methods on every candidate.
        price: Points lost before any request, by candidate.
    """
    good = [name for name, points in price.items() if points <= MAX_PRICE] or list(price)
    mine = [one for one in tried if one.training in good]
    cheap = [one for one in mine if one.share <= BUDGET]
    return min(cheap or mine, key=lambda one: one.gap).training


def picks(tried: Sequence[Tried], training: str) -> dict[str, str]:
    """Return the methods of rules 3 and 4, each with its settings of rule 1."""
    own = [one for one in tried if one.training == training]
    own = [one for one in own if one.options == best_options(own, training, one.method)]
    cheap = [one for one in own if one.share <= BUDGET]
    fast = min(cheap, key=lambda one: one.gap) if cheap else min(own, key=lambda one: one.share)
    return {"fast": fast.method, "slow": min(own, key=lambda one: one.gap).method}
