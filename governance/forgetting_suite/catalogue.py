"""Each number of the suite: what it is called, what it means, and what is good.

A target is a number, or the value of retrained models. ``rule`` says when a column meets it:

    overlap      the interval reaches that of the second retrain, or the value is within ``limit``
    not_below    not more than ``limit`` below the second retrain
    not_above    not more than ``limit`` above the second retrain
    low_at_most  the lower end of the interval is at most ``limit``
    high_at_most the upper end of the interval is at most ``limit``
    at_most      the value is at most ``limit``
    at_least     the value is at least ``limit``
    between      the value is between ``limit`` and ``upper``
    shown        printed for what it is; it meets nothing and fails nothing
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One line of the catalogue.

    Attributes:
        section: E2 to E6.
        name: Key in ``evidence.json``.
        title: As printed.
        text: What it measures, in one sentence without jargon where that can be.
        target: As printed.
        direction: ``two-sided``, ``not below``, ``not above``, ``lower``, ``higher`` or ``shown``.
        rule: As above.
        limit: Of the rule.
        upper: Second limit of ``between``.
    """

    section: str
    name: str
    title: str
    text: str
    target: str
    direction: str
    rule: str
    limit: float = 0.0
    upper: float = 0.0


SECTIONS = {
    "E2": "Accuracy and utility",
    "E3": "Indistinguishable from retraining",
    "E4": "Membership privacy",
    "E5": "Recovery: does it come back?",
    "E6": "Over-forgetting",
}


def _metric(
    section: str, name: str, title: str, text: str, good: tuple[str, ...], *limits: float
) -> Metric:
    target, direction, rule = good
    limit, upper = (*limits, 0.0, 0.0)[:2]
    return Metric(
        section=section,
        name=name,
        title=title,
        text=text,
        target=target,
        direction=direction,
        rule=rule,
        limit=limit,
        upper=upper,
    )


_RETRAINED = ("second retrain", "two-sided", "overlap")
_SHOWN = ("second retrain", "shown", "shown")

