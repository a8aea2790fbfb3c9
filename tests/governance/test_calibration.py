"""Laws of calibration: known hazards are recovered, the alarm keeps its level, nobody is named."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.calibration.drift import ALPHA, e_values, watch_drift
from governance.calibration.measures import measure, share
from governance.calibration.observations import (
    Observation,
    load_observations,
    observe_batch,
    request_rates,
    save_observation,
)
from governance.calibration.picture import draw_reliability
from governance.calibration.proposal import propose_policy
from governance.calibration.rates import group_rates, hazard, within
from governance.classification import RiskGroup, group_name
from governance.classification.decisions import decide
from governance.classification.runs import RunRecord, load_runs, save_run
from governance.policy import Policy
from governance.policy.changes import policy_changes
from governance.suites import describe_groups

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = b"k" * 32
POLICY = Policy.model_validate(
    {
        "policy": {"name": "p", "version": 3},
        "base_probability": 0.1,
        "rules": [
            {"id": "consent", "when": {"column": "basis", "equals": "consent"}, "add": 0.2},
            {"id": "eu", "when": {"column": "country", "equals": "DE"}, "add": 0.1},
        ],
    }
)
PATTERNS = ((), ("consent",), ("eu",), ("consent", "eu"))


def run_of(n_subjects, policy=POLICY):
    groups = tuple(
        RiskGroup(group_name(p), p, decide(p, policy), 2 * n, n)
        for p, n in zip(PATTERNS, n_subjects, strict=True)
    )
    return RunRecord(
        run_key="run",
        at=START,
        policy_digest=policy.digest,
        policy_version=policy.version,
        horizon_days=policy.horizon_days,
        distribution=describe_groups(list(groups), policy.digest),
        groups=groups,
        revocable_by_group={groups[-1].group: 10},
        strata={"aa": sum(n_subjects)},
    )


def stream(run, probabilities, *, n_batches, days, generator):
    """Requests that come with constant hazards, one batch after every ``days`` days."""
    batches = []
    for index in range(n_batches):
        asked = {}
        for group, probability in zip(run.groups, probabilities, strict=True):
            p = probability[index] if isinstance(probability, list) else probability
            mean = hazard(p, run.horizon_days) * group.n_subjects * days
            asked[group.group] = int(generator.poisson(mean))
        n = sum(asked.values())
        batches.append(
            Observation(
                batch_id=f"b{index}",
                at=START + timedelta(days=days * (index + 1)),
                policy_digest=run.policy_digest,
                n_subjects=n,
                n_subjects_covered=n // 2,
                n_records=2 * n,
                n_high=n,
                n_revocable=n,
                cost_of_misses=float(n),
                subjects_by_group=asked,
                own_by_group=asked,
                records_by_group={name: 2 * count for name, count in asked.items()},
                subjects_by_stratum={"aa": n},
            )
        )
    return batches


def test_calibration_recovers_a_known_hazard():
    """Of 50,000 subjects over a year, each group's true probability is inside its interval."""
    truth = [0.05, 0.45, 0.2, 0.35]
    run = run_of([20_000, 10_000, 10_000, 10_000])
    batches = stream(run, truth, n_batches=12, days=30.4, generator=np.random.default_rng(1))

    rates = {
        rate.pattern: rate
        for rate in group_rates([run], batches, until=START + timedelta(days=364.8))
    }

    for pattern, p in zip(PATTERNS, truth, strict=True):
        assert rates[pattern].observed == pytest.approx(p, abs=0.02)
        assert rates[pattern].low <= rates[pattern].observed <= rates[pattern].high


