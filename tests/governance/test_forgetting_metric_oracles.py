"""Each metric against an independent slow oracle: plain loops, one number at a time.

The oracles share no code with the metrics. Data come from hypothesis: integers as margins make ties
and repeated values frequent, which is where vectorised code goes wrong.
"""

import math
from itertools import pairwise
from statistics import NormalDist, fmean, median, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

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

NORMAL = NormalDist()
quick = settings(max_examples=60, deadline=None)


def margins(n_models, n_records):
    """Margins with many ties: halves of integers from -4 to 4."""
    return hnp.arrays(
        np.float64, (n_models, n_records), elements=st.integers(-8, 8).map(lambda v: v / 2)
    )


@st.composite
def pools(draw, smallest=4, largest=9):
    """Two pools of possibly two sizes, about the same records."""
    n_records = draw(st.integers(1, 5))
    sizes = st.integers(smallest, largest)
    return draw(margins(draw(sizes), n_records)), draw(margins(draw(sizes), n_records))


@st.composite
def distributions(draw, n=1):
    """Pairs of ``[B, C]`` rows of probabilities; exact zeros and one-hot rows are frequent."""
    shape = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    weights = hnp.arrays(np.float64, shape, elements=st.integers(0, 5).map(float))
    rows = []
    for _ in range(n):
        counts = draw(weights)
        counts[:, 0] += counts.sum(axis=1) == 0
        rows.append(counts / counts.sum(axis=1, keepdims=True))
    return rows


# Oracles


def slow_js(p, q):
    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        total += (a * math.log(a / m) if a > 0 else 0) / 2
        total += (b * math.log(b / m) if b > 0 else 0) / 2
    return total


def slow_auc(positive, negative):
    wins = 0.0
    for a in positive:
        for b in negative:
            wins += 1.0 if a > b else 0.5 if a == b else 0.0
    return wins / (len(positive) * len(negative))


def slow_fit(pool, record, left_out, all_records):
    """Mean and shrunk deviation of a record without one model, from the definition."""

    def deviation(r):
        return stdev([pool[i][r] for i in range(len(pool)) if i != left_out])

    values = [pool[i][record] for i in range(len(pool)) if i != left_out]
    typical = max(median(deviation(r) for r in range(all_records)), likelihood.MIN_DEVIATION_NATS)
    return fmean(values), math.sqrt(0.5 * deviation(record) ** 2 + 0.5 * typical**2)


def slow_scores(own, other, *, own_is_positive):
    n_records, scores = len(own[0]), []
    for i, row in enumerate(own):
        line = []
        for r in range(n_records):
            mine = slow_fit(own, r, i, n_records)
            theirs = slow_fit(other, r, i % len(other), n_records)
            p, n = (mine, theirs) if own_is_positive else (theirs, mine)
            line.append(
                math.log(NormalDist(*p).pdf(row[r]) + 1e-320)
                - math.log(NormalDist(*n).pdf(row[r]) + 1e-320)
            )
        scores.append(line)
    return scores


def slow_epsilon(first, second, delta, *, double):
    positive, negative = first, second
    if median(first) < median(second):
        positive, negative = second, first
    a, b = max(first) - min(first), max(second) - min(second)
    if min(a, b) < 0.01 * max(a, b):
        return epsilon.MAX_EPSILON
    values = sorted([*first, *second])
    cuts = [values[0] - 1, *[(x + y) / 2 for x, y in pairwise(values)]]
    cuts.append(values[-1] + 1)
    rules = [lambda v, t=t: v > t for t in cuts]
    if double:
        pairs = [(low, high) for low in cuts for high in cuts if low < high]
        rules += [lambda v, low=low, high=high: low < v <= high for low, high in pairs]
        rules += [lambda v, low=low, high=high: not low < v <= high for low, high in pairs]
    best = 0.0
    for rule in rules:
        fpr = sum(rule(v) for v in negative) / len(negative)
        fnr = sum(not rule(v) for v in positive) / len(positive)
        if fpr == 0 and fnr == 0:
            return epsilon.MAX_EPSILON
        if fpr == 0 or fnr == 0:
            continue
        for x, y in ((fpr, fnr), (fnr, fpr)):
            if 1 - delta - x > 0:
                best = max(best, math.log((1 - delta - x) / y))
    return min(best, epsilon.MAX_EPSILON)


