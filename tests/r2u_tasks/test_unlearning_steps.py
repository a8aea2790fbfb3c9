"""Laws of the steps: each against a closed form or a slow loop, on models of a few weights."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.objectives import IGNORED_TOKEN, logit_margins
from r2u_tasks.parameters import norm, parameters_in_scope
from r2u_tasks.unlearning.ascent import npo_loss
from r2u_tasks.unlearning.contract import (
    TOLERANCE_NATS,
    TargetLevel,
    UnlearnedModel,
    run_unlearning,
    target_level,
)
from r2u_tasks.unlearning.dampening import dampen, importance
from r2u_tasks.unlearning.driver import MAX_RETAIN_DROP, Request, unlearn_by_steps
from r2u_tasks.unlearning.finetuning import l1_gradient
from r2u_tasks.unlearning.gradients import (
    divergence,
    gradient,
    losses_of,
    move_along,
    move_both,
    other_labels,
    task_loss,
)
from r2u_tasks.unlearning.matching import matching_loss
from r2u_tasks.unlearning.registry import no_op
from r2u_tasks.unlearning.relabeling import saliency_mask
from r2u_tasks.unlearning.scores import score_records
from r2u_tasks.unlearning.scrub import min_loss, teacher_divergence

N_CLASSES, N_INPUTS = 4, 3


def make(n_records, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n_records, N_INPUTS, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, N_CLASSES, (n_records,), generator=generator)
    return Records(inputs, labels, np.array([f"r{i:03d}" for i in range(n_records)]))


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(N_INPUTS, N_CLASSES).double()


def softmax(rows):
    e = np.exp(rows - rows.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_hand(model, records):
    """Return losses ``[B]`` and their gradients in weight and bias, one record after another."""
    weight, bias = (p.detach().numpy() for p in (model.weight, model.bias))
    x, y = records.inputs.numpy(), records.labels.numpy()
    p = softmax(x @ weight.T + bias)
    losses = -np.log(p[np.arange(len(y)), y])
    errors = p - np.eye(N_CLASSES)[y]
    return losses, [np.outer(e, row) for e, row in zip(errors, x, strict=True)], list(errors)


def batch(records):
    return records.inputs, records.labels


def test_npo_weighs_each_record_by_how_likely_it_still_is():
    """Its gradient is minus that of the loss, weighted 2 s / (1 + s), s = (pi / pi_ref)^beta."""
    model, records, beta = linear(), make(5), 0.7
    losses, weights, _ = by_hand(model, records)
    reference = torch.from_numpy(losses + np.array([0.0, 1.0, -1.0, 3.0, -3.0]))
    ratio = np.exp(reference.numpy() - losses) ** beta
    expected = -np.mean([2 * s / (1 + s) * g for s, g in zip(ratio, weights, strict=True)], axis=0)

    got = gradient(
        lambda m: npo_loss(m, batch(records), reference, beta), model, parameters_in_scope(model)
    )

    assert got["weight"].numpy() == pytest.approx(expected)


def test_npo_at_the_original_is_gradient_ascent():
    """Both probabilities are the same: value 2 ln 2 / beta, gradient minus that of the loss."""
    model, records = linear(), make(6)
    scope = parameters_in_scope(model)
    reference = losses_of(model, batch(records)).detach()

    value = npo_loss(model, batch(records), reference, 0.1)
    up = gradient(lambda m: npo_loss(m, batch(records), reference, 0.1), model, scope)
    plain = gradient(lambda m: -task_loss(m, batch(records)), model, scope)

    assert value.item() == pytest.approx(2 * math.log(2) / 0.1)
    assert up["weight"].numpy() == pytest.approx(plain["weight"].numpy())


def test_importance_is_the_mean_of_squared_gradients_record_by_record():
    model, records = linear(), make(7)
    _, weights, biases = by_hand(model, records)

    got = importance(model, records, parameters_in_scope(model))

    assert got["weight"].numpy() == pytest.approx(np.mean(np.square(weights), axis=0))
    assert got["bias"].numpy() == pytest.approx(np.mean(np.square(biases), axis=0))


def test_dampening_is_the_formula_weight_by_weight():
    """Shrunk by all / forget, at most 1, where forget > alpha * all; written as a loop."""
    generator = torch.Generator().manual_seed(1)
    weight, wanted, everything = (torch.rand(40, generator=generator) for _ in range(3))
    wanted[0] = 0.0
    everything[1] = 0.0
    alpha, expected = 1.5, []
    for w, f, d in zip(weight.tolist(), wanted.tolist(), everything.tolist(), strict=True):
        expected.append(min(1.0 * d / f, 1.0) * w if f > alpha * d else w)

    got = dampen({"w": weight}, {"w": wanted}, {"w": everything}, alpha)["w"]

    assert got.tolist() == pytest.approx(expected)
    assert got[1] == 0
    assert 0 < int((got != weight).sum()) < 40


def test_saliency_mask_keeps_the_half_of_the_weights_with_the_largest_gradients():
    model, records = linear(), make(9)
    _, weights, biases = by_hand(model, records)
    sizes = np.abs(np.concatenate([np.mean(weights, axis=0).ravel(), np.mean(biases, axis=0)]))
    expected = sizes >= np.sort(sizes)[len(sizes) // 2]

    mask = saliency_mask(model, records, UnlearningConfig(batch_size=4))

    got = np.concatenate([mask["weight"].numpy().ravel(), mask["bias"].numpy()])
    assert got.tolist() == expected.astype(float).tolist()
    assert got.mean() == 0.5


def test_scrub_max_steps_raise_the_divergence_and_min_steps_lower_it():
    """The slope of KL(teacher || student) in the logits is (student - teacher) / B."""
    teacher, student, records = linear(0), linear(1), make(5)
    x = records.inputs.numpy()
    rows = [
        softmax(x @ m.weight.detach().numpy().T + m.bias.detach().numpy())
        for m in (teacher, student)
    ]
    value = np.mean([np.sum(t * np.log(t / s)) for t, s in zip(*rows, strict=True)])
    slope = (rows[1] - rows[0]).T @ x / len(x)
    scope = parameters_in_scope(student)

    down = gradient(lambda m: teacher_divergence(m, teacher, batch(records)), student, scope)

    assert teacher_divergence(student, teacher, batch(records)).item() == pytest.approx(value)
    assert down["weight"].numpy() == pytest.approx(slope)
    for sign, is_lower in ((1.0, True), (-1.0, False)):
        moved = copy.deepcopy(student)
        signed = {name: sign * g for name, g in down.items()}
        move_along(parameters_in_scope(moved), signed, 0.01)
        assert (teacher_divergence(moved, teacher, batch(records)) < value) == is_lower


def test_scrub_has_no_max_direction_at_its_teacher_and_a_min_loss_of_two_parts():
    teacher, records = linear(), make(5)
    student = copy.deepcopy(teacher)
    up = gradient(
        lambda m: teacher_divergence(m, teacher, batch(records)),
        student,
        parameters_in_scope(student),
    )

    assert norm(up) < 1e-12
    other = linear(3)
    expected = teacher_divergence(other, teacher, batch(records)) + 2 * task_loss(
        other, batch(records)
    )
    assert min_loss(other, teacher, batch(records), 2.0).item() == pytest.approx(expected.item())


def test_divergence_of_sequences_leaves_ignored_tokens_out():
    """Mean over records of the mean over counted tokens, by a loop."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([[1, 2, IGNORED_TOKEN], [0, 3, 1]])
    records = []
    for b in range(2):
        tokens = []
        for t in range(3):
            if labels[b, t] != IGNORED_TOKEN:
                a, c = (softmax(z[b, t].numpy()[None])[0] for z in (p, q))
                tokens.append(np.sum(a * np.log(a / c)))
        records.append(np.mean(tokens))

    assert divergence(p, q, labels).item() == pytest.approx(np.mean(records))


