"""Ready2Unlearn: the gradient that makes a model ready to forget.

The objective (form D, bounded; our reconstruction, the paper's own equations are not known) adds to
the task loss, with theta' = theta + K steps of gradient ascent on revocable batches and
theta'' = theta' minus one step of descent on look-alikes:

    lambda_1 [ c - ( L(theta';B_v') - L(theta;B_v') ) ]+      efficiency
    lambda_2 [ L(theta';B_s') - L(theta;B_s') ]+              retention
    lambda_3 [ L(theta';B_v') - L(theta'';B_v') ]+            resistance, reading H1
    lambda_3   L(theta';B_r)                                  resistance, reading H2

Three ways to differentiate it: ``second`` (autograd through the inner steps), ``first`` (the inner
steps are constants) and ``finite-difference`` (exact up to O(e^2) without double backward).

Rules enforced here: every parameter gets a gradient or autograd raises (never ``allow_unused``);
simulated passes see copies of the buffers, so that they leave BatchNorm statistics alone; all
passes of one gradient share the dropout mask.

Source: Ready2Unlearn (arXiv 2505.10845) for the idea; difference form after Booster (2409.01586).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from r2u_tasks.config import Order, ReadinessConfig, Resistance
from r2u_tasks.data import Records
from r2u_tasks.objectives import mean_loss

Parameters = dict[str, torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]
LossFunction = Callable[[Parameters, Batch], torch.Tensor]

_PERTURBATION = {torch.float64: 1e-4, torch.float32: 1e-2}


@dataclass(frozen=True, slots=True)
class ReadinessBatches:
    """Batches of one meta-step: ``inner`` (K of them) and ``forget`` are disjoint and revocable."""

    inner: Sequence[Batch]
    forget: Batch
    retain: Batch
    relearn: Batch


@dataclass(frozen=True, slots=True)
class ReadinessTerms:
    """Values of one meta-step in nats, before their weights.

    Attributes:
        gain: Rise of the revocable loss by the simulated unlearning; the cap is the aim.
        efficiency: What is missing to the cap, at least 0.
        retention: Rise of the stable loss by the simulated unlearning, at least 0.
        resistance: Fall of the revocable loss by relearning (H1) or loss on look-alikes (H2).
    """

    gain: float
    efficiency: float
    retention: float
    resistance: float


def make_loss(model: nn.Module, seed: int) -> LossFunction:
    """Return ``loss(parameters, batch)`` in nats for a model, free of side effects."""

    def loss(parameters: Parameters, batch: Batch) -> torch.Tensor:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            logits = functional_call(model, (parameters, buffers), (batch[0],))
        return mean_loss(logits, batch[1])

    return loss


def trainable_parameters(model: nn.Module) -> Parameters:
    """Return the parameters in scope by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def readiness_gradient(
    loss: LossFunction, parameters: Parameters, batches: ReadinessBatches, config: ReadinessConfig
) -> tuple[Parameters, ReadinessTerms]:
    """Return the gradient of the weighted readiness terms (task loss not included) and the terms.

    Args:
        loss: Mean loss of a batch under given parameters, in nats.
        parameters: theta; each must require a gradient.
        batches: Batches of this step.
        config: Weights, order and inner loop.

    Raises:
        RuntimeError: A parameter has no path to the loss.
    """
    if config.order is Order.FINITE_DIFFERENCE:
        return _finite_difference_gradient(loss, parameters, batches, config)
    objective, terms = _objective(loss, parameters, batches, config)
    if not objective.requires_grad:
        zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
        return zeros, terms
    return _gradient(objective, parameters), terms


def readiness_objective(
    loss: LossFunction, parameters: Parameters, batches: ReadinessBatches, config: ReadinessConfig
) -> torch.Tensor:
    """Return the weighted sum of the readiness terms, a scalar; for checks against differences."""
    return _objective(loss, parameters, batches, config)[0]


def _objective(
    loss: LossFunction, theta: Parameters, batches: ReadinessBatches, config: ReadinessConfig
) -> tuple[torch.Tensor, ReadinessTerms]:
    second = config.order is Order.SECOND
    fast = theta
    for batch in batches.inner:
        gradient = _gradient(loss(fast, batch), fast, create_graph=second)
        step = _ascent_step(gradient, config)
        fast = _move(fast, step if second else _detach(step))
    forget_before, forget_after = loss(theta, batches.forget), loss(fast, batches.forget)
    gain = forget_after - forget_before
    efficiency = torch.relu(config.efficiency_cap_nats - gain)
    total = config.efficiency_weight * efficiency
    retention = torch.zeros_like(gain)
    resistance = torch.zeros_like(gain)
    if config.retention_weight > 0:
        retention = torch.relu(loss(fast, batches.retain) - loss(theta, batches.retain))
        total = total + config.retention_weight * retention
    if config.resistance_weight > 0:
        if config.resistance_reading is Resistance.H2:
            resistance = loss(fast, batches.relearn)
        else:
            down = _gradient(loss(fast, batches.relearn), fast, create_graph=second)
            step = {name: -config.relearn_lr * g for name, g in down.items()}
            slow = _move(fast, step if second else _detach(step))
            resistance = torch.relu(forget_after - loss(slow, batches.forget))
        total = total + config.resistance_weight * resistance
    return total, _terms(gain, efficiency, retention, resistance)


