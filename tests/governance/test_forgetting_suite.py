"""Laws of the evidence suite, on made-up margins: what each row may be read as, and by whom."""

import json
from dataclasses import replace

import numpy as np
import pytest

from governance.errors import DataError
from governance.forgetting_metrics.estimates import Estimate
from governance.forgetting_suite.catalogue import CATALOGUE, Metric
from governance.forgetting_suite.curves import draw_curves, usable_steps
from governance.forgetting_suite.judging import OUTCOMES, outcome
from governance.forgetting_suite.measures import PoolMeasures, confidence
from governance.forgetting_suite.records import find_record, label_of
from governance.forgetting_suite.sequence import MAX_BATCHES, BatchPoint, sequence_of
from governance.forgetting_suite.suite import SuiteMeasures, refuse_suite, run_suite
from governance.report import render_evidence

N, RECORDS, SALT = 16, 40, b"salt of sixteen!"
IDS = [f"person-{i}" for i in range(RECORDS)]


def pool(seed, shift=0.0, *, n=N, known=False):
    """Models whose forget margins are ``shift`` above unseen records'; two classes."""
    generator = np.random.default_rng(seed)

    def margins(n_records, mean):
        return generator.normal(mean, 1.0, (n, n_records))

    forget, retain, test = margins(RECORDS, 2 + shift), margins(60, 6), margins(50, 2)
    p = confidence(forget)
    both = np.concatenate([forget, retain, test], axis=1)
    steps = np.arange(12)
    return PoolMeasures(
        forget_margins=forget,
        forget_accuracy=(forget > 0).astype(float),
        retain_margins=retain,
        retain_accuracy=generator.normal(0.99, 0.001, n),
        test_margins=test,
        test_accuracy=generator.normal(0.95, 0.002, n),
        predictions=(forget > 0).astype(float),
        calibration_errors=generator.uniform(0.01, 0.02, n),
        entropies=-(p * np.log(p) + (1 - p) * np.log(1 - p)),
        modified_entropies=np.logaddexp(0, -both),
        probabilities=np.stack([p, 1 - p], axis=2)[:6],
        relearn_losses=np.maximum(0.02, (0.02 if known else 0.5) - steps / 12)[None].repeat(6, 0)
        + generator.normal(0, 1e-4, (6, 12)),
        rebound_accuracy=np.clip(
            forget.mean(axis=1)[:6, None] / 10 + generator.normal(0, 0.01, (6, 12)), 0, 1
        ),
        probe_accuracy=generator.normal(0.9, 0.01, 6),
    )


def measures(unlearned, **changes):
    parts = {
        "original": pool(1, 3.0, known=True),
        "unlearned": unlearned,
        "reference": pool(2),
        "second_retrain": pool(3),
        "untrained": pool(4, n=1),
        "ids": IDS,
        "high_risk": np.arange(RECORDS) < 10,
        "canaries": np.arange(RECORDS) < 2,
        "salt": SALT,
        "classes": np.arange(RECORDS) % 2,
    }
    return SuiteMeasures(**(parts | changes))


@pytest.fixture(scope="module")
def retrained():
    """The suite of a perfect unlearner: a third pool of retrained models."""
    return run_suite(measures(pool(5)))


@pytest.fixture(scope="module")
def unchanged():
    """The suite of a method that changes nothing: another pool of original models."""
    return run_suite(measures(pool(6, 3.0, known=True)))


def outcomes_of(suite):
    return {row["name"]: row["outcome"] for row in suite["rows"]}


STRONG = ("lrt_auc", "batch_p", "klom", "lira_auc", "share_beyond_99", "relearn_ratio")


def test_a_perfect_unlearner_meets_every_strong_row(retrained):
    """And no row calls it told apart."""
    found = outcomes_of(retrained)

    assert {name: found[name] for name in STRONG} == dict.fromkeys(STRONG, "met")
    assert "not_met" not in found.values()


def test_a_method_that_changes_nothing_meets_none_of_them(unchanged):
    """The same rows say so."""
    found = outcomes_of(unchanged)

    assert {name: found[name] for name in STRONG} == dict.fromkeys(STRONG, "not_met")
    assert "met" not in found.values()