CATALOGUE: tuple[Metric, ...] = (
    _metric("E2", "forget_accuracy", "Forget accuracy (1 - UA)",
            "share of the erased records that are still predicted right", _RETRAINED, 0.01),
    _metric("E2", "retain_accuracy", "Retain accuracy (RA)",
            "accuracy on records that stay", ("second retrain", "not below", "not_below"), 0.01),
    _metric("E2", "test_accuracy", "Test accuracy (TA)",
            "accuracy on records never trained on",
            ("second retrain", "not below", "not_below"), 0.01),
    _metric("E2", "calibration_error", "Calibration error (ECE) on test records",
            "how far confidence and accuracy are apart",
            ("second retrain", "not above", "not_above"), 0.01),
    _metric("E2", "mia_efficacy", "SVC-MIA (MIA-efficacy)",
            "share of the erased records that an SVC on confidences calls non-members", _SHOWN),
    _metric("E2", "average_gap", "Avg. Gap (points)",
            "mean difference of UA, RA, TA and SVC-MIA to a retrained model",
            ("second retrain", "not above", "not_above"), 1.0),
    _metric("E2", "tug_of_war", "ToW",
            "(1 - |dFA|)(1 - |dRA|)(1 - |dTA|) against a retrained model",
            ("second retrain (at best 1)", "not below", "not_below"), 0.02),
    _metric("E3", "lrt_auc", "Likelihood ratio, AUC per record",
            "can one record under one model be told from a retrained model",
            ("0.5", "lower", "high_at_most"), 0.60),
    _metric("E3", "lrt_tpr_at_1_percent", "Likelihood ratio, TPR at 1 % FPR",
            "records recognised while 1 % of retrained ones are taken for them",
            ("0.01", "lower", "low_at_most"), 0.03),
    _metric("E3", "lrt_tpr_at_01_percent", "Likelihood ratio, TPR at 0.1 % FPR",
            "the same at 0.1 %", ("0.001", "lower", "low_at_most"), 0.01),
    _metric("E3", "record_auc_p95", "Worst records, AUC",
            "95th percentile over records of max(AUC, 1 - AUC)",
            ("second retrain", "not above", "not_above"), 0.05),
    _metric("E3", "batch_auc", "Batch likelihood ratio, AUC",
            "can the whole batch be told from a retrained model: the strongest test here",
            ("0.5", "lower", "shown")),
    _metric("E3", "batch_p", "Batch likelihood ratio, p",
            "permutation p-value of the same", ("above 0.05", "higher", "at_least"), 0.05),
    _metric("E3", "epsilon_median", "Epsilon per record, median",
            "estimate of the NeurIPS 2023 scorer; about 1.1 even for equal pools",
            ("second retrain", "not above", "not_above"), 0.3),
    _metric("E3", "epsilon_certified_share", "Epsilon lower bound above 0, share",
            "records with a certified epsilon above 0 (95 % each)",
            ("at most 0.05", "lower", "at_most"), 0.05),
    _metric("E3", "epsilon_certified_max", "Epsilon lower bound, largest",
            "of the worst record; the number of models bounds it from above", _SHOWN),
    _metric("E3", "forgetting_score_ratio", "F / F of equal pools",
            "score of the NeurIPS 2023 challenge over that of equal pools of this size",
            ("1", "not below", "not_below"), 0.15),
    _metric("E3", "klom", "KLOM, mean (nats)",
            "divergence of binned margins to retrained models; equal pools do not give 0",
            ("95 % of shuffled retrained pools", "lower", "null")),
    _metric("E3", "js_divergence", "Jensen-Shannon divergence (nats)",
            "of the outputs to those of a retrained model",
            ("second retrain", "not above", "not_above"), 0.005),
    _metric("E3", "activation_distance", "Activation distance",
            "mean distance of the outputs to those of a retrained model",
            ("second retrain", "not above", "not_above"), 0.01),
    _metric("E3", "agreement", "Agreement",
            "same predictions as a retrained model; two retrained models do not agree everywhere",
            ("second retrain", "two-sided", "overlap"), 0.01),
    _metric("E3", "zrf", "ZRF",
            "1 - divergence to an untrained network; near 1: a destroyed model", _RETRAINED, 0.01),
    _metric("E3", "ks_statistic", "Kolmogorov-Smirnov statistic",
            "largest gap between the distributions of margins, model against model",
            ("second retrain", "not above", "not_above"), 0.05),
    _metric("E4", "lira_auc", "Offline LiRA, AUC",
            "attack with models that never saw the records",
            ("0.5", "lower", "low_at_most"), 0.55),
    _metric("E4", "lira_tpr_at_1_percent", "Offline LiRA, TPR at 1 % FPR",
            "members recognised by it at 1 % false alarms",
            ("at most 0.03", "lower", "low_at_most"), 0.03),
    _metric("E4", "rmia_auc", "RMIA, AUC",
            "attack with reference models and a population",
            ("0.5", "lower", "low_at_most"), 0.55),
    _metric("E4", "rmia_tpr_at_1_percent", "RMIA, TPR at 1 % FPR",
            "members recognised by it at 1 % false alarms",
            ("at most 0.03", "lower", "low_at_most"), 0.03),
    _metric("E4", "retained_lrt_auc", "Retained records, likelihood ratio AUC",
            "are records that stay told from those of retrained models: has it exposed them",
            ("second retrain", "not above", "not_above"), 0.05),
    _metric("E4", "retained_attack_auc", "Retained records, population attack AUC",
            "leakage of records that stay, before and after",
            ("second retrain", "not above", "not_above"), 0.01),
    _metric("E4", "population_auc", "Population attack, AUC (baseline)",
            "erased against test records by margin; blind to single records", _SHOWN),
    _metric("E4", "m_entropy_auc", "Modified entropy, AUC (baseline)",
            "the same by modified entropy", _SHOWN),
    _metric("E4", "logistic_mia", "Logistic MIA (baseline)",
            "share of the erased records that one threshold calls non-members", _SHOWN),
    _metric("E5", "relearn_ratio", "Relearning (AIN)",
            "steps to relearn the records, over those of a retrained model",
            ("1, within 0.5 to 2", "two-sided", "between"), 0.5, 2.0),
    _metric("E5", "rebound", "Rebound",
            "rise of forget accuracy above retrained models in training on retained records",
            ("0", "not above", "low_at_most"), 0.0),
    _metric("E5", "linear_probe", "Linear probe",
            "accuracy on erased records that frozen features give to a new last layer",
            ("second retrain", "not above", "not_above"), 0.01),
    _metric("E6", "share_beyond_99", "Records outside the 99 % range",
            "share of erased records outside the range of retrained models, either side",
            ("0.01, at most 0.02", "lower", "low_at_most"), 0.02),
    _metric("E6", "share_below_99", "... below it (over-forgotten)",
            "stand out as unnaturally unknown: the Streisand effect",
            ("0.005, at most 0.02", "lower", "low_at_most"), 0.02),
    _metric("E6", "share_above_99", "... above it (still visible)",
            "stand out as known", ("0.005, at most 0.02", "lower", "low_at_most"), 0.02),
    _metric("E6", "entropy_beyond_99", "Entropy outside the 99 % range",
            "the same for the entropy of the output, whatever the label",
            ("0.01, at most 0.02", "lower", "low_at_most"), 0.02),
)  # fmt: skip
