"""Gradient ascent with retain descent, normalised, stopped at the level of unseen data.

Source: NegGrad+ (Kurmanji et al. 2023, SCRUB, arXiv 2302.09880, section 4): descend on the retain
loss while ascending on the forget loss. What we do differently: each step has a fixed length
relative to the weights (a raw rate is a knife edge), and the step count is chosen by rule: stop
where the forget margins reach those of records the model never saw, halving a step that would go
beyond. ``gradient_ascent`` is the same with retain weight 0 (Golatkar et al. 2020).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import BatchStream, Records
from r2u_tasks.metrics import accuracy
from r2u_tasks.model import compute_logits
from r2u_tasks.objectives import find_loss, logit_margins
from r2u_tasks.parameters import Parameters, move, norm, parameters_in_scope
from r2u_tasks.seeding import derive_seed
from r2u_tasks.unlearning.contract import (
    TOLERANCE_NATS,
    StepRecord,
    TargetLevel,
    UnlearnedModel,
    target_level,
)

_MAX_HALVINGS = 6
_CURVE_SAMPLE = 2000


def neg_grad_plus(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by normalised ascent with retain descent.

    Args:
        model: Original model.
        retain: Records that stay; batches of ``config.batch_size``.
        forget: Records to forget; full batch.
        validation: Unseen records that set the target level.
        config: ``step_size`` is the length of a step as a fraction of the norm of all weights.
    """
    target = (
        target_level(model, retain, forget, validation)
        if config.target_margins is None
        else TargetLevel(config.target_margins)
    )
    student = copy.deepcopy(model)
    seed = derive_seed(config.seed, "unlearning")
    stream = BatchStream(torch.arange(len(retain)), config.batch_size, seed, "retain")
    sample = _sample(retain, seed)
    curve = [_record(0, student, forget, sample, target)]
    scope = parameters_in_scope(student, config.parameters)
    length = config.step_size * norm(scope)
    reason = f"reached the bound of {config.max_steps} steps"
    halvings = steps = 0
    while steps < config.max_steps:
        if curve[-1].distance <= TOLERANCE_NATS:
            reason = "forget margins are at the level of unseen records"
            break
        index = stream.next()
        before = copy.deepcopy(student.state_dict())
        _step(student, scope, forget, retain, index, length, config.retain_weight)
        entry = _record(steps + 1, student, forget, sample, target)
        if entry.distance < -TOLERANCE_NATS and halvings < _MAX_HALVINGS:
            student.load_state_dict(before)
            length, halvings = length / 2, halvings + 1
            continue
        steps += 1
        curve.append(entry)
    return UnlearnedModel(student, "neg_grad_plus", steps, reason, curve)


def gradient_ascent(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return a copy of the model, unlearned by normalised gradient ascent alone."""
    plain = replace(config, retain_weight=0.0)
    result = neg_grad_plus(model, retain, forget, validation, config=plain)
    result.method = "gradient_ascent"
    return result


def _step(
    student: nn.Module,
    scope: Parameters,
    forget: Records,
    retain: Records,
    index: torch.Tensor,
    length: float,
    retain_weight: float,
) -> None:
    student.train()
    direction = _loss_gradient(student, forget.inputs, forget.labels, scope)
    scale = norm(direction)
    if retain_weight > 0 and len(retain):
        down = _loss_gradient(student, retain.inputs[index], retain.labels[index], scope)
        scale = max(scale, norm(down))
        direction = move(direction, down, -retain_weight)
    if scale == 0:
        return
    with torch.no_grad():
        for name, parameter in scope.items():
            parameter.add_(direction[name], alpha=length / scale)


def _loss_gradient(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, scope: Parameters
) -> Parameters:
    loss = find_loss(model).mean(model(inputs), labels)
    return dict(zip(scope, torch.autograd.grad(loss, list(scope.values())), strict=True))


def _record(
    step: int, student: nn.Module, forget: Records, retain: Records, target: TargetLevel
) -> StepRecord:
    logits = compute_logits(student, forget)
    hits = (logits.argmax(dim=1) == forget.labels).float().mean()
    distance = target.distance(logit_margins(logits, forget.labels))
    return StepRecord(step, float(hits), accuracy(student, retain), distance)


def _sample(records: Records, seed: int) -> Records:
    if len(records) <= _CURVE_SAMPLE:
        return records
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(records), generator=generator)[:_CURVE_SAMPLE].sort().values
    return Records(records.inputs[index], records.labels[index], records.ids[index.numpy()])
