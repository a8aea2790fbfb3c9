"""Drift alarm: do requests still come at the rates that the policy states?

A sequential test in weeks of receipt that may be looked at after every batch. For counts X that
are Poisson with a rate of at most b times the expected mu, (t / b)^X exp(-(t - b) mu) with t > b
has an expectation of at most 1 (and likewise for rates of at least b and t < b): an e-value.
Averages of e-values are e-values, whatever their dependence, so we average over cells (risk
groups), over sizes t of a change, and, with weights 1 / (s (s + 1)), over the week s at which it
began. By Ville's inequality the chance that this ever reaches 1 / alpha while all rates stay
within ``tolerance`` of the stated ones is at most alpha, however often one looks.

What it assumes: within a risk group, subjects ask for themselves independently of each other,
each at most once and with a hazard within ``tolerance`` of the stated one. A subject with records
in several groups counts once in each; a sum over groups would count them several times at once,
which no Poisson count does, so there is none. The subjects of one tenant's request do not count.
Counts are by receipt and complete up to ``until``, and who asked is no longer at risk; the mean
of a day is then known before its requests, and binomial counts obey the same bound (below the
stated rate up to the hazard of a day, which the tolerance swallows).

Source: Ramdas et al., Game-theoretic statistics and safe anytime-valid inference (2023), sections
2-4; the composite null and the mixture over cells and starts are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from governance.calibration.observations import Observation
from governance.calibration.rates import hazard
from governance.calibration.timeline import trace
from governance.classification import RiskGroup
from governance.classification.runs import RunRecord

ALPHA = 0.05
"""Chance of a false alarm over the whole life of a policy version."""

TOLERANCE = 1.25
"""Factor by which a rate may differ from the stated one without being called a drift."""

_SIZES = (1.4, 2.0, 4.0)
_MAX_CELLS = 20
_PERIOD_DAYS = 7


@dataclass(frozen=True, slots=True)
class DriftResult:
    """State of the alarm.

    Attributes:
        alarm: Whether it was ever reached.
        alarm_at: Index of the week of receipt at which it was.
        e_values: After each week; the alarm is at 1 / alpha.
        cells: Name, asked and expected of each cell, over all weeks.
    """

    alarm: bool
    alarm_at: int | None
    e_values: tuple[float, ...]
    cells: tuple[tuple[str, int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "alarm": self.alarm,
            "alarm_at_week": self.alarm_at,
            "e_value": self.e_values[-1] if self.e_values else 1.0,
            "threshold": 1.0 / ALPHA,
            "false_alarm_rate_max": ALPHA,
            "tolerance": TOLERANCE,
            "cells": [
                {"cell": name, "asked": asked, "expected": expected}
                for name, asked, expected in self.cells
            ],
        }


def e_values(
    counts: np.ndarray, expected: np.ndarray, *, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Return the e-value after each batch.

    Args:
        counts: int ``[batches, cells]``.
        expected: float ``[batches, cells]``, by the stated rates; known before the counts.
        tolerance: Factor around the stated rates that counts as no drift.
    """
    n_batches = len(counts)
    before_x = np.vstack([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
    before_m = np.vstack([np.zeros((1, counts.shape[1])), np.cumsum(expected, axis=0)])
    weights = 1.0 / (np.arange(1, n_batches + 1) * np.arange(2, n_batches + 2))
    pairs = [(tolerance, tolerance * size) for size in _SIZES]
    pairs += [(1 / tolerance, 1 / (tolerance * size)) for size in _SIZES]
    found = []
    for now in range(1, n_batches + 1):
        x = before_x[now] - before_x[:now]
        mu = before_m[now] - before_m[:now]
        logs = [x * np.log(t / b) - (t - b) * mu for b, t in pairs]
        by_start = np.mean(np.exp(np.minimum(logs, 500.0)), axis=(0, 2))
        reserve = 1.0 - weights[:now].sum()
        found.append(float(weights[:now] @ by_start + reserve))
    return np.array(found)


def watch_drift(
    runs: Sequence[RunRecord],
    observations: Sequence[Observation],
    *,
    until: datetime,
    alpha: float = ALPHA,
) -> DriftResult:
    """Return the state of the alarm for the newest policy.

    Args:
        runs: Classifications, oldest first.
        observations: Batches of requests; those under the newest policy count.
        until: The oldest receipt that is not decided yet, or now.
        alpha: Chance of a false alarm over the whole life of the policy version.
    """
    timeline = trace(runs, observations, until=until)
    order = np.argsort([-group.n_subjects for group in timeline.groups], kind="stable")[:_MAX_CELLS]
    groups = [timeline.groups[index] for index in order]
    rates = [hazard(group.decision.probability, runs[-1].horizon_days) for group in groups]
    weeks = np.arange(0, len(timeline.days), _PERIOD_DAYS)
    counts = np.add.reduceat(timeline.asked[:, order], weeks) if len(weeks) else _nothing(groups)
    means = timeline.at_risk[:, order] * np.array(rates)
    expected = np.add.reduceat(means, weeks) if len(weeks) else _nothing(groups)
    path = e_values(counts, expected)
    reached = np.flatnonzero(path >= 1.0 / alpha)
    cells = tuple(
        (name, int(counts[:, index].sum()), float(expected[:, index].sum()))
        for index, name in enumerate(group.group for group in groups)
    )
    at = int(reached[0]) if len(reached) else None
    return DriftResult(at is not None, at, tuple(path.tolist()), cells)


def _nothing(groups: Sequence[RiskGroup]) -> np.ndarray:
    return np.zeros((0, len(groups)))
