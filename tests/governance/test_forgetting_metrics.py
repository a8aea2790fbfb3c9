"""Metrics of forgetting against closed forms, and against known traps of published code.

The numbers of the closed forms are those of Gaussians: N(0, 1) against N(d, 1).
"""

import math

import numpy as np
import pytest
from scipy import stats

from governance.errors import DataError
from governance.forgetting_metrics import (
    divergence,
    epsilon,
    intervals,
    klom,
    likelihood,
    membership,
    outcomes,
    overforgetting,
    recovery,
    statuses,
)
from governance.forgetting_metrics.estimates import Estimate

DISTANCES = (0.25, 0.5, 1.0, 2.0)


def gaussian_sample(n, mean=0.0):
    """Quantiles of a Gaussian at the middles of n equal parts: a sample without sampling error."""
    return stats.norm.ppf((np.arange(n) + 0.5) / n) + mean


def gaussian_pools(n, n_records, distance=0.0, seed=0):
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(2, n, n_records))
    return first + distance, second


# Divergences


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_js_of_identical_is_zero_and_of_disjoint_one_hot_rows_ln_2(n_classes):
    """Exact zeros make neither NaN nor infinity, for any number of classes."""
    p, q = np.eye(n_classes)[[0]], np.eye(n_classes)[[1]]

    assert divergence.jensen_shannon(p, p) == pytest.approx([0.0], abs=0)
    assert divergence.jensen_shannon(p, q) == pytest.approx([math.log(2)], rel=1e-12)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [((1.0, 0.0), (0.5, 0.5), 0.215762), ((0.9, 0.1), (0.1, 0.9), 0.368064)],
)
def test_js_has_the_values_of_its_definition(p, q, expected):
    """Worked by hand from KL(p||m)/2 + KL(q||m)/2."""
    value = divergence.jensen_shannon(np.array([p]), np.array([q]))

    assert value == pytest.approx([expected], abs=5e-7)


def test_js_is_not_the_reversed_divergence_of_published_code():
    """Nearly disjoint rows: kl_div(log p, m) averaged gives 3.1, above the maximum ln 2."""
    p = np.array([[1 - 1e-6, 1e-6]])

    assert divergence.jensen_shannon(p, p[:, ::-1])[0] == pytest.approx(0.693, abs=1e-3)


def test_zrf_of_a_model_against_itself_is_one():
    """And 1 - ln 2, never less, against its opposite."""
    p = np.eye(3)

    assert divergence.zrf(p, p) == 1.0
    assert divergence.zrf(p, np.roll(p, 1, axis=1)) == pytest.approx(1 - math.log(2))


def test_activation_distance_is_the_mean_of_distances():
    """Rows at distance sqrt 2 and 0: the mean is sqrt(2)/2, the root mean square would be 1."""
    p, q = np.eye(2), np.array([[0.0, 1.0], [0.0, 1.0]])

    assert divergence.activation_distance(p, q) == pytest.approx(math.sqrt(2) / 2)


