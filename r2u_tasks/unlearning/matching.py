"""Level matching: train the forget margins to their targets. Ours; no paper describes it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.unlearning.contract import UnlearnedModel
from r2u_tasks.unlearning.driver import Request, StepInput, unlearn_by_steps
from r2u_tasks.unlearning.gradients import Batch, gradient, losses_of, move_along, task_loss


def level_matching(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model whose forget margins were trained to their targets.

    The loss is the Huber distance of each forget record's margin to its own target, from either
    side, and the retain loss. Where the target comes from a model that never saw the records (the
    checkpoint before their slice), this distils what that model makes of each record. The
    forgetting test looks at margins, too; judge this method by rebound and relearning as well.
    """
    request = Request(model, retain, forget, validation, config)
    targets = request.target().margins

    def step(at: StepInput) -> float:
        wanted = targets[at.forget_index]

        def loss(student: nn.Module) -> torch.Tensor:
            value = matching_loss(student, at.forget, wanted)
            if at.retain is None or config.retain_weight == 0:
                return value
            return value + config.retain_weight * task_loss(student, at.retain)

        return move_along(at.scope, gradient(loss, at.student, at.scope), at.length)

    return unlearn_by_steps("level_matching", step, request, spare_reached=False)


def matching_loss(model: nn.Module, batch: Batch, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean Huber distance (linear beyond 1 nat) of margins and targets ``[B]``."""
    losses = losses_of(model, batch).clamp(min=1e-6)
    margins = -losses - torch.log(-torch.expm1(-losses))
    return functional.huber_loss(margins, targets)
