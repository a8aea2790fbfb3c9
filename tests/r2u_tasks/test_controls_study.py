"""Laws of the controls study: what each pool left out, both tiers asked, and going on."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.controls import cases, runner, tables
from benchmarks.controls.cases import ORIGINAL, RANDOM, STABLE, Case
from benchmarks.controls.sizes import Sizes
from benchmarks.readiness.tasks import load_digits

pytestmark = pytest.mark.ml

SIZES = Sizes(pool=4, repeats=1, requests=2, one_record=1)


@pytest.fixture
def quick(monkeypatch):
    """Digits of two epochs: models remember nothing, so nothing may be accepted."""
    monkeypatch.setitem(cases.LOADERS, "digits", lambda: replace(load_digits(), epochs=2))
    cases.load.cache_clear()
    yield
    cases.load.cache_clear()


def test_requests_are_revocable_and_partners_share_no_record(tmp_path):
    """The wrong records of a request are those of its partner; stable models saw none of either."""
    case = Case("digits", 1, n_requests=4, cache=tmp_path)

    for number, request in enumerate(case.requests):
        assert len(request) == 100
        assert case.revocable[request].all()
        assert not np.isin(request, case.requests[number ^ 1]).any()
        assert case.left_out(STABLE)[request].all()
        assert not case.left_out(ORIGINAL)[request].any()
        assert case.left_out(f"without-{number}").nonzero()[0].tolist() == request.tolist()
        assert case.left_out(f"half-{number}")[request].sum() == 50
        assert case.left_out(f"one-{number}").nonzero()[0].tolist() == [request[0]]
        labels = case.task.train.labels.numpy()
        gone = case.left_out(f"class-{number}")
        assert set(labels[gone]) == {labels[request[0]]}
        assert labels[request[0]] not in labels[~gone]
    with pytest.raises(ValueError, match="expected without-N"):
        case.left_out("other-0")


def test_suppressed_output_never_answers_with_the_label(quick, tmp_path):
    """The filter lowers the margins of records that the model answers, and of no others."""
    case = Case("digits", 1, n_requests=2, cache=tmp_path)
    model = case.pool(ORIGINAL, 1)[0]
    answered = model.train > 0  # a label with more than half of the probability

    assert answered.any()
    assert (model.suppressed <= 1e-6).all()
    assert (model.suppressed[answered] < model.train[answered]).all()
    unchanged = np.isclose(model.suppressed, model.train)
    assert unchanged.any()
    assert (model.suppressed[~unchanged] < model.train[~unchanged]).all()


def test_the_study_asks_both_tiers_and_goes_on_where_it_stopped(quick, tmp_path, monkeypatch):
    """Every control in each tier; models that remember nothing; no model is trained twice."""
    rows = runner.run("digits", tmp_path, seed=1, sizes=SIZES, cache=tmp_path / "cache")
    judged = tables.load_rows("digits", tmp_path)
    wanted = {(name, tier) for name in tables.TEXTS for tier in ("full", "batch")}

    assert wanted <= {(row["control"], row["tier"]) for row in judged}
    approximate = [row for row in judged if row["tier"] != "exact"]
    assert Counter(row["verdict"] for row in approximate)["accept"] == 0
    assert len(tables.qualifications("digits", tmp_path)) == 2

    def never(*_):
        pytest.fail("trained again")

    monkeypatch.setattr(cases, "retrain", never)
    again = runner.run("digits", tmp_path, seed=1, sizes=SIZES, cache=tmp_path / "cache")
    assert again.values() == rows.values()

    text = tables.page(tmp_path)
    assert "no control was accepted in" in text
    assert "**the goal of 95 % is missed**" in text
    assert {row["n"] for row in tables.result_rows("digits", judged)} == {2}
    assert RANDOM in {path.name for path in (tmp_path / "cache/digits/1").iterdir()}


def test_an_accepted_control_is_told_on_the_page():
    """The sentence names what must not have been accepted, and how often."""
    row = {"control": "half", "tier": "full", "verdict": "accept"}
    fine = {
        "control": "retrain",
        "tier": "full",
        "verdict": "accept",
        "controls": {"original_fails": True},
    }
    lines = tables.findings({"digits": [row, row, fine]})

    assert "**accepted although it must not be**: half 2 times (of 2 verdicts)" in lines[0]
    assert "accepted in 1 of 1." in lines[0]
    assert tables.cell(Counter(accept=2, retrain=50)) == "2 of 52 (0 to 13 %)"
