"""Study: does calibration recover a known hazard, and how often does the drift alarm speak?

    make bench NAME=calibration          (SIZE=small: a minute)

Streams of requests are drawn with known probabilities for four risk groups of 5,000 subjects, a
batch a week for a year. *Recovery*: error of the estimated probability, and how often its 95 %
interval holds the truth; the proposal's error in the numbers of the policy. *Alarm*: share of
streams with an alarm when nothing changed (at the stated rates, and at the edge of the tolerance),
and when the rate of one group changes in week 26, with the weeks until it is noticed. Baseline: a
chi-squared test at 5 % repeated every week, as one would do it first.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from scipy.stats import chi2

from benchmarks.common import is_small, plot, write_results
from governance.calibration.drift import ALPHA, TOLERANCE, e_values
from governance.calibration.observations import Observation
from governance.calibration.proposal import propose_policy
from governance.calibration.rates import group_rates, hazard, wilson_interval
from governance.classification import RiskGroup, group_name
from governance.classification.decisions import decide
from governance.classification.runs import RunRecord
from governance.policy import Policy
from governance.suites import describe_groups

START = datetime(2026, 1, 1, tzinfo=UTC)
N_SUBJECTS = 5_000
WEEKS = 52
CHANGE_AT = 26
PATTERNS = ((), ("consent",), ("eu",), ("consent", "eu"))
TRUE_BASE, TRUE_CONSENT, TRUE_EU = 0.04, 0.22, 0.08
FACTORS = (0.25, 0.5, 1.5, 2.0, 3.0)


def stated_policy(base: float, consent: float, eu: float) -> Policy:
    """Return a policy that states these numbers."""
    return Policy.model_validate(
        {
            "policy": {"name": "study", "version": 1},
            "base_probability": base,
            "rules": [
                {"id": "consent", "when": {"column": "b", "equals": "consent"}, "add": consent},
                {"id": "eu", "when": {"column": "c", "equals": "DE"}, "add": eu},
            ],
        }
    )


def run_of(policy: Policy) -> RunRecord:
    """Return a classification of the four groups."""
    groups = tuple(
        RiskGroup(group_name(p), p, decide(p, policy), N_SUBJECTS, N_SUBJECTS) for p in PATTERNS
    )
    return RunRecord(
        run_key="run",
        at=START,
        policy_digest=policy.digest,
        policy_version=1,
        horizon_days=policy.horizon_days,
        distribution=describe_groups(list(groups), policy.digest),
        groups=groups,
        revocable_by_group={},
        strata={},
    )


def truth() -> np.ndarray:
    """Return the true probability of each group within a year."""
    return np.array(
        [
            TRUE_BASE,
            TRUE_BASE + TRUE_CONSENT,
            TRUE_BASE + TRUE_EU,
            TRUE_BASE + TRUE_CONSENT + TRUE_EU,
        ]
    )


def weekly_means(probabilities: np.ndarray) -> np.ndarray:
    """Return the expected requests of each week and group."""
    rates = np.array([hazard(p, 365.0) for p in probabilities])
    return np.tile(rates * N_SUBJECTS * 7.0, (WEEKS, 1))


def observations(run: RunRecord, counts: np.ndarray) -> list[Observation]:
    """Return batches with these counts by group."""
    found = []
    for week, row in enumerate(counts):
        asked = {group.group: int(n) for group, n in zip(run.groups, row, strict=True)}
        n = int(row.sum())
        found.append(
            Observation(
                batch_id=f"w{week}",
                at=START + timedelta(days=7 * (week + 1)),
                policy_digest=run.policy_digest,
                n_subjects=n,
                n_subjects_covered=n,
                n_records=n,
                n_high=n,
                n_revocable=n,
                cost_of_misses=0.0,
                subjects_by_group=asked,
                own_by_group=asked,
                records_by_group=asked,
                subjects_by_stratum={},
            )
        )
    return found


def recovery(n_streams: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Return how well a known hazard is recovered, from a policy that states something else."""
    policy = stated_policy(0.10, 0.40, 0.00)
    run = run_of(policy)
    until = START + timedelta(days=7 * WEEKS)
    errors, covered, fitted = [], 0, []
    for _ in range(n_streams):
        batches = observations(run, generator.poisson(weekly_means(truth())))
        rates = {rate.pattern: rate for rate in group_rates([run], batches, until=until)}
        for pattern, p in zip(PATTERNS, truth(), strict=True):
            errors.append(rates[pattern].observed - p)
            covered += rates[pattern].low <= p <= rates[pattern].high
        proposed = propose_policy(policy, list(rates.values()), horizon_days=365.0)
        if proposed is not None:
            add = {rule.id: rule.add or 0.0 for rule in proposed.rules}
            fitted.append([proposed.base_probability, add["consent"], add["eu"]])
    n = len(errors)
    wrong = np.array(fitted) - [TRUE_BASE, TRUE_CONSENT, TRUE_EU]
    return [
        _row(
            "recovery",
            "bias of the probability",
            float(np.mean(errors)),
            "probability",
            n,
            spread(errors),
        ),
        _row(
            "recovery",
            "root mean squared error",
            float(np.sqrt(np.mean(np.square(errors)))),
            "probability",
            n,
            None,
        ),
        _row(
            "recovery",
            "95 % interval holds the truth",
            covered / n,
            "share",
            n,
            wilson_interval(covered, n),
        ),
        _row(
            "recovery",
            "streams with a proposal",
            len(fitted) / n_streams,
            "share",
            n_streams,
            wilson_interval(len(fitted), n_streams),
        ),
        _row(
            "recovery",
            "largest error of a proposed number",
            float(np.abs(wrong).max()),
            "probability",
            wrong.size,
            None,
        ),
    ]