def test_over_forgetting_is_told_apart_like_no_forgetting():
    """Margins three nats *below* retrained models: two-sided rows fail, and the side has a name."""
    suite = run_suite(measures(pool(7, -3.0)))
    found = outcomes_of(suite)

    assert found["lrt_auc"] == found["batch_p"] == found["share_beyond_99"] == "not_met"
    assert suite["record_statuses"] == {"over_forgotten": RECORDS}
    rows = {row["name"]: row["columns"]["unlearned"]["value"] for row in suite["rows"]}
    assert rows["share_below_99"] > 0.2 > rows["share_above_99"]


def test_every_metric_of_the_catalogue_has_a_row_with_target_and_direction(retrained):
    """None is skipped, and each has three columns and one of the known outcomes."""
    assert [row["name"] for row in retrained["rows"]] == [metric.name for metric in CATALOGUE]
    for row in retrained["rows"]:
        assert row["target"]
        assert row["direction"]
        assert set(row["columns"]) == {"original", "unlearned", "second_retrain"}
        assert row["outcome"] in OUTCOMES


def test_the_suite_is_deterministic_and_plain_json(retrained):
    """The same numbers on a second run; no NaN, which JSON does not have."""
    text = json.dumps(retrained, allow_nan=False, sort_keys=True)

    assert text == json.dumps(run_suite(measures(pool(5))), sort_keys=True)


def test_one_unlearned_model_leaves_tests_between_pools_unknown():
    """With the reason, and single-model numbers still there."""
    suite = run_suite(measures(pool(5, n=1)))
    rows = {row["name"]: row for row in suite["rows"]}

    assert rows["batch_auc"]["outcome"] == "unknown"
    assert "got 1" in rows["batch_auc"]["columns"]["unlearned"]["why_none"]
    assert rows["share_beyond_99"]["columns"]["unlearned"]["value"] is not None
    assert len(suite["records"]) == RECORDS


METRIC = Metric(
    section="E3", name="m", title="m", text="m", target="0.5", direction="lower",
    rule="low_at_most", limit=0.6,
)  # fmt: skip


@pytest.mark.parametrize(
    ("original", "unlearned", "second", "expected"),
    [
        (0.9, 0.5, 0.5, "met"),
        (0.9, 0.9, 0.5, "not_met"),
        (0.5, 0.5, 0.5, "no_power"),
        (0.5, 0.9, 0.5, "not_met"),
        (0.9, 0.5, 0.9, "void"),
        (0.9, 0.9, 0.9, "void"),
        (0.9, None, 0.5, "unknown"),
        (None, 0.5, 0.5, "unknown"),
    ],
)
def test_a_row_counts_only_if_the_controls_behave(original, unlearned, second, expected):
    """The original must miss the target and the second retrain meet it."""
    columns = {
        name: Estimate.missing("few", 1) if value is None else Estimate.exact(value, 9)
        for name, value in (
            ("original", original),
            ("unlearned", unlearned),
            ("second_retrain", second),
        )
    }

    assert outcome(METRIC, columns) == expected


# Records


def test_records_have_a_line_each_and_no_raw_id(unchanged):
    """Whoever has the salt finds a line again; nothing else leads from the document to an id."""
    text = json.dumps(unchanged)
    line = find_record(unchanged["records"], IDS[3], SALT)

    assert "person-" not in text
    assert SALT.decode() not in text
    assert len({row["record"] for row in unchanged["records"]}) == RECORDS
    assert line["status"] == "still_visible"
    assert line["strata"][0] == "high_risk"
    assert label_of(IDS[3], SALT) != label_of(IDS[3], SALT[::-1])


def test_an_unknown_record_is_an_error_and_never_a_verdict(unchanged):
    """Neither another id nor another salt finds a line."""
    for record, salt in (("person-999", SALT), (IDS[0], SALT[::-1])):
        with pytest.raises(DataError, match="unknown record"):
            find_record(unchanged["records"], record, salt)
    with pytest.raises(DataError, match="at least 16 bytes"):
        label_of(IDS[0], b"short")


