"""What differs between two policies, rule by rule, in words."""

from __future__ import annotations

from typing import Any

from governance.policy import Policy, Rule
from governance.scanner import BY_LOOKS


def policy_changes(old: Policy, new: Policy) -> list[str]:
    """Return one line for each difference; none if the digests are equal.

    Args:
        old: Present policy.
        new: Proposed policy.
    """
    before, after = _flat(old), _flat(new)
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            lines.append(f"- {name}: {before[name]}")
        elif name not in before:
            lines.append(f"+ {name}: {after[name]}")
        elif before[name] != after[name]:
            lines.append(f"~ {name}: {before[name]} -> {after[name]}")
    return lines


def describe_policy(policy: Policy) -> list[str]:
    """Return the policy in words, one line for each part."""
    low, up = policy.thresholds.review
    lines = [
        f"{policy.name} version {policy.version}, {policy.digest}",
        f"Every record begins with a probability of erasure of {policy.base_probability:.2f} "
        f"within {policy.horizon_days} days and a cost of {policy.base_cost:.2f}.",
        f"High risk from {policy.thresholds.high:.2f}; from {low:.2f} to {up:.2f} a person "
        "decides, and until then it counts as high.",
        f"At most {policy.budget.revocable_share_max:.0%} of the records are revocable: those of "
        "the highest expected cost, which is probability times cost.",
    ]
    if policy.required:
        lines.append(f"A record without {', '.join(policy.required)} is unknown, hence high.")
    for rule in policy.rules:
        lines.append(f"{rule.id}: if {_condition(policy, rule)}, {_effects(rule)}")
    return lines


def _condition(policy: Policy, rule: Rule) -> str:
    when = rule.when.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    column = policy.column_of(rule.when)
    when.pop("column", None)
    quasi = when.pop("quasi", None)
    missing = when.pop("if_missing", None)
    ((kind, value),) = when.items()
    text = kind.replace("_", " ") + f" {value}"
    if column:
        text = f"{column} {text}"
    if quasi:
        text += f" in {', '.join(quasi)}"
    raises = rule.raises_risk and missing is None
    may_lack = kind not in {"missing", "category_under", "detects", "k_anonymity_lt"}
    may_lack |= kind == "detects" and not set(BY_LOOKS).isdisjoint(rule.when.values)
    return text + (" (or nobody knows)" if raises and may_lack else "")


def _effects(rule: Rule) -> str:
    parts = []
    if rule.set is not None:
        parts.append(f"the level is {rule.set}")
    if rule.add is not None:
        parts.append(f"the probability changes by {rule.add:+.2f}")
    if rule.add_cost is not None:
        parts.append(f"the cost rises by {rule.add_cost:.2f}")
    return " and ".join(parts) + (f" [{rule.ground}]" if rule.ground else "")


def _flat(policy: Policy) -> dict[str, Any]:
    content = policy.model_dump(mode="json", by_alias=True, exclude_none=True)
    rules = content.pop("rules")
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    for rule in rules:
        rule_id = rule.pop("id")
        for name, value in rule.items():
            shown = (
                {k: v for k, v in value.items() if v not in ([], ())} if name == "when" else value
            )
            found[f"rules.{rule_id}.{name}"] = shown
    return found
