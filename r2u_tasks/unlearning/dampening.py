"""Selective synaptic dampening: shrink the weights that matter more to forget than to all records.

One change of the weights, no training. What is searched by rule is how many weights are shrunk.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.objectives import find_loss
from r2u_tasks.parameters import Parameters, parameters_in_scope
from r2u_tasks.unlearning.contract import TOLERANCE_NATS, StepRecord, UnlearnedModel
from r2u_tasks.unlearning.driver import MAX_RETAIN_DROP, Request, Watch
from r2u_tasks.unlearning.gradients import batch_of, in_batches

DAMPENING = 1.0
"""lambda: a selected weight is multiplied by lambda * all / forget, at most 1."""

_FISHER_RECORDS = 256
_BISECTIONS = 16
_TINY = 1e-30


def ssd(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model with dampened weights.

    Source: Foster et al. 2024 (arXiv 2308.07707). What we do differently: the
    selection threshold alpha, which the paper sets by hand, is found by bisection over the ratio of
    importances, so that the forget margins come to the retrained level; importances are squared
    gradients record by record, of at most 256 records on each side, where the authors' code squares
    gradients of batches.
    """
    request = Request(model, retain, forget, validation, config)
    target = request.target()
    watch = Watch.of(request, target)
    scope = parameters_in_scope(model, config.parameters)
    wanted = importance(model, _part(request, forget, "fisher forget"), scope)
    stays = importance(model, _part(request, retain, "fisher retain"), scope)
    share = len(forget) / max(1, len(forget) + len(retain))
    everything = {n: share * wanted[n] + (1 - share) * stays[n] for n in wanted}
    search = _Search(request, watch, wanted, everything)
    reason = search.run()
    search.student.train(model.training)
    return UnlearnedModel(search.student, "ssd", search.best.step, reason, search.curve)


def importance(model: nn.Module, records: Records, scope: Parameters) -> Parameters:
    """Return the diagonal of the empirical Fisher information, by name.

    The mean over records of the squared gradient of the loss; 0 without records.
    """
    was_training = model.training
    model.eval()
    task = find_loss(model)
    total = {name: torch.zeros_like(value) for name, value in scope.items()}
    for index in in_batches(len(records), 1):
        inputs, labels = batch_of(records, index)
        loss = task.mean(model(inputs), labels)
        parts = torch.autograd.grad(loss, list(scope.values()))
        for name, part in zip(total, parts, strict=True):
            total[name] += part * part / len(records)
    model.train(was_training)
    return total


def dampen(
    scope: Parameters, wanted: Parameters, everything: Parameters, alpha: float
) -> Parameters:
    """Return the dampened weights, by name.

    ``beta * w`` with ``beta = min(lambda * everything / wanted, 1)`` where
    ``wanted > alpha * everything``; ``w`` elsewhere.
    """
    out = {}
    for name, weight in scope.items():
        factor = (DAMPENING * everything[name] / wanted[name].clamp(min=_TINY)).clamp(max=1.0)
        selected = wanted[name] > alpha * everything[name]
        out[name] = torch.where(selected, weight * factor, weight).detach()
    return out


class _Search:
    """Bisection over log alpha: from no weight selected to all that may be.

    A step of the curve is a threshold that was tried; none of them builds on another.
    """

    def __init__(
        self, request: Request, watch: Watch, wanted: Parameters, everything: Parameters
    ) -> None:
        self._original, self._watch = request.model, watch
        self._wanted, self._everything = wanted, everything
        self._scope = parameters_in_scope(request.model, request.config.parameters)
        self.student = copy.deepcopy(request.model)
        self.best = watch.look(request.model, 0)[0]
        self.curve: list[StepRecord] = [self.best]

    def run(self) -> str:
        """Leave the student at the best threshold, and return in words how good that is."""
        start = self.curve[0]
        if start.distance <= TOLERANCE_NATS:
            return "forget margins were at the level or below from the start"
        everything = {name: value.clamp(min=_TINY) for name, value in self._everything.items()}
        ratios = torch.cat([(v / everything[name]).flatten() for name, v in self._wanted.items()])
        ratios = ratios[ratios > 0]
        if len(ratios) == 0:
            return "no weight matters to the records to forget"
        low, high = float(ratios.min().log()), float(ratios.max().log())
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            student, entry = self._try(math.exp(middle))
            too_much = start.retain_accuracy - entry.retain_accuracy > MAX_RETAIN_DROP
            if not too_much and abs(entry.distance) < abs(self.best.distance):
                self.best, self.student = entry, student
            if abs(self.best.distance) <= TOLERANCE_NATS:
                return "forget margins are at the level of unseen records"
            if too_much or entry.distance < 0:
                low = middle
            else:
                high = middle
        left = self.best.distance
        return f"no threshold comes to the level without hurting retained records: {left:.2f} nats"

    def _try(self, alpha: float) -> tuple[nn.Module, StepRecord]:
        weights = dampen(self._scope, self._wanted, self._everything, alpha)
        student = copy.deepcopy(self._original)
        student.load_state_dict(weights, strict=False)
        entry = self._watch.look(student, len(self.curve))[0]
        self.curve.append(entry)
        return student, entry


def _part(request: Request, records: Records, purpose: str) -> Records:
    if len(records) <= _FISHER_RECORDS:
        return records
    index = torch.randperm(len(records), generator=request.generator(purpose))[:_FISHER_RECORDS]
    return Records(records.inputs[index], records.labels[index], records.ids[index.numpy()])
