"""OpenLineage events of our runs, with a facet that says what was erased. File transport.

One JSON object a line, as OpenLineage's file transport writes them, so that any consumer of it can
read or forward them. Off unless the declaration has ``openlineage``. Events hold names of tables
and models, counts and digests, never personal data; the error of a failed run is its class alone.

An event is known by run and type: writing it twice adds nothing, so that a stage that is run again
after a kill leaves one of each. A run that failed and was tried again has FAIL and COMPLETE; the
later one counts.

Source: OpenLineage specification 2-0-2, run events; facets DatasetType 1-0-1, DatasetVersion 1-0-1,
LifecycleStateChange 1-0-1, OutputStatistics 1-0-2, JobType 2-0-4. It has no event for an erasure:
the facet ``erasure`` (docs/openlineage/ErasureDatasetFacet.json) stands beside OVERWRITE.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from governance.digests import canonical_json

JSON = dict[str, Any]

PRODUCER = "https://ready2unlearn.dev/openlineage/producer"
ERASURE_SCHEMA = (
    "https://ready2unlearn.dev/openlineage/1-0-0/ErasureDatasetFacet.json"
    "#/$defs/ErasureDatasetFacet"
)
_SPEC = "https://openlineage.io/spec"
_EVENT_SCHEMA = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"


class EventType(StrEnum):
    """Transitions of a run."""

    START = "START"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A table or a model that a run reads or writes.

    Attributes:
        name: Its name within the namespace.
        kind: ``TABLE``, ``MODEL`` or ``FILE``.
        version: Version of a table, digest of a model's weights.
        n_rows: Rows after the run, for an output.
        overwritten: Whether rows of it were removed or replaced.
        erasure: Content of the facet ``erasure`` (``erasure_facet``).
    """

    name: str
    kind: str = "TABLE"
    version: str | None = None
    n_rows: int | None = None
    overwritten: bool = False
    erasure: JSON | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvent:
    """A transition of a run.

    Attributes:
        job: Name of the job, for example ``people.unlearn_batch``.
        run_key: Our name of the run; the OpenLineage id follows from it.
        type: Transition.
        at: When.
        inputs: What it reads.
        outputs: What it writes.
        error: Class of the error of a failed run.
    """

    job: str
    run_key: str
    type: EventType
    at: datetime
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class EventFile:
    """A file of events.

    Attributes:
        path: JSON Lines file; made by the first event.
        namespace: Namespace of jobs and datasets.
    """

    path: Path
    namespace: str = field(default="ready2unlearn")

    def emit(self, event: RunEvent) -> bool:
        """Append an event durably, unless this run has one of the type already.

        Returns:
            Whether it was appended.
        """
        content = to_openlineage(event, self.namespace)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            data = file.read()
            if any(_is_same(line, content) for line in data.splitlines()):
                return False
            torn = b"\n" if data and not data.endswith(b"\n") else b""
            file.write(torn + canonical_json(content) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return True


def run_id(namespace: str, job: str, run_key: str) -> str:
    """Return the UUID of a run: the same for the same run, also in another process."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}/{namespace}/{job}/{run_key}"))


def to_openlineage(event: RunEvent, namespace: str) -> JSON:
    """Return an event as OpenLineage has it."""
    run: JSON = {"runId": run_id(namespace, event.job, event.run_key), "facets": {}}
    if event.error is not None:
        facet = _facet("facets/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet")
        facet |= {"message": event.error, "programmingLanguage": "PYTHON"}
        run["facets"]["errorMessage"] = facet
    job_type = _facet("facets/2-0-4/JobTypeJobFacet.json#/$defs/JobTypeJobFacet")
    job_type |= {"processingType": "BATCH", "integration": "READY2UNLEARN", "jobType": "JOB"}
    return {
        "eventType": event.type.value,
        "eventTime": event.at.isoformat(),
        "producer": PRODUCER,
        "schemaURL": _EVENT_SCHEMA,
        "run": run,
        "job": {"namespace": namespace, "name": event.job, "facets": {"jobType": job_type}},
        "inputs": [_dataset(item, namespace) for item in event.inputs],
        "outputs": [_output(item, namespace) for item in event.outputs],
    }


def erasure_facet(
    *,
    batch_id: str,
    n_requests: int,
    n_records: int,
    claim: str,
    lane: str,
    bundle_root: str | None,
    ledger_entry: str,
    table: JSON | None = None,
    parent_model: str | None = None,
) -> JSON:
    """Return the content of the facet ``erasure``.

    Args:
        batch_id: Batch.
        n_requests: Requests that were answered by the erasure.
        n_records: Records that they were about.
        claim: What may be said of the models.
        lane: How the batch was served.
        bundle_root: Root of the evidence bundle.
        ledger_entry: Digest of the entry that closed the batch.
        table: Counts and digests of one table, from ``erasure.json``.
        parent_model: For a model: the one that it replaces.
    """
    facet: JSON = {
        "_producer": PRODUCER,
        "_schemaURL": ERASURE_SCHEMA,
        "batchId": batch_id,
        "requestCount": n_requests,
        "recordCount": n_records,
        "claim": claim,
        "lane": lane,
        "bundleRoot": bundle_root,
        "ledgerEntry": ledger_entry,
    }
    if table is not None:
        same = table["untouched_digest_before"] == table["untouched_digest_after"]
        counts = {name: table[name] for name in ("before", "erased", "after")}
        facet["rows"] = {**counts, "othersUntouched": same}
    if parent_model is not None:
        facet["parentModel"] = parent_model
    return facet


def _dataset(item: Dataset, namespace: str) -> JSON:
    kind = _facet("facets/1-0-1/DatasetTypeDatasetFacet.json#/$defs/DatasetTypeDatasetFacet")
    facets: JSON = {"datasetType": {**kind, "datasetType": item.kind}}
    if item.version is not None:
        name = "DatasetVersionDatasetFacet"
        facet = _facet(f"facets/1-0-1/{name}.json#/$defs/{name}")
        facets["version"] = {**facet, "datasetVersion": item.version}
    if item.overwritten:
        name = "LifecycleStateChangeDatasetFacet"
        facet = _facet(f"facets/1-0-1/{name}.json#/$defs/{name}")
        facets["lifecycleStateChange"] = {**facet, "lifecycleStateChange": "OVERWRITE"}
    if item.erasure is not None:
        facets["erasure"] = item.erasure
    return {"namespace": namespace, "name": item.name, "facets": facets}


def _output(item: Dataset, namespace: str) -> JSON:
    content = _dataset(item, namespace)
    if item.n_rows is not None:
        name = "OutputStatisticsOutputDatasetFacet"
        facet = _facet(f"facets/1-0-2/{name}.json#/$defs/{name}")
        content["outputFacets"] = {"outputStatistics": {**facet, "rowCount": item.n_rows}}
    return content


def _facet(schema: str) -> JSON:
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/{schema}"}


def _is_same(line: bytes, content: JSON) -> bool:
    """Tell whether a line is this transition of this run; a torn line is none."""
    try:
        written = json.loads(line)
    except ValueError:
        return False
    same_type: bool = written["eventType"] == content["eventType"]
    return same_type and written["run"]["runId"] == content["run"]["runId"]
