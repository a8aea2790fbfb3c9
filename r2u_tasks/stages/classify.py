"""Stage ``classify``: ingest the source, gate it, give every record a risk level, gate the result.

Three steps, so that the middle one can be mapped over buckets: ``ingest_rows`` streams the source
into a staging folder, ``classify_part`` decides about some buckets, ``publish_classified`` applies
the budget and publishes the tables ``raw`` and ``classified``, each in one commit.
``classify_data`` does all three. Memory is bounded by a bucket. Twice is safe: the run id names
staging and both writes. A failing gate raises before anything is published. Erased records and
subjects are dropped at the door.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from governance.classification import (
    GROUP,
    TIE,
    RiskGroup,
    assign_split,
    classify_rows,
    count_levels,
    needed_columns,
)
from governance.classification.conditions import (
    Knowledge,
    count_strata,
    find_named,
    names_values,
)
from governance.classification.explanation import explain_record
from governance.classification.overrides import (
    Overrides,
    copy_overrides,
    find_applied,
    find_strata,
    load_overrides,
)
from governance.classification.population import (
    RANKED,
    Ranking,
    find_looks,
    find_rare_groups,
    rank_records,
)
from governance.classification.runs import RunRecord, latest_run, save_run
from governance.classification.staging import Staging, add_groups, in_parts, remove_left_overs
from governance.declaration import Declaration
from governance.digests import digest_json
from governance.errors import DataError, PermanentError
from governance.expectations import GateResult, require_passed, run_gate
from governance.policy import Policy, load_policy
from governance.source import SourceStream
from governance.storage import (
    BUCKET,
    publish_batches,
    purge_history,
    query,
    read_table,
    table_exists,
    with_buckets,
)
from governance.suites import (
    describe_groups,
    drift_figures,
    drift_suite,
    input_suite,
    result_suite,
)
from governance.suppression import pseudonym_array, read_tombstones, suppress
from governance.workspace import safe_key
from r2u_tasks.stages import events
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.knowledge import load_knowledge

_log = logging.getLogger(__name__)

_ROWS_PER_PART = 2_000_000
_ROWS_PER_SHARD = 500_000


def classify_data(*, run_id: str, dataset: str, root_uri: str, as_of: str | None = None) -> JSON:
    """Classify the records of a dataset: all steps, one after the other.

    Args:
        run_id: Names the run; the same id returns the same result.
        dataset: Declaration.
        root_uri: Workspace.
        as_of: Day (ISO) on which ages are measured; today if absent, then fixed by the run id.

    Returns:
        Tables with versions and row counts, policy, counts by level, results of the gates, records
        to review, overrides, rules and strata that name a value which no row has, and what moved
        since the previous run.

    Raises:
        DataError: The source is not what was declared.
        PolicyError: The policy is wrong.
        ValidationFailedError: A critical expectation failed; former tables are untouched.
    """
    place = {"run_id": run_id, "dataset": dataset, "root_uri": root_uri}
    for part in ingest_rows(**place, as_of=as_of)["parts"]:
        classify_part(**place, part=part)
    return publish_classified(**place)


def ingest_rows(*, run_id: str, dataset: str, root_uri: str, as_of: str | None = None) -> JSON:
    """Stream the source into the staging folder, drop erased rows, and gate the rest.

    Returns:
        ``rows``, ``suppressed``, ``gate``, and ``parts``: lists of buckets for ``classify_part``,
        none if the run is finished.
    """
    context, staging = _open(run_id, dataset, root_uri)
    if context.workspace.is_done("classify", run_id):
        return {"parts": []}
    noted = staging.noted("ingest")
    if noted is None:
        day = date.fromisoformat(as_of) if as_of else datetime.now(UTC).date()
        staging.remove()  # what a killed step left, or a purge did not
        with _leaving_no_rows(staging):
            noted = _ingest(context, staging, day, run_id)
            staging.note("ingest", noted)
    return noted


def classify_part(*, run_id: str, part: list[int], dataset: str, root_uri: str) -> JSON:
    """Decide about the rows of some buckets; parts do not depend on each other."""
    context, staging = _open(run_id, dataset, root_uri)
    noted = staging.noted(f"part-{part[0]}")
    if noted is None:
        noted = _classify_part(context, staging, part)
        staging.note(f"part-{part[0]}", noted)
    return noted


def publish_classified(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Apply the budget, gate the result, publish both tables, and delete the staging folder."""
    context, staging = _open(run_id, dataset, root_uri)

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
        pseudonym_key=context.pseudonym_key,
    )
    found = load_overrides(
        context.workspace.overrides, now=datetime.now(UTC), policy_digest=policy.digest
    )
    return find_applied(pa.table({name: [row[name]] for name in names}), found, knowledge)


