"""Laws of the Ready2Unlearn gradient."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from governance.errors import DeclarationError
from r2u_tasks import readiness as readiness_module
from r2u_tasks.config import Form, Order, ReadinessConfig, Resistance
from r2u_tasks.functional_loss import FunctionalLoss
from r2u_tasks.objectives import TaskLoss
from r2u_tasks.parameters import parameters_in_scope
from r2u_tasks.readiness import readiness_gradient, readiness_objective
from r2u_tasks.readiness_terms import ReadinessBatches

pytestmark = pytest.mark.ml


def weights(efficiency, retention, resistance, revocable=0.0):
    return {
        "efficiency_weight": efficiency,
        "retention_weight": retention,
        "resistance_weight": resistance,
        "revocable_weight": revocable,
    }


EFFICIENCY, RETENTION, RESISTANCE = weights(1, 0, 0), weights(0, 1, 0), weights(0, 0, 1)
ALL_TERMS = weights(0.7, 1.3, 0.4, revocable=0.6)
STEP_RULES = {
    "plain": {},
    "normalized": {"normalized_step": True},
    "clipped": {"inner_clip_norm": 0.2},
}


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)

    def batch():
        inputs = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        return inputs, torch.randint(0, 3, (6,), generator=generator)

    return ReadinessBatches(
        inner=[batch(), batch(), batch()], forget=batch(), retain=batch(), relearn=batch()
    )


def config_for(term_weights, **changes):
    settings = {"inner_lr": 0.1, "relearn_lr": 0.1, "efficiency_cap_nats": 5.0}
    return ReadinessConfig(**term_weights, **(settings | changes))


def with_inner(batches, n_steps):
    return dataclasses.replace(batches, inner=batches.inner[:n_steps])


def with_every_hinge_active(batches, n_steps):
    """Retain what the ascent destroys and relearn what it forgets, so that no term is silent."""
    cut = with_inner(batches, n_steps)
    return dataclasses.replace(cut, retain=cut.inner[0], relearn=cut.forget)


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
                values.append(readiness_objective(loss, moved, batches, config).item())
            gradient[name][index] = (values[0] - values[1]) / (2 * step)
    return gradient


def relative_error(ours, theirs):
    difference = torch.cat([(ours[n] - theirs[n]).flatten() for n in theirs])
    scale = torch.cat([theirs[n].flatten() for n in theirs])
    assert scale.norm() > 1e-6, "the oracle's gradient vanishes: this case tests nothing"
    return float(difference.norm() / scale.norm())


def error_against_differences(net, batches, config, *orders):
    """Relative error of each order against central differences of the second-order objective."""
    loss, parameters = FunctionalLoss(net, 0), parameters_in_scope(net)
    second = dataclasses.replace(config, order=Order.SECOND)
    oracle = central_differences(loss, parameters, batches, second)
    errors = []
    for order in orders:
        changed = dataclasses.replace(config, order=order)
        gradient, _ = readiness_gradient(loss, parameters, batches, changed)
        errors.append(relative_error(gradient, oracle))
    return errors


TERMS = [(EFFICIENCY, "H1"), (RETENTION, "H1"), (RESISTANCE, "H1"), (RESISTANCE, "H2")]
CASES = [(term, reading, 1) for term, reading in TERMS]
CASES += [(ALL_TERMS, "H1", 2), (ALL_TERMS, "H2", 2)]


@pytest.mark.parametrize(("term_weights", "reading", "steps"), CASES)
@pytest.mark.parametrize("rule", list(STEP_RULES))
@pytest.mark.parametrize("form", list(Form))
def test_exact_orders_equal_central_differences(
    net, batches, form, rule, term_weights, reading, steps
):
    """Second order (1e-6) and finite differences (1e-5) are the gradient of the objective."""
    config = config_for(
        term_weights,
        form=form,
        inner_steps=steps,
        resistance_reading=Resistance(reading),
        **STEP_RULES[rule],
    )
    batches = with_every_hinge_active(batches, steps)

    second, differences = error_against_differences(
        net, batches, config, Order.SECOND, Order.FINITE_DIFFERENCE
    )

    assert second <= 1e-6
    assert differences <= 1e-5


@pytest.mark.parametrize("form", list(Form))
def test_first_order_equals_the_objective_with_constant_steps(net, batches, form):
    """First order is autograd's gradient when every simulated step is a constant."""
    config = config_for(ALL_TERMS, form=form, order=Order.FIRST)
    batches = with_every_hinge_active(batches, 1)
    loss, theta = FunctionalLoss(net, 0), parameters_in_scope(net)

    ours, _ = readiness_gradient(loss, theta, batches, config)

    def shifted(at, batch, sign):
        inputs = {n: p.detach().requires_grad_(True) for n, p in at.items()}
        step = torch.autograd.grad(loss(inputs, batch), list(inputs.values()))
        return {n: at[n] + sign * 0.1 * g for n, g in zip(at, step, strict=True)}

    fast = shifted(theta, batches.inner[0], 1)
    slow = shifted(fast, batches.relearn, -1)
    if form is Form.DIFFERENCE:
        gain = loss(fast, batches.forget) - loss(theta, batches.forget)
        fall = loss(fast, batches.forget) - loss(slow, batches.forget)
        rise = loss(fast, batches.retain) - loss(theta, batches.retain)
        value = 0.7 * torch.relu(5 - gain) + 1.3 * torch.relu(rise) + 0.4 * torch.relu(fall)
    else:
        value = 0.7 * loss.hinge(fast, batches.forget, 5.0) + 1.3 * loss(fast, batches.retain)
        value = value + 0.4 * loss.hinge(slow, batches.forget, 5.0)
    value = value + 0.6 * loss(theta, batches.forget)
    expected = dict(zip(theta, torch.autograd.grad(value, list(theta.values())), strict=True))
    assert relative_error(ours, expected) <= 1e-12


