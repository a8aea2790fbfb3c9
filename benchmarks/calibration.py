"""Study: does calibration recover a known hazard, and how often does the drift alarm speak?

    make bench NAME=calibration          (SIZE=small: a minute)

Streams of requests of a year with known hazards (``calibration_parts.streams``), four risk groups
of 5,000 subjects, through the alarm and the rates as ``r2u calibrate`` calls them. *Recovery*: from
a policy that states something else, error of the estimated probability, how often its 95 %
interval holds the truth, and the error of the proposed numbers. *No drift*: share of streams with
an alarm at the stated rates and at both edges of the tolerance, in every arm. *Drift*: the hazard
of a group changes after 26 weeks. *Misstated*: half of the subjects of one group also have records
in a group of a lower stated rate, which no subject's hazard agrees with. Baselines: a chi-squared
test at 5 % repeated every week on the same counts, as one would do it first; for the backlog also
the same alarm on the former counts, on the day of the batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import chi2

from benchmarks.calibration_parts.page import write_page
from benchmarks.calibration_parts.streams import (
    ALIKE,
    CHANGE_AT,
    DISTINCT,
    PATTERNS,
    START,
    WEEKS,
    Arm,
    Numbers,
    counted_when_planned,
    draw_stream,
    true_numbers,
)
from benchmarks.common import RESULTS, is_small, write_results
from governance.calibration.drift import ALPHA, TOLERANCE, watch_drift
from governance.calibration.observations import Observation
from governance.calibration.proposal import propose_policy
from governance.calibration.rates import group_rates, hazard, wilson_interval
from governance.calibration.timeline import trace
from governance.classification.runs import RunRecord

UNTIL = START + timedelta(weeks=WEEKS)
NULL_ARMS = tuple(arm for arm in Arm if arm is not Arm.MIXED)
EDGES = (
    (1.0, "stated rates"),
    (TOLERANCE, f"rates x {TOLERANCE:g}"),
    (1.0 / TOLERANCE, f"rates / {TOLERANCE:g}"),
)
CHANGES = (0.25, 0.5, 1.5, 2.0, 3.0)
ARM_CHANGES = (0.5, 2.0)
WRONG = {DISTINCT: Numbers(0.10, 0.40, 0.00), ALIKE: Numbers(0.20, 0.00, 0.00)}
"""What a policy states that the requests are to correct."""

WEEKLY = "chi-squared every week"
FORMER = "counted on the day of the batch"

Row = dict[str, Any]
Stream = tuple[list[RunRecord], list[Observation]]


def recovery(arm: Arm, n_streams: int, generator: np.random.Generator) -> list[Row]:
    """Return how well a known hazard is recovered, from a policy that states something else."""
    true = true_numbers(arm)
    stated = WRONG[true]
    policy, truth = stated.policy(), true.probabilities()
    errors, held, wrong = [], [], []
    for _ in range(n_streams):
        runs, batches = draw_stream(arm, stated, generator)
        by_pattern = {rate.pattern: rate for rate in group_rates(runs, batches, until=UNTIL)}
        rates = [by_pattern[pattern] for pattern in PATTERNS]
        errors.append([rate.observed - p for rate, p in zip(rates, truth, strict=True)])
        held.append([rate.low <= p <= rate.high for rate, p in zip(rates, truth, strict=True)])
        proposed = propose_policy(policy, rates, horizon_days=365.0)
        if proposed is not None:
            add = {rule.id: rule.add or 0.0 for rule in proposed.rules}
            found = np.array([proposed.base_probability, add["consent"], add["eu"]])
            wrong.append(np.abs(found - [true.base, true.consent, true.eu]).max())
    case = f"recovery, {arm}"
    # Groups of one stream may move together: the stream is the unit of the intervals.
    bias, cover = np.mean(errors, axis=1), np.mean(held, axis=1)
    rms = np.sqrt(np.mean(np.square(errors), axis=1))
    rows = [
        row(case, "bias of the probability", bias.mean(), "probability", n_streams, of_mean(bias)),
        row(case, "root mean squared error", rms.mean(), "probability", n_streams, of_mean(rms)),
        row(
            case, "95 % interval holds the truth", cover.mean(), "share", n_streams, of_mean(cover)
        ),
        share_row(case, "streams with a proposal", len(wrong), n_streams),
    ]
    if wrong:
        middle, (low, high) = float(np.median(wrong)), (min(wrong), max(wrong))
        name = "largest error of a proposed number, median stream"
        rows.append(row(case, name, middle, "probability", len(wrong), (low, high), spread="range"))
    return rows


def alarms(
    case: str,
    streams: Sequence[Stream],
    *,
    baseline: str | None = WEEKLY,
    has_change: bool = False,
) -> list[Row]:
    """Return alarm rate of some streams, the repeated chi-squared test's, and the delay."""
    found = [watch_drift(runs, batches, until=UNTIL).alarm_at for runs, batches in streams]
    at = [week for week in found if week is not None]
    n = len(streams)
    rows = [share_row(case, "alarm rate", len(at), n, baseline and f"{case}, {baseline}")]
    if baseline == WEEKLY:
        naive = sum(chi_squared_alarms(runs, batches) for runs, batches in streams)
        rows.append(share_row(f"{case}, {WEEKLY}", "alarm rate", naive, n))
    if has_change:
        rows.append(share_row(case, "alarms before the change", sum(a < CHANGE_AT for a in at), n))
        after = [week - CHANGE_AT + 1 for week in at if week >= CHANGE_AT]
        if after:
            low, high = np.quantile(after, [0.05, 0.95])
            name = "weeks until the alarm, median"
            middle = float(np.median(after))
            rows.append(
                row(case, name, middle, "weeks", len(after), (low, high), spread="5-95 % of alarms")
            )
    return rows