def slow_klom(first, second):
    low, high = min(*first, *second), max(*first, *second)
    width = (high - low) / 20 if high > low else 1 / 20

    def share(pool, bin_):
        return sum(min(int((v - low) / width), 19) == bin_ for v in pool) / len(pool)

    total = 0.0
    for bin_ in range(20):
        p, q = share(first, bin_), share(second, bin_)
        if p > 0:
            total += p * math.log(p / max(q, 1e-5))
    return total


def slow_m_entropy(p, y):
    total = -(1 - p[y]) * math.log(max(p[y], 1e-30))
    for i, value in enumerate(p):
        if i != y:
            total -= value * math.log(max(1 - value, 1e-30))
    return total


def slow_binomial_tail(n, k, p):
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


# Divergence


@quick
@given(distributions(2))
def test_js_zrf_and_activation_distance_equal_loops(pair):
    """Row by row and class by class."""
    p, q = pair
    rows = [slow_js(a, b) for a, b in zip(p, q, strict=True)]
    far = [math.dist(a, b) for a, b in zip(p, q, strict=True)]

    assert divergence.jensen_shannon(p, q) == pytest.approx(rows, abs=1e-12)
    assert divergence.zrf(p, q) == pytest.approx(1 - fmean(rows))
    assert divergence.activation_distance(p, q) == pytest.approx(fmean(far))


@quick
@given(st.lists(st.integers(-5, 5), min_size=1), st.lists(st.integers(-5, 5), min_size=1))
def test_ks_statistic_equals_the_largest_gap_of_two_steps(first, second):
    """Distribution functions are compared at every value."""
    gaps = [
        abs(sum(v <= x for v in first) / len(first) - sum(v <= x for v in second) / len(second))
        for x in {*first, *second}
    ]

    statistic, _ = divergence.kolmogorov_smirnov(np.array(first), np.array(second))

    assert statistic == pytest.approx(max(gaps))


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_agreement_equals_a_count(pairs):
    """Equal predictions, one by one."""
    first, second = zip(*pairs, strict=True)

    expected = sum(a == b for a, b in pairs) / len(pairs)
    assert divergence.agreement(np.array(first), np.array(second)) == pytest.approx(expected)


# Likelihood


@quick
@given(pools())
def test_scores_leave_one_model_out_of_both_pools(pair):
    """Every mean and deviation is computed anew without the models that are left out."""
    first, second = pair
    scores = likelihood.score_pools(first, second)

    ours = slow_scores(first.tolist(), second.tolist(), own_is_positive=True)
    theirs = slow_scores(second.tolist(), first.tolist(), own_is_positive=False)
    for got, expected in ((scores.positive, ours), (scores.negative, theirs)):
        near = np.abs(got) < 500  # beyond, the density of the oracle underflows
        assert got[near] == pytest.approx(np.array(expected)[near], rel=1e-6, abs=1e-6)


@quick
@given(pools())
def test_aucs_equal_counting_pairs(pair):
    """Pooled over records, for each record, and of the summed scores; ties count one half."""
    first, second = pair
    scores = likelihood.PairScores(first, second)

    pooled = slow_auc(first.ravel(), second.ravel())
    each = [slow_auc(first[:, r], second[:, r]) for r in range(first.shape[1])]

    assert likelihood.pooled_auc(scores).value == pytest.approx(pooled)
    assert likelihood.auc(first.ravel(), second.ravel()) == pytest.approx(pooled)
    assert likelihood.record_aucs(first, second) == pytest.approx(each)


