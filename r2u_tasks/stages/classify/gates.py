"""Gates of Great Expectations, before the rules and after them; a critical failure stops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from governance.classification import RiskGroup
from governance.classification.runs import RunRecord
from governance.classification.staging import Staging
from governance.declaration import Declaration
from governance.expectations import GateResult, require_passed, run_gate
from governance.policy import Policy
from governance.suites import describe_groups, drift_figures, drift_suite, input_suite, result_suite
from governance.suppression import pseudonym_array
from governance.workspace import safe_key
from r2u_tasks.stages.context import StageContext

_log = logging.getLogger(__name__)
_ROWS_PER_SHARD = 500_000


def input_gate(context: StageContext, staging: Staging, policy: Policy, run_id: str) -> GateResult:
    """Gate the staged rows.

    Raises:
        ValidationFailedError: A critical expectation failed.
    """
    gate = run_gate(
        "input",
        _shards(staging, partial(_input_shard, staging, context.declaration)),
        input_suite(context.declaration, policy),
        keys=partial(_record_keys, context),
        rows_path=context.workspace.classifications / safe_key(run_id) / "failing-input.parquet",
    )
    _warn(gate)
    require_passed(gate)
    return gate


def result_gates(
    context: StageContext,
    staging: Staging,
    policy: Policy,
    groups: list[RiskGroup],
    previous: RunRecord | None,
    folder: Path,
) -> list[GateResult]:
    """Gate the decisions and their drift; raises before anything is published."""
    before = None if previous is None else previous.distribution
    now = describe_groups(groups, policy.digest)
    same_policy = before is not None and before.policy_digest == policy.digest
    result = run_gate(
        "result",
        _shards(
            staging, lambda bucket: _result_shard(staging, groups, context.declaration, bucket)
        ),
        result_suite(),
        keys=partial(_record_keys, context),
        rows_path=folder / "failing-result.parquet",
    )
    figures = drift_figures(now, before)
    drift = run_gate(
        "drift",
        [pa.table({name: [value] for name, value in figures.items()})],
        drift_suite(policy, has_previous=before is not None, same_policy=same_policy),
    )
    for gate in (result, drift):
        _warn(gate)
        require_passed(gate)
    return [result, drift]


def _warn(gate: GateResult) -> None:
    for failure in gate.failures:
        _log.warning("gate %s: %s", gate.suite, failure)


def _shards(staging: Staging, make: Callable[[int], pa.Table]) -> Iterator[pa.Table]:
    """Yield tables of about as many rows, from whole buckets."""
    waiting: list[pa.Table] = []
    for bucket in staging.buckets():
        waiting.append(make(bucket))
        if sum(table.num_rows for table in waiting) >= _ROWS_PER_SHARD:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _input_shard(staging: Staging, declaration: Declaration, bucket: int) -> pa.Table:
    columns = declaration.columns
    names = dict.fromkeys([columns.record_id, columns.subject_id, *columns.governance])
    rows = staging.rows(bucket, [*names, columns.label.name])
    label = rows[columns.label.name]
    if pa.types.is_floating(label.type):
        label = label.cast(pa.int64())
    place = rows.column_names.index(columns.label.name)
    return rows.set_column(place, columns.label.name, label.cast(pa.string()))


def _result_shard(
    staging: Staging, groups: list[RiskGroup], declaration: Declaration, bucket: int
) -> pa.Table:
    names = ("risk_level", "erasure_probability", "expected_cost", "policy_digest")
    decided = staging.decisions(bucket, groups, (*names, "deciding_rules"))
    n_reasons = pc.list_value_length(decided["deciding_rules"])
    id_column = declaration.columns.record_id
    ids = staging.rows(bucket, (id_column,))[id_column]
    return (
        decided.select(list(names))
        .append_column("n_reasons", n_reasons)
        .append_column(id_column, ids)
    )


def _record_keys(context: StageContext, rows: pa.Table) -> pa.Array:
    ids = pc.fill_null(rows[context.declaration.columns.record_id], "")
    return pseudonym_array(context.pseudonym_key, "record", ids)
