"""Third step: apply the budget, gate the result, and publish both tables, each in one commit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from governance.classification import GROUP, TIE, RiskGroup, assign_split, count_levels
from governance.classification.conditions import names_values
from governance.classification.overrides import Overrides
from governance.classification.population import RANKED, Ranking, rank_records
from governance.classification.runs import RunRecord, latest_run, save_run
from governance.classification.staging import Staging
from governance.declaration import Declaration
from governance.digests import digest_json
from governance.errors import DataError
from governance.policy import Policy
from governance.storage import BUCKET, publish_batches, purge_history
from governance.suites import describe_groups
from governance.suppression import read_tombstones
from governance.workspace import safe_key
from r2u_tasks.stages import events
from r2u_tasks.stages.classify.gates import result_gates
from r2u_tasks.stages.classify.moves import count_moves
from r2u_tasks.stages.classify.run import drop_erased, open_run, overrides_of_run, policy_of_run
from r2u_tasks.stages.context import JSON, StageContext

_log = logging.getLogger(__name__)


def publish_classified(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Apply the budget, gate the result, publish both tables, and delete the staging folder."""
    context, staging = open_run(run_id, dataset, root_uri)

    def work() -> JSON:
        result: JSON = context.workspace.once(
            "classify", run_id, lambda: _publish(context, staging, run_id)
        )
        return result

    result = events.observe(
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
    staging.remove()
    return result


def _publish(context: StageContext, staging: Staging, run_id: str) -> JSON:
    workspace, declaration = context.workspace, context.declaration
    policy, noted = policy_of_run(context, staging)
    groups = staging.groups()
    ranking = rank_records(
        groups,
        lambda: (staging.decisions(bucket, groups, RANKED) for bucket in staging.buckets()),
        n_records=noted["rows"],
        share_max=policy.budget.revocable_share_max,
    )
    folder = workspace.classifications / safe_key(run_id)
    previous = latest_run(workspace.classifications, besides=safe_key(run_id))
    gates = {"input": noted["gate"]}
    for gate in result_gates(context, staging, policy, groups, previous, folder):
        gates[gate.suite] = gate.to_dict()
    moved = count_moves(staging, groups, workspace.classified, declaration)
    counts = _count_revocable(staging, groups, ranking)
    strata = staging.added_up("strata-*")
    overrides = overrides_of_run(context, staging, policy, noted)
    unmatched = _unmatched(staging, policy, overrides)
    versions = _write_tables(context, staging, groups, ranking, run_id, noted["rows"])
    levels = count_levels(tuple(groups))
    record = RunRecord(
        run_key=safe_key(run_id),
        at=datetime.now(UTC),
        policy_digest=policy.digest,
        policy_version=policy.version,
        horizon_days=policy.horizon_days,
        distribution=describe_groups(groups, policy.digest),
        groups=tuple(groups),
        revocable_by_group=counts,
        strata=strata,
    )
    save_run(workspace.classifications, record)
    review = [group for group in groups if group.decision.needs_review]
    return {
        "raw": {
            "uri": str(workspace.raw),
            "version": versions["raw"],
            "rows": noted["rows"],
            "suppressed": noted["suppressed"],
        },
        "classified": {
            "uri": str(workspace.classified),
            "version": versions["classified"],
            "rows": noted["rows"],
            "digest": _digest(groups, policy, declaration),
        },
        "policy": {"name": policy.name, "version": policy.version, "digest": policy.digest},
        "levels": levels,
        "revocable": sum(counts.values()),
        "gates": gates,
        "review": {
            "n_groups": len(review),
            "n_records": sum(group.n_records for group in review),
        },
        "overrides": {
            "active": len(overrides.active),
            "expired": [override.override_id for override in overrides.expired],
        },
        "unmatched": unmatched,
        "moved": moved,
    }


def _unmatched(staging: Staging, policy: Policy, overrides: Overrides) -> JSON:
    """Return what names a value that no row has, and warn of it: it may be misspelled."""
    named, overridden = staging.added_up("named-*"), staging.added_up("overridden-*")
    rules = [rule.id for rule in policy.rules if names_values(rule) and rule.id not in named]
    strata = [
        override.override_id
        for override in overrides.active
        if override.kind == "stratum" and override.override_id not in overridden
    ]
    for what, names in (("rules", rules), ("overrides of a stratum", strata)):
        if names:
            _log.warning("classify: %s that no row matches: %s", what, ", ".join(names))
    return {"rules": rules, "strata": strata}


def _write_tables(
    context: StageContext,
    staging: Staging,
    groups: list[RiskGroup],
    ranking: Ranking,
    run_id: str,
    n_rows: int,
) -> dict[str, int]:
    """Publish and purge both tables: an older version may hold records that were erased since.

    Tombstones are asked again under the lock of the table, so that what was erased during the run
    does not come back; an erasure that begins later finds the rows in the new version.
    """
    workspace, declaration = context.workspace, context.declaration

    def raw(bucket: int) -> pa.Table:
        rows = staging.rows(bucket)
        return rows.append_column(BUCKET, pa.repeat(pa.scalar(bucket, pa.int32()), rows.num_rows))

    def classified(bucket: int) -> pa.Table:
        rows = raw(bucket)
        decided = ranking.apply(staging.decisions(bucket, groups))
        decided = decided.append_column("split", assign_split(rows, declaration))
        for name in decided.column_names:
            if name != TIE:
                rows = rows.append_column(name, decided[name])
        return rows

    versions = {}
    for name, path, make in (
        ("raw", workspace.raw, raw),
        ("classified", workspace.classified, classified),
    ):
        versions[name] = publish_batches(
            path,
            make(staging.buckets()[0]).schema,
            partial(_batches, context, staging, make, n_rows),
            transaction=f"classify-{safe_key(run_id)}",
        )
        purge_history(path)
    return versions


def _count_revocable(staging: Staging, groups: list[RiskGroup], ranking: Ranking) -> dict[str, int]:
    """Return the number of records within the budget, by risk group."""
    counts: Counter[str] = Counter()
    for bucket in staging.buckets():
        decided = staging.decisions(bucket, groups, (GROUP, *RANKED))
        inside = decided.filter(pa.array(ranking.revocable(decided)))
        for entry in pc.value_counts(inside[GROUP]).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return dict(counts)


def _batches(
    context: StageContext, staging: Staging, make: Callable[[int], pa.Table], n_rows: int
) -> Iterator[pa.RecordBatch]:
    """Return the rows of a table as a stream, without those that were erased by now.

    It ends with an error, and so without a commit, where rows of the ingest are missing.
    """
    tombstones = read_tombstones(context.workspace.tombstones)

    def stream() -> Iterator[pa.RecordBatch]:
        n_seen = 0
        for bucket in staging.buckets():
            rows, n_suppressed = drop_erased(context, make(bucket), tombstones)
            n_seen += rows.num_rows + n_suppressed
            yield from rows.combine_chunks().to_batches()
        if n_seen != n_rows:
            message = f"classify: expected to publish {n_rows} rows, got {n_seen}; start a new run"
            raise DataError(message)

    return stream()


def _digest(groups: list[RiskGroup], policy: Policy, declaration: Declaration) -> str:
    """Digest of what was decided: counts only, so that it may stand in logs and XCom."""
    return digest_json(
        {
            "groups": {group.group: group.n_records for group in groups},
            "policy": policy.digest,
            "declaration": declaration.digest,
        }
    )
