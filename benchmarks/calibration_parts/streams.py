"""Streams of deletion requests with a known hazard, through the records that calibration reads.

Every subject has one constant hazard and asks at most once, for all of their data; the batches of a
year are planned at the end of each week. An ``Arm`` says in what the world differs from this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np

from governance.calibration.observations import Observation
from governance.calibration.rates import hazard
from governance.classification import RiskGroup, group_name
from governance.classification.decisions import decide
from governance.classification.runs import RunRecord
from governance.policy import Policy
from governance.suites import describe_groups

START = datetime(2026, 1, 1, tzinfo=UTC)
N_SUBJECTS = 5_000
"""Subjects of each of the four groups."""

WEEKS = 52
CHANGE_AT = 26
PATTERNS = ((), ("consent",), ("eu",), ("consent", "eu"))
CHANGING = PATTERNS.index(("consent",))
BACKLOG_DAYS = 90
TENANT_LEAVES_IN_WEEK = 20
TENANT_SHARE = 0.4
RECLASSIFIED_WEEKS = 4


class Arm(StrEnum):
    """In what the requests differ from the plain case; the value says it."""

    PLAIN = "every subject in one group"
    SEVERAL = "every subject in all four groups"
    BACKLOG = "backlog of 90 days before the first run"
    TENANT = "a tenant with 40 % of all leaves in week 20"
    RECLASSIFIED = "classified anew every 4 weeks"
    MIXED = "half of a group also in one of a lower rate"


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a policy with two rules that add."""

    base: float
    consent: float
    eu: float

    def probabilities(self) -> np.ndarray:
        """Return the probability within a year of each group of ``PATTERNS``."""
        add = {"consent": self.consent, "eu": self.eu}
        return np.array([self.base + sum(add[name] for name in p) for p in PATTERNS])

    def policy(self) -> Policy:
        """Return a policy that states them."""
        return Policy.model_validate(
            {
                "policy": {"name": "study", "version": 1},
                "base_probability": self.base,
                "rules": [
                    {
                        "id": "consent",
                        "when": {"column": "b", "equals": "consent"},
                        "add": self.consent,
                    },
                    {"id": "eu", "when": {"column": "c", "equals": "DE"}, "add": self.eu},
                ],
            }
        )


DISTINCT = Numbers(0.04, 0.22, 0.08)
ALIKE = Numbers(0.12, 0.0, 0.0)
"""One probability for all: a subject in several groups has only one hazard."""


def true_numbers(arm: Arm) -> Numbers:
    """Return what the requests of an arm follow."""
    return ALIKE if arm is Arm.SEVERAL else DISTINCT


def draw_stream(
    arm: Arm,
    stated: Numbers,
    generator: np.random.Generator,
    *,
    factor: float = 1.0,
    change: float = 1.0,
) -> tuple[list[RunRecord], list[Observation]]:
    """Return classifications and batches of a year.

    Args:
        arm: World.
        stated: What the policy says; the requests follow ``true_numbers``.
        generator: Randomness.
        factor: Of every hazard, all the time.
        change: Of the hazard from the beginning of week ``CHANGE_AT``: of the subjects of one
            group, or of all where everybody is in all groups.
    """
    rates = np.array([hazard(p, 365.0) for p in true_numbers(arm).probabilities()]) * factor
    member, rate, changes = _subjects(arm, rates)
    begin = -BACKLOG_DAYS if arm is Arm.BACKLOG else 0
    day = _days(rate, np.where(changes, change, 1.0), begin, generator)
    week = np.maximum(day // 7, 0)  # what waited is planned with the first week
    leaves = np.zeros(len(day), dtype=bool)
    if arm is Arm.TENANT:
        leaves = (generator.random(len(day)) < TENANT_SHARE) & (week > TENANT_LEAVES_IN_WEEK)
        week[leaves] = TENANT_LEAVES_IN_WEEK
    every = RECLASSIFIED_WEEKS if arm is Arm.RECLASSIFIED else WEEKS
    policy = stated.policy()
    runs = [_run(policy, member[week >= first], first) for first in range(0, WEEKS, every)]
    groups = [group.group for group in runs[0].groups]
    batches = [
        _batch(now, member[week == now], day[week == now], leaves[week == now], runs[0], groups)
        for now in range(WEEKS)
    ]
    return runs, batches


def counted_when_planned(batches: list[Observation]) -> list[Observation]:
    """Return the batches without days of receipt: the former count, on the day of the batch."""
    return [replace(batch, own_by_day={}) for batch in batches]


def _subjects(arm: Arm, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return membership ``[subjects, groups]``, hazard a day, and whose hazard changes."""
    if arm is Arm.SEVERAL:
        everybody = np.ones((N_SUBJECTS, len(PATTERNS)), dtype=bool)
        return everybody, np.full(N_SUBJECTS, rates[0]), np.ones(N_SUBJECTS, dtype=bool)
    own = np.repeat(np.arange(len(PATTERNS)), N_SUBJECTS)
    member = own[:, None] == np.arange(len(PATTERNS))
    if arm is Arm.MIXED:
        member[np.flatnonzero(own == CHANGING)[: N_SUBJECTS // 2], 0] = True
    return member, rates[own], own == CHANGING


def _days(
    rate: np.ndarray, change: np.ndarray, begin: int, generator: np.random.Generator
) -> np.ndarray:
    """Return on which day since ``START`` each asks: the inverse of the cumulative hazard."""
    spent = generator.exponential(size=len(rate))
    until_change = 7 * CHANGE_AT - begin
    before = spent / rate
    after = until_change + (spent - rate * until_change) / (rate * change)
    return np.floor(begin + np.where(before < until_change, before, after)).astype(np.int64)


def _run(policy: Policy, member: np.ndarray, first: int) -> RunRecord:
    counts = member.sum(axis=0)
    groups = tuple(
        RiskGroup(group_name(p), p, decide(p, policy), int(n), int(n))
        for p, n in zip(PATTERNS, counts, strict=True)
    )
    return RunRecord(
        run_key=f"run{first}",
        at=START + timedelta(weeks=first),
        policy_digest=policy.digest,
        policy_version=policy.version,
        horizon_days=policy.horizon_days,
        distribution=describe_groups(list(groups), policy.digest),
        groups=groups,
        revocable_by_group={},
        strata={},
    )


def _batch(
    now: int,
    member: np.ndarray,
    day: np.ndarray,
    leaves: np.ndarray,
    run: RunRecord,
    groups: list[str],
) -> Observation:
    own_by_day = {
        (START + timedelta(days=int(d))).date().isoformat(): _counts(
            member[(day == d) & ~leaves], groups
        )
        for d in np.unique(day[~leaves])
    }
    subjects = _counts(member, groups)
    n_records = sum(subjects.values())
    return Observation(
        batch_id=f"w{now}",
        at=START + timedelta(weeks=now + 1),
        policy_digest=run.policy_digest,
        n_subjects=len(member),
        n_subjects_covered=len(member),
        n_records=n_records,
        n_high=n_records,
        n_revocable=n_records,
        cost_of_misses=0.0,
        subjects_by_group=subjects,
        own_by_group=_counts(member[~leaves], groups),
        records_by_group=subjects,
        subjects_by_stratum={},
        own_by_day=own_by_day,
    )


def _counts(member: np.ndarray, groups: list[str]) -> dict[str, int]:
    counts = member.sum(axis=0)
    return {name: int(n) for name, n in zip(groups, counts, strict=True) if n}