def test_the_l1_penalty_adds_the_sign_of_each_weight_and_nothing_at_zero():
    model, records = linear(), make(5)
    with torch.no_grad():
        model.weight[0, 0] = 0.0
    scope = parameters_in_scope(model)
    plain = gradient(lambda m: task_loss(m, batch(records)), model, scope)

    added = l1_gradient(model, batch(records), scope, 0.3)["weight"] - plain["weight"]

    assert added.numpy() == pytest.approx(0.3 * np.sign(model.weight.detach().numpy()))
    assert added[0, 0] == 0


def test_level_matching_pulls_from_either_side():
    """Huber: half a square within 1 nat of the target, linear beyond; 0 at the target."""
    model, records = linear(), make(3)
    margins = logit_margins(model(records.inputs), records.labels).detach()
    off = torch.tensor([0.0, 0.5, -3.0], dtype=torch.float64)

    value = matching_loss(model, batch(records), margins + off)

    assert value.item() == pytest.approx((0 + 0.125 + 2.5) / 3)


@pytest.mark.parametrize(("size", "clipped", "moved"), [(4.0, False, 0.2), (4.0, True, 0.2)])
def test_a_normalised_step_has_its_length(size, clipped, moved):
    scope = {"w": torch.zeros(2)}
    assert move_along(scope, {"w": torch.tensor([size, 0.0])}, 0.2, clipped=clipped) == moved
    assert scope["w"].tolist() == pytest.approx([-moved, 0.0])