def test_forget_accuracy_is_told_by_class(retrained):
    """The classes' means make the mean of the row, and their sizes the number of records."""
    row = next(row for row in retrained["rows"] if row["name"] == "forget_accuracy")
    classes = retrained["classes"]
    mean = sum(c["n"] * c["forget_accuracy"]["unlearned"] for c in classes) / RECORDS

    assert [c["n"] for c in classes] == [RECORDS // 2, RECORDS // 2]
    assert mean == pytest.approx(row["columns"]["unlearned"]["value"], abs=1e-5)


def test_strata_are_looked_at_by_themselves():
    """One high-risk record left visible fails its stratum, though the batch looks fine."""
    unlearned = pool(5)
    unlearned.forget_margins[:, 4] += 12
    suite = run_suite(measures(unlearned))

    assert suite["strata"]["high_risk"]["statuses"] == {"indistinguishable": 9, "still_visible": 1}
    assert suite["strata"]["high_risk"]["met"] is False
    assert suite["strata"]["canaries"]["met"] is True
    assert suite["strata"]["high_risk"]["worst_auc"]["unlearned"] == 1.0
    nobody = run_suite(measures(pool(5), canaries=np.zeros(RECORDS, dtype=bool)))
    assert nobody["strata"]["canaries"]["met"] is None


def test_measures_that_do_not_fit_are_an_error():
    """Other records in one pool, NaN in another."""
    with pytest.raises(DataError, match="same records"):
        measures(pool(5), ids=IDS[1:])
    with pytest.raises(DataError, match="finite"):
        replace(pool(5), test_accuracy=np.full(N, np.nan))


def test_a_refused_suite_has_accuracies_and_no_reading():
    """Everything else is unknown, for the same reason."""
    suite = refuse_suite({"original": pool(1, n=1), "unlearned": pool(5, n=1)}, "too few")

    assert {row["outcome"] for row in suite["rows"]} == {"unknown"}
    rows = {row["name"]: row["columns"] for row in suite["rows"]}
    assert rows["test_accuracy"]["unlearned"]["value"] is not None
    assert rows["test_accuracy"]["second_retrain"]["why_none"] == "too few"
    assert rows["batch_auc"]["unlearned"]["value"] is None


# Sequence and curves


def point(**changes):
    numbers = {"batch": "b", "n_forget": 5, "test_gap": 0.0, "retain_gap": 0.0, "shift": 0.1}
    return BatchPoint(**(numbers | changes))


def test_a_retrain_is_due_when_a_budget_is_crossed():
    """Accuracy lost against retrained models, or too many approximate batches in a row."""
    fine = sequence_of([point(), point(test_gap=0.01)], budget=0.01)
    lost = sequence_of([point(), point(test_gap=0.011)], budget=0.01)
    many = sequence_of([point()] * MAX_BATCHES, budget=0.01)

    assert (fine["retrain_due"], fine["n_forgotten"]) == (False, [5, 10])
    assert lost["retrain_due"]
    assert "test accuracy" in lost["reasons"][0]
    assert many["retrain_due"]
    assert not sequence_of([point()] * (MAX_BATCHES - 1), budget=0.01)["retrain_due"]


def test_usable_steps_are_the_longest_run_like_a_retrained_model():
    """Both sides of the forget accuracy count, and so does what is retained."""
    reference = pool(2)
    forget, retain = reference.forget_accuracy.mean(), reference.retain_accuracy.mean()
    curve = [(0.05, 0), (0.01, 0), (0.05, 0), (0.01, 0), (0, 0), (-0.01, 0), (0, 0.05), (-0.1, 0)]
    steps = [
        {"step": i, "forget_accuracy": forget + above, "retain_accuracy": retain - below}
        for i, (above, below) in enumerate(curve)
    ]

    window = usable_steps(steps, reference)

    assert (window["first"], window["last"], window["n"]) == (3, 5, 3)
    assert usable_steps(steps[:1], reference)["first"] is None
    assert usable_steps([], reference) is None


def test_curves_and_page_show_no_single_record(unchanged):
    """Quantiles and rates only; the page is one file that loads nothing from outside."""
    given = measures(pool(6, 3.0, known=True))
    curves = draw_curves(given, [{"step": 0, "forget_accuracy": 1.0, "retain_accuracy": 1.0}])
    suite = {name: part for name, part in unchanged.items() if name != "records"}
    page = render_evidence(
        {
            "schema": "r2u-evidence/3",
            "lane": "approximate",
            "verdict": "retrain",
            "reasons": ["<b>because</b>"],
            "n_forget": RECORDS,
            "suite": suite,
            "curves": curves,
        }
    )

    assert all(len(values) == 101 for values in curves["margins"].values())
    assert curves["roc"]["tpr_original"][-1] == 1.0
    assert "&lt;b&gt;because" in page
    assert page.count("<svg") == 6
    for outside in ('src="http', "@import", "url(http", "<script", "person-"):
        assert outside not in page
