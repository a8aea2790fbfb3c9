"""Methods that only look at retained records: fine-tuning, and with an L1 penalty.

They forget by drift alone, so they often stop far above the level, and say so. The loop, its step
length, stop and rewind are those of ``driver``; here is only the step.
"""

from __future__ import annotations

import torch
from torch import nn

from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.parameters import Parameters
from r2u_tasks.unlearning.contract import UnlearnedModel
from r2u_tasks.unlearning.driver import Request, Step, StepInput, unlearn_by_steps
from r2u_tasks.unlearning.gradients import Batch, gradient, move_along, task_loss

L1_PENALTY = 5e-4
"""First weight of the L1 norm; it falls linearly to 0 at ``max_steps``."""


def finetune(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, trained on retained records.

    Source: Golatkar et al. 2020 (arXiv 1911.04933), fine-tuning; Warnecke et al. 2021. What we do
    differently: normalised steps.
    """
    request = Request(model, retain, forget, validation, config)
    return unlearn_by_steps("finetune", _descend(request, 0.0), request)


def l1_sparse(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, trained on retained records with an L1 penalty on all weights.

    Source: Jia et al. 2023 (Model sparsity can simplify machine unlearning, arXiv 2304.04934),
    with the penalty that falls linearly, which did best there. What we do differently:
    normalised steps on the sum of both gradients, with the subgradient 0 at a weight of 0.
    """
    request = Request(model, retain, forget, validation, config)
    return unlearn_by_steps("l1_sparse", _descend(request, L1_PENALTY), request)


def l1_gradient(model: nn.Module, retain: Batch, scope: Parameters, penalty: float) -> Parameters:
    """Return a subgradient of ``retain loss + penalty * sum |w|``, by name."""
    down = gradient(lambda student: task_loss(student, retain), model, scope)
    return {name: down[name] + penalty * torch.sign(scope[name].detach()) for name in down}


def _descend(request: Request, penalty: float) -> Step:
    if len(request.retain) == 0:
        message = "fine-tuning: expected records that stay, got none; use gradient_ascent"
        raise UnlearningError(message)

    def step(at: StepInput) -> float:
        assert at.retain is not None  # noqa: S101 - checked above, once
        left = max(0.0, 1 - (at.number - 1) / request.config.max_steps)
        direction = l1_gradient(at.student, at.retain, at.scope, penalty * left)
        return move_along(at.scope, direction, at.length)

    return step