def _open(run_id: str, dataset: str, root_uri: str) -> tuple[StageContext, Staging]:
    context = open_context(dataset, root_uri)
    return context, Staging(context.workspace.staging / f"classify-{safe_key(run_id)}")


@contextmanager
def _leaving_no_rows(staging: Staging) -> Iterator[None]:
    """Delete what was staged when the source is refused: it is a copy of personal data."""
    try:
        yield
    except PermanentError:
        staging.remove()
        raise
    except (OSError, pa.ArrowException) as error:
        staging.remove()
        message = (
            f"staging: expected to write the rows of the source, got {type(error).__name__}; "
            "is the disk full? The former tables are untouched"
        )
        raise DataError(message) from None  # the cause may quote a value


def _ingest(context: StageContext, staging: Staging, day: date, run_id: str) -> JSON:
    declaration, workspace = context.declaration, context.workspace
    columns = declaration.columns
    policy = load_policy(declaration.policy_path, declaration)
    workspace.staging.mkdir(parents=True, exist_ok=True)
    remove_left_overs(workspace.staging, besides=staging.folder)
    source = SourceStream(declaration)
    tombstones = read_tombstones(workspace.tombstones)
    n_suppressed = 0

    def kept() -> Iterator[pa.Table]:
        nonlocal n_suppressed
        for part in source:
            rows, dropped = _suppress(context, part, tombstones)
            n_suppressed += dropped
            yield with_buckets(rows, columns.subject_id, declaration.buckets)

    n_rows = staging.write_rows(kept())
    overrides_at = datetime.now(UTC)
    copy_overrides(workspace.overrides, staging.overrides)
    source.require_sound(n_repeated=staging.count_repeated(columns.record_id) if n_rows else 0)
    if not n_rows:
        message = f"source {declaration.source_path.name}: every row belongs to an erased person"
        raise DataError(message)
    folder = workspace.classifications / safe_key(run_id)
    gate = run_gate(
        "input",
        _shards(staging, partial(_input_shard, staging, declaration)),
        input_suite(declaration, policy),
        keys=partial(_record_keys, context),
        rows_path=folder / "failing-input.parquet",
    )
    _warn(gate)
    require_passed(gate)
    buckets = staging.buckets()

    def in_buckets(names: tuple[str, ...]) -> Iterator[pa.Table]:
        return (staging.rows(bucket, names) for bucket in buckets)

    staging.write_rare_groups(find_rare_groups(in_buckets, policy, subject_id=columns.subject_id))
    counts = [staging.n_rows(bucket) for bucket in buckets]
    return {
        "rows": n_rows,
        "suppressed": n_suppressed,
        "as_of": day.isoformat(),
        "overrides_at": overrides_at.isoformat(),
        "gate": gate.to_dict(),
        "policy_digest": policy.digest,
        "looks": find_looks(in_buckets, policy, columns=columns.all_names),
        "parts": in_parts(buckets, counts, rows_per_part=_ROWS_PER_PART),
    }


def _classify_part(context: StageContext, staging: Staging, part: list[int]) -> JSON:
    policy, noted = _policy_of_run(context, staging)
    overrides = _overrides(context, staging, policy, noted)
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