def test_a_clipped_step_is_shorter_for_a_short_gradient_and_no_gradient_is_no_step():
    scope = {"w": torch.zeros(2)}
    assert move_along(scope, {"w": torch.tensor([0.5, 0.0])}, 0.2, clipped=True) == 0.1
    assert move_along(scope, {"w": torch.zeros(2)}, 0.2) == 0.0
    assert scope["w"].tolist() == pytest.approx([-0.1, 0.0])


def test_a_short_forget_gradient_is_not_drowned_by_the_retain_gradient():
    """Orthogonal gradients of norms 0.01 and 4 count alike; opposed ones cancel."""
    scope = {"w": torch.zeros(2)}
    moved = move_both(
        scope, {"w": torch.tensor([0.01, 0.0])}, {"w": torch.tensor([0.0, 4.0])}, 1.0, 0.1
    )
    assert moved == pytest.approx(0.1)
    assert scope["w"].tolist() == pytest.approx([-0.1 / math.sqrt(2)] * 2)
    stay = {"w": torch.zeros(1)}
    up, down = {"w": torch.tensor([2.0])}, {"w": torch.tensor([-2.0])}
    assert move_both(stay, up, down, 1.0, 0.1) == 0.0


def test_random_labels_are_other_labels_and_ignored_tokens_stay():
    records, model = make(400), linear()
    labels = other_labels(model, records, torch.Generator().manual_seed(0))
    assert bool((labels != records.labels).all())
    assert set(labels.tolist()) == set(range(N_CLASSES))
    sequences = Records(
        records.inputs[:2], torch.tensor([[1, IGNORED_TOKEN], [IGNORED_TOKEN, 2]]), records.ids[:2]
    )
    found = other_labels(model, sequences, torch.Generator().manual_seed(0))
    assert (found == IGNORED_TOKEN).tolist() == [[False, True], [True, False]]


def test_scores_of_sequences_are_the_margin_of_the_mean_token_probability():
    class Constant(nn.Module):
        def forward(self, ids):
            return torch.tensor([0.0, math.log(3.0)]).expand(*ids.shape, 2)

    labels = torch.tensor([[0, 1, 1], [0, 0, IGNORED_TOKEN]])
    records = Records(labels.clamp(min=0), labels, np.array(["a", "b"]))

    scores = score_records(Constant(), records)

    assert scores.margins.tolist() == pytest.approx([math.log(3), -math.log(3)], abs=1e-5)
    assert scores.hits.tolist() == [1.0, 0.0]
    with pytest.raises(UnlearningError, match="expected logits"):
        score_records(Constant(), Records(labels, torch.tensor([0, 1]), records.ids))


class Scalar(nn.Module):
    """Margin of label 0 = its one weight times the input."""

    def __init__(self, value=4.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, inputs):
        own = self.weight * inputs
        return torch.cat([own, torch.zeros_like(own)], dim=1)


