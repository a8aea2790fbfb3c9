"""Laws of the unlearning study: measures, rules of choice, and that it goes on where it stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.readiness.runner import Rows
from benchmarks.unlearning.advice import advice
from benchmarks.unlearning.cases import ORDINARY, READY, Case
from benchmarks.unlearning.choice import (
    Tried,
    average_gap,
    best_options,
    level_of,
    picks,
    ready_training,
    tried_from,
)
from benchmarks.unlearning.measures import svc_mia
from benchmarks.unlearning.page import peer_section
from benchmarks.unlearning.runner import FIRST_TEST_SEED, Plan, Study, rows_of
from benchmarks.unlearning.summary import RANDOM, RETRAINED, SECOND, CaseRows, tug_of_war
from benchmarks.unlearning.tables import findings, result_rows, table
from r2u_tasks.data import Records

pytestmark = pytest.mark.ml

PLAN = Plan(("no_op", "gradient_ascent"), ("absolute",), (1000,))


def records_with_confidence(p, n):
    """Records whose input is the logits of two classes; label 0 has probability p."""
    logits = torch.tensor([np.log(p / (1 - p)), 0.0], dtype=torch.float32).repeat(n, 1)
    noise = torch.linspace(-0.1, 0.1, n)[:, None] * torch.tensor([[1.0, 0.0]])
    return Records(
        logits + noise, torch.zeros(n, dtype=torch.int64), np.array([str(i) for i in range(n)])
    )


@pytest.mark.parametrize(("confidence", "found"), [(0.6, 100.0), (0.99, 0.0)])
def test_the_attack_takes_records_for_unseen_where_they_look_like_unseen_ones(confidence, found):
    """Known records have confidence 0.99, unseen ones 0.6; the records to forget have either."""
    known, unseen = records_with_confidence(0.99, 200), records_with_confidence(0.6, 300)
    forget = records_with_confidence(confidence, 50)

    assert svc_mia(nn.Identity(), known, unseen, forget) == found


def test_the_level_is_at_distance_zero_and_a_tug_of_war_of_one():
    """Gaps 2, 4, 0, 2: mean 2. FA off by 2 points, RA by 4, TA by 0: 0.98 * 0.96."""
    level = level_of(
        [{"ua": 4, "ra": 98, "ta": 95, "mia": 6}, {"ua": 6, "ra": 100, "ta": 95, "mia": 8}]
    )
    row = {"ua": 3, "ra": 95, "ta": 95, "mia": 9}

    assert average_gap(level, level) == 0
    assert tug_of_war(level, level) == 1
    assert average_gap(row, level) == 2
    assert tug_of_war(row, level) == pytest.approx(0.98 * 0.96)


def test_the_fast_pick_is_the_nearest_within_the_budget_and_the_slow_one_the_nearest():
    """The nearest takes 40 % of a retrain; the nearest within 5 % is not the cheapest."""
    tried = [
        Tried(ORDINARY, "near", "default", 0.5, 0.40),
        Tried(ORDINARY, "fast", "default", 1.0, 0.04),
        Tried(ORDINARY, "cheap", "default", 9.0, 0.01),
        Tried("other", "nearer", "default", 0.1, 0.01),
    ]

    assert picks(tried, ORDINARY) == {"fast": "fast", "slow": "near"}
    assert picks([replace(one, share=0.5 + one.gap / 10) for one in tried], ORDINARY) == {
        "fast": "near",
        "slow": "near",
    }


def test_settings_are_chosen_by_gap_and_a_method_counts_with_its_own():
    """With its better settings a method is too slow for the budget, so the other is picked."""
    tried = [
        Tried(ORDINARY, "a", "default", 2.0, 0.01),
        Tried(ORDINARY, "a", "retain 3", 1.0, 0.20),
        Tried(ORDINARY, "b", "default", 3.0, 0.02),
    ]

    assert best_options(tried, ORDINARY, "a") == "retain 3"
    assert picks(tried, ORDINARY) == {"fast": "b", "slow": "a"}


def test_a_ready_training_that_costs_accuracy_is_not_chosen():
    """The one with gap 0.1 lost 6 points before any request; where all lose, the gap decides."""
    tried = [Tried("dear", "m", "default", 0.1, 0.01), Tried("fair", "m", "default", 1.0, 0.01)]

    assert ready_training(tried, {"dear": 6.0, "fair": 0.5}) == "fair"
    assert ready_training(tried, {"dear": 6.0, "fair": 5.0}) == "dear"


def test_controls_are_never_chosen():
    """Doing nothing is no method, however near it is."""
    rows = [
        {"training": ORDINARY, "method": name, "options": "default", "share": 0.0}
        | {"ua": ua, "ra": 0, "ta": 0, "mia": 0}
        for name, ua in (("no_op", 0), ("scrub", 4))
    ]

    assert [
        one.method for one in tried_from(rows, dict.fromkeys(("ua", "ra", "ta", "mia"), 0))
    ] == ["scrub"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of two test seeds of digits, class-wise."""
    folder = tmp_path_factory.mktemp("rows")
    study = Study(Rows(rows_of("digits", folder)), Case.of("digits", "class"), PLAN)
    for seed in (FIRST_TEST_SEED, FIRST_TEST_SEED + 1):
        study.run(seed)
    return folder