@quick
@given(pools(), st.sampled_from([0.05, 0.1, 0.3]))
def test_tpr_equals_the_best_threshold_within_the_false_positive_rate(pair, fpr):
    """Try every score as the threshold and take the lowest that keeps the rate."""
    first, second = pair
    negative = second.ravel().tolist()
    got = likelihood.tpr_at_fpr(likelihood.PairScores(first, second), fpr)

    if len(negative) * fpr < 1:
        assert got.value is None
        return
    allowed = [t for t in negative if sum(v > t for v in negative) <= fpr * len(negative) + 1e-9]
    expected = fmean(float(v > min(allowed)) for v in first.ravel())
    assert got.value == pytest.approx(expected)
    assert got.low <= expected <= got.high


# Epsilon


@quick
@given(pools(smallest=2, largest=6), st.booleans())
def test_record_epsilon_equals_all_rules_one_by_one(pair, double):
    """Every threshold, or every pair of thresholds with inside and outside."""
    first, second = pair
    got = epsilon.record_epsilons(first, second, double_thresholds=double)

    expected = [
        slow_epsilon(first[:, r].tolist(), second[:, r].tolist(), 1e-5, double=double)
        for r in range(first.shape[1])
    ]
    assert got == pytest.approx(expected)
    assert epsilon.forgetting_score(got) == pytest.approx(
        fmean(2.0 / 2 ** (int(e / 0.5) + 1) if e < 6.5 else 0.0 for e in expected)
    )


@quick
@given(st.integers(1, 40), st.data())
def test_clopper_pearson_ends_are_where_the_binomial_tail_is_the_error(n, data):
    """P(X >= k | low) = 2.5 % and P(X <= k | high) = 2.5 %, summed term by term."""
    k = data.draw(st.integers(0, n))
    low, high = intervals.clopper_pearson(k, n)

    if k > 0:
        assert slow_binomial_tail(n, k, low) == pytest.approx(0.025, rel=1e-6)
    if k < n:
        assert 1 - slow_binomial_tail(n, k + 1, high) == pytest.approx(0.025, rel=1e-6)
    assert low <= k / n <= high


@quick
@given(st.integers(0, 10_000), st.integers(20, 50), st.integers(20, 50))
def test_certified_epsilon_follows_from_a_rule_of_the_first_half(seed, n_first, n_second):
    """The first halves choose the rule, the errors of the others give the bound.

    At a distance of 2 and these sizes most bounds are above 0, so that the halves matter.
    """
    generator = np.random.default_rng(seed)
    first, second = generator.normal(2, size=(n_first, 1)), generator.normal(size=(n_second, 1))
    a, b = first[:, 0].tolist(), second[:, 0].tolist()
    n, m = len(a) // 2, len(b) // 2
    values = sorted([*a[:n], *b[:m]])
    cuts = [values[0] - 1, *[(x + y) / 2 for x, y in pairwise(values)]]
    cuts.append(values[-1] + 1)

    def gap(t):
        return fmean(float(v > t) for v in a[:n]) - fmean(float(v > t) for v in b[:m])

    t = max(cuts, key=lambda t: (abs(round(gap(t), 12)), -cuts.index(t)))
    above = gap(t) >= 0
    false_negatives = sum((v > t) != above for v in a[n:])
    false_positives = sum((v > t) == above for v in b[m:])

    got = epsilon.certified_epsilons(first, second)

    expected = epsilon.certified_epsilon(
        false_positives, len(b) - m, false_negatives, len(a) - n, confidence=0.975
    )
    assert got == pytest.approx([expected])


# KLOM


@quick
@given(pools(smallest=2, largest=8))
def test_klom_equals_counting_bins(pair):
    """Twenty bins, one after another; the largest margin is in the last."""
    first, second = pair
    expected = [
        slow_klom(first[:, r].tolist(), second[:, r].tolist()) for r in range(first.shape[1])
    ]

    assert klom.klom(first, second) == pytest.approx(expected)


# Membership


