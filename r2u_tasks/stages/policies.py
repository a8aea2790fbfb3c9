"""Stage ``policies``: what a policy says, and what a changed one would do to the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from governance.classification import classify_rows
from governance.classification.overrides import load_overrides
from governance.classification.population import find_looks, find_rare_groups
from governance.policy import Policy, load_policy
from governance.policy.changes import describe_policy, policy_changes
from governance.storage import BUCKET, read_table, table_exists
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.knowledge import load_knowledge


def explain_policy(*, dataset: str, root_uri: str) -> JSON:
    """Return the policy of a dataset in words."""
    context = open_context(dataset, root_uri)
    policy = load_policy(context.declaration.policy_path, context.declaration)
    return {"lines": describe_policy(policy)}


def compare_policies(*, new: str, old: str | None = None, dataset: str, root_uri: str) -> JSON:
    """Return what differs, and which records would change their level.

    Args:
        new: Path of the changed policy.
        old: Path of the policy to compare with; that of the dataset if absent.
        dataset: Declaration.
        root_uri: Workspace; without an ingested table, only the rules are compared.

    Returns:
        ``changes``; with data ``levels`` before and after, ``moved`` by direction, and
        ``by_rules``: what decides about the moved records under the new policy.
    """
    context = open_context(dataset, root_uri)
    declaration = context.declaration
    before = load_policy(Path(old) if old else declaration.policy_path, declaration)
    after = load_policy(Path(new), declaration)
    result: JSON = {
        "old": {"version": before.version, "digest": before.digest},
        "new": {"version": after.version, "digest": after.digest},
        "changes": policy_changes(before, after),
    }
    if table_exists(context.workspace.raw):
        result["data"] = _moves(context, before, after)
    return result


def _moves(context: StageContext, before: Policy, after: Policy) -> JSON:
    levels: dict[str, Counter[str]] = {"old": Counter(), "new": Counter()}
    moved: Counter[str] = Counter()
    by_rules: Counter[str] = Counter()
    old_levels = _classified(context, before)
    for (old, _), (new, rules) in zip(old_levels, _classified(context, after), strict=True):
        for name, column in (("old", old), ("new", new)):
            for entry in pc.value_counts(column).to_pylist():
                levels[name][entry["values"]] += entry["counts"]
        differs = pc.not_equal(old, new)
        ways = pc.binary_join_element_wise(old.filter(differs), new.filter(differs), "_to_")
        texts = pc.binary_join(rules.filter(differs), " ")
        for entry in pc.value_counts(ways).to_pylist():
            moved[entry["values"]] += entry["counts"]
        for entry in pc.value_counts(pc.binary_join_element_wise(ways, texts, ": ")).to_pylist():
            by_rules[entry["values"]] += entry["counts"]
    return {
        "levels": {name: dict(counts) for name, counts in levels.items()},
        "moved": dict(moved),
        "by_rules": dict(by_rules.most_common()),
    }


def _classified(
    context: StageContext, policy: Policy
) -> Iterator[tuple[pa.ChunkedArray, pa.ChunkedArray]]:
    """Yield levels and deciding rules of each bucket of the ingested table."""
    raw = context.workspace.raw
    buckets = read_table(raw, columns=[BUCKET])[BUCKET].unique().sort().to_pylist()
    columns = context.declaration.columns

    def in_buckets(names: tuple[str, ...]) -> Iterator[pa.Table]:
        return (read_table(raw, columns=list(names), bucket=bucket) for bucket in buckets)

    rare = find_rare_groups(in_buckets, policy, subject_id=columns.subject_id)
    looks = find_looks(in_buckets, policy, columns=columns.all_names)
    now = datetime.now(UTC)
    overrides = load_overrides(context.workspace.overrides, now=now, policy_digest=policy.digest)
    for bucket in buckets:
        rows = read_table(raw, bucket=bucket)
        knowledge = load_knowledge(
            context, policy, as_of=now.date(), rare_groups=rare, looks=looks, bucket=bucket
        )
        found = classify_rows(rows, policy, knowledge=knowledge, overrides=overrides).table()
        yield found["risk_level"], found["deciding_rules"]
