"""Laws of the Ready2Unlearn gradient."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from r2u_tasks.config import Order, ReadinessConfig, Resistance
from r2u_tasks.readiness import (
    ReadinessBatches,
    make_loss,
    readiness_gradient,
    readiness_objective,
    trainable_parameters,
)

pytestmark = pytest.mark.ml

EFFICIENCY = {"efficiency_weight": 1.0, "retention_weight": 0.0, "resistance_weight": 0.0}
RETENTION = {"efficiency_weight": 0.0, "retention_weight": 1.0, "resistance_weight": 0.0}
RESISTANCE = {"efficiency_weight": 0.0, "retention_weight": 0.0, "resistance_weight": 1.0}
ALL_TERMS = {"efficiency_weight": 0.7, "retention_weight": 1.3, "resistance_weight": 0.4}


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)

    def batch():
        inputs = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        return inputs, torch.randint(0, 3, (6,), generator=generator)

    return ReadinessBatches(
        inner=[batch(), batch(), batch()], forget=batch(), retain=batch(), relearn=batch()
    )


def config_for(weights, **changes):
    settings = {"inner_lr": 0.1, "relearn_lr": 0.1, "efficiency_cap_nats": 5.0}
    return ReadinessConfig(**weights, **(settings | changes))


def with_inner(batches, n_steps):
    return dataclasses.replace(batches, inner=batches.inner[:n_steps])


def central_differences(loss, parameters, batches, config, step=1e-5):
    """Slow independent oracle: one pair of evaluations for each number in theta."""
    gradient = {}
    for name, value in parameters.items():
        gradient[name] = torch.zeros_like(value)
        for index in itertools.product(*(range(size) for size in value.shape)):
            values = []
            for sign in (1, -1):
                moved = {n: p.detach().clone() for n, p in parameters.items()}
                moved[name][index] += sign * step
                moved = {n: p.requires_grad_(True) for n, p in moved.items()}
                values.append(float(readiness_objective(loss, moved, batches, config)))
            gradient[name][index] = (values[0] - values[1]) / (2 * step)
    return gradient


def relative_error(ours, theirs):
    difference = torch.cat([(ours[n] - theirs[n]).flatten() for n in theirs])
    scale = torch.cat([theirs[n].flatten() for n in theirs])
    assert scale.norm() > 1e-6, "the oracle's gradient vanishes: this case tests nothing"
    return float(difference.norm() / scale.norm())


CASES = [
    (weights, steps, normalized, reading)
    for weights in (EFFICIENCY, RETENTION, RESISTANCE, ALL_TERMS)
    for steps in (1, 2)
    for normalized in (False, True)
    for reading in Resistance
    if weights.get("resistance_weight") or reading is Resistance.H1
]


@pytest.mark.parametrize(("weights", "steps", "normalized", "reading"), CASES)
@pytest.mark.parametrize(
    ("order", "tolerance"), [(Order.SECOND, 1e-6), (Order.FINITE_DIFFERENCE, 1e-5)]
)
def test_exact_orders_equal_central_differences(
    net, batches, order, tolerance, weights, steps, normalized, reading
):
    """Second order and finite-difference give the gradient of the objective itself."""
    config = config_for(
        weights,
        order=order,
        inner_steps=steps,
        normalized_step=normalized,
        resistance_reading=reading,
    )
    if weights is RETENTION:  # make the hinge active: retain what the ascent destroys
        batches = dataclasses.replace(batches, retain=batches.inner[0])
    if weights is RESISTANCE:
        batches = dataclasses.replace(batches, relearn=batches.forget)
    batches = with_inner(batches, steps)
    loss, parameters = make_loss(net, 0), trainable_parameters(net)

    gradient, _ = readiness_gradient(loss, parameters, batches, config)

    oracle_config = dataclasses.replace(config, order=Order.SECOND)
    oracle = central_differences(loss, parameters, batches, oracle_config)
    assert relative_error(gradient, oracle) <= tolerance


def test_a_detached_inner_step_is_caught(net, batches):
    """First order is the planted bug 'detached inner step': it must differ from the oracle."""
    config = config_for(EFFICIENCY, order=Order.FIRST)
    batches = with_inner(batches, 1)
    loss, parameters = make_loss(net, 0), trainable_parameters(net)

    gradient, _ = readiness_gradient(loss, parameters, batches, config)

    oracle = central_differences(
        loss, parameters, batches, dataclasses.replace(config, order=Order.SECOND)
    )
    assert relative_error(gradient, oracle) > 0.05


def test_first_order_efficiency_is_half_of_the_exact_gradient(net, batches):
    """With B_v' = B_v and a small step, first order misses exactly half (method, section 2.3)."""
    batches = dataclasses.replace(batches, inner=batches.inner[:1], forget=batches.inner[0])
    loss, parameters = make_loss(net, 0), trainable_parameters(net)
    small = {"inner_lr": 1e-4}

    first, _ = readiness_gradient(
        loss, parameters, batches, config_for(EFFICIENCY, order=Order.FIRST, **small)
    )
    second, _ = readiness_gradient(
        loss, parameters, batches, config_for(EFFICIENCY, order=Order.SECOND, **small)
    )

    def norm(gradient):
        return float(torch.cat([g.flatten() for g in gradient.values()]).norm())

    assert norm(first) / norm(second) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("order", list(Order))
def test_every_parameter_gets_a_gradient(net, batches, order):
    """No parameter in scope is left out, for any order."""
    config = config_for(ALL_TERMS, order=order)
    gradient, _ = readiness_gradient(
        make_loss(net, 0), trainable_parameters(net), with_inner(batches, 1), config
    )

    assert set(gradient) == {name for name, _ in net.named_parameters()}
    assert all(float(g.abs().max()) > 0 for g in gradient.values())


@pytest.mark.parametrize("order", list(Order))
def test_hinge_is_silent_above_the_cap(net, batches, order):
    """Once one simulated step gains c nats, efficiency has no gradient."""
    config = config_for(EFFICIENCY, order=order, efficiency_cap_nats=1e-9, inner_lr=0.5)
    batches = dataclasses.replace(batches, inner=batches.inner[:1], forget=batches.inner[0])

    gradient, terms = readiness_gradient(
        make_loss(net, 0), trainable_parameters(net), batches, config
    )

    assert terms.gain > 0
    assert all(float(g.abs().max()) == 0 for g in gradient.values())


def test_simulated_passes_leave_batch_statistics_alone(batches):
    """The readiness terms read BatchNorm buffers and never write them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}

    readiness_gradient(
        make_loss(net, 0), trainable_parameters(net), with_inner(batches, 1), config_for(ALL_TERMS)
    )

    assert all(torch.equal(before[name], buffer) for name, buffer in net.named_buffers())


def test_weights_below_zero_are_refused():
    """A negative weight would reward what the term forbids."""
    with pytest.raises(ValueError, match="at least 0"):
        ReadinessConfig(retention_weight=-0.1)
