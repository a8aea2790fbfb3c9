"""Rates of the controls with exact intervals: docs/results/controls.md and controls.json."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, is_small, write_results
from benchmarks.controls.cases import LOADERS
from benchmarks.controls.runner import SMALL_ROWS, rows_of
from benchmarks.readiness.runner import Rows
from governance.forgetting_metrics.intervals import clopper_pearson

PAGE = Path(__file__).parents[2] / "docs" / "results" / "controls.md"

MUST_ACCEPT = "retrain"
NEVER = {
    "no_op": "no-op: the original, unchanged",
    "random_init": "random initialisation",
    "wrong_records": "wrong records: retrained without as many others",
    "whole_class": "whole class of one record, retrained without it, when one record was asked for",
    "class_for_batch": "the same for the batch",
    "half": "half: retrained without every other record",
    "label_suppression": "label suppressed at the output, weights unchanged",
    "never_learned": "records that no model ever learned",
}
TEXTS = {
    MUST_ACCEPT: "**independent retrain without the records**",
    **NEVER,
    "suppression_at_level": "output lowered to the mean of retrained models, weights unchanged",
    "one_record_retrain": "one record: independent retrain",
    "one_record_no_op": "one record: no-op",
}
TIERS = {"full": "full tier", "batch": "batch tier", "exact": "exact lane"}


def load_rows(task: str, folder: Path) -> list[dict[str, Any]]:
    """Return the judged rows of a data set."""
    return [one for row in Rows(rows_of(task, folder)).values() for one in row.get("judged", [])]


def qualifications(task: str, folder: Path) -> list[dict[str, Any]]:
    """Return the qualifications of a data set."""
    rows = Rows(rows_of(task, folder)).values()
    return [row["qualification"] for row in rows if "qualification" in row]


def verdicts(rows: list[dict[str, Any]], control: str, tier: str) -> Counter[str]:
    """Return how often each verdict was given."""
    return Counter(r["verdict"] for r in rows if (r["control"], r["tier"]) == (control, tier))


def result_rows(task: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the result file: acceptance rates."""
    found = []
    for control in TEXTS:
        for tier in TIERS:
            counts = verdicts(rows, control, tier)
            if n := counts.total():
                low, high = clopper_pearson(counts["accept"], n)
                found.append(
                    {
                        "case": f"{task}/{tier}/{control}",
                        "metric": "accepted",
                        "value": counts["accept"] / n,
                        "unit": "fraction",
                        "n": n,
                        "low": low,
                        "high": high,
                        "spread": "95 % Clopper-Pearson",
                        "baseline": None,
                    }
                )
    return found


def cell(counts: Counter[str]) -> str:
    """Return accepted of all, with interval in percent.

    >>> cell(Counter(accept=0, retrain=50))
    '0 of 50 (0 to 7 %)'
    """
    n = counts.total()
    if n == 0:
        return ""
    low, high = clopper_pearson(counts["accept"], n)
    return f"{counts['accept']} of {n} ({100 * low:.0f} to {100 * high:.0f} %)"


def table(tasks: dict[str, list[dict[str, Any]]], tier: str) -> list[str]:
    """Return the lines of a Markdown table: accepted, by control and data set."""
    lines = [
        "| candidate | " + " | ".join(tasks) + " |",
        "|---" * (len(tasks) + 1) + "|",
    ]
    for control, text in TEXTS.items():
        cells = [cell(verdicts(rows, control, tier)) for rows in tasks.values()]
        if any(cells):
            lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return lines