def test_a_wrong_policy_gets_a_proposal_near_the_truth_and_a_right_one_none():
    """True numbers: base 0.05, consent +0.40, eu +0.15; the policy says 0.10, 0.20, 0.10."""
    run = run_of([20_000] * 4)
    until = START + timedelta(days=365)
    wrong = stream(
        run, [0.05, 0.45, 0.20, 0.60], n_batches=12, days=30.4, generator=np.random.default_rng(2)
    )
    right = stream(
        run, [0.10, 0.30, 0.20, 0.40], n_batches=12, days=30.4, generator=np.random.default_rng(3)
    )

    proposed = propose_policy(POLICY, group_rates([run], wrong, until=until), horizon_days=365)

    assert proposed is not None
    assert proposed.version == POLICY.version + 1
    assert proposed.base_probability == pytest.approx(0.05, abs=0.02)
    found = {rule.id: rule.add for rule in proposed.rules}
    assert found["consent"] == pytest.approx(0.40, abs=0.02)
    assert found["eu"] == pytest.approx(0.15, abs=0.02)
    assert any(
        line.startswith("~ rules.consent.add: 0.2") for line in policy_changes(POLICY, proposed)
    )
    rates = group_rates([run], right, until=until)
    assert propose_policy(POLICY, rates, horizon_days=365) is None


@pytest.mark.parametrize("days", [1e-6, 1.0, 30.0])
def test_no_request_in_no_time_asks_for_no_change(days):
    """Right after a classification nothing was asked for, and that says nothing about a year."""
    run = run_of([50] * 4)
    rates = group_rates([run], [], until=START + timedelta(days=days))

    assert propose_policy(POLICY, rates, horizon_days=365) is None


def test_no_drift_raises_the_alarm_no_more_often_than_stated():
    """400 streams of 26 batches at the stated rates: a share of at most alpha alarms."""
    generator = np.random.default_rng(4)
    expected = np.tile([2.0, 8.0, 20.0], (26, 1))
    alarms = sum(
        bool(np.any(e_values(generator.poisson(expected), expected) >= 1 / ALPHA))
        for _ in range(400)
    )

    assert alarms / 400 <= ALPHA


@pytest.mark.parametrize(("factor", "least"), [(2.5, 0.95), (0.3, 0.95)])
def test_a_planted_drift_raises_the_alarm(factor, least):
    """From batch 13 on one group asks 2.5 times (or 0.3 times) as often: nearly all are found."""
    generator = np.random.default_rng(5)
    expected = np.tile([2.0, 8.0, 20.0], (26, 1))
    true = expected.copy()
    true[13:, 2] *= factor
    found = [
        np.flatnonzero(e_values(generator.poisson(true), expected) >= 1 / ALPHA) for _ in range(60)
    ]

    assert np.mean([len(hits) > 0 for hits in found]) >= least
    assert np.median([hits[0] for hits in found if len(hits)]) >= 12


def test_an_e_value_has_an_expectation_of_at_most_one_at_the_edge_of_the_tolerance():
    """At 1.25 times the stated rate, the worst of the null, the mean over 4,000 streams is <= 1."""
    generator = np.random.default_rng(6)
    expected = np.full((6, 1), 3.0)
    last = [e_values(generator.poisson(1.25 * expected), expected)[-1] for _ in range(4000)]

    assert np.mean(last) <= 1.0 + 3 * np.std(last) / np.sqrt(len(last))


def test_the_requests_of_a_tenant_do_not_raise_the_alarm():
    """A whole tenant leaves at once: many subjects, none of whom asked themselves."""
    run = run_of([1000] * 4)
    stated = [0.1, 0.3, 0.2, 0.4]
    batch = stream(run, stated, n_batches=1, days=30, generator=np.random.default_rng(7))[0]
    left = {name: 500 for name in batch.subjects_by_group}
    leaving = Observation(**{**batch.to_dict(), "at": batch.at, "subjects_by_group": left})

    assert not watch_drift([run], [leaving]).alarm


