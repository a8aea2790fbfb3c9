"""Stage ``classify``: ingest the source, gate it, give every record a risk level, gate the result.

Reads the declared source, publishes the ``raw`` and ``classified`` tables. Twice is safe: the run
id names both writes. A failing gate raises before anything is published. Erased records and
subjects are dropped at the door.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa

from governance.classification import assign_split, classify_records, explain_record
from governance.declaration import Declaration
from governance.digests import digest_json
from governance.errors import DataError
from governance.expectations import (
    GateResult,
    input_suite,
    require_passed,
    result_suite,
    run_gate,
)
from governance.policy import load_policy
from governance.storage import publish_table, purge_history, read_source, read_table, with_buckets
from governance.suppression import read_tombstones, suppress
from governance.workspace import safe_key
from r2u_tasks.stages import events
from r2u_tasks.stages.context import JSON, StageContext, open_context

_log = logging.getLogger(__name__)


def classify_data(*, run_id: str, dataset: str, root_uri: str, as_of: str | None = None) -> JSON:
    """Classify the records of a dataset.

    Args:
        run_id: Names the run; the same id returns the same result.
        dataset: Declaration.
        root_uri: Workspace.
        as_of: Day (ISO) on which ages are measured; today if absent, then fixed by the run id.

    Returns:
        Tables with versions and row counts, policy, counts by level, results of both gates.

    Raises:
        DataError: The source is not what was declared.
        PolicyError: The policy is wrong.
        ValidationFailedError: A critical expectation failed; former tables are untouched.
    """
    context = open_context(dataset, root_uri)

    def work() -> JSON:
        result: JSON = context.workspace.once(
            "classify", run_id, lambda: _classify(context, run_id, as_of)
        )
        return result

    return events.observe(
        context,
        "classify_data",
        run_id,
        work,
        inputs=(events.source(context),),
        outputs=lambda result: tuple(
            events.table(
                context, name, version=str(result[name]["version"]), n_rows=result[name]["rows"]
            )
            for name in ("raw", "classified")
        ),
    )


def explain(*, record_id: str, dataset: str, root_uri: str) -> str:
    """Return in words why a record has its level.

    Raises:
        DataError: No record has that id.
    """
    context = open_context(dataset, root_uri)
    table = read_table(context.workspace.classified)
    id_column = context.declaration.columns.record_id
    rows = [i for i, value in enumerate(table[id_column].to_pylist()) if value == record_id]
    if not rows:
        message = "explain: expected the id of a classified record, got an unknown one"
        raise DataError(message)
    policy = load_policy(context.declaration.policy_path, context.declaration)
    return explain_record(table.slice(rows[0], 1).to_pylist()[0], policy)


def _classify(context: StageContext, run_id: str, as_of: str | None) -> JSON:
    declaration, workspace = context.declaration, context.workspace
    policy = load_policy(declaration.policy_path, declaration)
    day = date.fromisoformat(as_of) if as_of else datetime.now(UTC).date()
    source = read_source(declaration)
    rows, n_suppressed = suppress(
        source,
        tombstones=read_tombstones(workspace.tombstones),
        key=context.pseudonym_key,
        record_id_column=declaration.columns.record_id,
        subject_id_column=declaration.columns.subject_id,
    )
    before = run_gate("input", _input_frame(rows, declaration), input_suite(declaration))
    require_passed(before)
    raw = with_buckets(rows, declaration.columns.subject_id, declaration.buckets)
    classified = assign_split(
        classify_records(raw, policy, declaration=declaration, as_of=day), declaration
    )
    after = run_gate("result", _result_frame(classified), result_suite())
    require_passed(after)
    key = safe_key(run_id)
    versions = {
        "raw": _publish(workspace.raw, raw, key),
        "classified": _publish(workspace.classified, classified, key),
    }
    levels = classified["risk_level"].to_pylist()
    return {
        "raw": {
            "uri": str(workspace.raw),
            "version": versions["raw"],
            "rows": raw.num_rows,
            "suppressed": n_suppressed,
        },
        "classified": {
            "uri": str(workspace.classified),
            "version": versions["classified"],
            "rows": classified.num_rows,
            "digest": _digest(classified, policy.digest, declaration),
        },
        "policy": {"name": policy.name, "version": policy.version, "digest": policy.digest},
        "levels": {level: levels.count(level) for level in ("high", "low")},
        "revocable": sum(classified["revocable"].to_pylist()),
        "gates": {"input": _gate(before), "result": _gate(after)},
    }


def _publish(path: Path, table: pa.Table, key: str) -> int:
    """Publish and purge: an older version may hold records that were erased since."""
    version = publish_table(path, table, transaction=f"classify-{key}")
    purge_history(path)
    return version


def _input_frame(rows: pa.Table, declaration: Declaration) -> pd.DataFrame:
    columns = declaration.columns
    frame = rows.select([columns.record_id, columns.subject_id, *columns.governance]).to_pandas()
    frame[columns.label.name] = [str(value) for value in rows[columns.label.name].to_pylist()]
    return frame


def _result_frame(classified: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = classified.select(
        ["risk_level", "erasure_probability", "policy_digest"]
    ).to_pandas()
    frame["n_reasons"] = [len(rules) for rules in classified["deciding_rules"].to_pylist()]
    frame["is_high"] = (frame["risk_level"] == "high").astype(float)
    return frame


def _gate(gate: GateResult) -> JSON:
    for failure in gate.failures:
        _log.warning("gate %s: %s", gate.suite, failure)
    return gate.to_dict()


def _digest(classified: pa.Table, policy_digest: str, declaration: Declaration) -> str:
    """Digest of what was decided: counts only, so that it may stand in logs and XCom."""
    return digest_json(
        {
            "rows": classified.num_rows,
            "policy": policy_digest,
            "declaration": declaration.digest,
            "expected_cost": round(sum(classified["expected_cost"].to_pylist()), 6),
        }
    )
