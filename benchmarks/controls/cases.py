"""Data sets, requests and pools of the controls study; trained models are kept as margins.

Only *revocable* records (30 %, drawn at random) are ever asked for. A request names 5 % of all
records (10 % of digits); requests 2k and 2k + 1 have no record in common, so that each is the
*wrong* one for the other. What a pool left out is in its name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.readiness.arms import retrain
from benchmarks.readiness.settings import Setting
from benchmarks.readiness.tasks import Task, load_adult, load_digits, load_mnist, perceptron
from r2u_tasks.data import Records
from r2u_tasks.metrics import margins
from r2u_tasks.model import compute_logits
from r2u_tasks.objectives import logit_margins
from r2u_tasks.seeding import derive_seed

REVOCABLE_SHARE = 0.3
FORGET_SHARE = {"digits": 0.10, "adult": 0.05, "mnist": 0.05}
"""5 %, and of digits, which are few, 10 %."""
N_TRAIN = 2000
N_UNSEEN = 300
"""Validation records that stand for records that were never learned."""
N_TEST = 1000
"""Test records that every model is measured on."""
CACHE = Path(__file__).parents[2] / "build" / "controls"

ORIGINAL, STABLE, RANDOM = "original", "stable", "random"
"""Trained on everything, on stable records only, and not at all."""


def _flat_mnist() -> nn.Module:
    return nn.Sequential(nn.Flatten(), perceptron(196, 10, 64)())


LOADERS: dict[str, Callable[[], Task]] = {
    "digits": lambda: replace(load_digits(), epochs=60),
    "adult": lambda: replace(load_adult(), epochs=20),
    "mnist": lambda: replace(load_mnist(N_TRAIN), network=_flat_mnist),
}
"""Small networks and few records: the study needs some 500 models of each data set.

Digits are trained for 60 epochs in place of 25 and Adult for 20 in place of 10: a model that
remembers little of its records has little to forget, and the gate then says *underpowered*.
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Margins of one model, in nats.

    Attributes:
        train: Of all training records ``[B]``.
        suppressed: The same behind an output filter that exchanges the label's logit with the
            largest other one: the model never answers with the label.
        unseen: Of validation records ``[N_UNSEEN]``.
        test: Of test records ``[N_TEST]``.
    """

    train: np.ndarray
    suppressed: np.ndarray
    unseen: np.ndarray
    test: np.ndarray


class Case:
    """One data set with its requests, for one base seed.

    Attributes:
        task: Data, network and recipe.
        revocable: bool ``[B]``.
        requests: Positions of the training records of each request.
        never_learned: For each request as many positions of validation records.
    """

    def __init__(self, name: str, base_seed: int, *, n_requests: int, cache: Path = CACHE) -> None:
        """Draw the requests; even numbers of them."""
        self.task = load(name)
        self.base_seed, self._cache = base_seed, cache / name / str(base_seed)
        n = len(self.task.train)
        generator = np.random.default_rng([base_seed, 17])
        order = generator.permutation(n)
        self.revocable = np.zeros(n, dtype=bool)
        self.revocable[order[: round(REVOCABLE_SHARE * n)]] = True
        candidates, size = np.flatnonzero(self.revocable), round(FORGET_SHARE[name] * n)
        self._loaded: dict[Path, Measured] = {}
        self.requests: list[np.ndarray] = []
        for _ in range(n_requests // 2):
            drawn = generator.permutation(candidates)
            self.requests += [np.sort(drawn[:size]), np.sort(drawn[size : 2 * size])]
        self.never_learned = [
            np.sort(generator.permutation(N_UNSEEN)[:size]) for _ in range(n_requests)
        ]

    def one_record(self, number: int) -> np.ndarray:
        """Return the position of a request's first record, ``[1]``."""
        return self.requests[number][:1]

    def pool(self, name: str, size: int) -> list[Measured]:
        """Return the models of a pool, trained where they are not in the cache.

        Args:
            name: ``original``, ``stable``, ``random``, or ``kind-number``: ``without-3`` left out
                request 3, ``half-3`` half of it, ``one-3`` its first record, ``class-3`` the whole
                class of that record.
            size: Number of models.
        """
        return [self._model(name, index) for index in range(size)]

    def left_out(self, name: str) -> np.ndarray:
        """Return what a pool was not trained on, bool ``[B]``."""
        mask = np.zeros(len(self.task.train), dtype=bool)
        if name == ORIGINAL:
            return mask
        if name == STABLE:
            return self.revocable
        kind, _, text = name.partition("-")
        number = int(text)
        if kind == "without":
            mask[self.requests[number]] = True
        elif kind == "half":
            mask[self.requests[number][::2]] = True
        elif kind == "one":
            mask[self.one_record(number)] = True
        elif kind == "class":
            labels = self.task.train.labels.numpy()
            mask = labels == labels[self.one_record(number)[0]]
        else:
            message = f"pool: expected without-N, half-N, one-N or class-N, got {name}"
            raise ValueError(message)
        return mask

    def _model(self, name: str, index: int) -> Measured:
        path = self._cache / name / f"{index}.npz"
        if not path.exists():
            seed = derive_seed(self.base_seed, "controls", name, index)
            if name == RANDOM:
                model = self.task.build(seed).eval()
            else:
                mask = self.left_out(name)
                model = retrain(self.task, Setting(name, mask, mask, None), seed).model
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez(part, **measure(self.task, model))
            part.rename(path)
        if path not in self._loaded:
            with np.load(path) as found:
                parts = {part: found[part].astype(np.float64) for part in found.files}
            self._loaded[path] = Measured(**parts)
        return self._loaded[path]


def measure(task: Task, model: nn.Module) -> dict[str, np.ndarray]:
    """Return the fields of ``Measured`` in single precision."""
    found = {
        "train": margins(model, task.train),
        "suppressed": suppressed_margins(model, task.train),
        "unseen": margins(model, _first(task.validation, N_UNSEEN)),
        "test": margins(model, _first(task.test, N_TEST)),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def suppressed_margins(model: nn.Module, records: Records) -> np.ndarray:
    """Return margins behind a filter that exchanges the label's logit with the largest other."""
    logits = compute_logits(model, records)
    rows = torch.arange(len(logits))
    others = copy.deepcopy(logits)
    others[rows, records.labels] = -torch.inf
    best = others.argmax(dim=1)
    known = logits[rows, records.labels].clone()
    is_known = known >= logits[rows, best]
    filtered = logits.clone()
    filtered[rows, records.labels] = torch.where(is_known, logits[rows, best], known)
    filtered[rows, best] = torch.where(is_known, known, logits[rows, best])
    return logit_margins(filtered, records.labels).double().numpy()


@cache
def load(name: str) -> Task:
    """Return a task; its data are read once."""
    return LOADERS[name]()


def _first(records: Records, n: int) -> Records:
    return records.select(np.arange(len(records)) < n)
