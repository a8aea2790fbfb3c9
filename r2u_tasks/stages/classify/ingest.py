"""First step: stream the source into staging, without erased rows, and gate what stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

import pyarrow as pa

from governance.carrying import Carrier
from governance.classification.overrides import copy_overrides
from governance.classification.population import find_looks, find_rare_groups
from governance.classification.staging import Staging, in_parts, remove_left_overs
from governance.errors import DataError, PermanentError
from governance.policy import load_policy
from governance.source import SourceStream
from governance.storage import with_buckets
from governance.suppression import read_tombstones
from governance.workspace import safe_key
from r2u_tasks.stages.classify.gates import input_gate
from r2u_tasks.stages.classify.run import drop_erased, open_run
from r2u_tasks.stages.context import JSON, StageContext

_ROWS_PER_PART = 2_000_000


def ingest_rows(*, run_id: str, dataset: str, root_uri: str, as_of: str | None = None) -> JSON:
    """Stream the source into the staging folder, drop erased rows, and gate the rest.

    Returns:
        ``rows``, ``suppressed``, ``gate``, and ``parts``: lists of buckets for ``classify_part``,
        none if the run is finished.
    """
    context, staging = open_run(run_id, dataset, root_uri)
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
    carrier = Carrier(
        workspace.tombstones,
        context.key_ring,
        columns=(columns.record_id, columns.subject_id),
        selectable=(*columns.governance, columns.label.name),
    )
    n_suppressed = 0

    def kept() -> Iterator[pa.Table]:
        nonlocal n_suppressed
        for part in source:
            carrier.see(part)
            rows, dropped = drop_erased(context, part, tombstones)
            n_suppressed += dropped
            yield with_buckets(rows, columns.subject_id, declaration.buckets)

    n_rows = staging.write_rows(kept())
    overrides_at = datetime.now(UTC)
    copy_overrides(workspace.overrides, staging.overrides)
    carrier.write(transaction=f"carried-{context.key_ring.ids[0]}-{safe_key(run_id)}")
    source.require_sound(n_repeated=staging.count_repeated(columns.record_id) if n_rows else 0)
    if not n_rows:
        message = f"source {declaration.source_path.name}: every row belongs to an erased person"
        raise DataError(message)
    gate = input_gate(context, staging, policy, run_id)
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
