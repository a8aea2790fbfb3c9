"""SCRUB: a student that obeys its teacher on retained records and disobeys it on the others."""

from __future__ import annotations

import copy

import torch
from torch import nn

from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.unlearning.contract import UnlearnedModel
from r2u_tasks.unlearning.driver import Request, StepInput, unlearn_by_steps
from r2u_tasks.unlearning.gradients import (
    Batch,
    divergence,
    gradient,
    move_along,
    move_both,
    task_loss,
)
from r2u_tasks.unlearning.scores import logits_of


def scrub(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by SCRUB with rewind (SCRUB+R).

    Source: Kurmanji et al. 2023 (arXiv 2302.09880), SCRUB and its rewind: min steps on
    the retained records, KL(teacher || student) + retain loss, and max steps on the forget records,
    KL(teacher || student). What we do differently: min and max step are taken together, as in
    ``neg_grad_plus`` (the first is a min step, because at the teacher the KL has no gradient); the
    rewind is that of the driver, to the retrained level of the margins.
    """
    request = Request(model, retain, forget, validation, config)
    teacher = copy.deepcopy(model).eval()

    def step(at: StepInput) -> float:
        up = gradient(
            lambda student: -teacher_divergence(student, teacher, at.forget), at.student, at.scope
        )
        if at.retain is None:
            return move_along(at.scope, up, at.length)
        kept = at.retain
        down = gradient(
            lambda student: min_loss(student, teacher, kept, config.retain_weight),
            at.student,
            at.scope,
        )
        return move_both(at.scope, up, down, 1.0, at.length)

    return unlearn_by_steps("scrub", step, request)


def min_loss(
    student: nn.Module, teacher: nn.Module, retain: Batch, loss_weight: float
) -> torch.Tensor:
    """Return KL(teacher || student) + loss_weight * task loss on retained records, a scalar."""
    return teacher_divergence(student, teacher, retain) + loss_weight * task_loss(student, retain)


def teacher_divergence(student: nn.Module, teacher: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean KL(teacher || student) over the records of a batch, in nats."""
    inputs, labels = batch
    with torch.no_grad():
        known = logits_of(teacher(inputs))
    return divergence(known, logits_of(student(inputs)), labels)