def test_agreement_counts_equal_predictions():
    """Two of three."""
    assert divergence.agreement(np.array([0, 1, 2]), np.array([0, 1, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("distance", "expected"), list(zip(DISTANCES, (0.0995, 0.1974, 0.3829, 0.6827), strict=True))
)
def test_ks_of_two_gaussians(distance, expected):
    """The statistic is 2 Phi(d/2) - 1."""
    value, _ = divergence.kolmogorov_smirnov(gaussian_sample(4000, distance), gaussian_sample(4000))

    assert value == pytest.approx(expected, abs=5e-4)


def test_ks_of_separate_samples_is_one():
    """{1, 2, 3} against {4, 5, 6}."""
    statistic, p_value = divergence.kolmogorov_smirnov(np.array([1, 2, 3]), np.array([4, 5, 6]))

    assert statistic == 1.0
    assert p_value == pytest.approx(0.1)  # 2 / C(6, 3)


# Likelihood ratio


@pytest.mark.parametrize(
    ("distance", "expected"), list(zip(DISTANCES, (0.5702, 0.6382, 0.7602, 0.9214), strict=True))
)
def test_auc_of_two_gaussians(distance, expected):
    """The AUC is Phi(d / sqrt 2)."""
    value = likelihood.auc(gaussian_sample(4000, distance), gaussian_sample(4000))

    assert value == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("distance", "expected"), list(zip(DISTANCES, (0.5702, 0.6382, 0.7602, 0.9214), strict=True))
)
def test_likelihood_ratio_test_reaches_the_closed_form(distance, expected):
    """Large pools of known Gaussians: the fitted test is as good as the known one."""
    pools = gaussian_pools(400, 40, distance)

    result = likelihood.likelihood_ratio_test(*pools)

    assert result.auc.value == pytest.approx(expected, abs=0.01)
    assert result.auc.low < expected < result.auc.high


@pytest.mark.parametrize(
    ("distance", "expected"), list(zip(DISTANCES, (0.0189, 0.0339, 0.0924, 0.3721), strict=True))
)
def test_tpr_at_one_percent_of_two_gaussians(distance, expected):
    """It is Phi(d - Phi^-1(0.99)): scores of the right threshold, one of each model."""
    scores = likelihood.PairScores(
        gaussian_sample(20_000, distance).reshape(40, -1), gaussian_sample(20_000).reshape(40, -1)
    )

    assert likelihood.tpr_at_fpr(scores, 0.01).value == pytest.approx(expected, abs=5e-4)


def test_tpr_at_a_rate_that_the_scores_cannot_show_is_underpowered():
    """0.1 % of 999 scores is no score; of 1,000 it is one."""
    scores = np.zeros((1, 999)), np.arange(1000.0).reshape(1, -1)
    few = likelihood.tpr_at_fpr(likelihood.PairScores(scores[0], scores[1][:, :999]), 0.001)
    enough = likelihood.tpr_at_fpr(likelihood.PairScores(*scores), 0.001)

    assert few.value is None
    assert few.why_none == "needs 1000 scores of retrained models, got 999"
    assert enough.value == 0.0


def test_threshold_lets_exactly_the_allowed_share_above_it():
    """Of 0 ... 999, 1 % is ten: those above 989."""
    negative = np.random.default_rng(0).permutation(1000).astype(float)

    assert likelihood.threshold_at(negative, 0.01) == 989.0
    assert likelihood.threshold_at(np.zeros(100), 0.5) == 0.0


def test_batch_auc_of_independent_records():
    """125 records at distance 0.25 each: Phi(0.25 sqrt(62.5)) = 0.9759, though one alone has 0.57.

    Summed log ratios of the known Gaussians, d x - d^2 / 2, over 4,000 models of each kind.
    """
    generator = np.random.default_rng(1)
    unit = np.ones(125)
    known = (0.25 * unit, unit), (0 * unit, unit)

    def totals(mean):
        margins = generator.normal(mean, size=(4000, 125))
        return likelihood.log_likelihood_ratio(margins, *known).sum(axis=1)

    assert likelihood.auc(totals(0.25), totals(0.0)) == pytest.approx(0.9759, abs=0.004)


def test_batch_test_sees_together_what_no_record_shows():
    """The fitted test on 125 records at distance 0.5: single records at 0.64, the batch near 1."""
    pools = gaussian_pools(40, 125, 0.5)

    together = likelihood.batch_test(*pools, permutations=199)

    assert likelihood.likelihood_ratio_test(*pools).auc.value < 0.7
    assert together.auc.value > 0.95
    assert together.p_value == pytest.approx(1 / 200)


def test_batch_test_has_its_level_and_no_bias_under_the_null():
    """300 pairs of equal pools at N = 16: AUC 0.50 in the mean, p below 0.1 in 10 %.

    Leaving a model out of its own pool only would give 0.43. Three standard errors: 0.14 / sqrt 300
    is 0.008, and sqrt(0.1 * 0.9 / 300) is 0.017.
    """
    results = [
        likelihood.batch_test(*gaussian_pools(16, 20, seed=seed), permutations=59)
        for seed in range(300)
    ]

    assert np.mean([r.auc.value for r in results]) == pytest.approx(0.5, abs=0.025)
    assert np.mean([r.p_value <= 0.1 for r in results]) == pytest.approx(0.1, abs=0.052)


def test_batch_test_with_shared_records_keeps_its_level():
    """Records of one model that all move together: the permutation still holds the level."""
    generator = np.random.default_rng(5)
    p_values = []
    for _ in range(200):
        pools = generator.normal(size=(2, 12, 15)) + 2 * generator.normal(size=(2, 12, 1))
        p_values.append(likelihood.batch_test(*pools, permutations=59).p_value)

    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.064)


