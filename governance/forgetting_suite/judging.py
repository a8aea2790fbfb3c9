"""What a row may be read as: met, not met, or nothing at all.

A row counts only if it can see what it is about: the original must miss the target and the second
retrain must meet it. Otherwise it has no power here, or is void, and its value proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from governance.forgetting_metrics.estimates import Estimate
from governance.forgetting_suite.catalogue import Metric

ORIGINAL, UNLEARNED, SECOND = "original", "unlearned", "second_retrain"
COLUMNS = (ORIGINAL, UNLEARNED, SECOND)

OUTCOMES = {
    "met": "the target is met, and the same number shows that the original misses it",
    "not_met": "the target is missed",
    "no_power": "the original meets the target too: nothing follows from this number here",
    "void": "a second retrain misses the target: nothing follows from this number here",
    "unknown": "nothing can be said, for the reason given",
    "shown": "printed for comparison with the literature",
}


def outcome(metric: Metric, columns: Mapping[str, Estimate], null: float | None = None) -> str:
    """Return one of ``OUTCOMES`` for a row.

    Args:
        metric: Line of the catalogue.
        columns: ``original``, ``unlearned`` and ``second_retrain``.
        null: Limit of the rule ``null``.
    """
    if any(estimate.value is None for estimate in columns.values()):
        return "unknown"
    if metric.rule == "shown":
        return "shown"
    met = {name: meets(metric, columns[name], columns[SECOND], null) for name in COLUMNS}
    if not met[SECOND]:
        return "void"
    if not met[UNLEARNED]:
        return "not_met"
    return "no_power" if met[ORIGINAL] else "met"


def meets(metric: Metric, one: Estimate, second: Estimate, null: float | None = None) -> bool:
    """Return whether a number meets the target of its metric.

    Raises:
        KeyError: The catalogue names a rule that does not exist.
    """
    value, low, high = ends(one)
    target, target_low, target_high = ends(second)
    limit = metric.limit
    rules = {
        "overlap": abs(value - target) <= limit or (low <= target_high and high >= target_low),
        "not_below": value >= target - limit or high >= target_low,
        "not_above": value <= target + limit or low <= target_high,
        "low_at_most": low <= limit,
        "high_at_most": high <= limit,
        "at_most": value <= limit,
        "at_least": value >= limit,
        "between": limit <= value <= metric.upper,
        "null": null is not None and value <= null,
    }
    return bool(rules[metric.rule])


def ends(estimate: Estimate) -> tuple[float, float, float]:
    """Return value, low and high; a number without an interval is its own.

    Raises:
        ValueError: There is no value.
    """
    if estimate.value is None:
        message = f"expected a value, got none: {estimate.why_none}"
        raise ValueError(message)
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return estimate.value, low, high