def test_a_finished_study_computes_nothing_again(folder, monkeypatch):
    """Another process finds every row; trainings would be an error."""
    monkeypatch.setattr(Study, "_train", lambda *_: pytest.fail("trained again"))
    before = rows_of("digits", folder).read_text()

    Study(Rows(rows_of("digits", folder)), Case.of("digits", "class"), PLAN).run(FIRST_TEST_SEED)

    assert rows_of("digits", folder).read_text() == before


def test_the_controls_stand_where_they_must(folder):
    """No-op is refused and far off; a random model is far off; a second retrain and ascent near."""
    case = CaseRows("digits/class", Rows(rows_of("digits", folder)).values())
    gap = {name: case.measures(name)["gap"].value for name in (SECOND, RANDOM)}
    nothing, ascent = (case.measures(READY, method) for method in PLAN.methods)

    assert case.seeds == [FIRST_TEST_SEED, FIRST_TEST_SEED + 1]
    assert gap[SECOND] < 2
    assert gap[RANDOM] > 20
    assert nothing["refused"].value == 1
    assert nothing["gap"].value > 20
    assert ascent["gap"].value < nothing["gap"].value / 4
    assert nothing["share"].value < ascent["share"].value
    assert case.measures(RETRAINED)["tow"].value > 0.99


def test_only_complete_test_seeds_are_reported(folder, tmp_path):
    """A seed whose last row is missing is left out; validation rows never enter the tables."""
    rows = [json.loads(line) for line in rows_of("digits", folder).read_text().splitlines()]
    case = CaseRows("digits/class", rows[:-1])

    assert case.seeds == [FIRST_TEST_SEED]
    assert {row["seed"] for row in case.rows(ORDINARY, "no_op")} == {FIRST_TEST_SEED}
    assert any(row.get("seed") == 1000 for row in rows)


def test_the_page_has_a_line_for_every_model(folder):
    """Three references and both trainings with each method; the difference is that of the picks."""
    case = CaseRows("digits/class", Rows(rows_of("digits", folder)).values())

    assert len(table(case)) == 2 + 3 + 2 * len(PLAN.methods)
    assert len({row["case"] for row in result_rows(case)}) == 3 + 2 * len(PLAN.methods)
    difference = (
        case.gaps(READY, case.pick(READY, "fast"))[0]
        - case.gaps(ORDINARY, case.pick(ORDINARY, "fast"))[0]
    )
    other = (
        case.gaps(READY, case.pick(READY, "fast"))[1]
        - case.gaps(ORDINARY, case.pick(ORDINARY, "fast"))[1]
    )
    assert case.difference("fast").value == pytest.approx((difference + other) / 2)
    assert any("second retrain" in line for line in findings(case))


def peers_row(seed, verdicts):
    models = {
        name: {"ua": ua, "ra": 99, "ta": 97, "mia": 5, "cpu_s": None}
        for name, ua in (("original", 0), ("random init", 90), ("retrained", 4))
    }
    return {
        "kind": "peers",
        "task": "digits",
        "setting": "random-10",
        "seed": seed,
        "version": "0.2.0",
        "retrain_cpu_s": 1.0,
        "errors": {},
        "verdicts": {m: {"check": {"verdict": v}} for m, v in verdicts.items()},
        "models": models,
    }


@pytest.mark.parametrize(
    ("random_init", "words"),
    [
        ("FAIL", "tells the controls"),
        ("PASS", "cannot always tell a retrained model from random init"),
    ],
)
def test_a_verifier_must_tell_both_controls_from_a_retrained_model(random_init, words):
    """The second verifier passes an untrained model as it passes a retrained one."""
    verdicts = {"original": "FAIL", "random init": random_init, "retrained": "PASS"}

    lines = peer_section([peers_row(seed, verdicts) for seed in (1, 2)])

    assert any(line.startswith("- check:") and words in line for line in lines)
    assert any(line.startswith("| original | 0.0 |") and "FAIL 2 of 2" in line for line in lines)


def test_advice_says_what_the_numbers_say(folder):
    """Class-wise ascent on digits forgets; two models on a side are too few to be told apart."""
    lines = advice([CaseRows("digits/class", Rows(rows_of("digits", folder)).values())])

    assert any("ready model, gradient_ascent: forgets to within" in line for line in lines)
    assert not any("told apart record by record (" in line for line in lines)


def test_an_attack_that_flips_on_retrained_models_is_named(folder):
    """MIA of one retrained model is 0, of the other 100: the page says so; Avg. Gap has both."""
    rows = [json.loads(line) for line in rows_of("digits", folder).read_text().splitlines()]
    for row in rows:
        if row["kind"] == "reference" and row["training"] == RETRAINED:
            row["mia"] = 0.0 if row["seed"] == FIRST_TEST_SEED else 100.0

    lines = findings(CaseRows("digits/class", rows))

    assert any("MIA of the retrained models is 0, 100" in line for line in lines)
