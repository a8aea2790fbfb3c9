"""Recipients: who was passed records or models, is told of an erasure, and has answered (Art. 19).

A notice is a file under the batch: counts, a deadline, and keyed digests of the records and
subjects under a key that is shared with this one recipient (``keys/recipient-<name>.key``), so that
the recipient finds its own copies and nobody else learns who was meant. When the answer is noted,
the digests are deleted. The ledger keeps both events.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from governance.declaration import Recipient
from governance.digests import read_json, write_json
from governance.errors import RequestError
from governance.key_files import load_or_make_key
from governance.suppression import pseudonyms
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.noting import note_once

_SCHEMA = "r2u-notice/1"


def tell_recipients(context: StageContext, batch_id: str, rows: pa.Table) -> list[JSON]:
    """Write a notice for each declared recipient, and return the notices without the digests."""
    if not rows.num_rows:
        return []
    notices = []
    for recipient in context.declaration.deletion.recipients:
        path = _notice_path(context, batch_id, recipient.name)
        if not path.exists():
            write_json(path, _notice(context, batch_id, recipient, rows))
        notice = _public(read_json(path))
        notices.append(notice)
        note_once(
            context,
            "recipient_told",
            {
                "batch_id": batch_id,
                "recipient": recipient.name,
                "n_records": rows.num_rows,
                "due_at": notice["due_at"],
            },
        )
    return notices


def answer_notice(
    *, batch_id: str, recipient: str, dataset: str, root_uri: str, outcome: str = "erased"
) -> JSON:
    """Note that a recipient answered, and delete the digests of its notice.

    Args:
        batch_id: Batch of the notice.
        recipient: Its name.
        dataset: Declaration.
        root_uri: Workspace.
        outcome: ``erased``, ``had_none`` or ``refused``.

    Raises:
        RequestError: There is no such notice, or the outcome is another word.
    """
    context = open_context(dataset, root_uri)
    path = _notice_path(context, batch_id, recipient)
    if not path.exists():
        message = f"notice: expected one to {recipient!r} in batch {batch_id}, got none"
        raise RequestError(message)
    if outcome not in ("erased", "had_none", "refused"):
        message = f"outcome: expected erased, had_none or refused, got {outcome!r}"
        raise RequestError(message)
    notice = _public(read_json(path))
    if notice["answered_at"] is None:
        notice |= {
            "answered_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "outcome": outcome,
        }
        write_json(path, notice)
    body = {name: notice[name] for name in ("batch_id", "recipient", "outcome", "answered_at")}
    note_once(context, "recipient_answered", body)
    return notice


def list_notices(*, dataset: str, root_uri: str) -> list[JSON]:
    """Return every notice without its digests, by deadline, with ``overdue``."""
    return notices_of(open_context(dataset, root_uri), now=datetime.now(UTC))


def notices_of(context: StageContext, *, now: datetime) -> list[JSON]:
    """Return every notice of a workspace without its digests, by deadline, with ``overdue``."""
    found = []
    for path in context.workspace.root.glob("batches/*/notices/*.json"):
        notice = _public(read_json(path))
        late = notice["answered_at"] is None and datetime.fromisoformat(notice["due_at"]) < now
        found.append({**notice, "overdue": late})
    return sorted(found, key=lambda notice: (notice["due_at"], notice["recipient"]))


def _notice(context: StageContext, batch_id: str, recipient: Recipient, rows: pa.Table) -> JSON:
    columns = context.declaration.columns
    key = load_or_make_key(context.workspace.keys, f"recipient-{_slug(recipient.name)}.key")
    told = datetime.now(UTC)
    due = told + timedelta(days=recipient.answer_days)
    records = rows[columns.record_id].to_pylist()
    subjects = rows[columns.subject_id].unique().to_pylist()
    return {
        "schema": _SCHEMA,
        "batch_id": batch_id,
        "dataset": context.declaration.name,
        "recipient": recipient.name,
        "contact": recipient.contact,
        "gets": recipient.gets,
        "told_at": told.isoformat(timespec="seconds"),
        "due_at": due.isoformat(timespec="seconds"),
        "answered_at": None,
        "outcome": None,
        "n_records": rows.num_rows,
        "n_subjects": len(subjects),
        "ask": "Erase these records and what was made from them, and answer with the outcome.",
        "digests": "HMAC-SHA256 of 'record' or 'subject', a zero byte and the id, as hex, under "
        "the key shared with you",
        "record_digests": sorted(pseudonyms(key, "record", records)),
        "subject_digests": sorted(pseudonyms(key, "subject", subjects)),
    }


def _public(notice: JSON) -> JSON:
    """Return a notice without the digests."""
    hidden = ("digests", "record_digests", "subject_digests")
    return {name: value for name, value in notice.items() if name not in hidden}


def _notice_path(context: StageContext, batch_id: str, recipient: str) -> Path:
    return context.workspace.batch(batch_id) / "notices" / f"{_slug(recipient)}.json"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
