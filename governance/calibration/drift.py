"""Drift alarm: do requests still come at the rates that the policy states?

A sequential test that may be looked at after every batch. For counts X that are Poisson with a rate
of at most b times the expected mu, (t / b)^X exp(-(t - b) mu) with t > b has an expectation of at
most 1 (and likewise for rates of at least b and t < b): an e-value. Averages of e-values are
e-values, so we average over cells (risk groups, and all together), over sizes t of a change, and,
with weights 1 / (s (s + 1)), over the batch s at which it began. By Ville's inequality the chance
that this ever reaches 1 / alpha while all rates stay within ``tolerance`` of the stated ones is at
most alpha, however often one looks.

Only subjects who asked themselves count: the subjects of one tenant's request do not come
independently. Source: Ramdas et al., Game-theoretic statistics and safe anytime-valid inference
(2023), sections 2-4; the composite null and the mixture over cells and starts are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from governance.calibration.observations import Observation, exposure_days
from governance.calibration.rates import hazard
from governance.classification.runs import RunRecord

ALPHA = 0.05
"""Chance of a false alarm over the whole life of a policy version."""

TOLERANCE = 1.25
"""Factor by which a rate may differ from the stated one without being called a drift."""

_SIZES = (1.4, 2.0, 4.0)
_MAX_CELLS = 20


@dataclass(frozen=True, slots=True)
class DriftResult:
    """State of the alarm.

    Attributes:
        alarm: Whether it was ever reached.
        alarm_at: Index of the batch at which it was.
        e_values: After each batch; the alarm is at 1 / alpha.
        cells: Name, asked and expected of each cell, over all batches.
    """

    alarm: bool
    alarm_at: int | None
    e_values: tuple[float, ...]
    cells: tuple[tuple[str, int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "alarm": self.alarm,
            "alarm_at_batch": self.alarm_at,
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
    runs: Sequence[RunRecord], observations: Sequence[Observation], *, alpha: float = ALPHA
) -> DriftResult:
    """Return the state of the alarm for the newest policy.

    Args:
        runs: Classifications, oldest first.
        observations: Batches of requests, oldest first; those under the newest policy count.
        alpha: Chance of a false alarm over the whole life of the policy version.
    """
    policy, horizon = runs[-1].policy_digest, runs[-1].horizon_days
    mine = [o for o in observations if o.policy_digest == policy]
    of_policy = [run for run in runs if run.policy_digest == policy]
    largest = sorted(of_policy[-1].groups, key=lambda group: -group.n_subjects)[:_MAX_CELLS]
    names = [group.group for group in largest]
    counts = np.zeros((len(mine), len(names) + 1))
    expected = np.zeros((len(mine), len(names) + 1))
    since = of_policy[0].at
    for index, observation in enumerate(mine):
        for run, days in exposure_days(runs, since, observation.at):
            for group in run.groups if run.policy_digest == policy else ():
                mean = hazard(group.decision.probability, horizon) * group.n_subjects * days
                expected[index, -1] += mean
                if group.group in names:
                    expected[index, names.index(group.group)] += mean
        for name, count in observation.own_by_group.items():
            counts[index, -1] += count
            if name in names:
                counts[index, names.index(name)] += count
        since = max(since, observation.at)
    path = e_values(counts, expected)
    reached = np.flatnonzero(path >= 1.0 / alpha)
    cells = tuple(
        (name, int(counts[:, index].sum()), float(expected[:, index].sum()))
        for index, name in enumerate([*names, "all"])
    )
    at = int(reached[0]) if len(reached) else None
    return DriftResult(at is not None, at, tuple(path.tolist()), cells)
