"""Laws of calibration: known hazards are recovered, the alarm keeps its level, nobody is named."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.calibration import EDGES, NULL_ARMS, alarms, recovery
from benchmarks.calibration_parts.page import PAGE, render
from benchmarks.calibration_parts.streams import (
    DISTINCT,
    Arm,
    counted_when_planned,
    draw_stream,
    true_numbers,
)
from benchmarks.common import RESULTS
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
from governance.digests import read_json
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


def on_day(day, asked):
    return {(START + timedelta(days=day)).date().isoformat(): asked}


def spread(asked, first, end, generator):
    """Each request on a day of the batch's time."""
    by_day = {}
    for name, count in asked.items():
        days, counts = np.unique(generator.integers(first, end, count), return_counts=True)
        for day, n in zip(days, counts, strict=True):
            by_day.setdefault(next(iter(on_day(int(day), {}))), {})[name] = int(n)
    return by_day


def stream(run, probabilities, *, n_batches, days, generator):
    """Requests that come with constant hazards, one batch after every ``days`` days."""
    batches = []
    left = {group.group: group.n_subjects for group in run.groups}
    for index in range(n_batches):
        asked = {}
        for group, probability in zip(run.groups, probabilities, strict=True):
            p = probability[index] if isinstance(probability, list) else probability
            share_now = within(hazard(p, run.horizon_days), days)
            asked[group.group] = int(generator.binomial(left[group.group], share_now))
            left[group.group] -= asked[group.group]
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
                own_by_day=spread(asked, int(days * index), int(days * (index + 1)), generator),
            )
        )
    return batches


@pytest.mark.parametrize("arm", NULL_ARMS)
def test_calibration_recovers_a_known_hazard(arm):
    """20 years of each arm: no bias beyond 5 standard errors, and 95 % intervals that hold."""
    rows = {row["metric"]: row for row in recovery(arm, 20, np.random.default_rng(1))}

    bias = rows["bias of the probability"]
    assert abs(bias["value"]) <= 5 * (bias["high"] - bias["low"]) / (2 * 1.96)
    assert abs(bias["value"]) <= 0.005
    assert rows["95 % interval holds the truth"]["value"] >= 0.85
    assert rows["streams with a proposal"]["value"] == 1.0


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


@pytest.mark.parametrize("arm", NULL_ARMS)
def test_no_drift_raises_the_alarm_no_more_often_than_stated(arm):
    """20 years of each arm at the stated rates and at both edges of the tolerance: alpha of 60."""
    generator = np.random.default_rng(4)
    streams = [
        draw_stream(arm, true_numbers(arm), generator, factor=factor)
        for factor, _ in EDGES
        for _ in range(20)
    ]

    assert alarms("null", streams)[0]["value"] <= ALPHA


def test_a_backlog_would_raise_the_alarm_on_the_day_of_its_batch():
    """The control of the arm: the same requests, without their days of receipt, always alarm."""
    generator = np.random.default_rng(10)
    streams = [draw_stream(Arm.BACKLOG, DISTINCT, generator) for _ in range(5)]
    former = [(runs, counted_when_planned(batches)) for runs, batches in streams]

    assert alarms("former", former, baseline=None)[0]["value"] == 1.0


@pytest.mark.parametrize("arm", NULL_ARMS)
@pytest.mark.parametrize("change", [0.25, 3.0])
def test_a_planted_drift_raises_the_alarm_in_every_arm(arm, change):
    """A quarter or three times the hazard from week 26 on: found in each of 10 years, and after."""
    generator = np.random.default_rng(11)
    streams = [draw_stream(arm, true_numbers(arm), generator, change=change) for _ in range(10)]
    rows = {row["metric"]: row for row in alarms("drift", streams, has_change=True)}

    assert 1.0 == rows["alarm rate"]["value"]
    assert 0.0 == rows["alarms before the change"]["value"]