def findings(tasks: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return sentences that the numbers say."""
    lines = []
    for task, rows in tasks.items():
        for tier in ("full", "batch"):
            wrong = {c: verdicts(rows, c, tier)["accept"] for c in NEVER}
            total = sum(verdicts(rows, c, tier).total() for c in NEVER)
            kept = verdicts(rows, MUST_ACCEPT, tier)
            accepted = ", ".join(f"{c} {n} times" for c, n in wrong.items() if n)
            never = (
                f"no control was accepted in {total} verdicts"
                if not accepted
                else f"**accepted although it must not be**: {accepted} (of {total} verdicts)"
            )
            share = kept["accept"] / max(1, kept.total())
            goal = "" if share >= 0.95 else f"; **the goal of 95 % is missed**{_why(rows, tier)}"
            lines.append(
                f"- {task}, {TIERS[tier]}: {never}; the independent retrain was accepted in "
                f"{kept['accept']} of {kept.total()}{goal}."
            )
    return lines


def _why(rows: list[dict[str, Any]], tier: str) -> str:
    """Return how many refused retrains are a matter of power and how many of the candidate."""
    refused = [
        r
        for r in rows
        if (r["control"], r["tier"]) == (MUST_ACCEPT, tier) and r["verdict"] != "accept"
    ]
    if tier == "full":
        weak = sum(not row["controls"]["original_fails"] for row in refused)
        text = "the power control said *underpowered*"
    else:
        weak = sum(row["verdict"] == "refuse" for row in refused)
        text = "there was no valid qualification, or no power on this batch"
    return f" ({weak} of {len(refused)}: {text})"


def power_table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what the qualifications measured, summed over those of a data set."""
    lines = [
        "| data | retrained rejected | original rejected | half rejected | valid |",
        "|---|---|---|---|---|",
    ]
    for task, records in found.items():
        cells = []
        for name in ("retrained", "original", "half"):
            counts = [record["rejected"][name] for record in records]
            cells.append(f"{sum(c['rejected'] for c in counts)} of {sum(c['n'] for c in counts)}")
        valid = sum(record["has_power"] for record in records)
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {valid} of {len(records)} |")
    return lines


def page(folder: Path) -> str:
    """Return the page."""
    tasks = {task: load_rows(task, folder) for task in LOADERS}
    tasks = {task: rows for task, rows in tasks.items() if rows}
    records = {task: qualifications(task, folder) for task in tasks}
    return "\n".join(
        [
            "# How often is the gate fooled, and how often does it refuse a true retrain?",
            "",
            "Generated by `make study-controls` from `benchmarks/results/`; no number is typed by "
            "hand. Each cell: how often the candidate got `accept`, with the 95 % Clopper-Pearson "
            "interval.",
            "",
            "## What came out",
            "",
            *findings(tasks),
            "",
            "## Full tier: pools of 12 retrained models for every batch",
            "",
            *table(tasks, "full"),
            "",
            "## Batch tier: references of phase A and a qualification, nothing is retrained",
            "",
            *table(tasks, "batch"),
            "",
            "What the qualifications measured (each made on the other requests; a valid one must "
            "reject originals and half-done models with a lower limit of 90 %):",
            "",
            *power_table(records),
            "",
            "`governance.batch_tier` and `governance.qualification` are the decision function and "
            "its signed record. **The pipeline does not use them yet**: every batch is served by "
            "the full tier.",
            "",
            "## Exact lane: the model was made without the records, the test only alarms",
            "",
            *table(tasks, "exact"),
            "",
            "In an exact lane the claim rests on how the model was made and on its lineage; its "
            "test has a tenth of the error level and no pool, and must not be read as evidence "
            "against a no-op.",
            "",
            "## How it was done",
            "",
            "- Four requests for each data set, 13 repeats each (one record: one request, 52 "
            "repeats, the candidates in turn). A request is for 5 % of all records (digits 10 %), "
            "drawn at random. Candidates of a control are models of their own training seeds, but "
            "no-op and suppression draw from the originals. Pools of a repeat have no model in "
            "common, but are drawn from 36 retrained and 60 original models of a request, so "
            "repeats depend on each other a little and the intervals are somewhat too narrow.",
            "- Joint error level 0.05, accuracy may drop by 2 points: the defaults. The test was "
            "changed on other seeds than these, and on an earlier recipe of digits (25 epochs).",
            "- Small networks on few records, so that 500 models of each are affordable: digits "
            "60 epochs on 1,000, Adult 20 epochs on 3,000, MNIST (14x14, perceptron) 16 epochs on "
            "2,000 records. With fewer epochs or records models remember less, and the answer is "
            "*underpowered*.",
            "- Very few records: no pool of a dozen models can show that one record was forgotten. "
            "The answer is `retrain` or `refuse`, never `accept`, also for a true retrain; the "
            "exact lane serves such batches.",
            "- An unknown id never gets as far as this: it is an error of the lineage checks.",
            "- An operator who lowers the output for exactly the records asked for is not honest; "
            "the row is there to show what the test sees of it.",
            "",
        ]
    )


def main() -> None:
    """Write results and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=SMALL_ROWS if is_small() else RESULTS)
    folder = parser.parse_args().rows
    rows = [row for task in LOADERS for row in result_rows(task, load_rows(task, folder))]
    write_results("controls", rows)
    if not is_small():
        PAGE.write_text(page(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
