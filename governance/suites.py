"""What must hold before and after a classification, as expectations with severities.

``critical`` blocks the chain, ``warning`` and ``info`` are reported. Row expectations are checked
in shards of a table; those of the drift suite on one row of figures about the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.classification import RiskGroup
from governance.classification.decisions import HIGH
from governance.declaration import Declaration
from governance.policy import Policy

_BINS = np.linspace(0.0, 1.0, 11)
_FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation.

    Attributes:
        kind: Name of a Great Expectations class.
        severity: ``critical``, ``warning`` or ``info``.
        arguments: Its arguments; ``mostly`` is judged over all shards together.
    """

    kind: str
    severity: str
    arguments: dict[str, Any]


def input_suite(declaration: Declaration, policy: Policy) -> list[Expectation]:
    """Return what must hold before classification."""
    columns = declaration.columns
    classes = [str(value) for value in columns.label.classes]
    mostly = 1.0 - policy.gates.missing_max
    not_null = "ExpectColumnValuesToNotBeNull"
    return [
        Expectation("ExpectTableRowCountToBeBetween", "critical", {"min_value": 1}),
        Expectation(not_null, "critical", {"column": columns.record_id}),
        Expectation("ExpectColumnValuesToBeUnique", "critical", {"column": columns.record_id}),
        Expectation(not_null, "critical", {"column": columns.subject_id}),
        Expectation(
            "ExpectColumnValuesToBeInSet",
            "critical",
            {"column": columns.label.name, "value_set": classes},
        ),
        *(
            Expectation(not_null, "warning", {"column": name, "mostly": mostly})
            for name in columns.governance
        ),
    ]


def result_suite() -> list[Expectation]:
    """Return what must hold of every decision."""
    between = "ExpectColumnValuesToBeBetween"
    return [
        Expectation(
            "ExpectColumnValuesToBeInSet",
            "critical",
            {"column": "risk_level", "value_set": ["high", "low"]},
        ),
        Expectation(
            between, "critical", {"column": "erasure_probability", "min_value": 0, "max_value": 1}
        ),
        Expectation(between, "critical", {"column": "expected_cost", "min_value": 0}),
        Expectation(between, "critical", {"column": "n_reasons", "min_value": 1}),
        Expectation("ExpectColumnValuesToNotBeNull", "critical", {"column": "policy_digest"}),
    ]


