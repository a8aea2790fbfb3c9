"""Second step: decide about the rows of some buckets."""

from __future__ import annotations

from collections import Counter
from datetime import date

from governance.classification import RiskGroup, classify_rows, needed_columns
from governance.classification.conditions import count_strata, find_named, names_values
from governance.classification.overrides import find_strata
from governance.classification.staging import Staging, add_groups
from r2u_tasks.stages.classify.run import open_run, overrides_of_run, policy_of_run
from r2u_tasks.stages.context import JSON, StageContext
from r2u_tasks.stages.knowledge import load_knowledge


def classify_part(*, run_id: str, part: list[int], dataset: str, root_uri: str) -> JSON:
    """Decide about the rows of some buckets; parts do not depend on each other."""
    context, staging = open_run(run_id, dataset, root_uri)
    noted = staging.noted(f"part-{part[0]}")
    if noted is None:
        noted = _decide(context, staging, part)
        staging.note(f"part-{part[0]}", noted)
    return noted


def _decide(context: StageContext, staging: Staging, part: list[int]) -> JSON:
    policy, noted = policy_of_run(context, staging)
    overrides = overrides_of_run(context, staging, policy, noted)
    found: dict[str, RiskGroup] = {}
    strata: Counter[str] = Counter()
    overridden: set[str] = set()
    named: set[str] = set()
    n_rows = 0
    for bucket in part:
        rows = staging.rows(bucket, needed_columns(policy, context.declaration, overrides))
        knowledge = load_knowledge(
            context,
            policy,
            as_of=date.fromisoformat(noted["as_of"]),
            rare_groups=staging.rare_groups(),
            looks=noted["looks"],
            bucket=bucket,
        )
        classified = classify_rows(rows, policy, knowledge=knowledge, overrides=overrides)
        staging.write_decisions(bucket, classified)
        for group in classified.groups:
            found[group.group] = add_groups(found.get(group.group), group)
        n_rows += rows.num_rows
        overridden |= find_strata(rows, overrides)
        unseen = [rule for rule in policy.rules if names_values(rule) and rule.id not in named]
        named |= find_named(rows, unseen, policy, knowledge)
        for stratum, count in count_strata(rows, policy, knowledge).items():
            strata[stratum] += count
    staging.write_groups(part[0], found.values())
    staging.note(f"strata-{part[0]}", dict(strata))
    staging.note(f"overridden-{part[0]}", dict.fromkeys(sorted(overridden), 1))
    staging.note(f"named-{part[0]}", dict.fromkeys(sorted(named), 1))
    return {"part": part, "rows": n_rows, "groups": len(found)}
