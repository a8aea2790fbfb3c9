"""Laws of the guard of the name ready, of the choice of settings, and of the cost."""

import dataclasses

import numpy as np
import pytest
import torch

from governance.declaration import Readiness
from governance.plots import plot_return
from r2u_tasks.config import (
    Order,
    ReadinessConfig,
    TrainingConfig,
    readiness_config,
    unlearning_config,
)
from r2u_tasks.data import FeatureScale, Records
from r2u_tasks.model import build_model
from r2u_tasks.readiness_choice import ORDINARY, choose_readiness, settings_to_try
from r2u_tasks.readiness_cost import compare_costs
from r2u_tasks.readiness_report import Arm, Tolerance, find_reasons
from r2u_tasks.records import Splits
from r2u_tasks.step_memory import peak_step_bytes
from r2u_tasks.training import SegmentedRecords

TOLERANCE = Tolerance(accuracy_drop=0.02, loss_rise=0.1, n_validation=400)
ORDINARY_ARM = Arm(
    stable_accuracy=0.98,
    revocable_accuracy=0.97,
    stable_loss=0.05,
    revocable_loss=0.08,
    request_steps=(9, 10, 11),
    unlearning_steps=10.0,
    unlearning_s=4.0,
    accuracy_after=0.90,
    train_s=10.0,
    gradient_evaluations=100,
    peak_step_bytes=1000,
)


def reasons(**changes):
    if changes.get("unlearning_steps") is not None:
        changes["request_steps"] = (int(changes["unlearning_steps"]),) * 3
    ready = dataclasses.replace(ORDINARY_ARM, **changes)
    return find_reasons(ready, ORDINARY_ARM, TOLERANCE, active=True)


def test_fewer_steps_at_the_same_outcome_is_ready():
    """Half the steps and everything else equal: nothing stands against the name."""
    assert reasons(unlearning_steps=5.0) == []


def test_a_better_outcome_in_the_same_steps_is_ready():
    """Two standard errors of an accuracy of 0.90 on 400 records are 0.03: 0.94 is a gain."""
    assert reasons(accuracy_after=0.94) == []
    assert "no gain" in reasons(accuracy_after=0.92)[0]


def test_a_single_faster_request_is_no_gain():
    """One of three requests a step shorter may be chance: most must be shorter, none longer."""
    assert "fewer in 1 of 3" in reasons(request_steps=(9, 10, 10))[0]
    assert reasons(request_steps=(9, 9, 10)) == []
    assert "no gain" in reasons(request_steps=(10, 3, 3))[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stable_accuracy": 0.95}, "stable accuracy before unlearning is 0.030 below"),
        ({"revocable_accuracy": 0.0}, "revocable accuracy before unlearning is 0.970 below"),
        ({"stable_loss": 0.2}, "stable loss before unlearning is 0.150 nats above"),
        ({"revocable_loss": 0.9}, "revocable loss before unlearning is 0.820 nats above"),
    ],
)
def test_a_model_that_lags_before_unlearning_is_not_ready(changes, reason):
    """However fast it forgets: a model that never learned the data forgets in no time."""
    found = reasons(unlearning_steps=1.0, **changes)

    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "no gain"),
        ({"unlearning_steps": 12.0, "accuracy_after": 0.99}, "no gain"),
        ({"unlearning_steps": 2.0, "accuracy_after": 0.80}, "no gain"),
        ({"unlearning_steps": None, "accuracy_after": None}, "failed on the ready model"),
    ],
)
def test_without_a_measured_gain_a_model_is_not_ready(changes, reason):
    """Equal, slower though better, faster though worse, or failed: no gain is shown."""
    assert reason in " ".join(reasons(**changes))


def test_a_request_that_only_the_ready_model_can_serve_is_a_gain():
    """Where unlearning fails on the ordinary model, a served request is the gain."""
    failed = dataclasses.replace(ORDINARY_ARM, unlearning_steps=None, accuracy_after=None)

    assert find_reasons(ORDINARY_ARM, failed, TOLERANCE, active=True) == []


def test_requests_that_need_no_step_show_no_gain():
    """Both models are below the level of unseen records already: nothing was to be forgotten."""
    arm = dataclasses.replace(ORDINARY_ARM, unlearning_steps=0.0, request_steps=(0, 0, 0))

    assert "before any step" in find_reasons(arm, arm, TOLERANCE, active=True)[0]


def test_ordinary_training_is_never_called_ready():
    """With all weights 0 the name is refused whatever the figures."""
    better = dataclasses.replace(ORDINARY_ARM, unlearning_steps=1.0, request_steps=(1, 1, 1))

    assert find_reasons(better, ORDINARY_ARM, TOLERANCE, active=False) == [
        "all readiness weights are 0: this is ordinary training"
    ]


def cost(**changes):
    values = {
        "ready_train_s": 30.0,
        "ordinary_train_s": 10.0,
        "ready_unlearning_s": 2.0,
        "ordinary_unlearning_s": 4.0,
        "gradients": (90, 30),
        "peak_bytes": (4, 2),
    }
    return compare_costs(**(values | changes))


def test_break_even_is_the_extra_training_over_what_a_batch_saves():
    """20 s more in training, 10 - 2 = 8 s saved by each batch: after 3 batches it has paid."""
    found = cost()

    assert found.break_even_batches == 3
    assert (found.time_ratio, found.gradient_ratio, found.peak_memory_ratio) == (3.0, 3.0, 2.0)
    ready, retrain = found.roi["ready"], found.roi["retrain"]
    assert (ready[0], retrain[0]) == (30.0, 10.0)
    assert [ready[n] <= retrain[n] for n in (2, 3)] == [False, True]