def _finite_difference_gradient(
    loss: LossFunction, theta: Parameters, batches: ReadinessBatches, config: ReadinessConfig
) -> tuple[Parameters, ReadinessTerms]:
    """Transcribe section 2.3 of the method: q at theta', then back through the inner steps."""

    def value_and_gradient(at: Parameters, batch: Batch) -> tuple[torch.Tensor, Parameters]:
        value = loss(at, batch)
        return value.detach(), _gradient(value, at)

    path = [_leaf(theta)]
    inner_gradients = []
    for batch in batches.inner:
        _, gradient = value_and_gradient(path[-1], batch)
        inner_gradients.append(gradient)
        path.append(_leaf(_move(path[-1], _ascent_step(gradient, config))))
    start, fast = path[0], path[-1]

    forget_before, g_before = value_and_gradient(start, batches.forget)
    forget_after, g_after = value_and_gradient(fast, batches.forget)
    gain = forget_after - forget_before
    efficiency = torch.relu(config.efficiency_cap_nats - gain)
    active = config.efficiency_weight * float(efficiency > 0)
    q = _scale(g_after, -active)
    direct = _scale(g_before, active)
    retention, resistance = torch.zeros_like(gain), torch.zeros_like(gain)
    if config.retention_weight > 0:
        retain_before, s_before = value_and_gradient(start, batches.retain)
        retain_after, s_after = value_and_gradient(fast, batches.retain)
        retention = torch.relu(retain_after - retain_before)
        active = config.retention_weight * float(retention > 0)
        q, direct = _move(q, s_after, active), _move(direct, s_before, -active)
    if config.resistance_weight > 0:
        relearn_loss, g_relearn = value_and_gradient(fast, batches.relearn)
        if config.resistance_reading is Resistance.H2:
            resistance = relearn_loss
            q = _move(q, g_relearn, config.resistance_weight)
        else:
            slow = _leaf(_move(fast, g_relearn, -config.relearn_lr))
            forget_relearned, g_slow = value_and_gradient(slow, batches.forget)
            resistance = torch.relu(forget_after - forget_relearned)
            active = config.resistance_weight * float(resistance > 0)
            bend = _hessian_product(loss, fast, batches.relearn, g_slow)
            pull = _move(_move(g_after, g_slow, -1.0), bend, config.relearn_lr)
            q = _move(q, pull, active)
    for at, batch, gradient in zip(
        reversed(path[:-1]), reversed(batches.inner), reversed(inner_gradients), strict=True
    ):
        q = _back_through_step(loss, at, batch, gradient, q, config)
    return _move(q, direct), _terms(gain, efficiency, retention, resistance)


def _back_through_step(
    loss: LossFunction,
    at: Parameters,
    batch: Batch,
    gradient: Parameters,
    q: Parameters,
    config: ReadinessConfig,
) -> Parameters:
    """Return (d theta_{k+1} / d theta_k)^T q for one ascent step."""
    if not config.normalized_step:
        return _move(q, _hessian_product(loss, at, batch, q), config.inner_lr)
    norm = _norm(gradient)
    unit = _scale(gradient, 1.0 / norm)
    along = sum(float((unit[name] * q[name]).sum()) for name in q)
    across = _move(q, unit, -along)
    return _move(q, _hessian_product(loss, at, batch, across), config.inner_lr / norm)


def _hessian_product(
    loss: LossFunction, at: Parameters, batch: Batch, vector: Parameters
) -> Parameters:
    """Return H v by central differences of the gradient."""
    norm = _norm(vector)
    if norm == 0:
        return _scale(vector, 0.0)
    epsilon = _PERTURBATION.get(next(iter(at.values())).dtype, 1e-2)
    plus = _leaf(_move(at, vector, epsilon / norm))
    minus = _leaf(_move(at, vector, -epsilon / norm))
    up = _gradient(loss(plus, batch), plus)
    down = _gradient(loss(minus, batch), minus)
    return {name: (up[name] - down[name]) * (norm / (2 * epsilon)) for name in up}


def _ascent_step(gradient: Parameters, config: ReadinessConfig) -> Parameters:
    if not config.normalized_step:
        return {name: config.inner_lr * g for name, g in gradient.items()}
    norm = torch.sqrt(sum((g * g).sum() for g in gradient.values()))  # type: ignore[arg-type]
    return {name: config.inner_lr * g / norm for name, g in gradient.items()}


def _gradient(value: torch.Tensor, at: Parameters, *, create_graph: bool = False) -> Parameters:
    gradients = torch.autograd.grad(value, list(at.values()), create_graph=create_graph)
    return dict(zip(at, gradients, strict=True))


def _move(at: Parameters, step: Parameters, factor: float = 1.0) -> Parameters:
    if factor == 1.0:
        return {name: value + step[name] for name, value in at.items()}
    return {name: value + factor * step[name] for name, value in at.items()}


def _scale(at: Parameters, factor: float) -> Parameters:
    return {name: value * factor for name, value in at.items()}


def _detach(at: Parameters) -> Parameters:
    return {name: value.detach() for name, value in at.items()}


def _leaf(at: Parameters) -> Parameters:
    return {name: value.detach().requires_grad_(True) for name, value in at.items()}


def _norm(at: Parameters) -> float:
    return float(torch.sqrt(torch.stack([(v.detach() ** 2).sum() for v in at.values()]).sum()))


def _terms(*values: torch.Tensor) -> ReadinessTerms:
    return ReadinessTerms(*(float(value.detach()) for value in values))


def take_batch(records: Records, index: torch.Tensor) -> Batch:
    """Return inputs and labels of the records at ``index``."""
    return records.inputs[index], records.labels[index]
