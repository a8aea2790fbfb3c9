"""Laws of the power control: the test must see what a no-op, or half a job, would leave behind."""

import numpy as np
import pytest

from governance.forgetting import PoolMargins, Reference, check_controls, judge_model

N_MODELS = 12
LEVEL = 0.05


class Margins:
    """Pools of Gaussian margins: each record has a level, each model adds noise."""

    def __init__(self, seed, *, n_records=60, effect=1.0):
        self._random = np.random.default_rng(seed)
        self._level = self._random.normal(3, 1, n_records)
        self._effect = effect
        self._n = n_records

    def pool(self, known=0.0, n_models=N_MODELS):
        """Return a pool that knows the first share ``known`` of the records."""
        knows = np.arange(self._n) < round(known * self._n)
        margins = self._level + self._effect * knows
        margins = margins + self._random.normal(0, 1, (n_models, self._n))
        accuracy = 0.9 + self._random.normal(0, 0.005, (2, n_models))
        return PoolMargins(margins, accuracy[0], accuracy[1], np.zeros(n_models))

    def controls(self, originals_know=1.0):
        """Return yardstick, R' and the controls of one repeat."""
        reference = Reference(self.pool(), self.pool(originals_know), max_accuracy_drop=0.02)
        second = self.pool()
        random = PoolMargins(np.zeros((1, self._n)), np.array([0.1]), np.array([0.1]), np.zeros(1))
        controls = check_controls(
            reference,
            original_model=self.pool(originals_know, 1),
            second_retrain=second,
            random_model=random,
            error_level=LEVEL,
        )
        return reference, second, controls

    def accepts(self, reference, second, known):
        """Say whether a candidate and a pool that know a share of the records pass."""
        conditions = judge_model(
            reference,
            self.pool(known, 1),
            error_level=LEVEL,
            pool=self.pool(known),
            second_retrain=second,
        )
        return all(condition.passed for condition in conditions)


def test_a_pool_that_never_knew_the_records_shows_no_power():
    """O like R: scored in-sample its likelihood ratio would seem told apart most of the time."""
    in_sample, has_power = [], []
    for seed in range(60):
        reference, second, controls = Margins(seed).controls(originals_know=0.0)
        ours = reference.pool_statistics(reference._original)["likelihood"]
        in_sample.append(ours.mean() > reference.pool_statistics(second)["likelihood"].mean())
        has_power.append(controls.original_fails)

    assert np.mean(in_sample) > 0.9
    assert sum(has_power) == 0


@pytest.mark.parametrize("effect", [0.2, 0.35, 0.5, 1.0])
def test_where_the_control_shows_power_half_a_job_is_rejected(effect):
    """Whatever the size of the effect, half of the records unlearned is not accepted."""
    accepted = 0
    for seed in range(40):
        margins = Margins(seed, effect=effect)
        reference, second, controls = margins.controls()
        accepted += controls.original_fails and margins.accepts(reference, second, 0.5)

    assert accepted <= 1


def test_a_strong_effect_gives_power_and_retrains_pass():
    """The positive control: models that never saw the records are accepted at the error level."""
    powered = passed = 0
    for seed in range(60):
        margins = Margins(1000 + seed)
        reference, second, controls = margins.controls()
        powered += controls.original_fails
        passed += margins.accepts(reference, second, 0.0)

    assert powered == 60
    assert passed >= 55


def test_one_record_has_no_half_and_no_power():
    """A request for a single record can never be shown to be forgotten, however well known."""
    _, _, controls = Margins(3, n_records=1, effect=20.0).controls()

    assert controls.numbers["original_adjusted_p"] < LEVEL
    assert not controls.original_fails


def test_pools_without_any_spread_are_equal_or_apart():
    """Constant pools give no NaN: the same constant passes, another one is rejected."""
    margins = Margins(5)
    reference, second, _ = margins.controls()
    constant = PoolMargins(
        np.repeat(second.margins[:1], N_MODELS, axis=0),
        second.retain_accuracy,
        second.test_accuracy,
        second.test_margin,
    )
    for shift, same in ((0.0, True), (5.0, False)):
        pool = PoolMargins(
            constant.margins + shift,
            constant.retain_accuracy,
            constant.test_accuracy,
            constant.test_margin,
        )
        conditions = judge_model(
            reference,
            second.model(0),
            error_level=LEVEL,
            pool=pool,
            second_retrain=constant,
        )
        found = [c.passed for c in conditions if c.name == "pool_shift"]
        assert found == [same]
