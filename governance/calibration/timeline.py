"""Requests and subjects at risk, day by day of receipt (UTC), under the newest policy.

A day belongs to the classification in force at its beginning; only whole days under the newest
policy count, for requests and for time at risk alike, so a backlog from before a policy says
nothing about it. A subject who asked is at risk until the day of receipt, one whom somebody else's
request erased until the day of the erasure. Requests beyond ``until`` wait: the caller sets it to
the oldest receipt that is not decided yet, as later days are not complete.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from governance.calibration.observations import Observation
from governance.classification import RiskGroup
from governance.classification.runs import RunRecord


@dataclass(frozen=True, slots=True)
class Timeline:
    """Days under the newest policy.

    Attributes:
        days: Days of receipt.
        groups: Risk groups.
        asked: int ``[days, groups]``: subjects who asked themselves, by day of receipt.
        at_risk: float ``[days, groups]``: subjects who had not asked before the day.
        classified: float ``[days, groups]``: subjects by the classification in force.
    """

    days: tuple[date, ...]
    groups: tuple[RiskGroup, ...]
    asked: np.ndarray
    at_risk: np.ndarray
    classified: np.ndarray


def trace(
    runs: Sequence[RunRecord], observations: Sequence[Observation], *, until: datetime
) -> Timeline:
    """Return the days under the newest run's policy.

    Args:
        runs: Classifications, oldest first.
        observations: Batches of requests.
        until: End; a day counts if it is over by then.
    """
    policy = runs[-1].policy_digest
    groups = {g.group: g for run in runs if run.policy_digest == policy for g in run.groups}
    place = {name: index for index, name in enumerate(groups)}
    mine = [o for o in observations if o.policy_digest == policy]
    in_force = _runs_by_day(runs, until)
    days = [day for day, run in in_force.items() if run.policy_digest == policy]
    row = {day: index for index, day in enumerate(days)}
    shape = (len(days), len(groups))
    asked, classified, gone = np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape)
    for observation in mine:
        for day, name, count in observation.receipts():
            if day in row and name in place:
                asked[row[day], place[name]] += count
    for run in runs:
        rows = [row[day] for day in days if in_force[day] is run]
        if not rows:
            continue
        first, end = rows[0], rows[-1] + 1
        for group in run.groups:
            classified[first:end, place[group.group]] = group.n_subjects
        for observation in mine:
            if observation.at > run.at:  # their rows were in this classification
                _remove(gone[first:end], days[first:end], place, observation)
    return Timeline(
        tuple(days), tuple(groups.values()), asked, np.maximum(classified - gone, 0.0), classified
    )


def _remove(
    gone: np.ndarray, days: Sequence[date], place: dict[str, int], observation: Observation
) -> None:
    erased = observation.at.astimezone(UTC).date()
    others = dict(observation.subjects_by_group)
    leaving = list(observation.receipts())
    for _, name, count in leaving:
        others[name] = others.get(name, 0) - count
    leaving += [(erased, name, count) for name, count in others.items() if count > 0]
    for day, name, count in leaving:
        if name in place:
            gone[bisect_right(days, day) :, place[name]] += count


def _runs_by_day(runs: Sequence[RunRecord], until: datetime) -> dict[date, RunRecord]:
    """Return the classification in force at the beginning of each whole day."""
    found: dict[date, RunRecord] = {}
    begin = datetime.combine(runs[0].at.astimezone(UTC).date(), time(), UTC)
    index = -1
    while begin + timedelta(days=1) <= until:
        while index + 1 < len(runs) and runs[index + 1].at <= begin:
            index += 1
        if index >= 0:
            found[begin.date()] = runs[index]
        begin += timedelta(days=1)
    return found
