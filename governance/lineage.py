"""Lineage: which models knew a record, until when, and what replaced them.

The truth is our own: ``model.json`` and ``members.parquet`` of every model, the ledger (who served
when, what was erased when) and the tombstones. MLflow is compared with it elsewhere
(``tracking.compare_lineage``) and never read for an answer.

Rules:

* a model *knew* a record when its members name it; one whose members cannot be read may have known
  everything, and is said to;
* a model that was changed by the approximate lane from one that knew a record is told apart from
  one that was made without it: the first is a statistical claim;
* everything here is a pseudonym. A person is found by the key of the workspace, also after the
  erasure: ``erased.parquet`` of a batch joins the pseudonyms of persons and records, and the
  members of old models keep theirs. When the key is destroyed, nobody can ask any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from governance.digests import read_json
from governance.errors import DataError
from governance.ledger import read_entries
from governance.manifest import find_members
from governance.storage import read_table, table_exists
from governance.workspace import Workspace

ERASED_NAME = "erased.parquet"
"""File of a batch that joins the pseudonyms of erased persons and records."""

_ERASED = pa.schema([("subject_key", pa.string()), ("record_key", pa.string())])


@dataclass(frozen=True, slots=True)
class Interval:
    """A time that a model served; ``end`` is None while it lasts."""

    start: datetime
    end: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelNode:
    """A model in the lineage.

    Attributes:
        model_key: Its key.
        kind: ``ready``, ``unlearned``, ``replayed`` or ``retrained``.
        parent: Key of the model that it was made from.
        lane: Lane that made it, if a batch did.
        claim: ``exact`` or ``approximate``, if a batch made it and it was accepted.
        batch_id: Batch that made it.
        weights_digest: Digest of its weights.
        manifest_root: Commitment to the records that it saw.
        policy_digest: Risk policy of its training.
        model_version: Version in MLflow's registry, None if it is not there.
        created_at: When it was made.
        serving: When it served, in order; empty if it never did.
        weights_present: Whether its weights are in the workspace.
        removed_at: When they were removed, as far as the ledger tells.
        holds_erased: Number of its records that each batch erased; None: nobody can tell.
    """

    model_key: str
    kind: str
    parent: str | None
    lane: str | None
    claim: str | None
    batch_id: str | None
    weights_digest: str
    manifest_root: str
    policy_digest: str
    model_version: str | None
    created_at: datetime
    serving: tuple[Interval, ...]
    weights_present: bool
    removed_at: datetime | None
    holds_erased: dict[str, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasure:
    """A batch that erased records.

    Attributes:
        batch_id: Its id.
        started_at: When the ledger said what was about to be erased.
        rows_erased_at: When the rows were gone; None: it did not come so far.
        closed_at: When weights and pools that knew the records were gone.
        n_records: Records that it erased.
    """

    batch_id: str
    started_at: datetime
    rows_erased_at: datetime | None
    closed_at: datetime | None
    n_records: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageGraph:
    """All models and erasures of a workspace.

    Attributes:
        models: In the order in which they were made.
        erasures: In the order in which they started.
        as_of: When this was read.
        ledger_head: Digest of the last ledger entry that was read.
    """

    models: tuple[ModelNode, ...]
    erasures: tuple[Erasure, ...]
    as_of: datetime
    ledger_head: str

    def model(self, model_key: str) -> ModelNode:
        """Return a model.

        Raises:
            DataError: There is no such model.
        """
        for node in self.models:
            if node.model_key == model_key:
                return node
        message = f"lineage: expected the key of a model, got none of the {len(self.models)}"
        raise DataError(message)

    def ancestors(self, model_key: str) -> tuple[str, ...]:
        """Return parent, grandparent and so on; a loop, which cannot be, ends it."""
        parents = {node.model_key: node.parent for node in self.models}
        found: list[str] = []
        parent = parents.get(model_key)
        while parent is not None and parent not in found:
            found.append(parent)
            parent = parents.get(parent)
        return tuple(found)

    def children(self, model_key: str) -> tuple[str, ...]:
        """Return the models that were made from a model."""
        return tuple(node.model_key for node in self.models if node.parent == model_key)

    def successor(self, model_key: str) -> str | None:
        """Return the model that served after the last time that a model served."""
        served = self.model(model_key).serving
        if not served or served[-1].end is None:
            return None
        end = served[-1].end
        for node in self.models:
            if node.model_key != model_key and any(i.start == end for i in node.serving):
                return node.model_key
        return None


def read_graph(workspace: Workspace, *, now: datetime) -> LineageGraph:
    """Read the lineage of a workspace: models, ledger and tombstones; nothing of MLflow."""
    entries = read_entries(workspace.ledger)
    erasures = _erasures(entries)
    erased = erased_records(workspace)
    serving = _serving(entries)
    nodes = [
        _node(path.parent, serving, erasures, erased)
        for path in sorted(workspace.models.glob("*/model.json"))
    ]
    nodes.sort(key=lambda node: (node.created_at, node.model_key))
    head = entries[-1]["digest"] if entries else ""
    return LineageGraph(models=tuple(nodes), erasures=erasures, as_of=now, ledger_head=head)


def erased_records(workspace: Workspace) -> dict[str, set[str]]:
    """Return the pseudonyms of the erased records of each batch."""
    found: dict[str, set[str]] = {}
    if table_exists(workspace.tombstones):
        columns = ["kind", "key", "batch_id"]
        for row in read_table(workspace.tombstones, columns=columns).to_pylist():
            if row["kind"] == "record":
                found.setdefault(row["batch_id"], set()).add(row["key"])
    return found


def write_erased(batch_dir: Path, subject_keys: Sequence[str], record_keys: Sequence[str]) -> None:
    """Keep which pseudonymous person the erased records of a batch belonged to.

    Sorted, so that the order tells nothing of the table's. A repeat writes the same file.

    Args:
        batch_dir: Folder of the batch.
        subject_keys: Pseudonym of the person of each row.
        record_keys: Pseudonym of each row.
    """
    pairs = sorted(set(zip(subject_keys, record_keys, strict=True)))
    columns = [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
    batch_dir.mkdir(parents=True, exist_ok=True)
    temporary = batch_dir / f".{ERASED_NAME}"
    pq.write_table(pa.table(columns, schema=_ERASED), temporary)
    temporary.replace(batch_dir / ERASED_NAME)


def erased_records_of(workspace: Workspace, subject_key: str) -> dict[str, set[str]]:
    """Return the erased records of a person, by batch; empty where no batch erased any."""
    found: dict[str, set[str]] = {}
    for path in sorted(workspace.root.glob(f"batches/*/{ERASED_NAME}")):
        table = pq.read_table(path, filters=[("subject_key", "=", subject_key)])
        if table.num_rows:
            found[path.parent.name] = set(table["record_key"].to_pylist())
    return found


def known_records(
    workspace: Workspace, graph: LineageGraph, record_keys: Collection[str]
) -> dict[str, int | None]:
    """Return how many of the records each model was trained on; None: nobody can tell."""
    counts: dict[str, int | None] = {}
    for node in graph.models:
        try:
            path = workspace.model(node.model_key) / "members.parquet"
            counts[node.model_key] = len(find_members(path, record_keys))
        except DataError:
            counts[node.model_key] = None
    return counts


def _node(
    folder: Path,
    serving: dict[str, tuple[Interval, ...]],
    erasures: Iterable[Erasure],
    erased: dict[str, set[str]],
) -> ModelNode:
    record = read_json(folder / "model.json")
    present = (folder / "weights.safetensors").exists()
    holds = _holds_erased(folder, erased)
    accepted = record.get("verdict") in (None, "accept")
    refused_by = None if accepted else record["batch_id"]
    created_at = datetime.fromisoformat(record["created_at"])
    later = [e.closed_at for e in erasures if _removes(e, holds, refused_by)]
    gone = [moment for moment in later if moment is not None and moment >= created_at]
    return ModelNode(
        model_key=record["model_key"],
        kind=record["kind"],
        parent=record["parent"],
        lane=record["lane"],
        claim=record["claim"] if accepted else None,
        batch_id=record["batch_id"],
        weights_digest=record["weights_digest"],
        manifest_root=record["manifest_root"],
        policy_digest=record["policy_digest"],
        model_version=record.get("model_version"),
        created_at=created_at,
        serving=serving.get(record["model_key"], ()),
        weights_present=present,
        removed_at=None if present else min(gone, default=None),
        holds_erased=holds,
    )


def _holds_erased(folder: Path, erased: dict[str, set[str]]) -> dict[str, int] | None:
    everything: set[str] = set().union(*erased.values())
    try:
        held = find_members(folder / "members.parquet", everything).keys()
    except DataError:
        return None
    counts = {batch_id: len(keys & held) for batch_id, keys in erased.items()}
    return {batch_id: count for batch_id, count in counts.items() if count}


def _removes(erasure: Erasure, holds: dict[str, int] | None, refused_by: str | None) -> bool:
    """Return whether a batch had to remove the weights of a model when it closed.

    It erased a record of the model, refused the model, or could not tell what the model knew.
    """
    return holds is None or erasure.batch_id in holds or erasure.batch_id == refused_by


def _serving(entries: Iterable[dict[str, Any]]) -> dict[str, tuple[Interval, ...]]:
    """Return when each model served: from its promotion to that of another model, or its end."""
    periods: list[tuple[str, datetime, datetime | None]] = []
    for entry in entries:
        if entry["kind"] not in ("model_promoted", "model_retired"):
            continue
        at, key = datetime.fromisoformat(entry["at"]), entry["body"].get("model_key")
        promoted = entry["kind"] == "model_promoted"
        serves = bool(periods) and periods[-1][2] is None
        if serves and promoted == (periods[-1][0] == key):
            continue  # promoted again, or another one than the serving model was retired
        if serves:
            periods[-1] = (periods[-1][0], periods[-1][1], at)
        if promoted:
            periods.append((key, at, None))
    served: dict[str, tuple[Interval, ...]] = {}
    for key, start, end in periods:
        served[key] = (*served.get(key, ()), Interval(start, end))
    return served


def _erasures(entries: Iterable[dict[str, Any]]) -> tuple[Erasure, ...]:
    found: dict[str, dict[str, Any]] = {}
    names = {"rows_erased": "rows_erased_at", "batch_closed": "closed_at"}
    for entry in entries:
        at, body = datetime.fromisoformat(entry["at"]), entry["body"]
        if entry["kind"] == "erasure_started":
            blank = {"started_at": at, "rows_erased_at": None, "closed_at": None}
            facts = found.setdefault(body["batch_id"], blank)
            facts["n_records"] = body["n_records"]
        elif entry["kind"] in names and body["batch_id"] in found:
            found[body["batch_id"]][names[entry["kind"]]] = at
    return tuple(Erasure(batch_id=key, **facts) for key, facts in found.items() if _erased(facts))


def _erased(facts: dict[str, Any]) -> bool:
    return bool(facts["n_records"])


def to_json(value: Any) -> Any:
    """Return records of this module as JSON: instants as ISO 8601 text."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return to_json(asdict(value))
    return value
