"""The whole suite as plain JSON: rows E2-E6, records and strata E7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from governance.errors import DataError
from governance.forgetting_metrics import epsilon
from governance.forgetting_metrics.estimates import Estimate
from governance.forgetting_metrics.klom import klom_null
from governance.forgetting_metrics.likelihood import MIN_MODELS
from governance.forgetting_metrics.outcomes import Outcomes
from governance.forgetting_suite import rows
from governance.forgetting_suite.catalogue import CATALOGUE, SECTIONS, Metric
from governance.forgetting_suite.judging import COLUMNS, ORIGINAL, OUTCOMES, SECOND, UNLEARNED
from governance.forgetting_suite.judging import outcome as outcome_of
from governance.forgetting_suite.measures import PoolMeasures
from governance.forgetting_suite.records import (
    CANARIES,
    HIGH_RISK,
    MEMORISED,
    STRATA,
    check_records,
    most_memorised,
    record_lines,
    stratum_numbers,
)

JSON = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteMeasures:
    """Measurements of every pool, and who the records are.

    Attributes:
        original: O, trained with the records.
        unlearned: U; a pool, or one model (then much is *unknown*).
        reference: R, retrained without the records: the yardstick.
        second_retrain: R', the null.
        untrained: One network with random weights.
        ids: Of the records to forget, ``[n]``.
        high_risk: Mask ``[n]``.
        canaries: Mask ``[n]``.
        salt: Of the labels, at least 16 bytes; kept by the caller, or by nobody.
        classes: Class of each forget record, ``[n]``; None for sequences.
    """

    original: PoolMeasures
    unlearned: PoolMeasures
    reference: PoolMeasures
    second_retrain: PoolMeasures
    untrained: PoolMeasures
    ids: Sequence[str]
    high_risk: np.ndarray
    canaries: np.ndarray
    salt: bytes
    classes: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse pools about different records.

        Raises:
            DataError: Numbers of records differ.
        """
        pools = (self.original, self.unlearned, self.reference, self.second_retrain, self.untrained)
        sizes = {pool.n_forget for pool in pools}
        sizes |= {len(self.ids), len(self.high_risk), len(self.canaries)}
        sizes |= set() if self.classes is None else {len(self.classes)}
        if len(sizes) != 1:
            message = f"suite: expected every pool to be about the same records, got {sizes}"
            raise DataError(message)

    @property
    def columns(self) -> dict[str, PoolMeasures]:
        """The three columns, by name."""
        return {
            ORIGINAL: self.original,
            UNLEARNED: self.unlearned,
            SECOND: self.second_retrain,
        }


def run_suite(measures: SuiteMeasures) -> JSON:
    """Return the suite: ``rows``, ``strata``, ``records``, ``words`` and ``sizes``.

    Raises:
        DataError: A metric failed; none is left out.
    """
    theirs = rows.outcomes_of(measures.reference)
    numbers = {name: _column(pool, measures, theirs) for name, pool in measures.columns.items()}
    null = _klom_limit(measures)
    tests = check_records(measures.unlearned, measures.reference)
    masks = {
        HIGH_RISK: np.asarray(measures.high_risk, dtype=bool),
        CANARIES: np.asarray(measures.canaries, dtype=bool),
        MEMORISED: most_memorised(measures.original, measures.reference),
    }
    lines = record_lines(
        measures.ids, tests, measures.unlearned, measures.reference, masks, measures.salt
    )
    shown = {name: numbers[name] for name in COLUMNS}
    listed = [_row(metric, shown, null) for metric in CATALOGUE]
    return {
        "rows": listed,
        "sections": dict(SECTIONS),
        "outcomes": dict(OUTCOMES),
        "strata": {
            name: {
                "text": STRATA[name],
                **stratum_numbers(mask, tests, measures.columns, measures.reference),
            }
            for name, mask in masks.items()
        },
        "records": lines,
        "record_statuses": tests.counts(),
        "classes": _by_class(measures),
        "sizes": _sizes(measures),
    }