def chi_squared_alarms(runs: list[RunRecord], batches: list[Observation]) -> bool:
    """Return whether a chi-squared test at 5 %, made weekly on all weeks so far, ever rejects."""
    timeline = trace(runs, batches, until=UNTIL)
    rates = [hazard(g.decision.probability, runs[-1].horizon_days) for g in timeline.groups]
    weeks = np.arange(6, len(timeline.days), 7)
    x = np.cumsum(timeline.asked, axis=0)[weeks]
    mu = np.cumsum(timeline.at_risk * np.array(rates), axis=0)[weeks]
    statistic = ((x - mu) ** 2 / mu).sum(axis=1)
    return bool(np.any(statistic > chi2.ppf(1.0 - ALPHA, x.shape[1])))


def study(n_streams: int, generator: np.random.Generator) -> list[Row]:
    """Return all results, arm by arm."""

    def draw(arm: Arm, factor: float = 1.0, change: float = 1.0) -> list[Stream]:
        return [
            draw_stream(arm, true_numbers(arm), generator, factor=factor, change=change)
            for _ in range(n_streams)
        ]

    rows: list[Row] = []
    for arm in NULL_ARMS:
        rows += recovery(arm, n_streams, generator)
    for arm in NULL_ARMS:
        for factor, name in EDGES:
            streams = draw(arm, factor)
            rows += alarms(f"no drift, {arm}, {name}", streams)
            if arm is Arm.BACKLOG:
                former = [(runs, counted_when_planned(batches)) for runs, batches in streams]
                rows += alarms(f"no drift, {arm}, {name}, {FORMER}", former, baseline=None)
    for arm in NULL_ARMS:
        for change in CHANGES if arm is Arm.PLAIN else ARM_CHANGES:
            streams = draw(arm, change=change)
            rows += alarms(f"drift x {change:g}, {arm}", streams, has_change=True)
    rows += alarms(f"misstated, {Arm.MIXED}", draw(Arm.MIXED))
    return rows


def of_mean(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return a 95 % interval of the mean of independent values."""
    half = 1.96 * float(np.std(values, ddof=1)) / float(np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def share_row(case: str, metric: str, hits: int, n: int, baseline: str | None = None) -> Row:
    """Return a share with its Wilson interval."""
    return row(case, metric, hits / n, "share", n, wilson_interval(hits, n), baseline=baseline)


def row(
    case: str,
    metric: str,
    value: float,
    unit: str,
    n: int,
    ends: tuple[float, float],
    *,
    spread: str = "95 % interval",
    baseline: str | None = None,
) -> Row:
    """Return one result; ``n`` counts streams."""
    low, high = float(ends[0]), float(ends[1])
    return {
        "case": case,
        "metric": metric,
        "value": float(value),
        "unit": unit,
        "n": n,
        "low": low,
        "high": high,
        "spread": spread,
        "baseline": baseline,
    }


def draw_plot(rows: list[Row]) -> None:
    """Draw the alarm rates of every case, beside the baseline's."""
    rate = {r["case"]: r for r in rows if r["metric"] == "alarm rate"}
    cases = [case for case, r in rate.items() if r["baseline"]]
    figure = Figure(figsize=(8.4, 8.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(cases))
    for offset, color, label, names in (
        (-0.18, "#1d4ed8", "ours", cases),
        (0.18, "#c2410c", WEEKLY, [rate[case]["baseline"] for case in cases]),
    ):
        found = [rate[name] for name in names]
        values = [r["value"] for r in found]
        sides = [
            [max(0.0, r["value"] - r["low"]) for r in found],
            [max(0.0, r["high"] - r["value"]) for r in found],
        ]
        line = {"ecolor": "#404040", "elinewidth": 0.8, "capsize": 1.5}
        axes.barh(
            places + offset,
            values,
            height=0.34,
            color=color,
            label=label,
            xerr=sides,
            error_kw=line,
        )
    axes.axvline(ALPHA, color="#404040", linestyle="--", linewidth=0.8, label="nominal level")
    axes.set_yticks(places, cases, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="share of streams with an alarm within a year", xlim=(0, 1.02))
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncol=3)
    figure.savefig(RESULTS / f"calibration{'-small' if is_small() else ''}.png")


def main() -> None:
    """Run the study, and write results, plot and page."""
    rows = study(40 if is_small() else 1_000, np.random.default_rng(20260101))
    for found in rows:
        sys.stdout.write(f"{found['case']}: {found['metric']} {found['value']:.4f}\n")
    write_results("calibration", rows)
    draw_plot(rows)
    if not is_small():
        write_page()


if __name__ == "__main__":
    main()