def test_permutations_that_tie_count_against_the_rejection():
    """Pools without any difference: every permutation gives the same AUC, so p is 1."""
    pools = np.ones((6, 3)), np.ones((6, 3))

    assert likelihood.batch_test(*pools, permutations=19).p_value == 1.0


# Epsilon


@pytest.mark.parametrize(
    ("distance", "expected"), list(zip(DISTANCES, (0.9263, 1.9931, 4.3772, 9.9973), strict=True))
)
def test_epsilon_of_two_known_gaussians(distance, expected):
    """The root of delta = Phi(d/2 - e/d) - exp(e) Phi(-d/2 - e/d), and it is one."""
    value = epsilon.gaussian_epsilon(distance)

    assert value == pytest.approx(expected, abs=5e-5)
    left = stats.norm.cdf(distance / 2 - value / distance)
    right = math.exp(value) * stats.norm.cdf(-distance / 2 - value / distance)
    assert left - right == pytest.approx(1e-5, rel=1e-4)


def test_largest_certifiable_epsilon_for_a_number_of_models():
    """log((1 - delta - u) / u) with u = 1 - 0.05^(1/N)."""
    values = [epsilon.largest_certifiable_epsilon(n) for n in (16, 64, 128, 512)]

    assert values == pytest.approx([1.58, 3.04, 3.74, 5.14], abs=0.005)


@pytest.mark.parametrize("n", [16, 64, 256])
def test_score_of_a_perfect_unlearner_is_its_null_and_not_one(n):
    """Single thresholds on two pools of one Gaussian: F about 0.35 at any N, F / F_null about 1."""
    pools = gaussian_pools(n, 300, seed=7)

    value = epsilon.forgetting_score(epsilon.record_epsilons(*pools))

    assert 0.28 < value < 0.40
    assert value / epsilon.score_null(n, n) == pytest.approx(1, abs=0.12)


def test_score_with_double_thresholds_has_a_lower_null():
    """More rules find more chance: 0.07 at N = 64 (0.17 on the published grid)."""
    assert epsilon.score_null(64, 64, double_thresholds=True) == pytest.approx(0.07, abs=0.02)


def test_score_bins_are_thirteen():
    """H is 1 below 0.5, halves with every bin, and is 0 from 6.5 on."""
    points = np.array([0.0, 0.49, 0.5, 6.49, 6.5, 50.0])

    assert [epsilon.forgetting_score(p[None]) for p in points] == [1, 1, 0.5, 2.0**-12, 0, 0]


def test_epsilon_of_separate_pools_is_the_maximum_and_of_a_collapsed_one_too():
    """No error in either pool; and a range below 1 % of the other's."""
    apart = np.arange(8.0)[:, None] + 100, np.arange(8.0)[:, None]
    narrow = np.full((8, 1), 3.5), np.arange(8.0)[:, None]

    assert epsilon.record_epsilons(*apart).tolist() == [epsilon.MAX_EPSILON]
    assert epsilon.record_epsilons(*narrow).tolist() == [epsilon.MAX_EPSILON]


def test_certified_epsilon_never_exceeds_the_truth_more_often_than_stated():
    """Gaussians at distance 1: the bound at 95 % is above the true 4.38 in at most 5 % of records.

    And it is useful: for separate pools it is what the number of models allows.
    """
    bounds = epsilon.certified_epsilons(*gaussian_pools(64, 400, 1.0))
    apart = epsilon.certified_epsilons(*gaussian_pools(64, 3, 50.0))

    assert (bounds > epsilon.gaussian_epsilon(1.0)).mean() <= 0.05
    assert np.median(bounds) > 0
    assert apart == pytest.approx(
        [epsilon.largest_certifiable_epsilon(32, confidence=0.975)] * 3, rel=1e-9
    )


