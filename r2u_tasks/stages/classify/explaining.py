"""Why a record has its level, in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from governance.classification.conditions import Knowledge
from governance.classification.explanation import explain_record
from governance.classification.overrides import find_applied, load_overrides
from governance.errors import DataError
from governance.policy import Policy, load_policy
from governance.storage import query, table_exists
from r2u_tasks.stages.context import JSON, StageContext, open_context


def explain(*, record_id: str, dataset: str, root_uri: str) -> str:
    """Return in words why a record has its level.

    Raises:
        DataError: No record has that id.
    """
    context = open_context(dataset, root_uri)
    if not table_exists(context.workspace.classified):
        message = "explain: expected a classified table, got none; run `r2u classify` first"
        raise DataError(message)
    id_column = context.declaration.columns.record_id
    rows = query(
        f'SELECT t.* FROM t SEMI JOIN wanted ON t."{id_column}" = wanted.id',  # noqa: S608
        t=context.workspace.classified,
        wanted=pa.table({"id": pa.array([record_id], pa.string())}),
    ).to_pylist()
    if not rows:
        message = "explain: expected the id of a classified record, got an unknown one"
        raise DataError(message)
    policy = load_policy(context.declaration.policy_path, context.declaration)
    return explain_record(rows[0], policy, said=_said(context, rows[0], policy))


def _said(context: StageContext, row: JSON, policy: Policy) -> dict[str, list[str]]:
    columns = context.declaration.columns
    names = [name for name in columns.all_names if name in row]
    knowledge = Knowledge(
        as_of=datetime.now(UTC).date(),
        subject_id=columns.subject_id,
        record_id=columns.record_id,
        pseudonym_keys=context.key_ring.keys,
    )
    found = load_overrides(
        context.workspace.overrides, now=datetime.now(UTC), policy_digest=policy.digest
    )
    return find_applied(pa.table({name: [row[name]] for name in names}), found, knowledge)