def spread(values: list[float]) -> tuple[float, float]:
    """Return a 95 % interval of the mean."""
    half = 1.96 * float(np.std(values)) / np.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def alarms(n_streams: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Return how often the alarm speaks, with and without a change."""
    expected = with_total(weekly_means(truth()))
    cases = {"no change": 1.0, "edge of the tolerance": TOLERANCE}
    rows = []
    for case, factor in cases.items():
        means = weekly_means(truth()) * factor
        rows += measure(case, means, expected, n_streams, generator, is_null=True)
    for factor in FACTORS:
        means = weekly_means(truth())
        means[CHANGE_AT:, 1] *= factor
        case = f"one group x {factor:g} from week {CHANGE_AT}"
        rows += measure(case, means, expected, n_streams, generator, is_null=False)
    return rows


def measure(
    case: str,
    means: np.ndarray,
    expected: np.ndarray,
    n_streams: int,
    generator: np.random.Generator,
    *,
    is_null: bool,
) -> list[dict[str, Any]]:
    """Return alarm rate and delay of one case, ours and the repeated chi-squared test's."""
    hits, naive, delays, early = 0, 0, [], 0
    for _ in range(n_streams):
        counts = with_total(generator.poisson(means))
        reached = np.flatnonzero(e_values(counts, expected) >= 1.0 / ALPHA)
        hits += len(reached) > 0
        if len(reached) and not is_null:
            early += reached[0] < CHANGE_AT
            delays.append(max(0, int(reached[0]) - CHANGE_AT + 1))
        naive += chi_squared_alarms(counts[:, :-1], expected[:, :-1])
    base = f"{case}, chi-squared every week"
    rows = [
        _row(
            case,
            "alarm rate",
            hits / n_streams,
            "share",
            n_streams,
            wilson_interval(hits, n_streams),
            base,
        ),
        _row(
            base,
            "alarm rate",
            naive / n_streams,
            "share",
            n_streams,
            wilson_interval(naive, n_streams),
        ),
    ]
    if delays:
        low, high = np.quantile(delays, [0.05, 0.95])
        rows.append(
            _row(
                case,
                "weeks until the alarm, median",
                float(np.median(delays)),
                "weeks",
                len(delays),
                (float(low), float(high)),
            )
        )
        rows.append(
            _row(
                case,
                "alarms before the change",
                early / n_streams,
                "share",
                n_streams,
                wilson_interval(early, n_streams),
            )
        )
    return rows


def chi_squared_alarms(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether a chi-squared test at 5 %, made weekly on all weeks so far, ever rejects."""
    x, mu = np.cumsum(counts, axis=0), np.cumsum(expected, axis=0)
    statistic = ((x - mu) ** 2 / mu).sum(axis=1)
    return bool(np.any(statistic > chi2.ppf(1.0 - ALPHA, counts.shape[1])))


def with_total(values: np.ndarray) -> np.ndarray:
    """Return the columns and their sum, as the alarm watches them."""
    return np.hstack([values, values.sum(axis=1, keepdims=True)])


def _row(
    case: str,
    metric: str,
    value: float,
    unit: str,
    n: int,
    interval: tuple[float, float] | None,
    baseline: str | None = None,
) -> dict[str, Any]:
    low, high = interval if interval is not None else (None, None)
    return {
        "case": case,
        "metric": metric,
        "value": value,
        "unit": unit,
        "n": n,
        "low": low,
        "high": high,
        "baseline": baseline,
    }


def main() -> None:
    """Run the study, and write results and plot."""
    n_streams = 60 if is_small() else 1_000
    generator = np.random.default_rng(20260101)
    rows = recovery(min(n_streams, 200), generator) + alarms(n_streams, generator)
    for found in rows:
        sys.stdout.write(f"{found['case']}: {found['metric']} {found['value']:.4f}\n")
    write_results("calibration", rows)
    rate = {r["case"]: r for r in rows if r["metric"] == "alarm rate"}
    cases = [case for case in rate if "chi-squared" not in case]

    def draw(axes: Any) -> None:
        places = np.arange(len(cases))
        for offset, suffix, color, label in (
            (-0.18, "", "#1d4ed8", "ours"),
            (0.18, ", chi-squared every week", "#c2410c", "chi-squared at 5 %, every week"),
        ):
            values = [rate[case + suffix]["value"] for case in cases]
            axes.barh(places + offset, values, height=0.34, color=color, label=label)
        axes.axvline(ALPHA, color="#737373", linestyle="--", linewidth=0.8, label="5 %")
        axes.set_yticks(places, cases, fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="share of streams with an alarm within a year", xlim=(0, 1.02))
        axes.legend(
            frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 1.16), ncol=3
        )

    plot("calibration", draw, title="")


if __name__ == "__main__":
    main()
