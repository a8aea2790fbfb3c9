"""Classification: every record gets a risk level, its score parts, and the rules that decided.

level high  <=  a rule sets high, or a required value is missing (unknown), or the probability of
                erasure reaches the threshold and no rule sets low
level low   <=  otherwise

A rule that sets high cannot be outvoted, unknown counts as high, and neither the order of rows nor
that of rules matters. The revocable set is the prefix of the high-risk records, by expected cost =
probability x cost, that fits into the budget.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance import scanner
from governance.declaration import Declaration
from governance.errors import DataError
from governance.policy import Policy, Rule, When

UNKNOWN = "unknown"
"""Deciding rule of a record that lacks a required value."""

THRESHOLD = "threshold"
"""Deciding rule of a record whose added probabilities reach the threshold."""

BASE = "base"
"""Deciding rule of a record that no rule matched."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Vectors over the records."""

    probability: np.ndarray
    cost: np.ndarray
    set_high: np.ndarray
    set_low: np.ndarray
    unknown: np.ndarray
    hits: dict[str, np.ndarray]


def classify_records(
    table: pa.Table, policy: Policy, *, declaration: Declaration, as_of: date
) -> pa.Table:
    """Return the table with risk level, score parts, deciding rules and slice order added.

    Args:
        table: Declared columns and ``bucket``.
        policy: Risk policy.
        declaration: Roles of the columns.
        as_of: Day on which ages are measured; an argument, so that a rerun gives the same.
    """
    scores = score_records(table, policy, declaration=declaration, as_of=as_of)
    reached = scores.probability >= policy.thresholds.high
    high = scores.set_high | scores.unknown | (reached & ~scores.set_low)
    expected = scores.probability * scores.cost
    ids = np.asarray(table[declaration.columns.record_id].to_pylist(), dtype=str)
    revocable = _within_budget(high, expected, ids, policy.budget.revocable_share_max)
    order = np.lexsort((ids, expected))
    rank = np.empty(len(ids), dtype=np.int64)
    rank[order] = np.arange(len(ids))
    columns = {
        "risk_level": pa.array(np.where(high, "high", "low"), pa.string()),
        "erasure_probability": pa.array(scores.probability),
        "erasure_cost": pa.array(scores.cost),
        "expected_cost": pa.array(expected),
        "revocable": pa.array(revocable),
        "slice_order": pa.array(rank),
        "deciding_rules": pa.array(_deciding(scores, high, policy), pa.list_(pa.string())),
        "score_parts": pa.array(_parts(scores, policy), pa.string()),
        "policy_digest": pa.array([policy.digest] * len(ids), pa.string()),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def assign_split(table: pa.Table, declaration: Declaration) -> pa.Table:
    """Add ``split``: ``holdout``, ``validation`` or ``train``, the same for all of one subject."""
    settings = declaration.split
    values = table[declaration.columns.subject_id].to_pylist()
    share = {value: _unit_hash(f"{settings.seed}\x00{value}") for value in set(values)}
    kept_out = settings.holdout_fraction + settings.validation_fraction

    def use(value: str) -> str:
        if share[value] < settings.holdout_fraction:
            return "holdout"
        return "validation" if share[value] < kept_out else "train"

    return table.append_column("split", pa.array([use(value) for value in values], pa.string()))


def score_records(
    table: pa.Table, policy: Policy, *, declaration: Declaration, as_of: date
) -> Scores:
    """Evaluate every rule on every record."""
    n = table.num_rows
    probability = np.full(n, policy.base_probability)
    cost = np.full(n, policy.base_cost)
    set_high, set_low = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    hits = {}
    for rule in sorted(policy.rules, key=lambda rule: rule.id):
        hit = _matches(table, rule.when, policy, declaration, as_of)
        hits[rule.id] = hit
        probability = probability + hit * (rule.add or 0.0)
        cost = cost + hit * (rule.add_cost or 0.0)
        set_high |= hit & (rule.set == "high")
        set_low |= hit & (rule.set == "low")
    unknown = np.zeros(n, dtype=bool)
    for name in policy.required:
        unknown |= _is_missing(table[name])
    probability = np.clip(probability, 0.0, 1.0)
    probability[set_high | unknown] = np.maximum(
        probability[set_high | unknown], policy.thresholds.high
    )
    return Scores(probability, cost, set_high, set_low, unknown, hits)


def explain_record(row: dict[str, object], policy: Policy) -> str:
    """Return in words why a classified row has its level; holds rule ids and numbers only."""
    parts = json.loads(str(row["score_parts"]))
    grounds = {rule.id: rule.ground for rule in policy.rules}
    lines = [
        f"risk {row['risk_level']}: probability of erasure {row['erasure_probability']:.2f} "
        f"(high from {policy.thresholds.high:.2f}), cost if erased {row['erasure_cost']:.2f}"
    ]
    lines += [f"  base probability {policy.base_probability:+.2f}"]
    lines += [f"  rule {name}: {_effect(parts[name], grounds.get(name))}" for name in sorted(parts)]
    decided = ", ".join(str(name) for name in row["deciding_rules"])  # type: ignore[attr-defined]
    return "\n".join([*lines, f"  decided by: {decided}"])


def _effect(effect: object, ground: str | None) -> str:
    text = f"{effect:+.2f}" if isinstance(effect, float) else str(effect)
    return f"{text} ({ground})" if ground else text


def _within_budget(
    high: np.ndarray, expected: np.ndarray, ids: np.ndarray, share: float
) -> np.ndarray:
    limit = int(share * len(ids))
    revocable = np.zeros(len(ids), dtype=bool)
    index = np.flatnonzero(high)
    first = index[np.lexsort((ids[index], -expected[index]))][:limit]
    revocable[first] = True
    return revocable


def _deciding(scores: Scores, high: np.ndarray, policy: Policy) -> list[list[str]]:
    """Name what decided each level; every record gets at least one reason."""
    setters: dict[str, list[Rule]] = {
        level: [rule for rule in policy.rules if rule.set == level] for level in ("high", "low")
    }
    adders = [rule for rule in policy.rules if rule.add]
    result = []
    for index in range(len(high)):
        names = [UNKNOWN] if scores.unknown[index] else []
        if scores.set_high[index]:
            names += [r.id for r in setters["high"] if scores.hits[r.id][index]]
        elif not high[index] and scores.set_low[index]:
            names += [r.id for r in setters["low"] if scores.hits[r.id][index]]
        if not names:
            added = [r.id for r in adders if scores.hits[r.id][index]]
            names = ([THRESHOLD] if high[index] else []) + added
        result.append(sorted(names) or [BASE])
    return result


def _parts(scores: Scores, policy: Policy) -> list[str]:
    effects: dict[str, object] = {
        rule.id: rule.set or (rule.add if rule.add is not None else f"cost {rule.add_cost:+.2f}")
        for rule in policy.rules
    }
    cache: dict[tuple[str, ...], str] = {}
    names = sorted(scores.hits)
    matrix = np.stack([scores.hits[name] for name in names], axis=1)
    result = []
    for row in matrix:
        matched = tuple(name for name, hit in zip(names, row, strict=True) if hit)
        if matched not in cache:
            cache[matched] = json.dumps({name: effects[name] for name in matched}, sort_keys=True)
        result.append(cache[matched])
    return result


def _matches(
    table: pa.Table, when: When, policy: Policy, declaration: Declaration, as_of: date
) -> np.ndarray:
    if when.kind == "category_under":
        return _category_hits(table, when, policy)
    if when.kind == "k_anonymity_lt":
        return _rare(table, when, declaration)
    column = table[when.column or ""]
    return _COLUMN_RULES[when.kind](column, when, as_of)


def _category_hits(table: pa.Table, when: When, policy: Policy) -> np.ndarray:
    hit = np.zeros(table.num_rows, dtype=bool)
    for name, category in policy.categories.items():
        keys = when.category_under or ()
        if any(category == key or category.startswith(f"{key}.") for key in keys):
            hit |= ~_is_missing(table[name])
    return hit


def _rare(table: pa.Table, when: When, declaration: Declaration) -> np.ndarray:
    """Return which records share their quasi-identifiers with fewer than k subjects."""
    subject = declaration.columns.subject_id
    quasi = list(when.quasi)
    groups = table.select(dict.fromkeys([*quasi, subject])).group_by(quasi)
    counts = groups.aggregate([(subject, "count_distinct")])
    size = {
        tuple(row[name] for name in quasi): row[f"{subject}_count_distinct"]
        for row in counts.to_pylist()
    }
    rows = zip(*(table[name].to_pylist() for name in quasi), strict=True)
    return np.array([size[row] < (when.k_anonymity_lt or 0) for row in rows], dtype=bool)


def _is_missing(column: pa.ChunkedArray) -> np.ndarray:
    missing = pc.is_null(column, nan_is_null=True)
    if pa.types.is_string(column.type):
        missing = pc.or_(
            missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), False)
        )
    return np.array(missing.to_numpy(), dtype=bool)