@quick
@given(pools(smallest=2))
def test_lira_offline_equals_the_tail_of_each_record(pair):
    """One Gaussian a record, without shrinkage."""
    tested, out = pair
    scores = membership.lira_offline(tested, out, shrinkage=0.0)

    for r in range(out.shape[1]):
        column = out[:, r].tolist()
        deviation = max(stdev(column), likelihood.MIN_DEVIATION_NATS)
        for k, value in enumerate(tested[:, r]):
            z = (value - fmean(column)) / deviation
            if abs(z) < 6:
                assert scores[k, r] == pytest.approx(-math.log(NORMAL.cdf(-z)), rel=1e-6)


probability = st.integers(0, 16).map(lambda v: v / 16)


@quick
@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 4),
    st.data(),
)
def test_rmia_equals_the_share_of_beaten_records(n, m, n_models, data):
    """Every pair of a record and one of the population; products instead of quotients."""

    def draw(*shape):
        return data.draw(hnp.arrays(np.float64, shape, elements=probability))

    p, p_out, q, q_out = draw(n), draw(n_models, n), draw(m), draw(n_models, m)
    a = 0.33

    def prior(column):
        return ((1 + a) * fmean(column) + 1 - a) / 2

    expected = []
    for i in range(n):
        own = p[i] / prior(p_out[:, i])
        beaten = [own >= 2 * max(q[j] / prior(q_out[:, j]), 1e-30) * (1 - 1e-12) for j in range(m)]
        expected.append(fmean(map(float, beaten)))

    got = membership.rmia(p, p_out, q, q_out)
    exact = [
        not any(
            math.isclose(p[i] / prior(p_out[:, i]), 2 * q[j] / prior(q_out[:, j]), rel_tol=1e-9)
            for j in range(m)
        )
        for i in range(n)
    ]
    assert got[exact] == pytest.approx(np.array(expected)[exact])


@quick
@given(distributions(1), st.data())
def test_modified_entropy_equals_a_loop_over_records(rows, data):
    """Song and Mittal, class by class; the label's own column is not counted twice."""
    p = rows[0]
    labels = data.draw(hnp.arrays(np.int64, len(p), elements=st.integers(0, p.shape[1] - 1)))

    expected = [slow_m_entropy(row, y) for row, y in zip(p.tolist(), labels, strict=True)]
    assert membership.modified_entropy(p, labels) == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_svc_and_logistic_mia_equal_a_loop_over_records(seed):
    """Fit on members and non-members one by one, then count forget records called 0."""
    generator = np.random.default_rng(seed)
    forget, retain, test = generator.random(7), generator.random(20) ** 0.5, generator.random(20)
    x = [[v] for v in retain] + [[v] for v in test]
    y = [1] * 20 + [0] * 20
    attacks = (
        (membership.svc_mia, SVC(C=3, kernel="rbf", gamma="auto")),
        (membership.logistic_mia, LogisticRegression()),
    )
    for attack, classifier in attacks:
        classifier.fit(x, y)
        called = sum(int(classifier.predict([[v]])[0] == 0) for v in forget)
        assert attack(forget, retain, test) == pytest.approx(called / 7)


@quick
@given(*(st.lists(st.integers(-4, 4), min_size=1, max_size=9) for _ in range(3)))
def test_threshold_attack_equals_counting_pairs(forget, retain, test):
    """Forget against test, and retain against test as its power."""
    got = membership.threshold_attack(*map(np.array, (forget, retain, test)))

    assert got.auc == pytest.approx(slow_auc(forget, test))
    assert got.members_auc == pytest.approx(slow_auc(retain, test))


# Outcomes, recovery, over-forgetting, statuses


