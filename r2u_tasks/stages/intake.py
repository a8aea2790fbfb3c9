"""Stage ``intake``: deletion requests from files in the inbox, or one by one, into the queue.

A file is CSV (with a header) or JSON Lines. Fields: ``subject_id``, ``record_ids`` (separated by
``;``) or ``select`` (``column=value``); optional ``request_id``, ``verified``, ``received_at``,
``hold_ground``, ``regime``. Good rows go in, bad rows go to ``rejects/`` (mode 600) with the
reason; read = accepted + rejected, always. The file's requests and its digest are stored in one
transaction and the file is removed after it, so a crash between the two doubles nothing.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from governance.deletion_queue import State, SubmittedRequest
from governance.digests import digest_bytes, write_atomic
from governance.errors import PermanentError, R2UError, RequestError
from governance.regimes import load_regime
from governance.suppression import pseudonym, pseudonyms
from governance.workspace import safe_key
from r2u_tasks.stages.context import JSON, StageContext, open_context

_log = logging.getLogger(__name__)

FIELDS = frozenset(
    {
        "request_id",
        "subject_id",
        "record_ids",
        "select",
        "verified",
        "received_at",
        "hold_ground",
        "regime",
    }
)
_REQUEST_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")
_MAX_FILE_BYTES = 1 << 30


def intake_requests(*, run_id: str, dataset: str, root_uri: str, inbox: str | None = None) -> JSON:
    """Read every request file of the inbox into the queue.

    Args:
        run_id: Names the run; the same id returns the same counts.
        dataset: Declaration.
        root_uri: Workspace.
        inbox: Another folder than ``<root>/inbox``.

    Returns:
        ``files``, ``read``, ``accepted``, ``duplicates``, ``rejected``, ``waiting``.
    """
    context = open_context(dataset, root_uri)
    folder = Path(inbox) if inbox else context.workspace.inbox
    result: JSON = context.workspace.once(
        "intake", run_id, lambda: _intake(context, folder, safe_key(run_id))
    )
    return result


def submit_request(
    *,
    dataset: str,
    root_uri: str,
    subject_id: str | None = None,
    record_ids: Sequence[str] = (),
    select: str | None = None,
    verified: bool = True,
    received_at: datetime | None = None,
    hold_ground: str | None = None,
    request_id: str | None = None,
) -> JSON:
    """Put one request into the queue and return its id, state and deadline.

    Raises:
        RequestError: The request is for nothing, or its id is taken by another one.
    """
    context = open_context(dataset, root_uri)
    row = {
        "request_id": request_id or "",
        "subject_id": subject_id or "",
        "record_ids": ";".join(record_ids),
        "select": select or "",
        "verified": str(verified).lower(),
        "hold_ground": hold_ground or "",
    }
    if received_at is not None:
        row["received_at"] = received_at.isoformat()
    new_id = context.queue.submit(parse_row(row, context, now=datetime.now(UTC)))
    stored = context.queue.get(new_id)
    return {
        "request_id": new_id,
        "state": stored.state,
        "due_at": stored.due_at.isoformat(),
        "duplicate_of": stored.duplicate_of,
    }


def parse_row(row: dict[str, str], context: StageContext, *, now: datetime) -> SubmittedRequest:
    """Turn one row into a request of pseudonyms.

    Raises:
        RequestError: A field is unknown, missing or malformed; the message holds no value of it.
    """
    unknown = {name for name, value in row.items() if name not in FIELDS and value}
    if unknown:
        message = f"expected the fields {', '.join(sorted(FIELDS))}, got {len(unknown)} others"
        raise RequestError(message)
    cells = {name: str(row.get(name) or "").strip() for name in FIELDS}
    key = context.pseudonym_key
    records = [part.strip() for part in cells["record_ids"].split(";") if part.strip()]
    regime = cells["regime"] or context.declaration.queue.regime
    load_regime(regime)
    return SubmittedRequest(
        request_id=_request_id(cells["request_id"]),
        subject_key=pseudonym(key, "subject", cells["subject_id"]) if cells["subject_id"] else None,
        record_keys=tuple(pseudonyms(key, "record", records)),
        selector=_selector(cells["select"], context),
        verified=_truth(cells["verified"]),
        received_at=_moment(cells["received_at"], now),
        hold_ground=cells["hold_ground"] or None,
        regime=regime,
    )


def _intake(context: StageContext, folder: Path, key: str) -> JSON:
    totals = {"files": 0, "read": 0, "accepted": 0, "duplicates": 0, "rejected": 0}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in {".csv", ".jsonl"}:
                counts = _read_file(context, path, key)
                totals["files"] += 1
                for name, count in counts.items():
                    totals[name] += count
    waiting = context.queue.counts().get(State.QUEUED, 0)
    return {**totals, "waiting": waiting}


def _read_file(context: StageContext, path: Path, key: str) -> dict[str, int]:
    if path.stat().st_size > _MAX_FILE_BYTES:
        message = f"inbox file: expected at most {_MAX_FILE_BYTES} bytes; split it"
        raise PermanentError(message)
    data = path.read_bytes()
    digest = digest_bytes(data)
    if context.queue.has_file(digest):
        path.unlink()
        return {}
    requests: list[SubmittedRequest] = []
    rejected: list[dict[str, str]] = []
    rows, problem = _parse_file(path.suffix, data)
    now = datetime.now(UTC)
    seen: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        try:
            request = parse_row(row, context, now=now)
            _require_new_id(request, seen, context)
        except R2UError as error:
            rejected.append({"row": str(number), "reason": str(error), **row})
        else:
            requests.append(request)
    if problem is not None:
        rejected.append({"row": "file", "reason": problem})
    if rejected:
        _write_rejects(context.workspace.rejects / f"{key}-{digest[7:19]}.jsonl", rejected)
        _log.warning("intake: %d rows were rejected; see the rejects folder", len(rejected))
    ids = context.queue.submit_many(requests, file_digest=digest)
    path.unlink()
    duplicates = sum(context.queue.get(i).duplicate_of is not None for i in ids)
    return {
        "read": len(requests) + len(rejected),
        "accepted": len(requests),
        "duplicates": duplicates,
        "rejected": len(rejected),
    }


def _require_new_id(request: SubmittedRequest, seen: dict[str, str], context: StageContext) -> None:
    if request.request_id is None:
        return
    target = seen.setdefault(request.request_id, request.target_key)
    if target != request.target_key:
        message = "request_id: expected one id for one target, got the same id twice in the file"
        raise RequestError(message)
    try:
        stored = context.queue.get(request.request_id)
    except RequestError:
        return
    if stored.target_key != request.target_key:
        message = "request_id: this id is taken by a request for something else"
        raise RequestError(message)


def _parse_file(suffix: str, data: bytes) -> tuple[list[dict[str, str]], str | None]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], "expected UTF-8 text"
    if suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text), restkey="_more", restval="")
        return [{k: v for k, v in row.items() if isinstance(v, str)} for row in reader], None
    rows: list[dict[str, str]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if isinstance(content, dict):
            rows.append({str(k): _cell(v) for k, v in content.items()})
        else:
            rows.append({"_line": "not a JSON object"})
    return rows, None


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ";".join(str(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _write_rejects(path: Path, rows: list[dict[str, str]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, lines.encode("utf-8"), mode=0o600)


def _request_id(text: str) -> str | None:
    if text and not _REQUEST_ID.match(text):
        message = "request_id: expected up to 81 letters, digits, '.', '_' and '-'"
        raise RequestError(message)
    return text or None


def _selector(text: str, context: StageContext) -> dict[str, str] | None:
    if not text:
        return None
    column, equals, value = text.partition("=")
    columns = context.declaration.columns
    allowed = (*columns.governance, columns.label.name)
    if not equals or not value or column not in allowed:
        message = f"select: expected column=value with one of {', '.join(allowed)}"
        raise RequestError(message)
    return {"column": column, "value": value}


def _truth(text: str) -> bool:
    if text.lower() in {"true", "yes", "1"}:
        return True
    if text.lower() in {"", "false", "no", "0"}:
        return False  # unknown means not verified
    message = "verified: expected true or false"
    raise RequestError(message)


def _moment(text: str, now: datetime) -> datetime:
    if not text:
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = "received_at: expected an ISO 8601 date and time"
        raise RequestError(message) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > now:
        message = "received_at: expected a moment that is not in the future"
        raise RequestError(message)
    return moment
