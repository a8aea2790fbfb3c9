"""The readiness gradient from plain gradients: first order, and exact by finite differences.

Nothing here differentiates twice, so it works with kernels that have no second derivative, in
reduced precision and on sharded parameters. It transcribes section 2.3 of the method: q collects
what arrives at theta', goes back through the K inner steps, and joins what acts at theta directly.
First order leaves the ways back out: every step is a constant.
"""

from __future__ import annotations

from typing import Protocol

import torch

from r2u_tasks.config import Form, Order, ReadinessConfig, Resistance
from r2u_tasks.functional_loss import Batch
from r2u_tasks.parameters import Parameters, dot, move, norm, scale
from r2u_tasks.readiness_terms import (
    TINY_NORM,
    ReadinessBatches,
    ReadinessTerms,
    is_length_fixed,
    step_factor,
)

_PERTURBATION = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Length of the difference for a Hessian product, in the norm of all parameters (section 2.3)."""


class GradientSource(Protocol):
    """Loss values and gradients at any parameters; all that this module needs of a model."""

    def value_and_gradient(
        self, at: Parameters, batch: Batch, cap_nats: float | None = None
    ) -> tuple[torch.Tensor, Parameters]:
        """Return the mean loss (with a cap: the hinge) and its gradient."""
        ...

    def value(self, at: Parameters, batch: Batch) -> torch.Tensor:
        """Return the mean loss alone."""
        ...


def explicit_gradient(
    source: GradientSource,
    theta: Parameters,
    batches: ReadinessBatches,
    config: ReadinessConfig,
) -> tuple[Parameters, ReadinessTerms]:
    """Return the gradient of the weighted readiness terms and the terms."""
    is_exact = config.order is Order.FINITE_DIFFERENCE
    here = {name: value.detach() for name, value in theta.items()}
    fast, way = here, []
    for batch in batches.inner:
        gradient = source.value_and_gradient(fast, batch)[1]
        if is_exact:
            way.append((fast, batch, gradient))
        fast = move(fast, gradient, step_factor(norm(gradient), config))
    q = _zeros(here)
    direct = _zeros(here) if is_exact else q  # first order: one sum is enough
    terms = _collect(source, (here, fast), (direct, q), batches, config)
    if not is_exact:
        return q, terms
    for at, batch, gradient in reversed(way):
        q = _back_through_step(source, at, batch, gradient, q, config)
    return move(q, direct), terms


def _collect(
    source: GradientSource,
    points: tuple[Parameters, Parameters],
    sums: tuple[Parameters, Parameters],
    batches: ReadinessBatches,
    config: ReadinessConfig,
) -> ReadinessTerms:
    """Add the gradients that act at theta and those that arrive at theta' to their sums."""
    (theta, fast), (direct, q) = points, sums
    difference = config.form is Form.DIFFERENCE
    forget_before, g_before = _measure(
        source, theta, batches.forget, with_gradient=difference or config.revocable_weight > 0
    )
    forget_after, g_after = _measure(source, fast, batches.forget, with_gradient=difference)
    gain = forget_after - forget_before
    efficiency = retention = resistance = torch.zeros_like(gain)
    _add(direct, g_before, config.revocable_weight)
    if config.efficiency_weight > 0 and not difference:
        cap = config.efficiency_cap_nats
        efficiency, g_hinge = source.value_and_gradient(fast, batches.forget, cap)
        _add(q, g_hinge, config.efficiency_weight)
    elif config.efficiency_weight > 0:
        efficiency = torch.relu(config.efficiency_cap_nats - gain)
        active = config.efficiency_weight * float(efficiency > 0)
        _add(q, g_after, -active)
        _add(direct, g_before, active)
    if config.retention_weight > 0:
        retention, s_after = source.value_and_gradient(fast, batches.retain)
        active = config.retention_weight
        if difference:
            retain_before, s_before = source.value_and_gradient(theta, batches.retain)
            retention = torch.relu(retention - retain_before)
            active *= float(retention > 0)
            _add(direct, s_before, -active)
        _add(q, s_after, active)
    if config.resistance_weight > 0:
        resistance, pull = _resistance(source, fast, (forget_after, g_after), batches, config)
        _add(q, pull, config.resistance_weight)
    return ReadinessTerms.of(gain, efficiency, retention, resistance)


def _zeros(at: Parameters) -> Parameters:
    return {name: torch.zeros_like(value) for name, value in at.items()}


def _add(total: Parameters, step: Parameters, factor: float) -> None:
    """Add in place: these sums are as large as the model."""
    if factor != 0:
        for name, value in total.items():
            value.add_(step[name], alpha=factor)


def _measure(
    source: GradientSource, at: Parameters, batch: Batch, *, with_gradient: bool
) -> tuple[torch.Tensor, Parameters]:
    if with_gradient:
        return source.value_and_gradient(at, batch)
    return source.value(at, batch), {}


def _resistance(
    source: GradientSource,
    fast: Parameters,
    after: tuple[torch.Tensor, Parameters],
    batches: ReadinessBatches,
    config: ReadinessConfig,
) -> tuple[torch.Tensor, Parameters]:
    """Return the resistance term and its gradient at theta'."""
    relearn_loss, g_relearn = source.value_and_gradient(fast, batches.relearn)
    if config.resistance_reading is Resistance.H2:
        return relearn_loss, g_relearn
    slow = move(fast, g_relearn, -config.relearn_lr)
    absolute = config.form is Form.ABSOLUTE
    cap = config.efficiency_cap_nats if absolute else None
    relearned, g_slow = source.value_and_gradient(slow, batches.forget, cap)
    if config.order is Order.FINITE_DIFFERENCE:  # (I - beta H_r(theta')) g_slow
        bend = _hessian_product(source, fast, batches.relearn, g_slow)
        g_slow = move(g_slow, bend, -config.relearn_lr)
    if absolute:
        return relearned, g_slow
    fall = torch.relu(after[0] - relearned)
    return fall, scale(move(after[1], g_slow, -1.0), float(fall > 0))


def _back_through_step(
    source: GradientSource,
    at: Parameters,
    batch: Batch,
    gradient: Parameters,
    q: Parameters,
    config: ReadinessConfig,
) -> Parameters:
    """Return (d theta_{k+1} / d theta_k)^T q for one ascent step."""
    length = norm(gradient)
    if is_length_fixed(length, config):
        unit = scale(gradient, 1.0 / (length + TINY_NORM))
        across = move(q, unit, -dot(unit, q))
    else:
        across = q
    return move(q, _hessian_product(source, at, batch, across), step_factor(length, config))


def _hessian_product(
    source: GradientSource, at: Parameters, batch: Batch, vector: Parameters
) -> Parameters:
    """Return H v by central differences of the gradient."""
    length = norm(vector)
    if length == 0:
        return scale(vector, 0.0)
    epsilon = _PERTURBATION.get(next(iter(at.values())).dtype, 1e-2)
    up = source.value_and_gradient(move(at, vector, epsilon / length), batch)[1]
    down = source.value_and_gradient(move(at, vector, -epsilon / length), batch)[1]
    return {name: (up[name] - down[name]) * (length / (2 * epsilon)) for name in up}