def test_the_page_of_the_study_says_what_its_results_say():
    """No figure is typed: the page is what is made from the result file."""
    results = read_json(RESULTS / "calibration.json")

    assert render(results) == PAGE.read_text(encoding="utf-8")


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

    assert not watch_drift([run], [leaving], until=START + timedelta(days=30)).alarm


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
        received=np.full(rows.num_rows, "2026-01-01", "datetime64[D]") if own is None else own,
        strata=("country",),
        pseudonym_keys=[KEY],
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


def batch_of(run, *, at, by_day, **changes):
    """A batch of subjects who asked themselves, by day of receipt since START."""
    own_by_day = {}
    for day, asked in by_day.items():
        own_by_day |= on_day(day, asked)
    own = {g.group: sum(a.get(g.group, 0) for a in by_day.values()) for g in run.groups}
    n = sum(own.values())
    fields = {
        "batch_id": "b",
        "at": START + timedelta(days=at),
        "policy_digest": run.policy_digest,
        "n_subjects": n,
        "n_subjects_covered": n,
        "n_records": n,
        "n_high": n,
        "n_revocable": n,
        "cost_of_misses": 0.0,
        "subjects_by_group": own,
        "own_by_group": own,
        "records_by_group": own,
        "subjects_by_stratum": {},
        "own_by_day": own_by_day,
    }
    return Observation(**{**fields, **changes})


def test_a_backlog_from_before_a_policy_says_nothing_about_it():
    """200 requests received before the first run, planned the day after: no count, no alarm."""
    run = run_of([1000] * 4)
    asked = {group.group: 50 for group in run.groups}
    backlog = batch_of(run, at=1, by_day={-20: asked})
    until = START + timedelta(days=3)  # too soon to miss the requests that are expected

    assert not watch_drift([run], [backlog], until=until).alarm
    assert [0] * 4 == [rate.asked for rate in group_rates([run], [backlog], until=until)]
    assert watch_drift([run], [batch_of(run, at=3, by_day={1: asked})], until=until).alarm


def test_the_alarm_watches_groups_and_no_sum_over_them():
    """A sum would count a subject in several groups several times at once."""
    run = run_of([400] * 4)

    cells = watch_drift([run], [], until=START + timedelta(days=7)).cells

    assert sorted(g.group for g in run.groups) == sorted(name for name, _, _ in cells)


def test_a_tenants_request_does_not_move_the_rates():
    """400 of 1,000 subjects leave with their tenant: nobody asked; they are at risk until then."""
    run = run_of([1000] * 4)
    left = {run.groups[0].group: 400}
    batch = batch_of(run, at=10, by_day={}, subjects_by_group=left)

    rates = {
        rate.group: rate for rate in group_rates([run], [batch], until=START + timedelta(days=21))
    }

    found = rates[run.groups[0].group]
    assert (0, 11 * 1000 + 10 * 600) == (found.asked, found.exposure_days)


def test_a_brier_score_is_about_the_days_under_the_newest_policy():
    """A year under another policy before: n, p and asked are of the newest one's 73 days.

    Brier: 4 groups of 100; p = 1 - (1 - P)^(73/365); 5 of each asked.
    """
    run = replace(run_of([100] * 4), revocable_by_group={"x": 40})
    before = replace(run, at=START - timedelta(days=365), policy_digest="other")
    asked = {group.group: 5 for group in run.groups}
    batch = batch_of(run, at=70, by_day={60: asked})
    old = replace(batch, policy_digest="other", at=START - timedelta(days=9), own_by_day={})
    until = START + timedelta(days=73)
    runs, batches = [before, run], [old, batch]

    found = measure(runs, batches, group_rates(runs, batches, until=until), until=until)

    p = [1 - (1 - g.decision.probability) ** 0.2 for g in run.groups]
    assert 73 == found["observed_days"]
    assert found["brier"] == pytest.approx(
        np.mean([0.05 * (1 - x) ** 2 + 0.95 * x**2 for x in p]), rel=1e-9
    )
    assert found["brier_constant"] == pytest.approx(0.05 * 0.95)
    assert (1, 20) == (found["n_batches"], found["recall_records"]["n"])
    assert (0.5, 40) == (found["precision_records"]["value"], found["precision_records"]["n"])