def test_certified_epsilon_of_equal_pools_is_zero_for_nearly_all():
    """At most 5 % of records of two equal pools get a bound above 0."""
    bounds = epsilon.certified_epsilons(*gaussian_pools(32, 400))

    assert (bounds > 0).mean() <= 0.05


# KLOM


@pytest.mark.parametrize(
    ("n", "expected"), [(5, 8.0), (10, 5.6), (20, 3.0), (50, 0.84), (100, 0.32), (200, 0.14)]
)
def test_klom_of_equal_pools_is_its_floor(n, expected):
    """Two pools of one Gaussian; 15 % for details of the bins."""
    value = klom.klom(*gaussian_pools(n, 2000)).mean()

    assert value == pytest.approx(expected, rel=0.15)


def test_klom_comes_near_the_population_limit():
    """d^2 / 2 for N(d, 1) against N(0, 1): 1.2 at N = 100 and 0.53 at N = 2,000 for d = 1."""
    assert klom.klom(*gaussian_pools(100, 1000, 1.0)).mean() == pytest.approx(1.2, rel=0.1)
    assert klom.klom(*gaussian_pools(2000, 200, 1.0)).mean() == pytest.approx(0.53, rel=0.05)


def test_klom_null_is_the_value_of_equal_pools():
    """From two retrained pools, shuffled: a third pool of that size lies inside.

    A distance of 1 does not; one of 0.5 would, at N = 20: KLOM is a weak test of small pools.
    """
    first, second = gaussian_pools(20, 200)
    third, _ = gaussian_pools(20, 200, seed=9)

    null = klom.klom_null(first, second)

    assert null.mean() == pytest.approx(3.0, rel=0.15)
    assert klom.klom(third, first).mean() < np.quantile(null, 0.95)
    assert klom.klom(first + 1, second).mean() > np.quantile(null, 0.95)


# Intervals


@pytest.mark.parametrize(("n", "expected"), [(16, 0.1707), (64, 0.0457)])
def test_clopper_pearson_upper_limit_for_no_success(n, expected):
    """1 - 0.05^(1/N), one-sided 95 %."""
    low, high = intervals.clopper_pearson(0, n, side="upper")

    assert (low, high) == (0.0, pytest.approx(1 - 0.05 ** (1 / n)))
    assert high == pytest.approx(expected, abs=5e-5)


# Outcomes


def test_tow_and_average_gap_of_the_retrained_model_itself():
    """1 and 0."""
    model = outcomes.Outcomes(unlearn=0.05, retain=1.0, test=0.94, mia=0.13)

    assert outcomes.tug_of_war(model, model) == 1.0
    assert outcomes.average_gap(model, model) == 0.0


def test_average_gap_of_published_rows():
    """SalUn on CIFAR-10, random 10 %: gaps of 2.39, 0.38, 0.33 and 1.51 points make 1.15."""
    retrained = outcomes.Outcomes(unlearn=0.0524, retain=1.0, test=0.9426, mia=0.1288)
    salun = outcomes.Outcomes(unlearn=0.0285, retain=0.9962, test=0.9393, mia=0.1439)

    assert outcomes.average_gap(salun, retrained) == pytest.approx(1.15, abs=0.005)
    expected = (1 - 0.0239) * (1 - 0.0038) * (1 - 0.0033)
    assert outcomes.tug_of_war(salun, retrained) == pytest.approx(expected)


# Membership


def test_lira_offline_of_the_middle_is_ln_2_and_grows_with_the_margin():
    """P(Z >= mean) = 1/2; one deviation above is -log 0.1587; far out it does not saturate."""
    out = np.array([[-1.0], [1.0]])  # mean 0, deviation sqrt 2
    margins = np.sqrt(2) * np.array([[0.0], [1.0], [40.0], [41.0]])

    scores = membership.lira_offline(margins, out, shrinkage=0.0)[:, 0]

    assert scores[:2] == pytest.approx([math.log(2), -math.log(0.158655)], abs=1e-5)
    assert scores[3] > scores[2] > 700


