"""What rules need to know beyond the rows of a bucket, gathered from the workspace."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pyarrow as pa

from governance.calibration.observations import load_observations, request_rates
from governance.classification.conditions import Knowledge
from governance.classification.runs import load_runs
from governance.policy import Policy
from governance.storage import read_table, table_exists
from r2u_tasks.stages.context import StageContext


def load_knowledge(
    context: StageContext,
    policy: Policy,
    *,
    as_of: date,
    rare_groups: dict[str, pa.Table],
    looks: dict[str, dict[str, bool | None]],
    bucket: int,
) -> Knowledge:
    """Return what the rules of a policy need for one bucket.

    Args:
        context: Workspace, declaration and keys.
        policy: Risk policy; what none of its rules asks for is not loaded.
        as_of: Day on which ages are measured.
        rare_groups: From ``find_rare_groups``.
        looks: From ``find_looks``.
        bucket: Bucket of the rows.
    """
    columns = context.declaration.columns
    kinds = {rule.when.kind for rule in policy.rules}
    memorisation = None
    if "memorisation_pct_gt" in kinds and table_exists(context.workspace.memorisation):
        memorisation = read_table(
            context.workspace.memorisation, columns=["record_key", "percentile"], bucket=bucket
        )
    rates: dict[str, float] = {}
    if "request_rate_gt" in kinds:
        rates = request_rates(
            load_runs(context.workspace.classifications),
            load_observations(context.workspace.calibration),
            now=datetime.combine(as_of, time.max, UTC),
        )
    return Knowledge(
        as_of=as_of,
        subject_id=columns.subject_id,
        record_id=columns.record_id,
        pseudonym_keys=context.key_ring.keys,
        rare_groups=rare_groups,
        request_rates=rates,
        memorisation=memorisation,
        looks=looks,
    )
