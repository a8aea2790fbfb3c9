"""The numbers of one column: a pool of models against retrained models.

Each function takes the pool under test and the reference pool R, and returns an ``Estimate`` for
each metric of its section. What cannot be said has a reason instead of a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from governance.forgetting_metrics import divergence, epsilon, membership, recovery
from governance.forgetting_metrics.estimates import Estimate
from governance.forgetting_metrics.intervals import mean_interval
from governance.forgetting_metrics.klom import klom
from governance.forgetting_metrics.likelihood import (
    MIN_MODELS,
    PairScores,
    batch_test,
    likelihood_ratio_test,
    pooled_auc,
    tpr_at_fpr,
)
from governance.forgetting_metrics.outcomes import (
    Outcomes,
    average_gap_over_seeds,
    tug_of_war_over_seeds,
)
from governance.forgetting_metrics.overforgetting import share_beyond_range
from governance.forgetting_suite.measures import PoolMeasures, confidence

Numbers = dict[str, Estimate]

_PERMUTATIONS = 999
_FEW_PERMUTATIONS = 199
_LARGE = 50_000
"""Margins of both pools beyond which fewer permutations are drawn."""

_EPSILON_RECORDS = 2000
_NO_SEQUENCES = "not defined for sequences"
_NOT_MEASURED = "not measured"


def accuracy_numbers(models: PoolMeasures, theirs: Sequence[Outcomes]) -> Numbers:
    """Return E2: outcomes as means over models, Avg. Gap and ToW paired by training seed.

    Args:
        models: The pool under test.
        theirs: Outcomes of the retrained models.
    """
    ours = outcomes_of(models)
    pairs = min(len(ours), len(theirs))
    return {
        **plain_numbers(models),
        "mia_efficacy": share_of(np.array([one.mia for one in ours])),
        "average_gap": average_gap_over_seeds(ours[:pairs], theirs[:pairs]),
        "tug_of_war": tug_of_war_over_seeds(ours[:pairs], theirs[:pairs]),
    }


def plain_numbers(models: PoolMeasures) -> Numbers:
    """Return the accuracies of a pool, which need no other pool."""
    errors = models.calibration_errors
    return {
        "forget_accuracy": share_of(models.forget_accuracy.mean(axis=1)),
        "retain_accuracy": share_of(models.retain_accuracy),
        "test_accuracy": share_of(models.test_accuracy),
        "calibration_error": (
            Estimate.missing(_NO_SEQUENCES, len(models)) if errors is None else share_of(errors)
        ),
    }


def outcomes_of(models: PoolMeasures) -> list[Outcomes]:
    """Return UA, RA, TA and SVC-MIA of each model."""
    shown = (models.forget_margins, models.retain_margins, models.test_margins)
    forget, retain, test = (confidence(part) for part in shown)
    return [
        Outcomes(
            unlearn=1 - float(models.forget_accuracy[i].mean()),
            retain=float(models.retain_accuracy[i]),
            test=float(models.test_accuracy[i]),
            mia=membership.svc_mia(forget[i], retain[i], test[i]),
        )
        for i in range(len(models))
    ]


def likelihood_numbers(models: PoolMeasures, reference: PoolMeasures) -> Numbers:
    """Return the likelihood ratio tests of E3, on relative margins."""
    names = ("lrt_auc", "lrt_tpr_at_1_percent", "lrt_tpr_at_01_percent", "record_auc_p95")
    ours, theirs = models.relative, reference.relative
    n = min(len(ours), len(theirs))
    if n < MIN_MODELS:
        return _all_missing((*names, "batch_auc", "batch_p"), _too_few(n), n)
    test = likelihood_ratio_test(ours, theirs)
    estimates = (test.auc, test.tpr_at_1_percent, test.tpr_at_01_percent, test.record_p95)
    few = ours.size + theirs.size > _LARGE
    batch = batch_test(ours, theirs, permutations=_FEW_PERMUTATIONS if few else _PERMUTATIONS)
    return {
        **dict(zip(names, estimates, strict=True)),
        "batch_auc": batch.auc,
        "batch_p": Estimate.exact(batch.p_value, n),
    }


def epsilon_numbers(models: PoolMeasures, reference: PoolMeasures) -> Numbers:
    """Return the epsilons of E3, on relative margins of at most 2,000 records."""
    names = (
        "epsilon_median",
        "epsilon_certified_share",
        "epsilon_certified_max",
        "forgetting_score_ratio",
    )
    ours, theirs = (pool.relative[:, :_EPSILON_RECORDS] for pool in (models, reference))
    n = min(len(ours), len(theirs))
    if n < MIN_MODELS:
        return _all_missing(names, _too_few(n), n)
    estimated = epsilon.record_epsilons(ours, theirs)
    certified = epsilon.certified_epsilons(ours, theirs)
    null = epsilon.score_null(len(ours), len(theirs))
    values = (
        float(np.median(estimated)),
        float((certified > 0).mean()),
        float(certified.max()),
        epsilon.forgetting_score(estimated) / null,
    )
    return {name: Estimate.exact(value, n) for name, value in zip(names, values, strict=True)}


def divergence_numbers(
    models: PoolMeasures, reference: PoolMeasures, untrained: PoolMeasures
) -> Numbers:
    """Return the rest of E3: KLOM, and outputs model against model, paired by position."""
    n = min(len(models), len(reference))
    pairs = range(n)
    numbers = {
        "agreement": share_of(
            np.array(
                [
                    divergence.agreement(models.predictions[i], reference.predictions[i])
                    for i in pairs
                ]
            )
        ),
        "ks_statistic": share_of(
            np.array(
                [
                    divergence.kolmogorov_smirnov(
                        models.forget_margins[i], reference.forget_margins[i]
                    )[0]
                    for i in pairs
                ]
            )
        ),
    }
    if n < MIN_MODELS:
        numbers |= _all_missing(("klom",), _too_few(n), n)
    else:
        values = klom(models.forget_margins[:n], reference.forget_margins[:n])
        numbers["klom"] = Estimate.exact(float(values.mean()), n)
    p, q, nothing = (pool.probabilities for pool in (models, reference, untrained))
    if p is None or q is None or nothing is None:
        names = ("js_divergence", "activation_distance", "zrf")
        return numbers | _all_missing(names, _NO_SEQUENCES, n)
    pairs = range(min(len(p), len(q)))
    js = [float(divergence.jensen_shannon(p[i], q[i]).mean()) for i in pairs]
    far = [divergence.activation_distance(p[i], q[i]) for i in pairs]
    zrf = [divergence.zrf(one, nothing[0]) for one in p]
    return numbers | {
        "js_divergence": mean_of(np.array(js)),
        "activation_distance": mean_of(np.array(far)),
        "zrf": share_of(np.array(zrf)),
    }


def membership_numbers(models: PoolMeasures, reference: PoolMeasures) -> Numbers:
    """Return E4: attacks on forget and on retained records, and the baselines."""
    numbers: Numbers = {}
    for name, attack in (("lira", _lira_scores), ("rmia", _rmia_scores)):
        scores = attack(models, reference)
        numbers[f"{name}_auc"] = pooled_auc(scores)
        numbers[f"{name}_tpr_at_1_percent"] = tpr_at_fpr(scores, 0.01)
    n = min(len(models), len(reference))
    if n < MIN_MODELS:
        numbers |= _all_missing(("retained_lrt_auc",), _too_few(n), n)
    else:
        test = likelihood_ratio_test(models.relative_retained, reference.relative_retained)
        numbers["retained_lrt_auc"] = test.auc
    attacks = [
        membership.threshold_attack(*three)
        for three in zip(
            models.forget_margins, models.retain_margins, models.test_margins, strict=True
        )
    ]
    numbers["population_auc"] = share_of(np.array([a.auc for a in attacks]))
    numbers["retained_attack_auc"] = share_of(np.array([a.members_auc for a in attacks]))
    shown = (models.forget_margins, models.retain_margins, models.test_margins)
    called = [
        membership.logistic_mia(*three)
        for three in zip(*(confidence(part) for part in shown), strict=True)
    ]
    numbers["logistic_mia"] = share_of(np.array(called))
    if models.modified_entropies is None:
        return numbers | _all_missing(("m_entropy_auc",), _NO_SEQUENCES, len(models))
    ends = np.cumsum([models.n_forget, models.retain_margins.shape[1]])
    aucs = [
        membership.threshold_attack(*np.split(-row, ends)).auc for row in models.modified_entropies
    ]
    return numbers | {"m_entropy_auc": share_of(np.array(aucs))}


def _lira_scores(models: PoolMeasures, reference: PoolMeasures) -> PairScores:
    """Score models and retrained models by the others of R: every score leaves one of R out."""
    out = reference.relative

    def score(rows: np.ndarray) -> np.ndarray:
        scored = [
            membership.lira_offline(row[None], np.delete(out, i % len(out), axis=0))
            for i, row in enumerate(rows)
        ]
        return np.concatenate(scored)

    return PairScores(score(models.relative), score(out))


def _rmia_scores(models: PoolMeasures, reference: PoolMeasures) -> PairScores:
    out, population = (
        confidence(part) for part in (reference.forget_margins, reference.test_margins)
    )

    def score(pool: PoolMeasures) -> np.ndarray:
        own, others = confidence(pool.forget_margins), confidence(pool.test_margins)
        return np.stack(
            [
                membership.rmia(
                    own[i],
                    np.delete(out, i % len(out), axis=0),
                    others[i],
                    np.delete(population, i % len(out), axis=0),
                )
                for i in range(len(own))
            ]
        )

    return PairScores(score(models), score(reference))


def recovery_numbers(
    models: PoolMeasures, reference: PoolMeasures, original: PoolMeasures
) -> Numbers:
    """Return E5, on the models that were trained further."""
    return {
        "relearn_ratio": _relearn_ratio(models, reference, original),
        "rebound": _of_both(
            models.rebound_accuracy, reference.rebound_accuracy, recovery.rebound, len(models)
        ),
        "linear_probe": (
            Estimate.missing("the network has no linear last layer", len(models))
            if models.probe_accuracy is None
            else share_of(models.probe_accuracy)
        ),
    }


def _relearn_ratio(
    models: PoolMeasures, reference: PoolMeasures, original: PoolMeasures
) -> Estimate:
    ours, theirs, first = (p.relearn_losses for p in (models, reference, original))
    if ours is None or theirs is None or first is None:
        return Estimate.missing(_NOT_MEASURED, len(models))
    known, unknown = float(first[:, 0].mean()), float(theirs[:, 0].mean())
    if not unknown > known:
        reason = "retrained models know the records as well as the original: nothing to relearn"
        return Estimate.missing(reason, len(ours))
    level = recovery.relearn_level(known, unknown)
    steps = [[recovery.relearn_steps(c, level) for c in pool] for pool in (ours, theirs)]
    return recovery.anamnesis_index(*steps).index


def range_numbers(models: PoolMeasures, reference: PoolMeasures) -> Numbers:
    """Return E6, on relative margins and on entropies."""
    names = ("share_beyond_99", "share_below_99", "share_above_99")
    n = len(models)
    if len(reference) < MIN_MODELS:
        return _all_missing((*names, "entropy_beyond_99"), _too_few(len(reference)), n)
    share = share_beyond_range(models.relative, reference.relative)
    numbers = dict(zip(names, (share.beyond, share.below, share.above), strict=True))
    if models.entropies is None or reference.entropies is None:
        return numbers | _all_missing(("entropy_beyond_99",), _NO_SEQUENCES, n)
    return numbers | {
        "entropy_beyond_99": share_beyond_range(models.entropies, reference.entropies).beyond
    }


def mean_of(values: np.ndarray) -> Estimate:
    """Return the mean over models with its t interval; one model has none."""
    if len(values) == 1:
        return Estimate.exact(float(values[0]), 1)
    low, high = mean_interval(values)
    return Estimate(float(values.mean()), low, high, len(values))


def share_of(shares: np.ndarray) -> Estimate:
    """Return the mean of numbers between 0 and 1, with an interval that stays there."""
    mean = mean_of(shares)
    if mean.low is None or mean.high is None:
        return mean
    return Estimate(mean.value, max(0.0, mean.low), min(1.0, mean.high), mean.n)


def _of_both(
    ours: np.ndarray | None,
    theirs: np.ndarray | None,
    measure: Callable[[np.ndarray, np.ndarray], Estimate],
    n: int,
) -> Estimate:
    if ours is None or theirs is None:
        return Estimate.missing(_NOT_MEASURED, n)
    return measure(ours, theirs)


def _too_few(n: int) -> str:
    return f"needs at least {MIN_MODELS} models in each pool, got {n}"


def _all_missing(names: tuple[str, ...], reason: str, n: int) -> Numbers:
    return {name: Estimate.missing(reason, n) for name in names}