@pytest.mark.parametrize(("term_weights", "reading"), [*TERMS, (ALL_TERMS, "H1")], ids=str)
def test_a_planted_detached_inner_step_is_caught(net, batches, monkeypatch, term_weights, reading):
    """With the inner step cut from the graph, the check of every term against differences fails."""
    sound = readiness_module.ascend

    def detached(at, gradient, config):
        return sound(at, {name: g.detach() for name, g in gradient.items()}, config)

    config = config_for(term_weights, resistance_reading=Resistance(reading))
    batches = with_every_hinge_active(batches, 1)
    loss, theta = FunctionalLoss(net, 0), parameters_in_scope(net)
    oracle = central_differences(loss, theta, batches, config)

    monkeypatch.setattr(readiness_module, "ascend", detached)
    mutant, _ = readiness_gradient(loss, theta, batches, config)

    assert relative_error(mutant, oracle) > 1e-3


def test_an_inner_loop_on_copied_weights_is_an_error(net, batches, monkeypatch):
    """The silent zero: fast weights without any path to theta raise instead of giving zeros."""

    def copied(at, gradient, config):
        return {n: (v + config.inner_lr * gradient[n]).detach() for n, v in at.items()}

    monkeypatch.setattr(readiness_module, "ascend", copied)
    config = config_for(weights(0, 1, 0), form=Form.ABSOLUTE, inner_steps=2)

    with pytest.raises(RuntimeError, match="does not require grad"):
        readiness_gradient(
            FunctionalLoss(net, 0), parameters_in_scope(net), with_inner(batches, 2), config
        )


def test_first_order_efficiency_is_half_of_the_exact_gradient(net, batches):
    """With B_v' = B_v and a small step, first order misses exactly half (method, section 2.3)."""
    batches = dataclasses.replace(batches, inner=batches.inner[:1], forget=batches.inner[0])
    loss, parameters = FunctionalLoss(net, 0), parameters_in_scope(net)

    def norm(order):
        config = config_for(EFFICIENCY, order=order, inner_lr=1e-4)
        gradient, _ = readiness_gradient(loss, parameters, batches, config)
        return float(torch.cat([g.flatten() for g in gradient.values()]).norm())

    assert norm(Order.FIRST) / norm(Order.SECOND) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("form", list(Form))