def _publish(context: StageContext, staging: Staging, run_id: str) -> JSON:
    workspace, declaration = context.workspace, context.declaration
    policy, noted = _policy_of_run(context, staging)
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
    for gate in _result_gates(context, staging, policy, groups, previous, folder):
        gates[gate.suite] = gate.to_dict()
    moved = _moves(staging, groups, workspace.classified, declaration)
    counts = _count_revocable(staging, groups, ranking)
    strata, overrides = staging.added_up("strata-*"), _overrides(context, staging, policy, noted)
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


def _result_gates(
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


def _suppress(
    context: StageContext, rows: pa.Table, tombstones: dict[str, set[str]]
) -> tuple[pa.Table, int]:
    columns = context.declaration.columns
    return suppress(
        rows,
        tombstones=tombstones,
        key=context.pseudonym_key,
        record_id_column=columns.record_id,
        subject_id_column=columns.subject_id,
    )


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
            rows, n_suppressed = _suppress(context, make(bucket), tombstones)
            n_seen += rows.num_rows + n_suppressed
            yield from rows.combine_chunks().to_batches()
        if n_seen != n_rows:
            message = f"classify: expected to publish {n_rows} rows, got {n_seen}; start a new run"
            raise DataError(message)

    return stream()


def _moves(
    staging: Staging, groups: list[RiskGroup], classified: Path, declaration: Declaration
) -> JSON | None:
    """Count the records that change their level, by the rules that decide now."""
    if not table_exists(classified):
        return None
    column = declaration.columns.record_id
    totals: dict[tuple[str, str, str], int] = {}
    for bucket in staging.buckets():
        now = staging.decisions(bucket, groups, ("risk_level", "deciding_rules"))
        now = now.append_column("id", staging.rows(bucket, (column,))[column])
        before = read_table(classified, columns=[column, "risk_level"], bucket=bucket)
        found = query(
            f"""
            SELECT b.risk_level AS old, n.risk_level AS new,
                   array_to_string(n.deciding_rules, ' ') AS rules, count(*) AS n
            FROM n JOIN b ON n.id = b."{column}" WHERE n.risk_level <> b.risk_level GROUP BY ALL
            """,  # noqa: S608 - a declared column
            n=now,
            b=before,
        )
        for row in found.to_pylist():
            key = (row["old"], row["new"], row["rules"])
            totals[key] = totals.get(key, 0) + row["n"]
    moved: JSON = {"low_to_high": 0, "high_to_low": 0, "by_rules": {}}
    for (old, new, rules), count in sorted(totals.items()):
        moved[f"{old}_to_{new}"] += count
        moved["by_rules"][f"{old} to {new}: {rules}"] = count
    return moved


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


def _policy_of_run(context: StageContext, staging: Staging) -> tuple[Policy, JSON]:
    """Return the policy with which the run began.

    Raises:
        DataError: The first step was not done, or the policy was changed between the steps.
    """
    noted = staging.noted("ingest")
    policy = load_policy(context.declaration.policy_path, context.declaration)
    if noted is None or noted["policy_digest"] != policy.digest:
        what = "no rows in staging" if noted is None else "another policy than at its begin"
        message = f"classify: expected to go on with a run, got {what}; start a new run"
        raise DataError(message)
    return policy, noted


def _overrides(context: StageContext, staging: Staging, policy: Policy, noted: JSON) -> Overrides:
    """Return what is in force at the ingest, for every bucket of the run alike."""
    overrides = load_overrides(
        context.workspace.overrides,
        now=datetime.fromisoformat(noted["overrides_at"]),
        policy_digest=policy.digest,
        copy=staging.overrides,
    )
    if overrides.expired:
        _log.warning("classify: %d overrides have expired", len(overrides.expired))
    return overrides


def _warn(gate: GateResult) -> None:
    for failure in gate.failures:
        _log.warning("gate %s: %s", gate.suite, failure)


def _digest(groups: list[RiskGroup], policy: Policy, declaration: Declaration) -> str:
    """Digest of what was decided: counts only, so that it may stand in logs and XCom."""
    return digest_json(
        {
            "groups": {group.group: group.n_records for group in groups},
            "policy": policy.digest,
            "declaration": declaration.digest,
        }
    )
