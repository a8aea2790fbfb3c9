"""Why a record has its level, in words; holds rule ids and numbers only."""

from __future__ import annotations

import json
from typing import Any

from governance.classification.decisions import OVERRIDE, REVIEW, UNKNOWN
from governance.classification.overrides import DIRECT
from governance.policy import Policy


def explain_record(
    row: dict[str, Any], policy: Policy, *, said: dict[str, list[str]] | None = None
) -> str:
    """Return in words why a classified row has its level.

    Args:
        row: Decision columns of the record.
        policy: The policy that decided, for grounds and thresholds.
        said: Level -> ids of the overrides that hold for this record, of ``find_applied``.
    """
    parts: dict[str, Any] = json.loads(str(row["score_parts"]))
    grounds = {rule.id: rule.ground for rule in policy.rules}
    budget = "within the budget" if row.get("revocable") else "not in the revocable set"
    lines = [
        f"risk {row['risk_level']}: probability of erasure {row['erasure_probability']:.2f} in "
        f"{policy.horizon_days} days (high from {policy.thresholds.high:.2f}), "
        f"cost if erased {row['erasure_cost']:.2f}, expected cost {row['expected_cost']:.3f}; "
        f"{budget}",
        f"  base probability {policy.base_probability:+.2f}, base cost {policy.base_cost:.2f}",
    ]
    lines += [
        f"  {_matched(name, parts[name], grounds.get(name), said or {})}" for name in sorted(parts)
    ]
    lines.append("  decided by: " + ", ".join(str(name) for name in row["deciding_rules"]))
    if REVIEW in row["deciding_rules"]:
        lines.append("  counts as high until a person answers: r2u review list")
    if row.get("policy_digest") != policy.digest:
        lines.append("  the policy has changed since; classify again to apply it")
    return "\n".join(lines)


def _matched(name: str, effect: Any, ground: str | None, said: dict[str, list[str]]) -> str:
    if name.startswith(UNKNOWN):
        return f"column {name.removeprefix(UNKNOWN)} has no value: unknown is high"
    if name.startswith(OVERRIDE):
        level, _, override_id = name.removeprefix(OVERRIDE).partition(":")
        if override_id != DIRECT:
            return f"a person said {level} (override {override_id})"
        which = ", ".join(said.get(level, ())) or "that has ended since: r2u override list"
        return f"a person said {level} (override {which})"
    words = {
        "set": lambda value: f"sets {value}",
        "add": lambda value: f"{value:+.2f}",
        "add_cost": lambda value: f"cost {value:+.2f}",
    }
    text = ", ".join(words[key](effect[key]) for key in ("set", "add", "add_cost") if key in effect)
    return f"rule {name}: {text}" + (f" ({ground})" if ground else "")
