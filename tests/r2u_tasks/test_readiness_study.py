"""Laws of the readiness study: protocol, statistics, and that it goes on where it stopped."""

import json

import numpy as np
import pytest

from benchmarks.readiness.runner import Rows, choose_unlearner
from benchmarks.readiness.settings import make_setting
from benchmarks.readiness.statistics import likelihood_ratio_auc, mean, ratio
from benchmarks.readiness.tasks import load_task
from benchmarks.readiness.unlearners import GRID, Ascent, Target, unlearn
from r2u_tasks.metrics import accuracy

pytestmark = pytest.mark.ml


def test_a_row_is_computed_once_and_a_cut_line_again(tmp_path):
    """After an interruption finished rows are read back; a line that was cut is made again."""
    path = tmp_path / "rows.jsonl"
    first = Rows(path)
    first.once("a", lambda: {"value": 1})
    first.once("b", lambda: {"value": 2})
    path.write_text(path.read_text()[:-8])

    again = Rows(path)

    assert again.once("a", lambda: pytest.fail("computed twice")) == {"key": "a", "value": 1}
    assert again.once("b", lambda: {"value": 3}) == {"key": "b", "value": 3}
    assert [row["value"] for row in Rows(path).values()] == [1, 3]
    assert json.loads(path.read_text().splitlines()[-1])["value"] == 3


def grid_of(**runs):
    unmet = {ascent.name: [(None, 0.1), (None, 0.1)] for ascent in GRID}
    return unmet | {name.replace("_", "-", 1).replace("_", "."): r for name, r in runs.items()}


def test_the_unlearner_with_fewest_steps_above_the_floor_is_chosen():
    """One step at 0.80 loses to three at 0.95 when the floor is 0.94; without a floor it wins."""
    grid = grid_of(raw_0_1=[(1, 0.80), (1, 0.80)], raw_0_03=[(3, 0.95), (3, 0.95)])

    assert choose_unlearner(grid, 0.94) == (Ascent("raw", 0.03), 3)
    assert choose_unlearner(grid, 0.50) == (Ascent("raw", 0.1), 1)


def test_the_worst_validation_seed_decides_whether_an_unlearner_is_good():
    """A raw rate that is fine on one seed (0.99) and ruins another (0.20) is no choice."""
    grid = grid_of(raw_0_1=[(1, 0.99), (1, 0.20)], raw_0_03=[(5, 0.95), (5, 0.95)])

    assert choose_unlearner(grid, 0.5) == (Ascent("raw", 0.03), 5)


def test_where_none_is_good_enough_the_most_accurate_is_chosen():
    """Nothing reaches the floor of 0.99: accuracy decides, and a run that missed the target not."""
    grid = grid_of(raw_0_1=[(1, 0.80), (1, 0.80)], raw_0_03=[(9, 0.95), (None, 0.99)])

    assert choose_unlearner(grid, 0.99) == (Ascent("raw", 0.1), 1)


def test_settings_ask_for_what_their_name_says():
    """Wrong: nothing of the request was prepared. Missed: 30 % of it was not. Random: 10 %."""
    task = load_task("digits")
    of_class = task.train.labels.numpy() == task.classwise
    wrong, missed = make_setting("wrong", task), make_setting("missed-30", task)
    random = make_setting("random-10", task)

    assert np.array_equal(wrong.forget, of_class)
    assert not np.any(wrong.revocable & wrong.forget)
    assert np.array_equal(missed.forget, of_class)
    assert 0.5 < missed.revocable[of_class].mean() < 0.9
    assert random.forget.sum() == round(0.1 * len(task.train))
    assert set(wrong.stays(task.test).labels.tolist()) == set(range(10)) - {task.classwise}


def test_unlearning_stops_at_the_target_and_leaves_the_original_alone():
    """Steps count to the first state at the target; the given model keeps its accuracy."""
    task = load_task("digits")
    setting, model = make_setting("class", task), task.build(0)
    before = accuracy(model, task.test)

    run = unlearn(task, setting, model, Ascent("raw", 0.3), Target(0.01, None), seed=0, beyond=2)

    assert accuracy(model, task.test) == before
    assert run.steps is not None
    assert run.curve[run.steps][0] <= 0.01
    assert all(state[0] > 0.01 for state in run.curve[: run.steps])
    assert accuracy(run.model, task.train.select(setting.forget)) <= 0.01


def test_intervals_are_those_of_the_t_distribution():
    """1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.303, half width 4.303 / sqrt 3 = 2.484."""
    found = mean([1.0, 2.0, 3.0])

    assert (found.value, found.n) == (2.0, 3)
    assert found.high == pytest.approx(4.484, abs=1e-3)
    assert mean([5.0]).low is None
    assert ratio([4.0, 9.0], [2.0, 3.0]).value == pytest.approx(np.sqrt(6))


def test_the_likelihood_ratio_is_blind_between_equal_pools_and_sees_a_shift():
    """Two pools of one distribution: 0.5; margins that are 3 deviations apart: Phi(3/sqrt 2)."""
    generator = np.random.default_rng(0)
    one, two = generator.normal(size=(2, 30, 200))

    assert likelihood_ratio_auc(one, two).value == pytest.approx(0.5, abs=0.03)
    assert likelihood_ratio_auc(one + 3, two).value == pytest.approx(0.983, abs=0.015)