def rows_of(persons, revocable, groups):
    n = len(persons)
    return pa.table(
        {
            "person": persons,
            "country": ["DE", "US"] * (n // 2) + ["DE"] * (n % 2),
            "risk_group": groups,
            "revocable": revocable,
            "risk_level": ["high" if r else "low" for r in revocable],
            "erasure_cost": [2.0] * n,
            "policy_digest": [POLICY.digest] * n,
        }
    )


def observe(rows, own=None):
    return observe_batch(
        rows,
        batch_id="b1",
        at=START,
        subject_id="person",
        asked_themselves=np.ones(rows.num_rows, bool) if own is None else own,
        strata=("country",),
        pseudonym_key=KEY,
    )


def test_an_observation_counts_and_names_nobody(tmp_path):
    """Three persons, one of them with a stable record: 2 of 3 covered, 1 miss of cost 2."""
    rows = rows_of(
        ["planted-a", "planted-a", "planted-b", "planted-c"],
        [True, False, True, True],
        ["g", "g", "g", "h"],
    )

    found = observe(rows)
    save_observation(tmp_path, found)

    assert (3, 2, 4, 3) == (
        found.n_subjects,
        found.n_subjects_covered,
        found.n_records,
        found.n_revocable,
    )
    assert {"g": 2, "h": 1} == found.subjects_by_group
    assert {"g": 3, "h": 1} == found.records_by_group
    assert 2.0 == found.cost_of_misses
    assert [found] == load_observations(tmp_path)
    text = next(tmp_path.rglob("*.json")).read_text()
    assert "planted" not in text
    assert "DE" not in text


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=50, deadline=None, database=None)
def test_a_share_lies_in_its_interval(hits, more):
    """0 <= low <= share <= high <= 1; of nothing there is no share, and anything is possible."""
    found = share(hits, hits + more)

    assert 0.0 <= found.low <= found.high <= 1.0
    if hits + more:
        assert found.low - 1e-12 <= found.value <= found.high + 1e-12
    else:
        assert (found.value, found.low, found.high) == (None, 0.0, 1.0)


def test_measures_of_a_stream_follow_from_its_counts():
    """Half of the subjects covered: recall 1/2; the stated probabilities beat one rate for all."""
    run = run_of([5000] * 4)
    batches = stream(
        run, [0.1, 0.3, 0.2, 0.4], n_batches=12, days=30.4, generator=np.random.default_rng(8)
    )
    until = START + timedelta(days=364.8)
    rates = group_rates([run], batches, until=until)

    found = measure([run], batches, rates, until=until)

    assert found["recall_subjects"]["value"] == pytest.approx(0.5, abs=0.01)
    assert found["brier"] < found["brier_constant"]
    assert [row["asked"] for row in found["reliability"]]
    for row in found["reliability"]:
        assert row["low"] <= row["stated"] <= row["high"]
    assert draw_reliability(found["reliability"])[:4] == b"\x89PNG"


def test_a_stratum_has_a_rate_only_after_a_month():
    """1000 subjects, 60 requests in 36.525 days: 0.6 a year; after ten days nobody knows."""
    run = run_of([250] * 4)
    batch = stream(run, [0.1] * 4, n_batches=1, days=5, generator=np.random.default_rng(9))[0]
    asked = Observation(**{**batch.to_dict(), "at": batch.at, "subjects_by_stratum": {"aa": 60}})

    late = request_rates([run], [asked], now=START + timedelta(days=36.525))
    early = request_rates([run], [asked], now=START + timedelta(days=10))

    assert {"aa": pytest.approx(0.6)} == late
    assert {} == early


def test_a_run_is_read_back_as_it_was(tmp_path):
    """Groups, decisions and dates survive JSON."""
    run = run_of([1, 2, 3, 4])
    save_run(tmp_path, run)

    assert [run] == load_runs(tmp_path)


@given(st.floats(0.0, 0.99), st.floats(1.0, 5000.0))
@settings(max_examples=50, deadline=None, database=None)
def test_probability_and_hazard_are_inverse(probability, horizon_days):
    """P = 1 - exp(-h H) both ways."""
    assert within(hazard(probability, horizon_days), horizon_days) == pytest.approx(probability)
