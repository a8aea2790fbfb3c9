"""Ready2Unlearn: the gradient that makes a model ready to forget.

The objective (bounded; our reconstruction, the paper's own equations are not known) adds to the
task loss, with theta' = theta + K steps of gradient ascent on revocable batches and
theta'' = theta' minus one step of descent on look-alikes:

    difference form (D)
    lambda_1 [ c - ( L(theta';B_v') - L(theta;B_v') ) ]+      efficiency
    lambda_2 [ L(theta';B_s') - L(theta;B_s') ]+              retention
    lambda_3 [ L(theta';B_v') - L(theta'';B_v') ]+            resistance, reading H1
    lambda_3   L(theta';B_r)                                  resistance, reading H2

    absolute form (A), l the loss of one record
    lambda_1 mean [ c - l(theta';x) ]+  over B_v'             efficiency
    lambda_2 L(theta';B_s')                                   retention
    lambda_3 mean [ c - l(theta'';x) ]+ over B_v'             resistance, reading H1 (H2 as above)

    both: w_v L(theta;B_v')                                   the model must know what it will lose

Three ways to differentiate it: ``second`` (autograd through the inner steps), ``first`` (the inner
steps are constants) and ``finite-difference`` (exact up to O(e^2) without double backward). The
last two need only gradients at given parameters: ``readiness_explicit``.

Source: Ready2Unlearn (arXiv 2505.10845) for the idea; difference form after Booster (2409.01586).
"""

from __future__ import annotations

import torch

from r2u_tasks.config import Form, Order, ReadinessConfig, Resistance
from r2u_tasks.functional_loss import FunctionalLoss
from r2u_tasks.parameters import Parameters, move
from r2u_tasks.readiness_explicit import explicit_gradient
from r2u_tasks.readiness_terms import ReadinessBatches, ReadinessTerms, step_factor


def readiness_gradient(
    loss: FunctionalLoss, parameters: Parameters, batches: ReadinessBatches, config: ReadinessConfig
) -> tuple[Parameters, ReadinessTerms]:
    """Return the gradient of the weighted readiness terms (task loss not included) and the terms.

    Args:
        loss: Mean loss of a batch under given parameters, in nats.
        parameters: theta, the parameters in scope; each must require a gradient.
        batches: Batches of this step.
        config: Weights, order and inner loop.

    Raises:
        RuntimeError: A parameter has no path to the loss.
    """
    if config.order is not Order.SECOND:
        return explicit_gradient(loss, parameters, batches, config)
    objective, terms = _objective(loss, parameters, batches, config)
    if not objective.requires_grad:
        return {name: torch.zeros_like(p) for name, p in parameters.items()}, terms
    return loss.gradient(objective, parameters), terms


def readiness_objective(
    loss: FunctionalLoss, parameters: Parameters, batches: ReadinessBatches, config: ReadinessConfig
) -> torch.Tensor:
    """Return the weighted sum of the readiness terms, a scalar; for checks against differences."""
    return _objective(loss, parameters, batches, config)[0]


def _objective(
    loss: FunctionalLoss, theta: Parameters, batches: ReadinessBatches, config: ReadinessConfig
) -> tuple[torch.Tensor, ReadinessTerms]:
    fast = theta
    for batch in batches.inner:
        gradient = loss.gradient(loss(fast, batch), fast, create_graph=True)
        fast = ascend(fast, gradient, config)
    difference = config.form is Form.DIFFERENCE
    with torch.set_grad_enabled(difference or config.revocable_weight > 0):
        forget_before = loss(theta, batches.forget)
    with torch.set_grad_enabled(difference):
        forget_after = loss(fast, batches.forget)
    gain = forget_after - forget_before
    total = config.revocable_weight * forget_before
    efficiency = retention = resistance = torch.zeros_like(gain)
    if config.efficiency_weight > 0:
        efficiency = (
            torch.relu(config.efficiency_cap_nats - gain)
            if difference
            else loss.hinge(fast, batches.forget, config.efficiency_cap_nats)
        )
        total = total + config.efficiency_weight * efficiency
    if config.retention_weight > 0:
        retention = loss(fast, batches.retain)
        if difference:
            retention = torch.relu(retention - loss(theta, batches.retain))
        total = total + config.retention_weight * retention
    if config.resistance_weight > 0:
        resistance = _resistance(loss, fast, forget_after, batches, config)
        total = total + config.resistance_weight * resistance
    return total, ReadinessTerms.of(gain, efficiency, retention, resistance)


def _resistance(
    loss: FunctionalLoss,
    fast: Parameters,
    forget_after: torch.Tensor,
    batches: ReadinessBatches,
    config: ReadinessConfig,
) -> torch.Tensor:
    relearn_loss = loss(fast, batches.relearn)
    if config.resistance_reading is Resistance.H2:
        return relearn_loss
    slow = move(fast, loss.gradient(relearn_loss, fast, create_graph=True), -config.relearn_lr)
    if config.form is Form.ABSOLUTE:
        return loss.hinge(slow, batches.forget, config.efficiency_cap_nats)
    return torch.relu(forget_after - loss(slow, batches.forget))


def ascend(at: Parameters, gradient: Parameters, config: ReadinessConfig) -> Parameters:
    """Return the parameters after one simulated ascent step; differentiable in both arguments."""
    norm = torch.sqrt(torch.stack([(g * g).sum() for g in gradient.values()]).sum())
    factor = step_factor(norm, config)
    return {name: value + factor * gradient[name] for name, value in at.items()}