def test_every_parameter_gets_a_gradient(net, batches, order, form):
    """No parameter in scope is left out, for any order and form."""
    gradient, _ = readiness_gradient(
        FunctionalLoss(net, 0),
        parameters_in_scope(net),
        with_inner(batches, 1),
        config_for(ALL_TERMS, order=order, form=form),
    )

    assert set(gradient) == {name for name, _ in net.named_parameters()}
    assert all(float(g.abs().max()) > 0 for g in gradient.values())


def test_a_subset_is_differentiated_with_the_rest_held_constant(net, batches):
    """``parameters`` in scope get the gradient of the objective; the others are constants."""
    config = config_for(ALL_TERMS)
    batches = with_every_hinge_active(batches, 1)
    loss, head = FunctionalLoss(net, 0), parameters_in_scope(net, ["2.*"])

    gradient, _ = readiness_gradient(loss, head, batches, config)

    assert set(gradient) == {"2.weight", "2.bias"}
    assert relative_error(gradient, central_differences(loss, head, batches, config)) <= 1e-6


def test_a_pattern_that_matches_nothing_is_refused(net):
    """A misspelt pattern must not switch readiness off in silence."""
    with pytest.raises(DeclarationError, match="expected patterns that match"):
        parameters_in_scope(net, ["head.*"])


@pytest.mark.parametrize("order", list(Order))
def test_hinge_is_silent_above_the_cap(net, batches, order):
    """Once one simulated step gains c nats, efficiency has no gradient."""
    config = config_for(EFFICIENCY, order=order, efficiency_cap_nats=1e-9, inner_lr=0.5)
    batches = dataclasses.replace(batches, inner=batches.inner[:1], forget=batches.inner[0])

    gradient, terms = readiness_gradient(
        FunctionalLoss(net, 0), parameters_in_scope(net), batches, config
    )

    assert terms.gain > 0
    assert all(float(g.abs().max()) == 0 for g in gradient.values())


@pytest.mark.parametrize("order", list(Order))
def test_difference_form_without_steps_is_silent(net, batches, order):
    """With step sizes near 0 nothing rises or falls: only the constant hinge c remains."""
    config = config_for(weights(1, 1, 1), order=order, inner_lr=1e-13, relearn_lr=1e-13)

    gradient, terms = readiness_gradient(
        FunctionalLoss(net, 0), parameters_in_scope(net), with_inner(batches, 1), config
    )

    assert terms.efficiency == pytest.approx(5.0)
    assert max(float(g.abs().max()) for g in gradient.values()) < 1e-10


def test_any_loss_of_records_has_its_exact_gradient(net, batches):
    """A loss that is no cross entropy (squared error to one-hot) goes the same way."""

    def squared(output, targets):
        return ((output - nn.functional.one_hot(targets, 3).to(output)) ** 2).sum(dim=1)

    config = config_for(ALL_TERMS)
    batches = with_every_hinge_active(batches, 1)
    loss = FunctionalLoss(net, 0, task=TaskLoss.from_records(squared))
    theta = parameters_in_scope(net)

    gradient, _ = readiness_gradient(loss, theta, batches, config)

    assert relative_error(gradient, central_differences(loss, theta, batches, config)) <= 1e-6


def test_simulated_passes_leave_batch_statistics_alone(batches):
    """The readiness terms read BatchNorm buffers and never write them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}

    readiness_gradient(
        FunctionalLoss(net, 0),
        parameters_in_scope(net),
        with_inner(batches, 1),
        config_for(ALL_TERMS),
    )

    assert all(torch.equal(before[name], buffer) for name, buffer in net.named_buffers())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retention_weight": -0.1}, "at least 0"),
        ({"revocable_weight": -0.1}, "at least 0"),
        ({"inner_steps": 0}, ">= 1"),
        ({"last_fraction": 0.0}, r"in \(0, 1\]"),
        ({"episode_fraction": 1.5}, r"in \(0, 1\]"),
        ({"normalized_step": True, "inner_clip_norm": 1.0}, "no normalized_step"),
    ],
)
def test_settings_without_sense_are_refused(changes, message):
    """A negative weight would reward what the term forbids; two step rules contradict."""
    with pytest.raises(ValueError, match=message):
        ReadinessConfig(**changes)
