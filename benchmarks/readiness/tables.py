"""From the rows of the study to result files, plots and the page; nothing is typed by hand."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, is_small, plot, write_results
from benchmarks.readiness.arms import ARMS, BATCH_SIZE, CANDIDATES, ORDINARY, training_config
from benchmarks.readiness.runner import FIRST_TEST_SEED, ROWS, Rows
from benchmarks.readiness.settings import make_setting
from benchmarks.readiness.statistics import Estimate, likelihood_ratio_auc, mean, ratio
from benchmarks.readiness.tasks import load_task
from r2u_tasks.step_memory import peak_step_bytes
from r2u_tasks.training import SegmentedRecords

PAGE = Path(__file__).parents[2] / "docs" / "results" / "readiness.md"
_MIN_POOL = 5
_WANTED_SEEDS = 10
_AIM_RATIO, _AIM_LOW = 5.0, 3.0
_COLORS = (
    "#111827",
    "#1d4ed8",
    "#0891b2",
    "#15803d",
    "#a16207",
    "#c2410c",
    "#be185d",
    "#6d28d9",
    "#64748b",
    "#84cc16",
    "#f59e0b",
    "#ec4899",
)

_HEADERS = {
    "before_stays": "stays, before",
    "before_forget": "asked for, before",
    "steps": "steps",
    "own_ratio": "times fewer, own best step",
    "after_stays": "stays, after",
    "same_steps": "steps, same step size",
    "same_ratio": "times fewer, same step size",
    "window": "window",
    "retain_only": "back after retain-only",
    "relearn_10": "steps back with 10",
    "time": "training time",
    "gradients": "gradients",
    "memory": "peak memory",
    "auc": "likelihood-ratio AUC",
}


class Case:
    """All rows of one task and one setting."""

    def __init__(self, task: str, setting: str, rows: Sequence[dict[str, Any]]) -> None:
        """Sort the rows by arm and seed."""
        self.task, self.setting, self.name = task, setting, f"{task}-{setting}"
        mine = [row for row in rows if row["key"].startswith(f"{task}/{setting}/")]
        self.tried = [row for row in mine if row["kind"] == "tried"]
        self.retrained = {row["seed"]: row for row in mine if row["kind"] == "retrained"}
        self.outcomes: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for row in mine:
            if row["kind"] == "outcome":
                self.outcomes[row["arm"]][row["seed"]] = row
        done = self.outcomes.get("ordinary", {})
        self.seeds = sorted(s for s in self.retrained if s in done and s >= FIRST_TEST_SEED)

    @property
    def is_classwise(self) -> bool:
        """Whether a class vanishes."""
        return not (self.setting.startswith("random") or self.setting == "partial")

    def arms(self) -> list[str]:
        """Return the arms that have at least one seed in common with ordinary training."""
        return [arm for arm in ARMS if self.paired(arm)]

    def paired(self, arm: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return (row of the arm, row of ordinary training) by seed."""
        ordinary = self.outcomes.get("ordinary", {})
        rows = self.outcomes.get(arm, {})
        return [(rows[seed], ordinary[seed]) for seed in self.seeds if seed in rows]

    def measures(self, arm: str) -> dict[str, Estimate]:
        """Return every measure of an arm."""
        pairs = self.paired(arm)
        rows = [row for row, _ in pairs]
        met = [row["careful"] for row in rows if row["careful"]["steps"] is not None]
        own = [
            (base["careful"]["steps"], row["careful"]["steps"])
            for row, base in pairs
            if row["careful"]["steps"] and base["careful"]["steps"]
        ]
        same = [
            (row["same"]["steps"], base["same"]["steps"])
            for row, base in pairs
            if row["same"]["steps"] and base["same"]["steps"]
        ]
        found = {
            "before_stays": mean([row["before"]["test_stays"] for row in rows]),
            "before_forget": mean([row["before"]["forget_accuracy"] for row in rows]),
            "steps": mean([run["steps"] for run in met]),
            "own_ratio": ratio([theirs for theirs, _ in own], [ours for _, ours in own]),
            "after_stays": mean([run["after"]["test_stays"] for run in met]),
            "same_steps": mean([ours for ours, _ in same]),
            "same_ratio": ratio([theirs for _, theirs in same], [ours for ours, _ in same]),
            "window": mean([row["same"]["window"] for row in rows]),
            "retain_only": mean([row["careful"]["rebound_retain_only"] for row in rows]),
            "relearn_10": mean(
                [
                    row["careful"]["relearn_steps_10"]
                    for row in rows
                    if row["careful"]["relearn_steps_10"] is not None
                ]
            ),
            "time": ratio(
                [row["train_cpu_s"] for row, _ in pairs], [base["train_cpu_s"] for _, base in pairs]
            ),
            "gradients": ratio(
                [row["gradients"] for row, _ in pairs], [base["gradients"] for _, base in pairs]
            ),
            "memory": mean([self._memory(arm)]),
        }
        if not self.is_classwise and len(rows) >= _MIN_POOL:
            found["auc"] = self._auc([row["careful"]["margins"] for row in rows], rows)
        return found

    def null_auc(self) -> Estimate | None:
        """Return the AUC of a second pool of retrained models: what chance gives at this size."""
        rows = [self.retrained[seed] for seed in self.seeds]
        if self.is_classwise or len(rows) < _MIN_POOL:
            return None
        pools = [np.array([row[name] for row in rows]) for name in ("margins_second", "margins")]
        return likelihood_ratio_auc(*pools)

    def _auc(self, margins: list[list[float]], rows: list[dict[str, Any]]) -> Estimate:
        retrained = np.array([self.retrained[row["seed"]]["margins"] for row in rows])
        return likelihood_ratio_auc(np.array(margins), retrained)

    def _memory(self, arm: str) -> float:
        """Return the peak memory of a training step against an ordinary one."""
        task = load_task(self.task)
        setting = make_setting(self.setting, task)
        data = SegmentedRecords(task.train, setting.revocable.astype("int8"), 2)
        candidate = next(row["candidate"] for row, _ in self.paired(arm))
        changes = ARMS[arm].changes

        def peak(readiness: Any) -> int:
            recipe = training_config(task, 0, (0, 1))
            return peak_step_bytes(task.build(0), data, training=recipe, readiness=readiness)

        if changes is None:
            return 1.0
        return peak(replace(CANDIDATES[candidate], **changes)) / peak(ORDINARY)


