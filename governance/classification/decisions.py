"""The decision about one pattern: level, score parts and the rules that decided.

level high  <=  a rule sets high, a required value is missing (unknown), or a person said so;
                else, unless a person or a rule said low, the probability of erasure reaches the
                threshold, or lies in the review band and nobody has answered yet
level low   <=  otherwise

``set: high`` and unknown cannot be outvoted, not even by a person: who disagrees changes the rule.
The expected cost of what is set high or unknown counts with at least the threshold's probability.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from governance.policy import Policy, Rule

UNKNOWN = "unknown:"
"""Before the column, of a pattern that lacks a required value."""

OVERRIDE = "override:"
"""Before the level and the id of a person's decision: ``override:low:ab12``."""

THRESHOLD = "threshold"
"""Deciding rule of a record whose added probabilities reach the threshold."""

REVIEW = "review"
"""Deciding rule of a record in the review band that nobody has answered for."""

BASE = "base"
"""Deciding rule of a record that no rule matched."""

HIGH, LOW = "high", "low"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about all records of a pattern.

    Attributes:
        level: ``high`` or ``low``.
        probability: Of erasure within the policy's horizon, 0-1.
        cost: Of an erasure, in the unit of the policy's ``base_cost``.
        expected_cost: Orders the records; floored for what is set high or unknown.
        deciding: At least one name.
        parts: JSON of each matched name and its effect.
        needs_review: Whether a person should say.
        is_fixed: Whether a person has said.
        policy_digest: Policy.
    """

    level: str
    probability: float
    cost: float
    expected_cost: float
    deciding: tuple[str, ...]
    parts: str
    needs_review: bool
    is_fixed: bool
    policy_digest: str


def decide(pattern: tuple[str, ...], policy: Policy) -> Decision:
    """Decide about a pattern; depends on the set of names and on nothing else.

    Args:
        pattern: Names of matched rules, and names with the prefixes of this module.
        policy: Risk policy.
    """
    matched = [rule for rule in policy.rules if rule.id in set(pattern)]
    matched.sort(key=lambda rule: rule.id)
    unknown = [name for name in pattern if name.startswith(UNKNOWN)]
    said = {level: _said(pattern, level) for level in (HIGH, LOW)}
    sets = {level: [rule.id for rule in matched if rule.set == level] for level in (HIGH, LOW)}
    added = policy.base_probability + sum(rule.add or 0.0 for rule in matched)
    probability = min(1.0, max(0.0, round(added, 12)))
    cost = policy.base_cost + sum(rule.add_cost or 0.0 for rule in matched)
    reached = probability >= policy.thresholds.high
    in_band = policy.thresholds.review[0] <= probability < policy.thresholds.high
    forced = [*unknown, *sets[HIGH], *said[HIGH]]
    adders = [rule.id for rule in matched if rule.add]
    needs_review = False
    if forced:
        level, deciding = HIGH, forced
    elif said[LOW] or sets[LOW]:
        level, deciding = LOW, said[LOW] or sets[LOW]
    elif reached:
        level, deciding = HIGH, [THRESHOLD, *adders]
    elif in_band:
        level, deciding, needs_review = HIGH, [REVIEW, *adders], True
    else:
        level, deciding = LOW, adders or [BASE]
    ranked = max(probability, policy.thresholds.high) if forced else probability
    parts: dict[str, Any] = {rule.id: rule_effect(rule) for rule in matched}
    parts |= {name: HIGH for name in unknown}
    parts |= {name: key for key, names in said.items() for name in names}
    return Decision(
        level=level,
        probability=probability,
        cost=cost,
        expected_cost=round(ranked * cost, 9),
        deciding=tuple(sorted(deciding)),
        parts=json.dumps(parts, sort_keys=True),
        needs_review=needs_review,
        is_fixed=bool(said[HIGH] or said[LOW]),
        policy_digest=policy.digest,
    )


def rule_effect(rule: Rule) -> dict[str, Any]:
    """Return the effects of a rule: ``set``, ``add``, ``add_cost``, those that it has."""
    effects = {"set": rule.set, "add": rule.add, "add_cost": rule.add_cost}
    return {name: value for name, value in effects.items() if value is not None}


def _said(pattern: tuple[str, ...], level: str) -> list[str]:
    return [name for name in pattern if name.startswith(f"{OVERRIDE}{level}:")]
