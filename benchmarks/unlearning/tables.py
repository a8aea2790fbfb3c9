"""From the rows of the study to result file, plots and the page; no number is typed by hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, is_small, plot, write_results
from benchmarks.readiness.runner import Rows
from benchmarks.readiness.statistics import Estimate
from benchmarks.unlearning.advice import advice, gain
from benchmarks.unlearning.cases import LOADERS, ORDINARY, READY, SETTINGS
from benchmarks.unlearning.choice import BUDGET, CONTROL
from benchmarks.unlearning.measures import ACCURACIES
from benchmarks.unlearning.page import introduction, limits, peer_section
from benchmarks.unlearning.runner import SMALL_ROWS, rows_of
from benchmarks.unlearning.summary import MIN_POOL, RANDOM, RETRAINED, SECOND, CaseRows

PAGE = Path(__file__).parents[2] / "docs" / "results" / "unlearning.md"
GOAL_GAP = 1.15
"""Avg. Gap, in points, that the project aims at within the budget of time."""

_UNITS = {
    "seconds": "processor seconds",
    "share": "% of a retrain",
    "steps": "steps",
    "refused": "fraction of runs",
    "tow": "fraction",
    "auc": "AUC",
}
_HEADERS = (
    "model",
    "UA",
    "RA",
    "TA",
    "MIA",
    "Avg. Gap",
    "of means",
    "without MIA",
    "ToW",
    "LRT AUC",
    "rebound",
    "seconds",
    "share",
)
_COLORS = {ORDINARY: "#64748b", READY: "#1d4ed8"}


def result_rows(case: CaseRows) -> list[dict[str, Any]]:
    """Return the rows of the result file."""
    models = [(name, "") for name in (RETRAINED, SECOND, RANDOM)]
    models += [(training, method) for training in (ORDINARY, READY) for method in case.methods]
    return [
        {
            "case": "/".join(part for part in (case.name, training, method) if part),
            "metric": metric,
            "value": found.value,
            "unit": _UNITS.get(metric, "points"),
            "n": found.n,
            "low": found.low,
            "high": found.high,
            "spread": "95 % interval over training seeds",
            "baseline": None,
        }
        for training, method in models
        for metric, found in case.measures(training, method).items()
    ]


def table(case: CaseRows) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(_HEADERS) + " |", "|---" * len(_HEADERS) + "|"]
    for name in (RETRAINED, SECOND, RANDOM):
        lines.append(_line(case, name, "", name))
    for training in (ORDINARY, READY):
        for method in case.methods:
            label = f"{training}, {'no-op (control)' if method == CONTROL else method}"
            marks = [kind for kind in ("fast", "slow") if case.pick(training, kind) == method]
            lines.append(_line(case, training, method, label, marks))
    return lines


def _line(case: CaseRows, training: str, method: str, label: str, marks: Sequence[str] = ()) -> str:
    found = case.measures(training, method)
    cells = [f"**{label}** ({', '.join(marks)} pick)" if marks else label]
    for name in ("ua", "ra", "ta", "mia"):
        value = found[name].value
        gap = "" if training == RETRAINED else f" ({abs(value - case.level[name]):.1f})"
        cells.append(f"{value:.1f}{gap}")
    if training == RETRAINED:
        cells += ["", "", "", "", "", "", "", "100 %"]
        return "| " + " | ".join(cells) + " |"
    cells += [found[name].text(2) for name in ("gap", "gap_of_means", "accuracy_gap")]
    cells.append(found["tow"].text(3))
    cells += [found["auc"].text(2) if "auc" in found else "", f"{found['rebound'].value:+.1f}"]
    if method:
        refused = found["refused"]
        note = (
            f"; {refused.value * refused.n:.0f} refused"
            if refused.value and method != CONTROL
            else ""
        )
        cells += [f"{found['seconds'].value:.2f}", f"{found['share'].value:.1f} %{note}"]
    else:
        cells += ["", ""]
    return "| " + " | ".join(cells) + " |"


def findings(case: CaseRows) -> list[str]:
    """Return sentences that the numbers say."""
    noise, price = case.measures(SECOND)["gap"], case.price()
    nothing = [case.measures(training, CONTROL)["gap"] for training in (ORDINARY, READY)]
    lines = [
        f"- Avg. Gap is {noise.text(2)} for a second retrain (chance; less cannot be asked) and "
        f"{nothing[0].text(2)} for the ordinary model with nothing done, {nothing[1].text(2)} for "
        f"the ready one: {_range(noise, nothing)}.",
        f"- The ready training ({case.choice['ready']}) takes {price['time'].text(1)} times the "
        f"time of ordinary training; before any request its test accuracy is "
        f"{price['ta'].value:+.1f} points and its UA {price['ua'].value:+.1f} points from "
        "ordinary training.",
    ]
    methods = [method for method in case.methods if method != CONTROL]
    helpful = {
        training: [m for m in methods if (gain(case, training, m).high or 0.0) < 0]
        for training in (ORDINARY, READY)
    }
    lines.append(
        f"- Measurably nearer to a retrain than doing nothing (paired by seed): "
        f"{len(helpful[ORDINARY])} of {len(methods)} methods on the ordinary model, "
        f"{len(helpful[READY])} on the ready one."
    )
    for kind, words in (("fast", f"at most {BUDGET:.0%} of a retrain"), ("slow", "any time")):
        ready, ordinary = (case.pick(training, kind) for training in (READY, ORDINARY))
        ours, theirs = case.measures(READY, ready), case.measures(ORDINARY, ordinary)
        found, plain = case.difference(kind), case.difference(kind, ACCURACIES)
        lines.append(
            f"- {words.capitalize()}: ready + {ready} has Avg. Gap {ours['gap'].text(2)} at "
            f"{ours['share'].value:.1f} % of a retrain, ordinary + {ordinary} "
            f"{theirs['gap'].text(2)} at {theirs['share'].value:.1f} %; paired difference "
            f"{found.text(2)}: {_better(found)}{_goal(ours) if kind == 'fast' else ''}. Without "
            f"MIA {ours['accuracy_gap'].text(2)} and {theirs['accuracy_gap'].text(2)}, difference "
            f"{plain.text(2)}: {_better(plain)}."
        )
    flips = case.flips()
    if flips:
        values = ", ".join(f"{value:g}" for value in flips)
        lines.append(
            "- **The membership attack is not stable here**: MIA of the retrained models is "
            f"{values}. It moves the level and every Avg. Gap; the column without MIA is free "
            "of it."
        )
    return lines


def _range(noise: Estimate, nothing: Sequence[Estimate]) -> str:
    if min(found.value for found in nothing) < 5 * noise.value:
        return "**here Avg. Gap can hardly tell a method from none; read the LRT AUC**"
    return "a wide range to be judged in"


def _better(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "too few seeds to decide"
    if found.high < 0:
        return "**ready is better**"
    return "**ready is worse**" if found.low > 0 else "no difference that these seeds can show"


def _goal(ours: dict[str, Estimate]) -> str:
    is_met = ours["gap"].value <= GOAL_GAP and ours["share"].value <= 100 * BUDGET
    goal = f"Avg. Gap {GOAL_GAP} at {BUDGET:.0%}"
    sure = "" if ours["gap"].n >= MIN_POOL else " so far, with too few seeds to decide"
    return f"; the aim ({goal}) is {'met' if is_met else 'not met'}{sure}"


def overview(cases: Sequence[CaseRows]) -> list[str]:
    """Return one line for each case and training: what the fast pick reaches."""
    lines = [
        "| data, request | model | method (chosen on validation seeds) | Avg. Gap | nothing done "
        "| second retrain | without MIA | share of a retrain | LRT AUC | rebound |",
        "|---" * 10 + "|",
    ]
    for case in cases:
        noise = case.measures(SECOND)["gap"]
        for training in (ORDINARY, READY):
            nothing = case.measures(training, CONTROL)["gap"].value
            for kind in ("fast", "slow"):
                method = case.pick(training, kind)
                found = case.measures(training, method)
                auc = found["auc"].text(2) if "auc" in found else ""
                lines.append(
                    f"| {case.title} | {training} | {method} ({kind}) | {found['gap'].text(2)} | "
                    f"{nothing:.2f} | {noise.value:.2f} | {found['accuracy_gap'].text(2)} | "
                    f"{found['share'].value:.1f} % | {auc} | "
                    f"{found['rebound'].value:+.1f} |"
                )
    return lines


def draw(case: CaseRows) -> Callable[[Any], None]:
    """Return a drawing of time against the gap of UA, RA and TA.

    Methods that no other of their training beats in both have names.
    """

    def draw_on(axes: Any) -> None:
        for training in (ORDINARY, READY):
            points = [(case.measures(training, m), m) for m in case.methods if m != CONTROL]
            x, y = (
                [found[name].value for found, _ in points] for name in ("share", "accuracy_gap")
            )
            axes.plot(x, y, "o", color=_COLORS[training], label=training, markersize=4)
            for found, method in _front(points):
                spot = (found["share"].value, found["accuracy_gap"].value)
                color = _COLORS[training]
                axes.annotate(
                    method, spot, (4, 3), textcoords="offset points", fontsize=7, color=color
                )
        noise = case.measures(SECOND)["accuracy_gap"].value
        axes.axhline(noise, color="#15803d", linestyle="--", linewidth=1, label="second retrain")
        axes.axvline(100 * BUDGET, color="#a3a3a3", linestyle=":", linewidth=1, label="budget")
        axes.set(xscale="log", yscale="log", xlabel="% of the processor time of a retrain")
        axes.set_ylabel("gap of UA, RA, TA to retrained models, points")
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.margins(x=0.2, y=0.1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_minor_formatter("")
        axes.legend(fontsize=7, frameon=False)

    return draw_on


def _front(
    points: Sequence[tuple[dict[str, Estimate], str]],
) -> list[tuple[dict[str, Estimate], str]]:
    """Return the methods that no other of the same training beats in both time and gap."""
    ordered = sorted(
        points, key=lambda point: (point[0]["share"].value, point[0]["accuracy_gap"].value)
    )
    front: list[tuple[dict[str, Estimate], str]] = []
    for found, method in ordered:
        if not front or found["accuracy_gap"].value < front[-1][0]["accuracy_gap"].value:
            front.append((found, method))
    return front


def section(case: CaseRows) -> list[str]:
    """Return the part of the page about one case."""
    enough = len(case.seeds) >= MIN_POOL
    preliminary = [] if enough else [f"Preliminary: {MIN_POOL} seeds are the protocol.", ""]
    picture = f"unlearning-{case.name.replace('/', '-')}.png"
    return [
        f"## {case.name}: {len(case.seeds)} seeds",
        "",
        *preliminary,
        *findings(case),
        "",
        *table(case),
        "",
        f"![time and gap](../../benchmarks/results/{picture})",
        "",
    ]


def main() -> None:
    """Write result file, plots and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=SMALL_ROWS if is_small() else RESULTS)
    folder = parser.parse_args().rows
    cases = [
        CaseRows(f"{task}/{setting}", Rows(rows_of(task, folder)).values())
        for task in LOADERS
        for setting in SETTINGS
    ]
    cases = [case for case in cases if case.seeds]
    write_results("unlearning", [row for case in cases for row in result_rows(case)])
    for case in cases:
        name = f"unlearning-{case.name.replace('/', '-')}"
        plot(name, draw(case), title=f"{case.name}: what forgetting costs and how near it comes")
    if not is_small():
        parts = [*introduction(advice(cases), overview(cases)), *limits()]
        parts += [line for case in cases for line in section(case)]
        PAGE.write_text(
            "\n".join([*parts, *peer_section(Rows(rows_of("peers", folder)).values())]) + "\n",
            encoding="utf-8",
        )
    print(f"{len(cases)} cases in {RESULTS}")


if __name__ == "__main__":
    main()