def result_rows(case: Case, measured: dict[str, dict[str, Estimate]]) -> list[dict[str, Any]]:
    """Return the rows of the result file."""
    units = {
        "steps": "steps",
        "same_steps": "steps",
        "window": "steps",
        "relearn_10": "steps",
        "own_ratio": "ratio",
        "same_ratio": "ratio",
        "time": "ratio",
        "gradients": "ratio",
        "memory": "ratio",
        "auc": "AUC",
    }
    relative = {"own_ratio", "same_ratio", "time", "gradients", "memory"}
    return [
        {
            "case": arm,
            "metric": name,
            "value": None if found.n == 0 else found.value,
            "unit": units.get(name, "fraction"),
            "n": found.n,
            "low": found.low,
            "high": found.high,
            "spread": "95 % interval over training seeds",
            "baseline": "ordinary" if name in relative else None,
        }
        for arm, values in measured.items()
        for name, found in values.items()
    ]


def table(case: Case, measured: dict[str, dict[str, Estimate]]) -> list[str]:
    """Return the lines of a Markdown table."""
    names = [name for name in _HEADERS if any(name in values for values in measured.values())]
    lines = [
        "| training | " + " | ".join(_HEADERS[name] for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    percent = {"before_stays", "before_forget", "after_stays", "retain_only"}
    for arm, values in measured.items():
        cells = []
        for name in names:
            found = values.get(name)
            if found is None:
                cells.append("")
            elif name in percent:
                cells.append(found.text(1, 100.0))
            else:
                cells.append(found.text(2 if name in ("auc", "memory", "time") else 1))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    after = mean([case.retrained[seed]["after"]["test_stays"] for seed in case.seeds])
    rebound = mean([case.retrained[seed]["rebound_retain_only"] for seed in case.seeds])
    lines.append("")
    lines.append(
        f"Retrained without the records: {after.text(1, 100.0)} % on what stays; "
        f"{rebound.text(1, 100.0)} % of the records asked for after retain-only training."
    )
    null = case.null_auc()
    if null is not None:
        lines.append(f"Likelihood-ratio AUC of a second pool of retrained models: {null.text(2)}.")
    return lines


def draw_frontier(case: Case) -> Callable[[Any], None]:
    """Return a drawing of steps against accuracy for every unlearner tried on validation seeds."""

    def draw(axes: Any) -> None:
        for color, row in zip(cycle(_COLORS), _chosen_tries(case), strict=False):
            points = []
            for runs in row["grid"].values():
                if all(steps is not None for steps, _ in runs):
                    points.append(tuple(np.mean([run[i] for run in runs]) for i in (0, 1)))
            points.sort()
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, "o", color=color, label=row["arm"], markersize=4, alpha=0.8)
                best = np.maximum.accumulate(y)
                axes.step(x, best, color=color, where="post", linewidth=1)
        if case.tried:
            level = case.tried[0]["retrained_stays"]
            axes.axhline(level, color="#737373", linestyle="--", linewidth=1, label="retrained")
            axes.set_ylim(level - 0.25, min(1.0, level + 0.03))
        axes.set(xscale="log", xlabel="steps to the target", ylabel="accuracy on what stays")
        axes.grid(visible=True, alpha=0.25)
        axes.legend(fontsize=7, frameon=False, ncols=2)

    return draw


def draw_costs(measured: dict[str, dict[str, Estimate]]) -> Callable[[Any], None]:
    """Return a drawing of what an arm costs in training against what it keeps after a request."""

    def draw(axes: Any) -> None:
        for index, (arm, values) in enumerate(measured.items()):
            x, y = values["time"], values["after_stays"]
            if y.n == 0:
                continue
            bars = (
                None if y.low is None or y.high is None else [[y.value - y.low], [y.high - y.value]]
            )
            color = _COLORS[index % len(_COLORS)]
            axes.errorbar(x.value, y.value, yerr=bars, fmt="o", color=color, capsize=3)
            axes.annotate(arm, (x.value, y.value), (5, 4), textcoords="offset points", fontsize=7)
        axes.axvline(1.5, color="#737373", linestyle=":", linewidth=1)
        axes.set(xscale="log", xlabel="training time against ordinary training")
        axes.set_ylabel("accuracy on what stays, after the request")
        axes.grid(visible=True, alpha=0.25)
        axes.margins(x=0.25, y=0.1)

    return draw


def _chosen_tries(case: Case) -> list[dict[str, Any]]:
    """Return the tries of each arm with the candidate that was chosen."""
    used = {row["candidate"] for arm in case.outcomes for row in case.outcomes[arm].values()}
    return [
        row
        for row in case.tried
        if ARMS[row["arm"]].changes is None or row["candidate"] in used or not used
    ]


def findings(case: Case, measured: dict[str, dict[str, Estimate]]) -> list[str]:
    """Return sentences that the numbers say; each names the number of seeds."""
    base = measured.get("ordinary")
    if base is None:
        return []
    lines = []
    for arm, values in measured.items():
        if arm == "ordinary":
            continue
        pairs = case.paired(arm)
        price = _points(pairs, lambda row: -row["before"]["test_stays"])
        known = _points(pairs, lambda row: -row["before"]["forget_accuracy"])
        gained = _points(pairs, lambda row: row["careful"]["after"]["test_stays"])
        fewer = values["own_ratio"]
        lines.append(
            f"- **{arm}** ({_seeds(values['before_stays'].n)}): {values['time'].text(1)} times the "
            f"training time; before the request {price:+.1f} points of accuracy lost on what "
            f"stays and {known:+.1f} on the records asked for; after it {gained:+.1f} points "
            f"against ordinary training, in {values['steps'].text(1)} steps against "
            f"{base['steps'].text(1)}, {fewer.text(1)} times fewer"
            f"{_aim(fewer) if case.is_classwise and ARMS[arm].changes is not None else ''}; "
            f"at the same small step {values['same_ratio'].text(1)} times fewer."
        )
    return lines


def _points(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]], of: Callable[[dict[str, Any]], float]
) -> float:
    """Return the mean difference to ordinary training of the same seeds, in points."""
    return 100 * float(np.mean([of(row) - of(base) for row, base in pairs]))