def test_a_resumed_training_shows_no_ratio():
    """Half of its cost was spent before: no ratio, no break-even, no line."""
    found = cost(ready_train_s=None, gradients=(None, 30))

    assert (found.time_ratio, found.gradient_ratio, found.break_even_batches) == (None, None, None)
    assert found.roi["ready"] is None


def test_unlearning_that_costs_more_than_a_retrain_never_pays():
    """12 s against a retrain of 10 s: there is no break-even."""
    assert cost(ready_unlearning_s=12.0).break_even_batches is None


def test_the_plot_of_returns_leaves_out_what_could_not_be_measured():
    """A failed request leaves its line out; the others are drawn."""
    svg = plot_return(cost(ready_unlearning_s=None).roi)

    assert "retrained for every batch" in svg
    assert "ready, unlearned" not in svg


@pytest.fixture
def declaration(repository):
    from governance.declaration import load_declaration

    declared = load_declaration(repository / "r2u_tasks/embedded/dataset.yaml")
    training = declared.training.model_copy(
        update={"stable_epochs": 3, "revocable_epochs": 3, "n_slices": 1, "batch_size": 16}
    )
    return declared.model_copy(update={"training": training})


@pytest.fixture
def splits():
    """Three overlapping clouds of 8x8 images: what is memorised differs from what is learned."""
    generator = torch.Generator().manual_seed(5)

    def draw(n, name):
        labels = torch.arange(n) % 3
        images = torch.randn(n, 1, 8, 8, generator=generator)
        images[:, 0, 0, :3] += 2.0 * torch.nn.functional.one_hot(labels, 3)
        return Records(images, labels, np.array([f"{name}{i:03d}" for i in range(n)]))

    segment = (np.arange(90) % 3 == np.arange(90) // 3 % 3).astype(np.int8)
    training = SegmentedRecords(draw(90, "t"), segment, 2)
    return Splits(training, draw(60, "v"), draw(30, "h"), FeatureScale({}, {}))


def test_settings_are_tried_from_strong_to_weak_in_both_forms(declaration):
    """Declared, absolute preset, then both halved: the order of the rule."""
    tried = settings_to_try(declaration)

    assert [name for name, _ in tried[:4]] == [
        "declared x 1",
        "absolute x 1",
        "declared x 0.5",
        "absolute x 0.5",
    ]
    assert tried[2][1]["efficiency_weight"] == 0.5 * declaration.readiness.efficiency_weight
    for _, changes in tried:
        assert readiness_config(declaration.readiness.chosen(changes)).is_active


@pytest.mark.ml
def test_the_choice_is_the_first_setting_without_objections(declaration, splits):
    """All trials before the chosen one were refused for a reason, and the choice repeats."""
    wide = Readiness.model_validate({"max_loss_rise": 5.0, "max_accuracy_drop": 0.9})
    declaration = declaration.model_copy(update={"readiness": wide})
    unlearning = dataclasses.replace(unlearning_config(declaration.unlearning, seed=0), max_steps=6)

    choice = choose_readiness(declaration, splits, unlearning=unlearning)
    again = choose_readiness(declaration, splits, unlearning=unlearning)

    assert choice.readiness == again.readiness
    assert all(trial.reasons for trial in choice.trials[:-1])
    if choice.readiness == ORDINARY:
        assert choice.trials[-1].reasons
    else:
        assert choice.trials[-1].reasons == ()
        assert choice.trials[-1].readiness == choice.readiness


@pytest.mark.ml
def test_the_choice_keeps_to_its_budget_and_ends_with_ordinary_training(declaration, splits):
    """No loss may rise and the budget is one trial: after it, the choice is ordinary training."""
    strict = Readiness.model_validate(
        {"choice_budget": 1.1, "max_loss_rise": 0.0, "max_accuracy_drop": 0.0, "inner_lr": 50.0}
    )
    declaration = declaration.model_copy(update={"readiness": strict})
    unlearning = dataclasses.replace(unlearning_config(declaration.unlearning, seed=0), max_steps=6)

    choice = choose_readiness(declaration, splits, unlearning=unlearning)

    assert choice.readiness == ORDINARY
    assert choice.why == "the budget was used up"
    assert len(choice.trials) == 1


def test_auto_is_a_short_form_and_ends_in_plain_settings():
    """``readiness: auto`` parses; the chosen settings no longer ask for a choice."""
    auto = Readiness.model_validate("auto")

    assert auto.choose == "auto"
    assert auto.chosen({"form": "absolute"}).choose == "declared"
    assert auto.chosen({"form": "absolute"}).form == "absolute"


@pytest.mark.ml
def test_peak_memory_counts_what_a_step_holds(declaration, splits):
    """An ordinary step holds at least all gradients; readiness holds more, in every order."""
    model = build_model(declaration, 0)

    def peak(readiness):
        recipe = TrainingConfig(batch_size=16)
        return peak_step_bytes(model, splits.training, training=recipe, readiness=readiness)

    ordinary = peak(ReadinessConfig().ordinary())
    n_bytes = sum(4 * p.numel() for p in model.parameters())

    assert n_bytes <= ordinary  # at least the gradients of all parameters
    assert all(ordinary < peak(ReadinessConfig(order=order)) for order in Order)
