"""Membership attacks: per-record ones on reference models, and population ones as baselines.

Population attacks compare members with non-members under one model. They are blind to what one
record does: on digits they give 0.50 for a model that was never unlearned. They are printed because
the literature prints them, with their power on the original model, and decide nothing.

Shapes: N reference models that never saw the records, n records, m records of the population, B
records, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from governance.errors import DataError
from governance.forgetting_metrics.estimates import (
    require_finite,
    require_pools,
    require_probabilities,
)
from governance.forgetting_metrics.likelihood import auc, fit_gaussians

GAMMA = 2.0
OFFLINE_A = 0.33
_SMALLEST = 1e-30
_FIT_RECORDS = 500
"""Members and non-members that a classifier is fitted on, of each at most: its time is square."""


def lira_offline(margins: np.ndarray, out: np.ndarray, *, shrinkage: float = 0.5) -> np.ndarray:
    """Return the offline LiRA score of each record, at least 0; larger is more like a member.

    The score is -log P(Z >= phi) under the Gaussian of models that never saw the record, so a
    record at the middle of them has ln 2.

    Args:
        margins: ``[K, n]`` of the models under test.
        out: ``[N, n]`` of the reference models, N at least 2.
        shrinkage: As in ``fit_gaussians``.

    Returns:
        ``[K, n]``, in nats.

    Raises:
        DataError: Bad pools, or one reference model.

    Source: Carlini et al. 2022 (2112.03570), section VI-B.
    """
    tested, reference = require_pools(margins, out)
    if len(reference) < 2:
        message = "offline LiRA: needs at least 2 reference models, got 1"
        raise DataError(message)
    mean, deviation = fit_gaussians(reference, shrinkage=shrinkage)
    return np.asarray(-stats.norm.logsf((tested - mean) / deviation))


def rmia(
    record: np.ndarray,
    record_out: np.ndarray,
    population: np.ndarray,
    population_out: np.ndarray,
    *,
    gamma: float = GAMMA,
    a: float = OFFLINE_A,
) -> np.ndarray:
    """Return the offline RMIA score of each record, 0-1: the share of the population it beats.

    score(x) = P_z[ (p(x | model) / p(x)) / (p(z | model) / p(z)) >= gamma ], with
    p(x) = ((1 + a) mean over reference models of p(x) + (1 - a)) / 2.

    Args:
        record: Probability of the label under the tested model, ``[n]``.
        record_out: The same under reference models that never saw the records, ``[N, n]``.
        population: Of records that no model saw, ``[m]``.
        population_out: ``[N, m]``.
        gamma: Ratio that counts as beaten, at least 1.
        a: Offline correction, 0-1.

    Raises:
        DataError: Shapes that do not fit, or numbers outside 0-1.

    Source: Zarifzadeh et al. 2024 (RMIA, 2312.03262), with its offline approximation of p(x).
    """
    ratios = []
    for name, own, out in (
        ("record", record, record_out),
        ("population", population, population_out),
    ):
        p = require_finite(f"RMIA {name}", own, n_dimensions=1)
        p_out = require_finite(f"RMIA {name} under reference models", out, n_dimensions=2)
        both = np.concatenate([p, p_out.ravel()])
        if p_out.shape[1] != len(p) or both.min() < 0 or both.max() > 1:
            message = f"RMIA {name}: expected probabilities [n] and [N, n] of the same records"
            raise DataError(message)
        marginal = ((1 + a) * p_out.mean(axis=0) + (1 - a)) / 2
        ratios.append(p / marginal)
    beaten = np.sort(np.maximum(ratios[1], _SMALLEST) * gamma)
    return np.asarray(np.searchsorted(beaten, ratios[0], side="right") / len(beaten))


def modified_entropy(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the modified entropy of each record, ``[B]``, at least 0; members have small ones.

    -(1 - p_y) log p_y - sum over the other classes of p_i log(1 - p_i).

    Args:
        probabilities: ``[B, C]``.
        labels: ``[B]``, the index of the class.

    Raises:
        DataError: No distributions, or labels that are no classes.

    Source: Song and Mittal 2021 (2003.10595), equation 7; probabilities floored at 1e-30.

    >>> modified_entropy(np.array([[1.0, 0.0]]), np.array([0])).item() + 0.0
    0.0
    """
    p = require_probabilities("probabilities", probabilities)
    y = np.asarray(labels)
    if y.shape != (len(p),) or y.min() < 0 or y.max() >= p.shape[1]:
        message = f"labels: expected a class below {p.shape[1]} for each of {len(p)} records"
        raise DataError(message)
    rows = np.arange(len(p))
    own = p[rows, y]
    terms = -p * np.log(np.maximum(1 - p, _SMALLEST))
    terms[rows, y] = -(1 - own) * np.log(np.maximum(own, _SMALLEST))
    return np.asarray(terms.sum(axis=1))