@quick
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 8), min_size=1, max_size=6))
def test_tow_and_average_gap_over_seeds_equal_loops(rows):
    """Mean over pairs of models at the same position."""
    names = ("unlearn", "retain", "test", "mia")
    ours = [outcomes.Outcomes(**dict(zip(names, row[:4], strict=True))) for row in rows]
    theirs = [outcomes.Outcomes(**dict(zip(names, row[4:], strict=True))) for row in rows]
    gaps, tows = [], []
    for row in rows:
        apart = [abs(row[i] - row[i + 4]) for i in range(4)]
        gaps.append(100 * sum(apart) / 4)
        tows.append((1 - apart[0]) * (1 - apart[1]) * (1 - apart[2]))

    gap = outcomes.average_gap_over_seeds(ours, theirs)
    tow = outcomes.tug_of_war_over_seeds(ours, theirs)

    assert (gap.value, tow.value) == (pytest.approx(fmean(gaps)), pytest.approx(fmean(tows)))
    assert (gap.n, gap.low is None) == (len(rows), len(rows) == 1)


@quick
@given(st.lists(st.tuples(st.integers(0, 60).map(lambda v: v / 60), st.booleans()), min_size=1))
def test_calibration_error_equals_a_loop_over_bins(pairs):
    """Fifteen bins (low, high]; confidences lie on and between their edges."""
    total = 0.0
    for k in range(15):
        inside = [
            (p, hit) for p, hit in pairs if (k < 15 * p <= k + 1 + 1e-12) or (k == 0 and p == 0)
        ]
        if inside:
            total += abs(sum(p for p, _ in inside) - sum(hit for _, hit in inside))
    p, hits = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))

    assert outcomes.calibration_error(p, hits) == pytest.approx(total / len(pairs))


@quick
@given(
    st.lists(st.integers(0, 9).map(float), min_size=1, max_size=12), st.integers(0, 9).map(float)
)
def test_relearning_steps_equal_walking_the_curve(curve, level):
    """Step by step until the loss is at the level."""
    expected = None
    for step, loss in enumerate(curve):
        if loss <= level:
            expected = step
            break

    got = recovery.relearn_steps(curve, level)

    assert got.is_censored == (expected is None)
    assert got.steps == (len(curve) - 1 if expected is None else expected)


@quick
@given(pools(smallest=4))
def test_share_beyond_the_range_equals_counting_records(pair):
    """The 99 % range of a prediction from M models, with the t quantile from its tail."""
    tested, reference = pair
    m = len(reference)
    from scipy import special

    limit = -special.stdtrit(m - 1, 0.005)
    below = above = n = 0
    for r in range(reference.shape[1]):
        column = reference[:, r].tolist()
        scale = max(stdev(column), likelihood.MIN_DEVIATION_NATS) * math.sqrt(1 + 1 / m)
        for value in tested[:, r]:
            n += 1
            below += (value - fmean(column)) / scale < -limit
            above += (value - fmean(column)) / scale > limit

    got = overforgetting.share_beyond_range(tested, reference)

    assert got.below.value == pytest.approx(below / n)
    assert got.above.value == pytest.approx(above / n)


@quick
@given(st.lists(st.integers(0, 100).map(lambda v: v / 1000), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values):
    """At each level: from the smallest p on, reject while p <= level / (tests that are left)."""
    adjusted = intervals.holm(p_values)

    for level in (0.0301, 0.0501, 0.1003):
        order, rejected = sorted(range(len(p_values)), key=p_values.__getitem__), set()
        for rank, i in enumerate(order):
            if p_values[i] > level / (len(p_values) - rank):
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


@settings(max_examples=40, deadline=None)
@given(pools(smallest=5, largest=8))
def test_statuses_follow_from_p_values_and_direction(pair):
    """Mann-Whitney's U by counting pairs gives the direction; only rejected records have one."""
    ours, theirs = pair
    tests = statuses.pool_statuses(ours, theirs)

    for r, status in enumerate(tests.statuses):
        rejected = tests.adjusted[r] <= 0.05
        if status == "underpowered":
            continue
        assert rejected == (status in {"still_visible", "over_forgotten"})
        if rejected:
            higher = slow_auc(ours[:, r], theirs[:, r]) > 0.5
            assert (status == "still_visible") == higher
