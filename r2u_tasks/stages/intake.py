"""Stage ``intake``: the files of the inbox into the deletion queue.

A request file is CSV, JSON Lines or Parquet (``governance.request_files``); a ZIP is a download of
California's DROP (``r2u_tasks.stages.drop``). Laws:

* good rows go in, bad rows go to ``rejects/`` with the reason: read = accepted + rejected, always;
* a file whose rows cannot be told apart is refused as a whole and moved to ``rejects/``; the others
  go on;
* the same bytes again are a no-op that says so;
* a killed run doubles nothing: the ids of rows follow from the file, and the file is removed after
  its receipt is written;
* what goes in has passed a Great Expectations suite; a batch that does not pass is not stored.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from governance.deletion_queue import State, SubmittedRequest
from governance.digests import digest_file
from governance.errors import DataError, RequestError, TransientError
from governance.expectations import require_passed, run_gate
from governance.rejects import RejectWriter, write_rejects
from governance.request_files import SUFFIXES, Row, count_rows, read_rows
from governance.request_rows import ParsedBatch, RowRules, parse_batch
from governance.suites import request_suite
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.drop import take_download
from r2u_tasks.stages.receipts import COUNTS, find_receipt, new_receipt, write_receipt
from r2u_tasks.stages.requests import row_rules

_log = logging.getLogger(__name__)

DOWNLOAD = ".zip"
_BATCH_ROWS = 50_000
_FILES = ("files", "repeated_files", "refused_files", "ignored_files")


def intake_requests(*, run_id: str, dataset: str, root_uri: str, inbox: str | None = None) -> JSON:
    """Read every file of the inbox into the queue.

    Args:
        run_id: Names the run; the same id returns the same counts.
        dataset: Declaration.
        root_uri: Workspace.
        inbox: Another folder than ``<root>/inbox``.

    Returns:
        ``files``, of these ``repeated_files`` and ``refused_files``; ``ignored_files`` of another
        kind; ``read``, ``accepted``, of these ``duplicates``, and ``rejected`` rows; ``waiting``
        requests; ``receipts``, one for each file.
    """
    context = open_context(dataset, root_uri)
    folder = Path(inbox) if inbox else context.workspace.inbox
    result: JSON = context.workspace.once("intake", run_id, lambda: _intake(context, folder))
    return result


def _intake(context: StageContext, folder: Path) -> JSON:
    totals = dict.fromkeys((*_FILES, *COUNTS), 0)
    receipts = []
    if folder.is_dir():
        with _locked(folder):
            for path in sorted(folder.iterdir()):
                if path.name.startswith(".") or path.is_dir():
                    continue
                if path.suffix not in {*SUFFIXES, DOWNLOAD}:
                    totals["ignored_files"] += 1
                    continue
                receipt = _take_file(context, path)
                receipts.append(receipt)
                totals["files"] += 1
                totals["repeated_files"] += receipt["repeated"]
                totals["refused_files"] += receipt["refused"] is not None
                for name in COUNTS if not receipt["repeated"] else ():
                    totals[name] += receipt[name]
    waiting = context.queue.counts().get(State.QUEUED, 0)
    return {**totals, "waiting": waiting, "receipts": receipts}


def _take_file(context: StageContext, path: Path) -> JSON:
    """Read one file and return its receipt; ``repeated`` when the same bytes were read before."""
    if not path.is_file() or path.is_symlink():
        path.unlink()
        return new_receipt("none", refused="expected a file, got a link or a device; removed it")
    if not os.access(path, os.R_OK):
        return new_receipt("none", refused="expected a file that can be read; it stays there")
    digest = digest_file(path)
    known = find_receipt(context, digest)
    if known is not None and known["refused"] is None:  # a refused one may be better understood now
        path.unlink()
        _log.info("intake: file %s was read before; nothing was done", digest[:19])
        return {**known, "repeated": True}
    try:
        receipt = _read_file(context, path, digest)
    except DataError as error:
        _log.warning("intake: file %s is refused: %s", digest[:19], error)
        receipt = new_receipt(digest, refused=str(error))
        _set_aside(context, path, digest)
    write_receipt(context, receipt)
    path.unlink(missing_ok=True)
    return receipt


def _read_file(context: StageContext, path: Path, digest: str) -> JSON:
    if path.suffix == DOWNLOAD:
        return take_download(context, path, digest, new_receipt(digest))
    before = path.stat()
    n_rows = count_rows(path)  # refuses the whole file before anything of it goes in
    receipt = new_receipt(digest)
    rules = row_rules(context, id_prefix=f"file-{digest[7:23]}-")
    reject_path = context.workspace.rejects / f"{digest[7:23]}.csv"
    with write_rejects(reject_path) as rejects:
        for rows in _batches(read_rows(path)):
            _submit_batch(context, rows, rules, rejects, receipt)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            message = f"file {digest[:19]}: it was written to while it was read; run intake again"
            raise TransientError(message)
    receipt["rejected"] = rejects.count
    receipt["rejects"] = reject_path.name if rejects.count else None
    if not receipt["read"] == n_rows == receipt["accepted"] + receipt["rejected"]:
        message = f"file {digest[:19]}: expected {n_rows} rows to be accounted for, got {receipt}"
        raise RequestError(message)
    if rejects.count:
        _log.warning("intake: %d rows of file %s were rejected", rejects.count, digest[:19])
    return receipt


def _submit_batch(
    context: StageContext,
    rows: Sequence[Row],
    rules: RowRules,
    rejects: RejectWriter,
    receipt: JSON,
) -> None:
    parsed = parse_batch(rows, rules)
    gate = run_gate("deletion_requests", [_shard(rows, parsed)], request_suite())
    require_passed(gate)
    receipt["validation"] = sorted({*receipt["validation"], *gate.failures})
    good, taken = _with_free_ids(context, parsed)
    refused = [*parsed.rejected, *taken]
    for row, reason in sorted(refused, key=lambda pair: pair[0].number):
        rejects.add(row, reason)
    receipts = context.queue.submit_many(good)
    receipt["read"] += len(rows)
    receipt["accepted"] += len(good)
    receipt["duplicates"] += sum(one.duplicate_of is not None for one in receipts)


def _with_free_ids(
    context: StageContext, parsed: ParsedBatch
) -> tuple[list[SubmittedRequest], list[tuple[Row, str]]]:
    """Return the requests whose id is free or theirs already, and the rows of the others."""
    given = [r.request_id for row, r in parsed.requests if r.request_id and _names_id(row)]
    stored = context.queue.known_targets(given)
    good: list[SubmittedRequest] = []
    taken: list[tuple[Row, str]] = []
    seen: dict[str, str] = {}
    for row, request in parsed.requests:
        request_id, targets = request.request_id, request.target_keys
        if request_id is None or not _names_id(row):
            good.append(request)
        elif seen.setdefault(request_id, targets[0]) != targets[0]:
            reason = "request_id: expected one id for one target, got the same id twice in the file"
            taken.append((row, reason))
        elif stored.get(request_id, targets[0]) in targets:
            good.append(request)
        else:
            taken.append((row, "request_id: this id is taken by a request for something else"))
    return good, taken


def _names_id(row: Row) -> bool:
    """Say whether the sender gave the id; ids that follow from the file are ours."""
    return "request_id" in row.cells


def _shard(rows: Sequence[Row], parsed: ParsedBatch) -> pa.Table:
    """Return what is about to go in, for the suite; rejected rows count in ``is_good`` only."""
    requests = [request for _, request in parsed.requests]
    n_bad = len(parsed.rejected)
    frame = pd.DataFrame(
        {
            "request_id": [r.request_id for r in requests],
            "subject_key": [r.subject_key for r in requests],
            "n_targets": [
                bool(r.subject_key) + len(r.record_keys) + (r.selector is not None)
                for r in requests
            ],
            "hold_ground": [r.hold_ground for r in requests],
            "regime": [r.regime for r in requests],
            "received_at": [r.received_at.isoformat() for r in requests],
            "is_good": 1.0,
        },
        dtype=object,
    )
    bad = pd.DataFrame({"is_good": [0.0] * n_bad}, dtype=object)
    checked = pd.concat([frame, bad], ignore_index=True) if len(rows) else frame
    return pa.Table.from_pandas(checked, preserve_index=False)


def _set_aside(context: StageContext, path: Path, digest: str) -> None:
    """Move a refused file to the rejects, readable by the owner only."""
    target = context.workspace.rejects / f"{digest[7:23]}.refused{path.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path.chmod(0o600)
    os.replace(path, target)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one run at a time read an inbox."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
