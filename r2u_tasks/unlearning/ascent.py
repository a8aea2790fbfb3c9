"""Methods that climb the loss of the forget records: gradient ascent, NegGrad+, NPO.

The loop, its step length, stop and rewind are those of ``driver``; here is only the step.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.unlearning.contract import UnlearnedModel
from r2u_tasks.unlearning.driver import Request, Step, StepInput, unlearn_by_steps
from r2u_tasks.unlearning.gradients import (
    Batch,
    batch_of,
    gradient,
    in_batches,
    losses_of,
    move_along,
    move_both,
    task_loss,
)

NPO_BETA = 0.1
"""Inverse temperature of NPO; towards 0 it is gradient ascent."""


def gradient_ascent(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by normalised gradient ascent alone.

    Source: Golatkar et al. 2020 (arXiv 1911.04933), NegGrad; Thudi et al. 2022 (arXiv 2109.13398).
    What we do differently: every step has the same length, whatever the gradient's norm.
    """
    request = Request(model, retain, forget, validation, config)
    return unlearn_by_steps("gradient_ascent", _ascend(clipped=False), request)


def gradient_ascent_clipped(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by gradient ascent with a clipped gradient.

    Source: as ``gradient_ascent``, with the gradient's norm clipped at 1: steps begin short on
    records that the model knows well, and are never longer than a normalised one.
    """
    request = Request(model, retain, forget, validation, config)
    return unlearn_by_steps("gradient_ascent_clipped", _ascend(clipped=True), request)


def neg_grad_plus(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by ascent on forget and descent on retain records.

    Source: NegGrad+ (Kurmanji et al. 2023, SCRUB, arXiv 2302.09880); known as gradient
    difference for language models. What we do differently: a
    forget gradient shorter than the retain gradient is scaled up to its length, so that records
    which the model knows well are not drowned; the step is the sum over the larger of both norms,
    and gets shorter where they are opposed.
    """
    request = Request(model, retain, forget, validation, config)

    def step(at: StepInput) -> float:
        up = gradient(lambda student: -task_loss(student, at.forget), at.student, at.scope)
        if at.retain is None or config.retain_weight == 0:
            return move_along(at.scope, up, at.length)
        kept = at.retain
        down = gradient(lambda student: task_loss(student, kept), at.student, at.scope)
        return move_both(at.scope, up, down, config.retain_weight, at.length)

    return unlearn_by_steps("neg_grad_plus", step, request)


def npo(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by negative preference optimisation.

    Source: Zhang et al. 2024 (arXiv 2404.05868), with the retain loss beside it (NPO+RT there);
    ``retain_weight: 0`` is NPO alone. What we do differently: the log-probability of a
    sequence is the mean over its tokens, as everywhere here, not the sum; both gradients are joined
    as in ``neg_grad_plus``.
    """
    request = Request(model, retain, forget, validation, config)
    with torch.no_grad():
        everyone = in_batches(len(forget), config.batch_size)
        was_training = model.training
        model.eval()
        reference = torch.cat([losses_of(model, batch_of(forget, i)) for i in everyone])
        model.train(was_training)

    def step(at: StepInput) -> float:
        known = reference[at.forget_index]
        up = gradient(lambda student: npo_loss(student, at.forget, known), at.student, at.scope)
        if at.retain is None or config.retain_weight == 0:
            return move_along(at.scope, up, at.length)
        kept = at.retain
        down = gradient(lambda student: task_loss(student, kept), at.student, at.scope)
        return move_both(at.scope, up, down, config.retain_weight, at.length)

    return unlearn_by_steps("npo", step, request)


def npo_loss(
    model: nn.Module, batch: Batch, reference_losses: torch.Tensor, beta: float = NPO_BETA
) -> torch.Tensor:
    """Return (2 / beta) mean log(1 + (pi / pi_reference)^beta), a scalar, at least 0.

    Args:
        model: The student, pi = exp(-loss).
        batch: Records to forget.
        reference_losses: Loss of each record under the original model, ``[B]``, in nats.
        beta: Inverse temperature, above 0.
    """
    log_ratio = reference_losses - losses_of(model, batch)
    return 2 / beta * functional.softplus(beta * log_ratio).mean()


def _ascend(*, clipped: bool) -> Step:
    def step(at: StepInput) -> float:
        up = gradient(lambda student: -task_loss(student, at.forget), at.student, at.scope)
        return move_along(at.scope, up, at.length, clipped=clipped)

    return step
