"""Models to numbers: what the evidence suite needs of a pool of networks, for any task.

Classifiers give logits ``[B, C]``, language models ``[B, T, V]`` (a tensor, or an object with
``logits``). The margin of a sequence is that of the geometric mean of its token probabilities, a
monotone function of the mean token log-likelihood.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from governance.errors import DataError
from governance.forgetting_metrics.membership import modified_entropy
from governance.forgetting_metrics.outcomes import calibration_error
from governance.forgetting_metrics.recovery import linear_probe, relearn_level, relearn_steps
from governance.forgetting_suite.measures import PoolMeasures
from r2u_tasks.data import Records
from r2u_tasks.objectives import CAUSAL_LM, IGNORED_TOKEN, TaskLoss, find_loss
from r2u_tasks.unlearning.scores import logits_of, score_records

SAMPLE = 1000
"""Retained and test records that are looked at one by one."""

_PROBABILITY_MODELS = 8
_PROBE_RECORDS = 500
_TRAIN_RECORDS = 2000
_TRAIN_TOKENS = 16_384
_BATCH = 512
_LEARNING_RATES = (0.02, 0.1, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverySettings:
    """How models are trained further.

    Attributes:
        models: Of each pool, at least 1.
        steps: Full-batch steps with momentum 0.9, at least 1.
        learning_rate: Of both trainings; None takes the smallest of 0.02, 0.1, 0.5 with which the
            first retrained model relearns (chosen without a look at the unlearned model).
    """

    models: int = 8
    steps: int = 60
    learning_rate: float | None = None


def sample_of(records: Records, size: int = SAMPLE) -> Records:
    """Return at most ``size`` records, evenly spread."""
    if len(records) <= size:
        return records
    mask = np.zeros(len(records), dtype=bool)
    mask[np.linspace(0, len(records) - 1, size).astype(np.int64)] = True
    return records.select(mask)


def measure_models(
    models: Sequence[nn.Module],
    *,
    forget: Records,
    retain: Records,
    test: Records,
    recovery: RecoverySettings | None = None,
) -> PoolMeasures:
    """Measure a pool; the models stay as they are.

    Args:
        models: At least one.
        forget: Records to forget.
        retain: Records that stay.
        test: Records that no model was trained on.
        recovery: Also train copies of the first models further; its learning rate must be set.

    Raises:
        DataError: No models or records, outputs that fit no task, or numbers that are not finite.
    """
    for name, records in (("forget", forget), ("retain", retain), ("test", test)):
        if len(records) == 0:
            message = f"measuring: expected {name} records, got none"
            raise DataError(message)
    rows = []
    for index, model in enumerate(models):
        trained = None if recovery is None or index >= recovery.models else recovery
        keep = index < _PROBABILITY_MODELS
        rows.append(_measure_one(model, forget, retain, test, trained, keep_outputs=keep))
    stacked: dict[str, Any] = {name: _stack([row.get(name) for row in rows]) for name in _FIELDS}
    return PoolMeasures(**stacked)


_FIELDS = tuple(PoolMeasures.__dataclass_fields__)


def _stack(values: list[np.ndarray | None]) -> np.ndarray | None:
    """Return the rows of the first models that have one."""
    found = [value for value in values if value is not None]
    return np.stack(found) if found else None


def _measure_one(
    model: nn.Module,
    forget: Records,
    retain: Records,
    test: Records,
    recovery: RecoverySettings | None,
    *,
    keep_outputs: bool,
) -> dict[str, Any]:
    retained, tested = sample_of(retain), sample_of(test)
    own = score_records(model, forget)
    row: dict[str, Any] = {
        "forget_margins": own.margins.double().numpy(),
        "forget_accuracy": own.hits.double().numpy(),
        "retain_margins": score_records(model, retained).margins.double().numpy(),
        "retain_accuracy": np.float64(score_records(model, retain).accuracy),
        "test_margins": score_records(model, tested).margins.double().numpy(),
        "test_accuracy": np.float64(score_records(model, test).accuracy),
        "predictions": predictions_of(model, forget),
    }
    if forget.labels.ndim == 1:
        parts = [probabilities_of(model, part) for part in (forget, retained, tested)]
        labels = [part.labels.numpy() for part in (forget, retained, tested)]
        mixed = [modified_entropy(p, y) for p, y in zip(parts, labels, strict=True)]
        entropy = -(parts[0] * np.log(np.maximum(parts[0], 1e-300))).sum(axis=1)
        hits = parts[2].argmax(axis=1) == labels[2]
        row |= {
            "modified_entropies": np.concatenate(mixed),
            "entropies": entropy,
            "calibration_errors": np.float64(calibration_error(parts[2].max(axis=1), hits)),
        }
        if keep_outputs:
            row["probabilities"] = parts[0]
    if recovery is not None:
        row |= _recover(model, forget, retain, recovery)
    return row


def _recover(
    model: nn.Module, forget: Records, retain: Records, settings: RecoverySettings
) -> dict[str, Any]:
    if settings.learning_rate is None:
        message = "measuring: expected a learning rate; choose_learning_rate finds one"
        raise DataError(message)
    rate, steps = settings.learning_rate, settings.steps
    again = train_further(model, forget, forget, steps=steps, learning_rate=rate)
    rest = train_further(model, retain, forget, steps=steps, learning_rate=rate)
    found: dict[str, Any] = {"relearn_losses": again.losses, "rebound_accuracy": rest.accuracies}
    probe = probe_features(model, sample_of(retain, _PROBE_RECORDS), forget)
    return found if probe is None else {**found, "probe_accuracy": np.float64(probe)}


def choose_learning_rate(
    known: float, retrained: nn.Module, forget: Records, settings: RecoverySettings
) -> RecoverySettings:
    """Return the settings with a learning rate; see ``RecoverySettings``.

    Where no rate makes the retrained model relearn, the smallest one stays, and the relearning
    ratio says that it is unknown.

    Args:
        known: Mean loss of the original on the forget records, in nats (``mean_loss_of``).
        retrained: A retrained model.
        forget: Records, in the scale of the retrained model.
        settings: The rate to keep, or None.
    """
    if settings.learning_rate is not None:
        return settings
    chosen = _LEARNING_RATES[0]
    for rate in _LEARNING_RATES:
        curve = train_further(retrained, forget, forget, steps=settings.steps, learning_rate=rate)
        if not curve.losses[0] > known:
            break
        level = relearn_level(known, float(curve.losses[0]))
        if np.isfinite(curve.losses).all() and not relearn_steps(curve.losses, level).is_censored:
            chosen = rate
            break
    return RecoverySettings(models=settings.models, steps=settings.steps, learning_rate=chosen)


def mean_loss_of(model: nn.Module, records: Records) -> float:
    """Return the mean loss in nats, on the records that ``train_further`` would watch."""
    return float(train_further(model, records, records, steps=0, learning_rate=0.0).losses[0])


@dataclass(frozen=True, slots=True)
class FurtherTraining:
    """What was watched while a copy was trained further; position 0 is before the first step.

    Attributes:
        losses: Mean loss of the watched records in nats, ``[S + 1]``.
        accuracies: Their accuracy 0-1, ``[S + 1]``.
    """

    losses: np.ndarray
    accuracies: np.ndarray


def train_further(
    model: nn.Module, train_on: Records, watch: Records, *, steps: int, learning_rate: float
) -> FurtherTraining:
    """Fine-tune a copy on some records and watch others after each step.

    Full-batch gradient descent with momentum 0.9 on at most 2,000 records, or as many sequences as
    hold 16,384 tokens. With ``train_on`` = erased records this is the relearning attack, with
    retained ones the rebound (2505.22310). Dropout and batch statistics stay as in evaluation, so
    that nothing but the steps changes the model.
    """
    task, size = _task_of(model, watch), _affordable(watch)
    train_on, watch = sample_of(train_on, size), sample_of(watch, size)
    student = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate, momentum=0.9)
    losses, accuracies = [], []
    for step in range(steps + 1):
        score = score_records(student, watch)
        losses.append(_mean_loss(student, watch, task))
        accuracies.append(score.accuracy)
        if step == steps:
            break
        optimizer.zero_grad(set_to_none=True)
        loss = task.mean(logits_of(student(train_on.inputs)), train_on.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return FurtherTraining(np.array(losses), np.array(accuracies))


def _affordable(records: Records) -> int:
    if records.labels.ndim == 1:
        return _TRAIN_RECORDS
    return max(1, min(_TRAIN_RECORDS, _TRAIN_TOKENS // records.labels.shape[1]))


def _task_of(model: nn.Module, records: Records) -> TaskLoss:
    return CAUSAL_LM if records.labels.ndim == 2 else find_loss(model)


@torch.no_grad()
def _mean_loss(model: nn.Module, records: Records, task: TaskLoss) -> float:
    losses = [
        task.each(logits_of(model(x)), y)
        for x, y in zip(
            torch.split(records.inputs, _BATCH), torch.split(records.labels, _BATCH), strict=True
        )
    ]
    return float(torch.cat(losses).double().mean())


@torch.no_grad()
def probabilities_of(model: nn.Module, records: Records) -> np.ndarray:
    """Return the distribution over classes for each record, ``[B, C]``, float64."""
    parts = [logits_of(part) for part in _outputs(model, records)]
    return np.asarray(torch.softmax(torch.cat(parts).double(), dim=1).numpy())


@torch.no_grad()
def predictions_of(model: nn.Module, records: Records) -> np.ndarray:
    """Return the predicted class of each record; of sequences, each counted token in turn."""
    if records.labels.ndim == 1:
        parts = [logits_of(part).argmax(dim=1) for part in _outputs(model, records)]
        return np.asarray(torch.cat(parts).double().numpy())
    tokens = [logits_of(part)[:, :-1].argmax(dim=2) for part in _outputs(model, records)]
    counted = records.labels[:, 1:] != IGNORED_TOKEN
    return np.asarray(torch.cat(tokens)[counted].double().numpy())


def _outputs(model: nn.Module, records: Records) -> Iterator[Any]:
    was_training = model.training
    model.eval()
    try:
        for part in torch.split(records.inputs, _BATCH):
            yield model(part)
    finally:
        model.train(was_training)


def probe_features(model: nn.Module, fit_on: Records, forget: Records) -> float | None:
    """Return the accuracy of a linear probe on the input of the last linear layer.

    None for sequences, for a network whose last called linear layer does not give its output, and
    where the retained sample has one class.
    """
    if forget.labels.ndim != 1 or len(set(fit_on.labels.tolist())) < 2:
        return None
    fitted, asked = _features(model, fit_on), _features(model, forget)
    if fitted is None or asked is None:
        return None
    return linear_probe(fitted, fit_on.labels.numpy(), asked, forget.labels.numpy())


@torch.no_grad()
def _features(model: nn.Module, records: Records) -> np.ndarray | None:
    last: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        last[:] = [(given[0], made)]

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(note) for module in linear]
    parts = []
    try:
        for output in _outputs(model, records):
            if not last or last[0][0].ndim != 2 or not torch.equal(last[0][1], logits_of(output)):
                return None
            parts.append(last[0][0].double())
    finally:
        for hook in hooks:
            hook.remove()
    return np.asarray(torch.cat(parts).numpy())