def _aim(fewer: Estimate) -> str:
    """Return whether the aim of the project is met: 5 times fewer, at least 3 with confidence."""
    if fewer.n < _WANTED_SEEDS:
        side = "above" if fewer.value >= _AIM_RATIO else "below"
        return f" ({side} the aim of {_AIM_RATIO:g}, too few seeds to decide)"
    is_met = fewer.value >= _AIM_RATIO and (fewer.low or 0.0) >= _AIM_LOW
    return f" (aim {_AIM_RATIO:g}, lower end {_AIM_LOW:g}: {'met' if is_met else 'not met'})"


def main() -> None:
    """Write results, plots and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=ROWS)
    rows = Rows(parser.parse_args().rows).values()
    names = dict.fromkeys((row["task"], row["setting"]) for row in rows if row["kind"] == "outcome")
    sections: list[str] = []
    for task, setting in names:
        case = Case(task, setting, rows)
        if not case.seeds:
            continue
        measured = {arm: case.measures(arm) for arm in case.arms()}
        name = f"readiness-{case.name}"
        write_results(name, result_rows(case, measured))
        plot(name, draw_frontier(case), title=f"{task}, {setting}: unlearners on validation seeds")
        plot(f"{name}-cost", draw_costs(measured), title=f"{task}, {setting}: cost and effect")
        sections += section(case, measured)
    if not is_small():
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join([*introduction(), *sections]) + "\n", encoding="utf-8")
    print(f"{len(names)} cases in {RESULTS}")


def section(case: Case, measured: dict[str, dict[str, Estimate]]) -> list[str]:
    """Return the part of the page about one case."""
    n = len(case.seeds)
    note = "" if n >= _WANTED_SEEDS else f" Preliminary: {_WANTED_SEEDS} seeds are the protocol."
    return [
        f"## {case.task}, {case.setting}: {_seeds(n)}",
        "",
        f"Intervals: 95 % over training seeds, none for one seed.{note}",
        "",
        *findings(case, measured),
        "",
        *table(case, measured),
        "",
        f"![unlearners](../../benchmarks/results/readiness-{case.name}.png)",
        f"![cost](../../benchmarks/results/readiness-{case.name}-cost.png)",
        "",
    ]


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def introduction() -> list[str]:
    """Return the head of the page: how to read it."""
    return [
        "# What Ready2Unlearn buys, what it costs, when not to use it",
        "",
        "Generated by `make study-readiness` from `benchmarks/results/`; nothing is typed by hand.",
        "",
        "*stays*: accuracy in percent on test records that are not asked for; *asked for*: "
        "accuracy in percent on the training records of the request. *steps*: gradient-ascent "
        "steps to the level of a retrained model, with the unlearner that each training does best "
        "with: raw, normalised and clipped steps of several sizes, chosen on validation seeds "
        "(fewest steps within 0.3 points of retrained models on what stays, in the worst of these "
        "seeds; where none is, the most accurate). *same step size*: one small normalised step "
        "(0.02) for all. *window*: step counts that meet the target and stay within 1 point of the "
        "retrained model on validation records. *back after retain-only*: accuracy in percent on "
        "the forgotten records after 60 steps on what was kept; *steps back with 10*: steps on 10 "
        "of them until half are known again.",
        "",
        f"Batches of {BATCH_SIZE}; times are processor seconds against ordinary training, memory "
        "is what a step allocates beyond model and data. Readiness settings are chosen on "
        "validation seeds for *class* and *random-10*, and kept where the split turns out wrong; "
        "*absolute* arms have fixed settings of the absolute form instead. "
        "The machine was busy with other work; that moves times, not steps and accuracies.",
        "",
        "**Not run yet**, although the protocol asks for it: SISA, DP-SGD, pruning first, "
        "sequential requests, later fine-tuning, look-alike relearning, and every case and seed "
        "that is not below.",
        "",
    ]


if __name__ == "__main__":
    main()
