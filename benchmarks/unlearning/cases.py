"""Data sets, requests and trainings of the study.

The same networks and recipes as in the readiness study. MNIST has more records to train on, because
the time of a retrain is what unlearning is measured against; CIFAR-10 has 20 epochs in place of 12,
because there is nothing to forget in a model that does not know its training records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmarks.readiness.arms import ARMS, CANDIDATES, Trained, retrain, train_arm
from benchmarks.readiness.settings import Setting, make_setting
from benchmarks.readiness.tasks import Task, load_cifar, load_digits, load_mnist
from r2u_tasks.data import Records

LOADERS: dict[str, Callable[[], Task]] = {
    "digits": load_digits,
    "mnist": lambda: load_mnist(10_000),
    "cifar10": lambda: replace(load_cifar(), epochs=20),
}
SETTINGS = ("random-10", "class")

ORDINARY, READY = "ordinary", "ready"
READY_CANDIDATES = {
    "absolute": ("first-last-20", "A"),
    "absolute, light": ("first-last-20", "A-light"),
    "difference": ("first-last-20", "D"),
}
"""Ready trainings to choose from: arm and settings of ``benchmarks.readiness``.

First order in the last fifth of the epochs, because that costs least.
"""
SECOND_RETRAIN = 50_000
"""Added to a seed for the second retrained model."""


@cache
def load(name: str) -> Task:
    """Return a task; its data are read once."""
    return LOADERS[name]()


@dataclass(frozen=True)
class Case:
    """One task and one request.

    Attributes:
        task: Data, network and recipe.
        setting: Records to forget, and the class that vanishes, if one does.
    """

    task: Task
    setting: Setting

    @classmethod
    def of(cls, task: str, setting: str) -> Case:
        """Return a case by its names."""
        return cls(load(task), make_setting(setting, load(task)))

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"{self.task.name}/{self.setting.name}"

    @property
    def forget(self) -> Records:
        """Training records of the request."""
        return self.task.train.select(self.setting.forget)

    @property
    def retain(self) -> Records:
        """Training records that stay."""
        return self.task.train.select(~self.setting.forget)

    def retrained(self, seed: int) -> Trained:
        """Train without the records of the request."""
        return retrain(self.task, self.setting, seed)

    def ready(self, seed: int, candidate: str) -> Trained:
        """Train on all records, prepared for the request."""
        arm, settings = READY_CANDIDATES[candidate]
        return train_arm(self.task, self.setting, ARMS[arm], CANDIDATES[settings], seed)


def train_ordinary(task: Task, seed: int) -> Trained:
    """Train on all records as one trains without a thought of requests: a retrain without any."""
    nothing = np.zeros(len(task.train), dtype=bool)
    return retrain(task, Setting("nothing", nothing, nothing, None), seed)
