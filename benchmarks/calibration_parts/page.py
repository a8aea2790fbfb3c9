"""Write ``docs/results/calibration.md`` from ``benchmarks/results/calibration.json``.

python -m benchmarks.calibration_parts.page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from governance.calibration.drift import ALPHA, TOLERANCE

PAGE = Path(__file__).parents[2] / "docs" / "results" / "calibration.md"

_HEAD = """\
# Calibration and drift alarm on requests with a known hazard

Made by `python -m benchmarks.calibration_parts.page` from `benchmarks/results/calibration.json`
(`make bench NAME=calibration`); nothing here is typed.
Commit {commit}; {n} streams of a year in every line, four risk groups of 5,000 subjects; in
brackets 95 % intervals over the streams.

![Alarm rates](../../benchmarks/results/calibration.png)

## Recovery of the hazard

From a policy that states other numbers. Error of the estimated probability of erasure within a
year (its root mean square over the groups, mean of the streams), how often its 95 % interval holds
the truth, and the largest error among the numbers of the proposed policy (median stream, in
brackets the range).

| requests | bias | root mean squared error | interval holds the truth | proposed | error of a \
proposed number |
| --- | ---: | ---: | ---: | ---: | ---: |
"""

_QUIET = """
## False alarms

Share of streams with an alarm, without drift. The alarm promises at most {alpha} as long as all
rates are within a factor of {tolerance:g} of the stated ones: here at the stated rates and at both
edges. The chi-squared test at 5 % knows no tolerance and is repeated every week; at the edges it is
meant to reject.

| requests | rates | alarm | chi-squared every week |
| --- | --- | ---: | ---: |
"""

_VERDICT = """
Largest rate of false alarms of ours: {rate} ({case}); {says} the level of {alpha}.
"""

_FORMER = """
The same alarm, had the backlog counted on the day of its batch as in former releases:

| rates | alarm |
| --- | ---: |
"""

_DRIFT = """
## Planted drift

After 26 weeks the hazard of one group changes by the factor (where everybody is in
all groups: of everybody). Weeks of receipt until the alarm: median, in brackets 5 and 95 % of the
streams with an alarm after the change. The time until requests are planned comes on top. A change
within the tolerance is not to be found, and one little beyond it, late or not within the year. That
the chi-squared test alarms says little: it also does without drift.

| factor | requests | alarm | weeks | alarms before the change | chi-squared every week |
| ---: | --- | ---: | ---: | ---: | ---: |
"""

_MISSTATED = """
## Groups that share subjects but not their rate

Half of the subjects of a group also have records in a group of a lower stated rate. Whoever asks is
erased from both, so the records of that group do go more often than the policy says: nothing
changed, but the policy is wrong about it, and the alarm is expected.

| requests | alarm | chi-squared every week |
| --- | ---: | ---: |
"""


def render(content: dict[str, Any]) -> str:
    """Return the page.

    Args:
        content: The benchmark's result file.
    """
    rows = {(row["case"], row["metric"]): row for row in content["rows"]}
    rate = {case: row for (case, metric), row in rows.items() if metric == "alarm rate"}
    ours = {case: row for case, row in rate.items() if row["baseline"]}
    alpha = f"{ALPHA:.0%}".replace("%", " %")
    quiet = {case: row for case, row in ours.items() if case.startswith("no drift, ")}
    worst = max(quiet, key=lambda case: quiet[case]["value"])
    parts = [_HEAD.format(commit=content["commit"], n=quiet[worst]["n"])]
    for case in dict.fromkeys(case for case, _ in rows if case.startswith("recovery, ")):
        parts.append(_recovery(rows, case))
    parts.append(_QUIET.format(alpha=alpha, tolerance=TOLERANCE))
    for case, row in quiet.items():
        arm, rates = case.removeprefix("no drift, ").rsplit(", ", 1)
        parts.append(_line(arm, rates, _share(row), _share(rate[row["baseline"]])))
    says = "not above" if quiet[worst]["value"] <= ALPHA else "**above**"
    name = worst.removeprefix("no drift, ")
    parts.append(_VERDICT.format(rate=_share(quiet[worst]), case=name, says=says, alpha=alpha))
    parts.append(_FORMER)
    for case, row in rate.items():
        if case.endswith(", counted on the day of the batch"):
            parts.append(_line(case.rsplit(", ", 2)[1], _share(row)))
    parts.append(_DRIFT)
    for case, row in ours.items():
        if case.startswith("drift x "):
            factor, arm = case.removeprefix("drift x ").split(", ", 1)
            weeks = rows.get((case, "weeks until the alarm, median"))
            early = rows[case, "alarms before the change"]
            until = _weeks(weeks) if weeks else "-"
            found = _share(row), until, _share(early), _share(rate[row["baseline"]])
            parts.append(_line(factor, arm, *found))
    parts.append(_MISSTATED)
    for case, row in ours.items():
        if case.startswith("misstated, "):
            name = case.removeprefix("misstated, ")
            parts.append(_line(name, _share(row), _share(rate[row["baseline"]])))
    return "".join(parts)


def write_page() -> None:
    """Write the page."""
    path = RESULTS / "calibration.json"
    PAGE.write_text(render(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


def _recovery(rows: dict[tuple[str, str], dict[str, Any]], case: str) -> str:
    def of(metric: str) -> dict[str, Any]:
        return rows[case, metric]

    return _line(
        case.removeprefix("recovery, "),
        _number(of("bias of the probability")),
        _number(of("root mean squared error")),
        _share(of("95 % interval holds the truth")),
        _share(of("streams with a proposal")),
        _number(of("largest error of a proposed number, median stream"), digits=2),
    )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _share(row: dict[str, Any]) -> str:
    value, low, high = (100 * row[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _number(row: dict[str, Any], *, digits: int = 4) -> str:
    ends = f"({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return f"{row['value']:.{digits}f} {ends}"


def _weeks(row: dict[str, Any]) -> str:
    return f"{row['value']:.0f} ({row['low']:.0f} to {row['high']:.0f})"


if __name__ == "__main__":
    write_page()