def _by_class(measures: SuiteMeasures) -> list[JSON]:
    """Return the forget accuracy of each class in each column, and of retrained models."""
    if measures.classes is None:
        return []
    pools = {**measures.columns, "retrained": measures.reference}
    return [
        {
            "class": int(label),
            "n": int((measures.classes == label).sum()),
            "forget_accuracy": {
                name: round(float(pool.forget_accuracy[:, measures.classes == label].mean()), 6)
                for name, pool in pools.items()
            },
        }
        for label in np.unique(measures.classes)
    ]


def _column(
    pool: PoolMeasures, measures: SuiteMeasures, theirs: Sequence[Outcomes]
) -> rows.Numbers:
    reference = measures.reference
    return {
        **rows.accuracy_numbers(pool, theirs),
        **rows.likelihood_numbers(pool, reference),
        **rows.epsilon_numbers(pool, reference),
        **rows.divergence_numbers(pool, reference, measures.untrained),
        **rows.membership_numbers(pool, reference),
        **rows.recovery_numbers(pool, reference, measures.original),
        **rows.range_numbers(pool, reference),
    }


def _row(metric: Metric, numbers: Mapping[str, rows.Numbers], null: float | None) -> JSON:
    columns = {name: numbers[name][metric.name] for name in COLUMNS}
    limit = null if metric.rule == "null" else None
    words = _words(metric)
    if limit is not None:
        words["target"] = f"at most {limit:.3g} ({metric.target})"
    return {
        **words,
        "columns": {name: estimate.to_dict() for name, estimate in columns.items()},
        "outcome": outcome_of(metric, columns, limit),
    }


def _words(metric: Metric) -> JSON:
    names = ("section", "name", "title", "text", "target", "direction")
    return {name: getattr(metric, name) for name in names}


def _klom_limit(measures: SuiteMeasures) -> float | None:
    """Return the 95th percentile of KLOM over pools of retrained models that differ by nothing.

    Sizes are those of the comparison: pools are cut to the smaller one.
    """
    n = min(map(len, (measures.unlearned, measures.reference, measures.second_retrain)))
    if n < MIN_MODELS:
        return None
    pools = (measures.reference.forget_margins[:n], measures.second_retrain.forget_margins[:n])
    return float(np.quantile(klom_null(*pools), 0.95))


def _sizes(measures: SuiteMeasures) -> JSON:
    n = min(len(measures.unlearned), len(measures.reference))
    return {
        "original": len(measures.original),
        "unlearned": len(measures.unlearned),
        "retrained": len(measures.reference),
        "second_retrain": len(measures.second_retrain),
        "forget": measures.original.n_forget,
        "retain_sample": int(measures.original.retain_margins.shape[1]),
        "test_sample": int(measures.original.test_margins.shape[1]),
        "largest_certifiable_epsilon": (
            round(epsilon.largest_certifiable_epsilon(n - n // 2, confidence=0.975), 6)
        ),
    }


def refuse_suite(measured: Mapping[str, PoolMeasures], reason: str) -> JSON:
    """Return the suite of pools that are too small: plain accuracies, everything else unknown.

    Args:
        measured: The columns that there are any models for.
        reason: Why there is no more to be said.
    """
    columns: dict[str, rows.Numbers] = {}
    for name in COLUMNS:
        pool = measured.get(name)
        columns[name] = {} if pool is None else rows.plain_numbers(pool)
    n = {name: len(measured[name]) if name in measured else 0 for name in COLUMNS}

    def row(metric: Metric) -> JSON:
        numbers = {
            name: found.get(metric.name, Estimate.missing(reason, n[name])).to_dict()
            for name, found in columns.items()
        }
        return {**_words(metric), "columns": numbers, "outcome": "unknown"}

    return {
        "rows": [row(metric) for metric in CATALOGUE],
        "sections": dict(SECTIONS),
        "outcomes": dict(OUTCOMES),
        "strata": None,
        "classes": [],
        "sizes": {**n, "largest_certifiable_epsilon": None},
    }
