"""Who asks: which records the training believes revocable, and which the request is really for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.readiness.tasks import Task
from r2u_tasks.data import Records

_SEED = 11


@dataclass(frozen=True)
class Setting:
    """One request.

    Attributes:
        revocable: bool ``[B]``, what training prepares for.
        forget: bool ``[B]``, what is asked for in the end.
        gone: The class that vanishes; None where every class stays.
    """

    name: str
    revocable: np.ndarray
    forget: np.ndarray
    gone: int | None

    def stays(self, records: Records) -> Records:
        """Return the records of classes that stay in the data."""
        return records if self.gone is None else records.select(self._of_gone(records, False))

    def goes(self, records: Records) -> Records:
        """Return the records of the class that vanishes (all records where none does)."""
        return records if self.gone is None else records.select(self._of_gone(records, True))

    def _of_gone(self, records: Records, wanted: bool) -> np.ndarray:
        return (records.labels.numpy() == self.gone) == wanted


def make_setting(name: str, task: Task) -> Setting:
    """Return a setting by name.

    ``class``: one class, known in training. ``partial``: half of the prepared class. ``wrong``:
    one class, but training prepared another. ``missed-30``: 30 % of the class taken for stable.
    ``random-10``: 10 % of all records, known in training.
    """
    labels = task.train.labels.numpy()
    generator = np.random.default_rng(_SEED)
    chosen = labels == task.classwise
    kind, _, percent = name.partition("-")
    share = float(percent or 0) / 100
    if kind == "class":
        return Setting(name, chosen, chosen, task.classwise)
    if kind == "partial":
        half = chosen & (generator.random(len(labels)) < 0.5)
        return Setting(name, chosen, half, None)
    if kind == "wrong":
        other = labels == (task.classwise + 4) % task.n_classes
        return Setting(name, other, chosen, task.classwise)
    if kind == "missed":
        known = chosen & (generator.random(len(labels)) >= share)
        return Setting(name, known, chosen, task.classwise)
    if kind == "random":
        picked = np.zeros(len(labels), dtype=bool)
        picked[generator.permutation(len(labels))[: round(share * len(labels))]] = True
        return Setting(name, picked, picked, None)
    message = f"setting: expected class, partial, wrong, missed-N or random-N, got {name}"
    raise ValueError(message)
