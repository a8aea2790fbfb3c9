"""Runs the study; every finished run is a line of a JSONL file, so it goes on where it stopped.

Protocol. Validation seeds choose (``benchmarks.unlearning.choice``), judged on validation records;
test seeds report, judged on test records, seed by seed. For each case and seed: two retrained
models, the ordinary model, the ready model, and every method on both. The ordinary model of a seed
is the same for every request on its task. Times are processor seconds of the whole run, target
level and checks included, so that a pause of the process does not count; wall time is noted beside.

A run that the contract refuses (nothing changed, collapse) is reported with the model that the
method returned, and counted as refused.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from benchmarks.common import RESULTS, is_small
from benchmarks.readiness.arms import Trained
from benchmarks.readiness.runner import Rows
from benchmarks.unlearning.cases import (
    LOADERS,
    ORDINARY,
    READY_CANDIDATES,
    SECOND_RETRAIN,
    SETTINGS,
    Case,
    load,
    train_ordinary,
)
from benchmarks.unlearning.choice import (
    CONTROL,
    best_options,
    level_of,
    picks,
    ready_training,
    tried_from,
)
from benchmarks.unlearning.measures import measure
from governance.declaration import UNLEARNING_METHODS
from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.training import TrainingCost
from r2u_tasks.unlearning.contract import UnlearnedModel, run_unlearning
from r2u_tasks.unlearning.registry import find_method

VALIDATION_SEEDS = (1000, 1001, 1002)
FIRST_TEST_SEED = 4000
METHODS = ("no_op", *(name for name in UNLEARNING_METHODS if name not in {"no_op", "auto"}))
"""What ships, the control first; ``auto`` takes the time of four of them."""
FEW_METHODS = ("no_op", "gradient_ascent", "neg_grad_plus", "finetune")

RETRAINED, SECOND, RANDOM = "retrained", "second retrain", "random init"
REFERENCES = (RETRAINED, SECOND, RANDOM)
"""What unlearning should come to, how far a retrain is from that by chance, and a control."""

DEFAULT = "default"
OPTIONS = {DEFAULT: UnlearningConfig(), "retain 3": UnlearningConfig(retain_weight=3.0)}
"""Settings to choose from: the loss on records that stay counts once or three times."""
_WITH_RETAIN = ("neg_grad_plus", "npo", "random_labels", "salun", "scrub", "level_matching")


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        candidates: Ready trainings to choose from.
    """

    methods: tuple[str, ...] = METHODS
    candidates: tuple[str, ...] = tuple(READY_CANDIDATES)
    validation_seeds: tuple[int, ...] = VALIDATION_SEEDS
    options: tuple[str, ...] = tuple(OPTIONS)


SMALL_ROWS = Path(__file__).parents[2] / "build" / "unlearning-small"
SHORT = Plan(
    tuple(name for name in METHODS if name != "gradient_ascent_clipped"),
    ("absolute, light",),
    VALIDATION_SEEDS[:1],
    (DEFAULT,),
)
"""For CIFAR-10, whose trainings take longest: the ready training that the validation seeds of
digits and MNIST chose, the methods with their defaults, and one validation seed."""
SMALL = Plan(FEW_METHODS, ("absolute",), VALIDATION_SEEDS[:1])


@dataclass(frozen=True)
class Run:
    """One run of a method.

    Attributes:
        result: What the method returned, also where the contract refused it.
        refused: Why the contract refused it; None where it did not.
        cpu_s: Processor time of this process, target level and checks included.
        wall_s: Wall time of the same.
    """

    result: UnlearnedModel
    refused: str | None
    cpu_s: float
    wall_s: float


def timed_run(case: Case, model: nn.Module, method: str, options: str, seed: int) -> Run:
    """Run a method on a model.

    Raises:
        UnlearningError: The method itself failed.
    """
    returned: list[UnlearnedModel] = []

    def keep(*arguments: Any, config: UnlearningConfig) -> UnlearnedModel:
        returned.append(find_method(method)(*arguments, config=config))
        return returned[-1]

    config = replace(OPTIONS[options], method=method, seed=seed)
    retain, forget, refused = case.retain, case.forget, None
    started, started_wall = time.process_time(), time.perf_counter()
    try:
        run_unlearning(keep, model, retain, forget, case.task.validation, config=config)
    except UnlearningError as error:
        refused = str(error)
    spent, wall = time.process_time() - started, time.perf_counter() - started_wall
    if not returned:
        raise UnlearningError(refused or f"{method} returned nothing")
    return Run(returned[0], refused, spent, wall)