@dataclass(frozen=True, slots=True)
class PopulationAttack:
    """A population attack on one model.

    Attributes:
        auc: P(score of a forget record > score of a test record), 0-1; 0.5 = blind.
        members_auc: The same for retained records: 0.5 means that the attack has no power on this
            model, and that its verdict on forget records is worth nothing.
    """

    auc: float
    members_auc: float


def threshold_attack(forget: np.ndarray, retain: np.ndarray, test: np.ndarray) -> PopulationAttack:
    """Attack by a threshold on one score of each record; larger means more like a member.

    Args:
        forget: Score of each record to forget: margin, confidence, -loss or -modified entropy.
        retain: Score of retained records.
        test: Score of records never trained on.

    Raises:
        DataError: Empty or not finite.

    Source: Yeom et al. 2018 (1709.01604); Song and Mittal 2021.
    """
    scores = [
        require_finite(name, values, n_dimensions=1)
        for name, values in (("forget", forget), ("retain", retain), ("test", test))
    ]
    return PopulationAttack(auc(scores[0], scores[2]), auc(scores[1], scores[2]))


def svc_mia(forget: np.ndarray, retain: np.ndarray, test: np.ndarray) -> float:
    """Return *MIA-efficacy*: the share of forget records, 0-1, that an SVC calls non-members.

    The target is the value of a retrained model (0.13 for random 10 %), not 0, 0.5 or 1.

    Args:
        forget: Probability of the label, ``[B]``.
        retain: The same of retained records (class *member*).
        test: The same of records never trained on (class *non-member*).

    Raises:
        DataError: Empty or not finite.

    Source: Jia et al. 2023 (2304.04934), SVC(C=3, rbf). Both classes are thinned evenly to one
    size, at most 500; the original takes the first records.
    """
    return _classifier_mia(SVC(C=3, kernel="rbf", gamma="auto"), forget, retain, test)


def logistic_mia(forget: np.ndarray, retain: np.ndarray, test: np.ndarray) -> float:
    """Return the same as ``svc_mia`` by a logistic regression, whose boundary is one threshold."""
    return _classifier_mia(LogisticRegression(), forget, retain, test)


def _classifier_mia(
    classifier: ClassifierMixin, forget: np.ndarray, retain: np.ndarray, test: np.ndarray
) -> float:
    target = require_finite("forget", forget, n_dimensions=1)
    members = require_finite("retain", retain, n_dimensions=1)
    others = require_finite("test", test, n_dimensions=1)
    size = min(len(members), len(others), _FIT_RECORDS)
    x = np.concatenate([_thinned(members, size), _thinned(others, size)])[:, None]
    y = np.repeat([1, 0], size)
    return float((classifier.fit(x, y).predict(target[:, None]) == 0).mean())


def _thinned(values: np.ndarray, size: int) -> np.ndarray:
    return values[np.linspace(0, len(values) - 1, size).astype(np.int64)]


def privacy_leak(model_auc: float, retrained_auc: float) -> float:
    """Return PrivLeak in percent: 0 is the target, -100 under-, +100 over-unlearned.

    Args:
        model_auc: AUC of forget against holdout records by the mean token loss, 0-1, where a member
            has the smaller score.
        retrained_auc: The same of the retrained model, above 0.

    Raises:
        DataError: The retrained AUC is 0.

    Source: Shi et al. 2024 (MUSE, 2407.06460), equation 1.
    """
    if not retrained_auc > 0:
        message = f"PrivLeak: expected an AUC of the retrained model above 0, got {retrained_auc}"
        raise DataError(message)
    return (model_auc - retrained_auc) / retrained_auc * 100