def test_svc_attack_on_separated_confidences():
    """Members at 1, non-members at 0: forget records at 0.1 are called non-members, at 0.9 not."""
    retain, test = np.full(50, 0.99), np.full(50, 0.01)
    forget = np.array([0.1, 0.1, 0.1, 0.9])

    assert membership.svc_mia(forget, retain, test) == 0.75
    assert membership.logistic_mia(forget, retain, test) == 0.75


def test_population_attack_without_power_says_so():
    """Equal scores of members and others: AUC 0.5 on members, whatever forget records show."""
    scores = gaussian_sample(100)
    attack = membership.threshold_attack(scores + 3, scores, scores)

    assert attack.members_auc == 0.5
    assert attack.auc > 0.95


def test_privacy_leak_is_zero_at_the_retrained_level():
    """-100 for an AUC of 0, +100 for twice the retrained one."""
    assert [membership.privacy_leak(value, 0.5) for value in (0.5, 0.0, 1.0)] == [0, -100, 100]


# Recovery


def test_ain_of_retrained_models_is_one():
    """The oracle against itself, and half the steps give one half."""
    slow = [recovery.Relearning(n, False) for n in (10, 12, 14)]
    fast = [recovery.Relearning(n // 2, False) for n in (10, 12, 14)]

    assert recovery.anamnesis_index(slow, slow).index.value == 1.0
    assert recovery.anamnesis_index(fast, slow).index.value == 0.5


def test_ain_with_models_that_did_not_relearn():
    """Of the models: a lower bound, counted. Of retrained ones: no number."""
    done, lost = recovery.Relearning(10, False), recovery.Relearning(40, True)

    bound = recovery.anamnesis_index([done, lost], [done, done])
    nothing = recovery.anamnesis_index([done], [done, lost])

    assert (bound.index.value, bound.n_censored) == (2.5, 1)
    assert nothing.index.value is None
    assert "raise the steps" in nothing.index.why_none


def test_relearning_is_counted_to_the_first_step_at_the_level():
    """From 1.0 at retrained down to 0.0: the level at alpha 0.1 is 0.1, reached after 3 steps."""
    level = recovery.relearn_level(0.0, 1.0)
    curve = [1.0, 0.6, 0.2, 0.1, 0.3, 0.05]

    assert level == pytest.approx(0.1)
    assert recovery.relearn_steps(curve, level) == recovery.Relearning(3, False)
    assert recovery.relearn_steps(curve[:3], level) == recovery.Relearning(2, True)
    with pytest.raises(DataError, match="nothing to relearn"):
        recovery.relearn_level(1.0, 0.9)


def test_rebound_counts_the_highest_point_on_the_way():
    """0.9 on the way down again against 0.8: 0.1 above."""
    models, retrained = np.array([[0.5, 0.9, 0.7]] * 3), np.array([[0.8, 0.8, 0.8]] * 3)

    assert recovery.rebound(models, retrained).value == pytest.approx(0.1)


def test_linear_probe_reads_what_features_hold():
    """Separable features: 1; swapped labels: 0."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = generator.normal(size=(200, 3)) + 6 * labels[:, None]

    assert recovery.linear_probe(features[:100], labels[:100], features[100:], labels[100:]) == 1.0
    assert (
        recovery.linear_probe(features[:100], labels[:100], features[100:], 1 - labels[100:]) == 0
    )


# Over-forgetting and statuses


def test_share_beyond_the_range_of_a_retrained_model_is_one_percent():
    """At any pool size, for the range is that of the prediction of a new model."""
    for n in (8, 32):
        first, second = gaussian_pools(n, 4000, seed=3)
        assert overforgetting.share_beyond_range(first, second).beyond.value == pytest.approx(
            0.01, abs=0.003
        )


def test_share_beyond_the_range_is_two_sided():
    """A tenth of the records pushed down and a tenth left up: 10 % on either side."""
    first, second = gaussian_pools(32, 200)
    first[:, :20] -= 30
    first[:, 20:40] += 30

    share = overforgetting.share_beyond_range(first, second)

    assert share.below.value == pytest.approx(0.1, abs=0.01)
    assert share.above.value == pytest.approx(0.1, abs=0.01)
    assert share.beyond.value == pytest.approx(share.below.value + share.above.value)


def test_statuses_name_the_records_and_nothing_else():
    """One record visible, one over-forgotten, the others neither: by pools and by one model."""
    first, second = gaussian_pools(32, 60)
    first[:, 0] += 40
    first[:, 1] -= 40

    for tests in (
        statuses.pool_statuses(first, second),
        statuses.model_statuses(first[0], second),
    ):
        assert tests.statuses[:2] == [statuses.STILL_VISIBLE, statuses.OVER_FORGOTTEN]
        assert tests.counts()[statuses.INDISTINGUISHABLE] == 58


def test_statuses_of_small_pools_are_underpowered_and_nothing_else():
    """2 / C(8, 4) = 0.029 times 100 records is above 0.05: not even separation could be shown."""
    first, second = gaussian_pools(4, 100, 50.0)

    assert statuses.pool_statuses(first, second).counts() == {"underpowered": 100}


# Unknown is never skipped


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_an_error_in_every_metric(bad):
    """One bad number among the margins, probabilities or curves raises everywhere."""
    first, second = gaussian_pools(8, 5)
    first[3, 2] = bad
    row, other = first[3], second[3]
    p = np.full((5, 2), 0.5)
    q = p.copy()
    q[0, 0] = bad
    y = np.array([0, 1, 0, 1, 0])
    calls = [
        lambda: likelihood.likelihood_ratio_test(first, second),
        lambda: likelihood.batch_test(first, second),
        lambda: epsilon.record_epsilons(first, second),
        lambda: epsilon.certified_epsilons(first, second),
        lambda: klom.klom(first, second),
        lambda: klom.klom_null(first, second),
        lambda: divergence.jensen_shannon(p, q),
        lambda: divergence.zrf(q, p),
        lambda: divergence.activation_distance(p, q),
        lambda: divergence.agreement(row, other),
        lambda: divergence.kolmogorov_smirnov(row, other),
        lambda: membership.lira_offline(first, second),
        lambda: membership.rmia(row, np.abs(second) / 9, other, np.abs(second) / 9),
        lambda: membership.modified_entropy(q, y),
        lambda: membership.threshold_attack(row, other, other),
        lambda: membership.svc_mia(row, other, other),
        lambda: outcomes.Outcomes(unlearn=bad, retain=1.0, test=1.0, mia=0.5),
        lambda: overforgetting.share_beyond_range(first, second),
        lambda: statuses.pool_statuses(first, second),
        lambda: recovery.relearn_steps(row, 0.0),
        lambda: recovery.rebound(first, second),
        lambda: recovery.linear_probe(q, y, p, y),
        lambda: Estimate.exact(bad, 3),
    ]
    for call in calls:
        with pytest.raises(DataError):
            call()


def test_pools_that_are_too_small_are_an_error_and_never_a_number():
    """Three models have no deviation after one is left out; one has none at all."""
    first, second = gaussian_pools(3, 5)
    calls = [
        lambda: likelihood.likelihood_ratio_test(first, second),
        lambda: likelihood.batch_test(first, second),
        lambda: epsilon.certified_epsilons(first, second),
        lambda: klom.klom(first[:1], second),
        lambda: membership.lira_offline(first, second[:1]),
        lambda: overforgetting.share_beyond_range(first, second),
    ]
    for call in calls:
        with pytest.raises(DataError, match="at least"):
            call()


def test_pools_about_other_records_are_an_error():
    """Numbers of records that differ."""
    first, second = gaussian_pools(8, 5)
    with pytest.raises(DataError, match="same records"):
        likelihood.likelihood_ratio_test(first, second[:, :4])


def test_the_same_arrays_give_the_same_numbers():
    """Every random number has a fixed seed."""
    pools = gaussian_pools(12, 10, 0.5)

    assert likelihood.batch_test(*pools) == likelihood.batch_test(*pools)
    assert likelihood.likelihood_ratio_test(*pools) == likelihood.likelihood_ratio_test(*pools)
    assert np.array_equal(klom.klom_null(*pools), klom.klom_null(*pools))