def scalars(n_records, x=1.0, label=0):
    ids = np.array([f"s{i}" for i in range(n_records)])
    return Records(torch.full((n_records, 1), x), torch.full((n_records,), label), ids)


def request(*, target=1.0, start=4.0, retain=None, **settings):
    config = UnlearningConfig(target_margins=torch.full((3,), target), **settings)
    kept = scalars(5) if retain is None else retain
    return Request(Scalar(start), kept, scalars(3), scalars(4), config)


def lower(at):
    """Move the weight down by the length."""
    return move_along(at.scope, {"weight": torch.tensor(1.0)}, at.length)


@pytest.mark.parametrize("step_size", [None, 0.001, 0.02, 0.3, 5.0])
def test_the_driver_stops_at_the_level_whatever_the_step_size(step_size):
    """From margin 4 to 1: neither above nor below by more than the tolerance."""
    asked = request(step_size=step_size, max_steps=4000)
    result = unlearn_by_steps("m", lower, asked)

    assert result.model.weight.item() == pytest.approx(1.0, abs=TOLERANCE_NATS + 1e-6)
    assert result.stopped_because == "forget margins are at the level of unseen records"
    assert asked.model.weight.item() == 4.0
    assert result.curve[-1].step == result.steps == len(result.curve) - 1


def test_the_driver_finds_its_step_length():
    """300 nats in steps of the first length (1.6) are 188; of the longest (12), 25."""
    result = unlearn_by_steps("m", lower, request(start=400.0, target=100.0, max_steps=60))
    assert abs(result.curve[-1].distance) <= TOLERANCE_NATS
    assert 25 <= result.steps <= 40


def test_the_driver_rewinds_to_the_nearest_state():
    """A step that first helps and then harms is kept where it helped most."""
    path = iter([3.0, 2.0, 2.5] + [3.5] * 40)

    def step(at):
        at.scope["weight"].data.fill_(next(path))
        return 1.0

    result = unlearn_by_steps("m", step, request(step_size=0.1))

    assert result.model.weight.item() == 2.0
    assert result.steps == 2
    assert "came no nearer, 1.00 nats above the level" in result.stopped_because


def test_the_driver_says_when_a_model_is_below_the_level_from_the_start():
    result = unlearn_by_steps("m", lower, request(start=0.5))
    assert result.steps == 0
    assert "did the model ever learn" in result.stopped_because


def test_the_driver_says_that_there_is_no_direction_and_when_its_bound_is_reached():
    assert "no direction" in unlearn_by_steps("m", lambda at: 0.0, request()).stopped_because
    short = unlearn_by_steps("m", lower, request(step_size=0.001, max_steps=3))
    assert short.stopped_because == "reached the bound of 3 steps, 2.99 nats above the level"


def test_the_driver_refuses_numbers_that_are_not_finite():
    def step(at):
        at.scope["weight"].data.fill_(math.nan)
        return 1.0

    with pytest.raises(UnlearningError, match="not finite"):
        unlearn_by_steps("m", step, request())


def test_the_driver_guards_retained_records():
    """Retained records are right while the weight is above 2: it stops there, and says why."""

    class Kinked(Scalar):
        def forward(self, inputs):
            own = torch.where(inputs > 0, self.weight, self.weight - 2.0)
            return torch.cat([own, torch.zeros_like(own)], dim=1)

    asked = Request(
        Kinked(), scalars(5, x=-1.0), scalars(3), scalars(4), request(step_size=0.05).config
    )
    result = unlearn_by_steps("m", lower, asked)

    assert result.model.weight.item() == pytest.approx(2.0, abs=0.05)
    assert f"more than {MAX_RETAIN_DROP:.0%} of retain accuracy" in result.stopped_because


def test_records_at_their_own_target_are_left_out_of_the_forget_batch():
    """Targets 1, 1 and 9 for margins of 4: only the first two are asked to fall."""
    seen = []

    def step(at):
        seen.append(at.forget_index.tolist())
        return lower(at)

    config = UnlearningConfig(target_margins=torch.tensor([1.0, 1.0, 9.0]), step_size=0.01)
    asked = Request(Scalar(), scalars(5), scalars(3), scalars(4), config)
    unlearn_by_steps("m", step, asked)
    assert seen[0] == [0, 1]
    seen.clear()
    unlearn_by_steps("m", step, asked, spare_reached=False)
    assert seen[0] == [0, 1, 2]


