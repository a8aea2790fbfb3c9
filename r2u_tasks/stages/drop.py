"""Stage ``drop``: a download of California's DROP into the queue, and its answer file out.

<root>/drop/<digest>/items.parquet      every work item with its hash (mode 600); kept, as the law
                                        asks, so that later data are screened too
<root>/drop/<digest>/matches.json       number of persons that were found for each item
<root>/drop/<digest>/opted_out.csv      persons behind shared identifiers, for whoever opts them out
<root>/drop/<digest>/status/*.csv       answer files, each item once

An item that means one person becomes a request (regime ``drop``, verified by the platform). One
that several persons share is not deleted; it is answered 4 only after somebody said that all of
them were opted out. One that means nobody is answered 5. Everything can be run twice.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from governance.deletion_queue import DeletionQueue, Outcome, Pseudonyms, State, SubmittedRequest
from governance.digests import read_json, write_atomic, write_json
from governance.drop import (
    BadLine,
    DropName,
    DropStatus,
    WorkItem,
    download_names,
    parse_name,
    read_download,
    write_statuses,
)
from governance.drop_matching import match_items
from governance.errors import DataError
from governance.rejects import harmless, write_rejects
from governance.request_files import OTHER, Row
from governance.suppression import pseudonyms
from r2u_tasks.stages.context import JSON, StageContext, open_context

_ANSWERS = {
    Outcome.FORGOTTEN: DropStatus.DELETED,
    Outcome.ALREADY_FORGOTTEN: DropStatus.DELETED,
    Outcome.PARTIAL: DropStatus.DELETED,  # what is not exempt was deleted
    Outcome.KEPT_EXEMPT: DropStatus.EXEMPTED,
}
"""Other outcomes (cancelled, rejected, not found in this dataset) are for a person to answer."""

_ITEMS = "items.parquet"
_MATCHES = "matches.json"


def take_download(context: StageContext, path: Path, digest: str, receipt: JSON) -> JSON:
    """Read a download, screen our persons against all lists, and return the completed receipt.

    Raises:
        DataError: The archive is refused as a whole, or the declaration has no ``drop`` part.
    """
    settings = context.declaration.drop
    if settings is None:
        message = "DROP download: expected a 'drop' part in the dataset declaration, got none"
        raise DataError(message)
    reject_path = context.workspace.rejects / f"{digest[7:23]}.csv"
    items: list[WorkItem] = []
    with write_rejects(reject_path) as rejects:
        for one in read_download(path, broker_id=settings.broker_id):
            if isinstance(one, BadLine):
                rejects.add(Row(one.line, {OTHER: f"in {one.file}"}), one.reason)
            else:
                items.append(one)
    names = download_names(path, broker_id=settings.broker_id)
    folder = _home(context) / digest[7:23]
    _save(folder, items, names)
    return {
        **receipt,
        "read": len(items) + rejects.count,
        "accepted": len(items),
        "rejected": rejects.count,
        "rejects": reject_path.name if rejects.count else None,
        "drop": {"batch": folder.name, **_cancel(context, items), **_screen(context)},
    }


def screen_persons(*, dataset: str, root_uri: str) -> JSON:
    """Compare our persons with every work item that was ever downloaded and not taken back.

    The law asks for it at least every 45 days: who was not there at the first look may be now.
    """
    return _screen(open_context(dataset, root_uri))


def answer_items(*, dataset: str, root_uri: str, opted_out: bool = False) -> JSON:
    """Write the answers that can be given now, each work item once.

    Args:
        dataset: Declaration.
        root_uri: Workspace.
        opted_out: Somebody says that everyone in each ``opted_out.csv`` was opted out.

    Returns:
        ``files`` (paths) and counts: ``answered``, ``waiting`` for their requests, ``shared``
        items not answered because ``opted_out`` was not said, ``by_hand`` with another outcome.
    """
    context = open_context(dataset, root_uri)
    totals = dict.fromkeys(("answered", "waiting", "shared", "by_hand"), 0)
    files: list[str] = []
    removed = _removed_ids(context)
    for folder in _downloads(context):
        if not (folder / _MATCHES).exists():
            continue  # our table could not be read then; the download is to be dropped again
        statuses = _statuses(context.queue, folder, removed, totals, opted_out=opted_out)
        for name, answers in statuses.items():
            path = _next_file(folder / "status", parse_name(name))
            if answers:
                totals["answered"] += write_statuses(path, answers)
                files.append(str(path))
    return {"files": files, **totals}


def _screen(context: StageContext) -> JSON:
    """Match all kept items and submit a request for each one that means one person."""
    removed = _removed_ids(context)
    wanted: dict[str, dict[str, list[str]]] = {}
    for folder in _downloads(context):
        for item_id, hashed, kind in _items(folder):
            if item_id not in removed:
                wanted.setdefault(kind, {}).setdefault(hashed, []).append(item_id)
    matches = match_items(context.declaration, wanted)
    counts = dict.fromkeys(("one_person", "shared", "nobody", "new_requests"), 0)
    for folder in _downloads(context):
        ids = [i for i, _, _ in _items(folder) if i not in removed]
        known: JSON = read_json(folder / _MATCHES) if (folder / _MATCHES).exists() else {}
        found = {i: matches.subjects[i] for i in ids if i in matches.subjects}
        alone = {i: next(iter(s)) for i, s in found.items() if len(s) == 1}
        counts["new_requests"] += _submit(context, alone)
        # Who was found once stays found, also when the row is gone: that was the point.
        known |= {i: len(s) for i, s in found.items()}
        _save_shared(folder, {i: s for i, s in found.items() if len(s) > 1})
        write_json(folder / _MATCHES, known)
        counts["one_person"] += sum(known.get(i) == 1 for i in ids)
        counts["shared"] += sum(known.get(i, 0) > 1 for i in ids)
        counts["nobody"] += sum(i not in known for i in ids)
    return {**counts, "persons": matches.n_persons, "without_hash": matches.n_without_hash}


def _submit(context: StageContext, alone: dict[str, str]) -> int:
    persons, now = list(alone.values()), datetime.now(UTC)
    under = [pseudonyms(key, "subject", persons) for key in context.key_ring.keys]
    requests = []
    for item, names in zip(alone, zip(*under, strict=True), strict=True):
        newest, *earlier = (
            Pseudonyms(key_id=key_id, subject_key=name)
            for key_id, name in zip(context.key_ring.ids, names, strict=True)
        )
        requests.append(
            SubmittedRequest(
                request_id=_request_id(item),
                subject_key=newest.subject_key,
                key_id=newest.key_id,
                earlier=tuple(earlier),
                verified=True,  # the platform verified the consumer
                received_at=now,
                regime="drop",
            )
        )
    receipts = context.queue.submit_many(_with_own_ids(context.queue, requests))
    return sum(receipt.is_new for receipt in receipts)


def _with_own_ids(
    queue: DeletionQueue, requests: Sequence[SubmittedRequest]
) -> list[SubmittedRequest]:
    """Give another person under the same identifier, after the first, a request of their own.

    Its id ends with the begin of the target, under the key by which it is known already.
    """
    first = queue.known_targets([str(r.request_id) for r in requests])
    others = {
        r.request_id: [f"{r.request_id}-{target[:8]}" for target in r.target_keys]
        for r in requests
        if first.get(str(r.request_id), r.target_keys[0]) not in r.target_keys
    }
    known = queue.known_targets([name for names in others.values() for name in names])
    own = {
        request_id: next((name for name in names if name in known), names[0])
        for request_id, names in others.items()
    }
    return [replace(r, request_id=own.get(r.request_id, r.request_id)) for r in requests]


def _cancel(context: StageContext, items: Sequence[WorkItem]) -> JSON:
    """Cancel the requests of consumers who took theirs back, as far as that is possible."""
    counts = dict.fromkeys(("removed", "cancelled", "too_late"), 0)
    ids = [item.item_id for item in items if item.is_removed]
    known = context.queue.known_targets([_request_id(item) for item in ids])
    for item in ids:
        counts["removed"] += 1
        if _request_id(item) in known:
            honoured = context.queue.cancel(
                _request_id(item), now=datetime.now(UTC), reason="taken back on the platform"
            )
            counts["cancelled" if honoured else "too_late"] += 1
    return counts


def _statuses(
    queue: DeletionQueue,
    folder: Path,
    removed: set[str],
    totals: dict[str, int],
    *,
    opted_out: bool,
) -> dict[str, list[tuple[str, DropStatus]]]:
    done = set(_reported(folder))
    matches: dict[str, int] = read_json(folder / _MATCHES)
    names = {parse_name(name).kind: name for name in read_json(folder / "names.json")}
    statuses: dict[str, list[tuple[str, DropStatus]]] = {name: [] for name in names.values()}
    for item, _, kind in _items(folder):
        if item in done or item in removed:
            continue
        status, why = _status(queue, item, matches.get(item, 0), opted_out=opted_out)
        if status is None:
            totals[why] += 1
        else:
            statuses[names[kind]].append((item, status))
    return statuses


def _status(
    queue: DeletionQueue, item: str, n_persons: int, *, opted_out: bool
) -> tuple[DropStatus | None, str]:
    if n_persons == 0:
        return DropStatus.NOT_FOUND, ""
    if n_persons > 1:
        return (DropStatus.OPTED_OUT if opted_out else None), "shared"
    row = queue.get(_request_id(item))
    if row.duplicate_of is not None:
        row = queue.get(row.duplicate_of)
    if row.state != State.CLOSED or row.outcome is None:
        return None, "waiting"
    return _ANSWERS.get(Outcome(row.outcome)), "by_hand"


def _save(folder: Path, items: Sequence[WorkItem], names: Sequence[DropName]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    table = pa.table(
        {
            "id": pa.array([item.item_id for item in items], pa.string()),
            "hash": pa.array([item.identifier_hash for item in items], pa.string()),
            "list": pa.array([item.list_type for item in items], pa.string()),
            "is_removed": pa.array([item.is_removed for item in items], pa.bool_()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    write_atomic(folder / _ITEMS, sink.getvalue(), mode=0o600)
    write_json(folder / "names.json", sorted(str(name) for name in names))


def _save_shared(folder: Path, shared: dict[str, frozenset[str]]) -> None:
    if not shared:
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("work_item", "subject_id"))
    for item in sorted(shared):
        writer.writerows((item, harmless(subject)) for subject in sorted(shared[item]))
    write_atomic(folder / "opted_out.csv", text.getvalue().encode(), mode=0o600)


def _items(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield id, hash and list of the items that were asked for (not of those taken back)."""
    table = pq.read_table(folder / _ITEMS)
    columns = [table[name].to_pylist() for name in ("id", "hash", "list", "is_removed")]
    return (row[:3] for row in zip(*columns, strict=True) if not row[3])


def _flags(folder: Path) -> Iterator[tuple[str, bool]]:
    table = pq.read_table(folder / _ITEMS, columns=["id", "is_removed"])
    return zip(table["id"].to_pylist(), table["is_removed"].to_pylist(), strict=True)


def _removed_ids(context: StageContext) -> set[str]:
    return {item for f in _downloads(context) for item, removed in _flags(f) if removed}


def _reported(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "status").glob("*.csv")):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            yield line.partition(",")[0]


def _next_file(folder: Path, name: DropName) -> Path:
    """Return the name of the next answer file: the platform refuses a name twice."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob(f"{name.day}_{name.broker_id}_{name.kind}*.csv")))
    suffix = name.suffix if number == 0 else f"part{number + 1:02d}"
    return folder / str(DropName(name.day, name.broker_id, name.kind, suffix))


def _downloads(context: StageContext) -> list[Path]:
    return sorted(path.parent for path in _home(context).glob(f"*/{_ITEMS}"))


def _home(context: StageContext) -> Path:
    return context.workspace.root / "drop"


def _request_id(item_id: str) -> str:
    return f"drop-{item_id}"
