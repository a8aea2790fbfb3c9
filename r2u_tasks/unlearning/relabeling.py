"""Methods that teach wrong labels: random labels, and SalUn, which moves salient weights only.

The loop, its step length, stop and rewind are those of ``driver``; here is only the step.
"""

from __future__ import annotations

import torch
from torch import nn

from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.parameters import Parameters, parameters_in_scope
from r2u_tasks.unlearning.contract import UnlearnedModel
from r2u_tasks.unlearning.driver import Request, Step, StepInput, unlearn_by_steps
from r2u_tasks.unlearning.gradients import (
    batch_of,
    gradient,
    in_batches,
    move_along,
    other_labels,
    task_loss,
)

SALIENT_SHARE = 0.5
"""Share of the weights that SalUn may move: those above the median saliency, as in the paper."""


def random_labels(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, trained on random other labels of the forget records.

    Source: Graves et al. 2021 (Amnesiac machine learning, arXiv 2010.10981); Golatkar
    et al. 2020 (arXiv 1911.04933). The retained records keep their labels and are trained beside
    them. A token of a sequence gets another random token. What we do differently: one random label
    for each record and run, and normalised steps.
    """
    request = Request(model, retain, forget, validation, config)
    return unlearn_by_steps("random_labels", _relabel(request, None), request)


def salun(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model whose salient weights were trained on random labels.

    Source: Fan et al. 2024 (SalUn, arXiv 2310.12508): the mask keeps the weights
    whose gradient of the forget loss at the original model is at least its median in size. What we
    do differently: normalised steps; there is no weight decay, so that no masked weight moves.
    """
    request = Request(model, retain, forget, validation, config)
    mask = saliency_mask(model, forget, config)
    return unlearn_by_steps("salun", _relabel(request, mask), request)


def saliency_mask(model: nn.Module, forget: Records, config: UnlearningConfig) -> Parameters:
    """Return 1 where a weight is salient for the forget records, 0 elsewhere, by name.

    Weights in scope are ranked together, not layer by layer; ties at the median are all salient.
    """
    was_training = model.training
    model.eval()
    scope = parameters_in_scope(model, config.parameters)
    total = {name: torch.zeros_like(value) for name, value in scope.items()}
    for index in in_batches(len(forget), config.batch_size):
        batch = batch_of(forget, index)
        part = gradient(lambda student, batch=batch: task_loss(student, batch), model, scope)  # type: ignore[misc]
        for name, value in part.items():
            total[name] += value * len(index)
    model.train(was_training)
    sizes = torch.cat([value.abs().flatten() for value in total.values()])
    n_salient = max(1, round(SALIENT_SHARE * len(sizes)))
    threshold = sizes.kthvalue(len(sizes) - n_salient + 1).values
    return {name: (value.abs() >= threshold).to(value.dtype) for name, value in total.items()}


def _relabel(request: Request, mask: Parameters | None) -> Step:
    labels = other_labels(request.model, request.forget, request.generator("random labels"))
    weight = request.config.retain_weight

    def step(at: StepInput) -> float:
        wrong = (at.forget[0], labels[at.forget_index])

        def loss(student: nn.Module) -> torch.Tensor:
            forgetting = task_loss(student, wrong)
            if at.retain is None or weight == 0:
                return forgetting
            return forgetting + weight * task_loss(student, at.retain)

        direction = gradient(loss, at.student, at.scope)
        if mask is not None:
            direction = {name: value * mask[name] for name, value in direction.items()}
        return move_along(at.scope, direction, at.length)

    return step