def test_the_target_of_a_class_has_the_mean_loss_of_unseen_records_in_the_order_of_now():
    model = Scalar(1.0)
    forget = Records(torch.tensor([[9.0], [7.0], [8.0]]), torch.zeros(3, dtype=torch.int64),
                     np.array(["a", "b", "c"]))  # fmt: skip
    unseen = torch.linspace(-1.0, 5.0, 600)[:, None]
    validation = Records(unseen, torch.zeros(600, dtype=torch.int64), np.arange(600).astype(str))

    level = target_level(model, scalars(5), forget, validation).margins

    assert level.argsort().tolist() == [1, 2, 0]
    losses = np.log1p(np.exp(-level.numpy()))
    assert losses.mean() == pytest.approx(np.log1p(np.exp(-unseen.numpy())).mean(), rel=1e-2)


def test_no_target_is_above_a_record_s_own_margin_and_a_vanished_class_goes_far_below():
    model = Scalar(1.0)
    low = scalars(2, x=-3.0)
    level = target_level(model, scalars(5), low, scalars(50, x=4.0)).margins
    assert level.tolist() == pytest.approx([-3.0, -3.0])
    gone = target_level(model, scalars(5, label=1), scalars(2, x=6.0), scalars(50, x=4.0)).margins
    assert gone.tolist() == [-TargetLevel.VANISHED_MARGIN] * 2


def test_a_vanished_class_cannot_be_forgotten_too_much():
    """Margins of -20 and -5 are both at the target; other records count from either side."""
    level = TargetLevel(torch.tensor([-TargetLevel.VANISHED_MARGIN] * 2))
    assert level.distance(torch.tensor([-20.0, -TargetLevel.VANISHED_MARGIN])) == 0
    assert level.distance(torch.tensor([-20.0, 1.0])) == 3.0
    assert TargetLevel(torch.tensor([1.0, 1.0])).distance(torch.tensor([-3.0, 1.0])) == -2.0


def run(method, model=None, **changes):
    records = {"retain": scalars(5), "forget": scalars(3), "validation": scalars(4), **changes}
    return run_unlearning(method, model or Scalar(), *records.values(), config=UnlearningConfig())


def returning(change):
    def method(model, retain, forget, validation, *, config):
        del retain, forget, validation, config
        student = copy.deepcopy(model)
        change(student)
        return UnlearnedModel(student, "mine", 1, "done")

    return method


def set_weight(value):
    return lambda student: student.weight.data.fill_(value)


def test_a_changed_model_passes():
    assert run(returning(set_weight(3.0))).model.weight.item() == 3.0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (no_op, "changed nothing"),
        (returning(lambda student: student.count.fill_(7.0)), "changed nothing"),
        (returning(set_weight(math.nan)), "not finite"),
        (returning(lambda student: student.count.fill_(math.inf)), "not finite"),
        (returning(set_weight(-4.0)), "collapsed"),
        (returning(lambda student: student.register_buffer("more", torch.ones(1))), "original's"),
        (lambda *data, config: "a model", "expected an UnlearnedModel, got str"),
    ],
    ids=["no-op", "buffers only", "nan", "infinite", "collapse", "other model", "no result"],
)
def test_a_result_that_is_no_unlearning_is_refused(method, message):
    with pytest.raises(UnlearningError, match=message):
        run(method)


def test_a_method_must_leave_the_original_alone():
    def in_place(model, retain, forget, validation, *, config):
        model.weight.data.fill_(3.0)
        return UnlearnedModel(model, "mine", 1, "done")

    with pytest.raises(UnlearningError, match="must work on a copy"):
        run(in_place)


@pytest.mark.parametrize("missing", ["forget", "validation"])
def test_a_request_without_records_is_refused(missing):
    with pytest.raises(UnlearningError, match="got none"):
        run(returning(set_weight(3.0)), **{missing: scalars(0)})