class Study:
    """One case."""

    def __init__(self, rows: Rows, case: Case, plan: Plan) -> None:
        """Bind the rows to a case; models of this process are kept while their seed runs."""
        self._rows, self._case, self._plan = rows, case, plan
        self._models = lru_cache(maxsize=8)(self._train)

    def run(self, seed: int) -> None:
        """Compute all that is reported of one test seed."""
        choice = self.choice()
        self.references(seed)
        for training in (ORDINARY, choice["ready"]):
            for method in self._plan.methods:
                options = choice["options"][training].get(method, DEFAULT)
                self.outcome(training, method, options, seed)

    def choice(self) -> dict[str, Any]:
        """Return what the validation seeds chose."""
        return self._rows.once(f"{self._case.name}/choice", self._choose)

    def references(self, seed: int) -> list[dict[str, Any]]:
        """Return the retrained model of a seed, a second one, and an untrained one."""
        return [self._reference_row(name, seed) for name in REFERENCES]

    def outcome(self, training: str, method: str, options: str, seed: int) -> dict[str, Any]:
        """Return the measures of one method on one training and seed."""
        key = f"{self._case.name}/{training}/{method}/{options}/{seed}"
        return self._rows.once(key, lambda: self._unlearn(training, method, options, seed))

    def _reference_row(self, name: str, seed: int) -> dict[str, Any]:
        key = f"{self._case.name}/{name}/{seed}"
        return self._rows.once(key, lambda: self._reference(name, seed))

    def _reference(self, name: str, seed: int) -> dict[str, Any]:
        trained = self._models(name, seed)
        return self._row("reference", name, seed) | {
            "train_cpu_s": trained.cpu_s,
            **self._measure(trained.model, seed),
        }

    def _unlearn(self, training: str, method: str, options: str, seed: int) -> dict[str, Any]:
        trained = self._models(training, seed)
        run = timed_run(self._case, trained.model, method, options, seed)
        retrain_s = self._reference_row(RETRAINED, seed)["train_cpu_s"]
        return self._row("outcome", training, seed) | {
            "method": method,
            "options": options,
            "train_cpu_s": trained.cpu_s,
            "cpu_s": run.cpu_s,
            "wall_s": run.wall_s,
            "share": run.cpu_s / retrain_s,
            "steps": run.result.steps,
            "stopped_because": run.result.stopped_because,
            "refused": run.refused,
            **self._measure(run.result.model, seed),
        }

    def _row(self, kind: str, training: str, seed: int) -> dict[str, Any]:
        task, setting = self._case.task.name, self._case.setting.name
        return {"kind": kind, "task": task, "setting": setting, "training": training, "seed": seed}

    def _measure(self, model: nn.Module, seed: int) -> dict[str, Any]:
        part = "validation" if seed < FIRST_TEST_SEED else "test"
        return measure(self._case, model, part, seed)

    def _train(self, training: str, seed: int) -> Trained:
        case = self._case
        if training == ORDINARY:
            return _ordinary(case.task.name, seed)
        if training == RETRAINED:
            return case.retrained(seed)
        if training == SECOND:
            return case.retrained(seed + SECOND_RETRAIN)
        if training == RANDOM:
            return Trained(case.task.build(seed).eval(), TrainingCost(), 0.0)
        return case.ready(seed, training)

    def _choose(self) -> dict[str, Any]:
        seeds, rows = self._plan.validation_seeds, []
        for seed in seeds:
            for training in (ORDINARY, *self._plan.candidates):
                rows += [self.outcome(training, m, DEFAULT, seed) for m in self._plan.methods]
        level = level_of(row for seed in seeds for row in self.references(seed)[:2])
        candidates = tried_from(rows, level)
        price = {name: self._price(name) for name in self._plan.candidates}
        ready = ready_training([one for one in candidates if one.training != ORDINARY], price)
        others = [name for name in self._plan.options if name != DEFAULT]
        for seed in seeds:
            for training in (ORDINARY, ready):
                for method in (name for name in _WITH_RETAIN if name in self._plan.methods):
                    rows += [self.outcome(training, method, name, seed) for name in others]
        tried = tried_from(rows, level)
        trainings = (ORDINARY, ready)
        return {
            "kind": "choice",
            "task": self._case.task.name,
            "setting": self._case.setting.name,
            "ready": ready,
            "price": price,
            "options": {
                t: {m: best_options(tried, t, m) for m in self._plan.methods if m != CONTROL}
                for t in trainings
            },
            "picks": {t: picks(tried, t) for t in trainings},
            "tried": [[t.training, t.method, t.options, t.gap, t.share] for t in tried],
        }

    def _price(self, candidate: str) -> float:
        """Return the points that a ready training loses before any request, where most."""
        ours, theirs = (
            [self.outcome(name, CONTROL, DEFAULT, seed) for seed in self._plan.validation_seeds]
            for name in (candidate, ORDINARY)
        )
        pairs = list(zip(ours, theirs, strict=True))
        return max(
            fmean(a["ua"] - b["ua"] for a, b in pairs), fmean(b["ta"] - a["ta"] for a, b in pairs)
        )


@lru_cache(maxsize=2)
def _ordinary(task: str, seed: int) -> Trained:
    return train_ordinary(load(task), seed)


def rows_of(task: str, folder: Path = RESULTS) -> Path:
    """Return the file of a task's rows."""
    return folder / f"unlearning-rows-{task}.jsonl"


def main() -> None:
    """Run the study, task by task and seed by seed, until it is done or stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="task, or task/setting: mnist, mnist/class")
    parser.add_argument("--rows", type=Path, default=RESULTS, help="folder of the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    only, folder = arguments.only or "", arguments.rows
    if is_small():
        only = only or "digits"
        arguments.seeds, folder = 2, SMALL_ROWS
    Case.of("digits", "class").retrained(0)  # so that no timing has what a process does once
    for task in LOADERS:
        rows = Rows(rows_of(task, folder))
        plan = SMALL if is_small() else SHORT if task == "cifar10" else Plan()
        names = [s for s in SETTINGS if f"{task}/{s}".startswith(only)]
        studies = [Study(rows, Case.of(task, s), plan) for s in names]
        for study in studies:
            study.choice()
        for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + arguments.seeds):
            for study in studies:
                study.run(seed)


if __name__ == "__main__":
    main()