def request_suite() -> list[Expectation]:
    """Return what must hold of deletion requests before they go into the queue.

    Bad rows are sorted out with their reasons before; this says that the sorting worked.
    """
    words = {"regime": r"^[a-z][a-z0-9_-]*$", "hold_ground": r"^[a-z][a-z0-9_-]{0,60}$"}
    words |= {"request_id": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$", "subject_key": r"^[0-9a-f]{64}$"}
    return [
        Expectation("ExpectTableRowCountToBeBetween", "critical", {"min_value": 1}),
        Expectation(
            "ExpectColumnValuesToBeBetween", "critical", {"column": "n_targets", "min_value": 1}
        ),
        *(
            Expectation("ExpectColumnValuesToMatchRegex", "critical", {"column": n, "regex": regex})
            for n, regex in words.items()
        ),
        Expectation(
            "ExpectColumnValuesToMatchRegex",
            "critical",
            {"column": "received_at", "regex": r"^\d{4}-\d\d-\d\dT.*\+00:00$"},
        ),
        Expectation(
            "ExpectColumnMeanToBeBetween", "warning", {"column": "is_good", "min_value": 0.5}
        ),
    ]


def drift_suite(policy: Policy, *, has_previous: bool, same_policy: bool) -> list[Expectation]:
    """Return what must hold of the whole, and of the difference to the previous run.

    Args:
        policy: Gates with their limits.
        has_previous: Whether there is a previous run.
        same_policy: Whether it had the same policy; a changed one moves records on purpose, so
            nothing but lost rows blocks then.
    """
    gates = policy.gates

    def at_most(column: str, severity: str, limit: float) -> Expectation:
        arguments = {"column": column, "max_value": limit}
        return Expectation("ExpectColumnMaxToBeBetween", severity, arguments)

    suite = [
        at_most("high_share", "warning", gates.high_max),
        Expectation(
            "ExpectColumnMinToBeBetween", "info", {"column": "high_share", "min_value": 0.01}
        ),
    ]
    if has_previous:
        suite += [
            at_most("rows_lost_share", "warning", gates.rows_drop[0]),
            at_most("rows_lost_share", "critical", gates.rows_drop[1]),
            at_most("high_share_change", "warning", gates.high_change[0]),
            at_most("largest_rule_share_change", "warning", gates.rule_change),
            at_most("probability_shift", "warning", gates.shift_max),
        ]
        if same_policy:
            suite.append(at_most("high_share_change", "critical", gates.high_change[1]))
    return suite


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the drift suite compares: figures of one classification.

    Attributes:
        policy_digest: Policy.
        n_rows: Records.
        high_share: Share of high-risk records, 0-1.
        rule_shares: Deciding rule and level -> share of the records, 0-1.
        bins: Share of the records in each tenth of the probability.
    """

    policy_digest: str
    n_rows: int
    high_share: float
    rule_shares: dict[str, float]
    bins: list[float]


def describe_groups(groups: list[RiskGroup], policy_digest: str) -> Distribution:
    """Return the figures of a classification from its risk groups."""
    n = sum(group.n_records for group in groups)
    shares: dict[str, float] = {}
    for group in groups:
        for rule in group.decision.deciding:
            name = f"{rule} ({group.decision.level})"
            shares[name] = shares.get(name, 0.0) + group.n_records / n
    probabilities = [group.decision.probability for group in groups]
    weights = [group.n_records / n for group in groups]
    bins, _ = np.histogram(probabilities, bins=_BINS, weights=weights)
    high = sum(group.n_records for group in groups if group.decision.level == HIGH)
    return Distribution(policy_digest, n, high / n, shares, [float(share) for share in bins])


def drift_figures(now: Distribution, before: Distribution | None) -> dict[str, float]:
    """Return one row of figures for the drift suite.

    ``probability_shift`` is the population stability index, sum of (p - q) ln(p / q) over tenths
    of the probability, a symmetric Kullback-Leibler divergence (Jeffreys); empty bins count 1e-4.
    """
    figures = {"n_rows": float(now.n_rows), "high_share": now.high_share}
    if before is None:
        return figures
    names = set(now.rule_shares) | set(before.rule_shares)
    changes = [
        abs(now.rule_shares.get(name, 0.0) - before.rule_shares.get(name, 0.0)) for name in names
    ]
    p = np.maximum(now.bins, _FLOOR)
    q = np.maximum(before.bins, _FLOOR)
    return figures | {
        "rows_lost_share": max(0.0, 1.0 - now.n_rows / before.n_rows),
        "high_share_change": abs(now.high_share - before.high_share),
        "largest_rule_share_change": max(changes, default=0.0),
        "probability_shift": float(np.sum((p - q) * np.log(p / q))),
    }


def failing_rows(shard: pa.Table, expectation: Expectation) -> np.ndarray:
    """Return where a row expectation fails: we name the rows, as the library stores their values.

    Args:
        shard: Rows with the column of the expectation.
        expectation: One about single rows.
    """
    column = shard[expectation.arguments["column"]]
    kind = expectation.kind
    if kind == "ExpectColumnValuesToNotBeNull":
        bad = pc.is_null(column, nan_is_null=True)
    elif kind == "ExpectColumnValuesToBeInSet":
        wanted = pa.array(expectation.arguments["value_set"], pa.string())
        inside = pc.is_in(column.cast(pa.string()), value_set=wanted)
        bad = pc.and_(pc.invert(inside), pc.is_valid(column))
    elif kind == "ExpectColumnValuesToBeBetween":
        low = pc.less(column, expectation.arguments.get("min_value", -np.inf))
        high = pc.greater(column, expectation.arguments.get("max_value", np.inf))
        bad = pc.fill_null(pc.or_(low, high), False)
    elif kind == "ExpectColumnValuesToBeUnique":
        encoded = column.combine_chunks().dictionary_encode()
        counts = np.bincount(encoded.indices.drop_null().to_numpy(), minlength=1)
        again = pa.array(counts > 1).take(encoded.indices)
        bad = pc.fill_null(again, False)
    else:
        return np.zeros(shard.num_rows, dtype=bool)
    if isinstance(bad, pa.ChunkedArray):
        bad = bad.combine_chunks()
    return np.array(bad.to_numpy(zero_copy_only=False), dtype=bool)