def _equals(column: pa.ChunkedArray, when: When, _as_of: date) -> np.ndarray:
    wanted = [when.equals] if when.in_ is None else list(when.in_)
    values = pa.array([str(value) for value in wanted], pa.string())
    return _bool(pc.is_in(column.cast(pa.string()), value_set=values))


def _compare(column: pa.ChunkedArray, when: When, _as_of: date) -> np.ndarray:
    numbers = _numeric(column, when)
    if when.greater_than is not None:
        return _bool(pc.greater(numbers, when.greater_than))
    return _bool(pc.less(numbers, when.less_than))


def _older(column: pa.ChunkedArray, when: When, as_of: date) -> np.ndarray:
    try:
        days = column.cast(pa.date32()).cast(pa.int32())
    except pa.ArrowException as error:
        message = f"policy column {when.column}: expected dates, got {column.type}"
        raise DataError(message) from error
    limit = (as_of - date(1970, 1, 1)).days - (when.age_days_gt or 0)
    return _bool(pc.less(days, limit))


def _missing(column: pa.ChunkedArray, _when: When, _as_of: date) -> np.ndarray:
    return _is_missing(column)


def _detects(column: pa.ChunkedArray, when: When, _as_of: date) -> np.ndarray:
    return scanner.detect(column, when.detects or "")


_COLUMN_RULES: dict[str, Callable[[pa.ChunkedArray, When, date], np.ndarray]] = {
    "equals": _equals,
    "in_": _equals,
    "greater_than": _compare,
    "less_than": _compare,
    "age_days_gt": _older,
    "missing": _missing,
    "detects": _detects,
}


def _numeric(column: pa.ChunkedArray, when: When) -> pa.ChunkedArray:
    try:
        return column.cast(pa.float64())
    except pa.ArrowException as error:
        message = f"policy column {when.column}: expected numbers, got {column.type}"
        raise DataError(message) from error


def _bool(mask: pa.ChunkedArray) -> np.ndarray:
    return np.array(pc.fill_null(mask, False).to_numpy(), dtype=bool)


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
