"""Stage ``letters``: a letter to the person for every decided request, as HTML and PDF.

Reads queue, ledger, batches and certificates, writes ``<request_id>.<language>.html`` and ``.pdf``
under ``letters/``. Twice is safe: a letter that is there is left as it is. A letter is not written
while it would say more than is known: no certificate, or weights whose removal from MLflow is still
owed.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from governance.deletion_queue import Answer, RequestRow, State
from governance.digests import digest_file, read_json, write_atomic
from governance.errors import DataError
from governance.ledger import read_entries
from governance.letter_pages import letter_html, letter_pdf
from governance.letters import ERASED, LetterFacts, load_texts, write_letter
from governance.signing import PUBLIC_NAME
from governance.workspace import safe_key
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.mirror import owed

_log = logging.getLogger(__name__)

_ANSWERABLE = (State.CLOSED, State.REJECTED, State.EXEMPT)
"""A rejected or exempt request is decided, and closes when the person was told: by this letter."""


def write_letters(
    *,
    dataset: str,
    root_uri: str,
    request_ids: Sequence[str] = (),
    language: str | None = None,
) -> JSON:
    """Write the letters of decided requests that have none yet.

    Args:
        dataset: Declaration; its ``controller`` fills name, contact, authority and language.
        root_uri: Workspace.
        request_ids: Only these, written anew; all decided requests if empty.
        language: Code of a language; the declared one if absent, else English.

    Returns:
        ``written`` (paths), ``skipped`` (request to reason), ``missing`` (placeholders that the
        declaration does not fill), ``folder``.

    Raises:
        DataError: There are no texts in the language, or a request is not decided yet.
        RequestError: There is no such request.
    """
    context = open_context(dataset, root_uri)
    controller = context.declaration.controller
    code = language or (controller.language if controller else "en")
    load_texts(code)
    rows = [_answered(context, request_id) for request_id in request_ids]
    rows = rows or [row for state in _ANSWERABLE for row in context.queue.list_requests(state)]
    reader = _Reader(context)
    written: list[str] = []
    skipped: dict[str, str] = {}
    missing: set[str] = set()
    for row in rows:
        stem = context.workspace.letters / f"{safe_key(row.request_id)}.{code}"
        if not request_ids and stem.with_name(f"{stem.name}.pdf").exists():
            continue
        try:
            letter = write_letter(reader.facts(row), language=code)
        except DataError as error:
            _log.warning("no letter: %s", error)
            skipped[row.request_id] = str(error)
            continue
        missing |= set(letter.missing)
        for ending, content in (
            ("html", letter_html(letter).encode()),
            ("pdf", letter_pdf(letter)),
        ):
            path = stem.with_name(f"{stem.name}.{ending}")
            write_atomic(path, content)
            written.append(str(path))
    return {
        "written": written,
        "skipped": skipped,
        "missing": sorted(missing),
        "folder": str(context.workspace.letters),
    }


def _answered(context: StageContext, request_id: str) -> RequestRow:
    row = context.queue.get(request_id)
    if row.state not in _ANSWERABLE:
        message = f"letter {request_id}: expected a decided request, got one that is {row.state}"
        raise DataError(message)
    return row


@dataclass(frozen=True)
class _Reader:
    """Collects the facts of letters; ledger and debts are read once."""

    context: StageContext

    @cached_property
    def _entries(self) -> list[dict[str, Any]]:
        return read_entries(self.context.workspace.ledger)

    @cached_property
    def _closed_in_ledger(self) -> set[str]:
        closed = (entry for entry in self._entries if entry["kind"] == "request_closed")
        return {entry["body"]["request_id"] for entry in closed}

    @cached_property
    def _removal_is_owed(self) -> bool:
        return any(debt.startswith("removal") for debt in owed(self.context))

    @cached_property
    def _key_digest(self) -> str:
        return digest_file(self.context.workspace.keys / PUBLIC_NAME)

    def facts(self, row: RequestRow) -> LetterFacts:
        """Return what the letter of a request is made from.

        Raises:
            DataError: Data were erased and the certificate is not there, or weights are not gone.
        """
        declaration = self.context.declaration
        controller = declaration.controller
        facts: dict[str, Any] = {
            "request_id": row.request_id,
            "outcome": row.outcome or "",
            "received_at": row.received_at,
            "due_at": row.due_at,
            "answered_at": row.closed_at or datetime.now(UTC),
            "duplicate_of": row.duplicate_of,
            "grounds": keeping_grounds(self.context, row.request_id),
            "in_ledger": row.request_id in self._closed_in_ledger,
            "recipients": tuple(r.name for r in declaration.deletion.recipients),
        }
        if controller is not None:
            facts |= controller.model_dump(include={"contact", "authority"})
            facts["controller"] = controller.name
        here = self._answer_here(row.request_id)
        if row.outcome == "partial" and here is not None and here.outcome != "forgotten":
            facts["outcome"] = here.outcome  # what was erased, was erased in another data set
        if facts["outcome"] in ERASED:
            facts |= self._erasure(row, here)
        return LetterFacts(**facts)

    def _answer_here(self, request_id: str) -> Answer | None:
        """Return how the part of a request in this data set ended."""
        answers = self.context.queue.answers(request_id)
        name = self.context.declaration.name
        return next((answer for answer in answers if answer.dataset == name), None)

    def _erasure(self, row: RequestRow, here: Answer | None) -> dict[str, Any]:
        batch = here.batch_id if here is not None else row.batch_id
        folder = self.context.workspace.batch(batch or "none")
        certificate = folder / "certificates" / f"{row.request_id}.json"
        if not certificate.exists():
            message = f"letter {row.request_id}: expected a certificate, got none; verify the batch"
            raise DataError(message)
        if self._removal_is_owed:
            message = (
                f"letter {row.request_id}: weights are still to be removed from MLflow; "
                "run `r2u mirror` first"
            )
            raise DataError(message)
        plan, predicate = read_json(folder / "plan.json"), _predicate(certificate)
        batch_id = folder.name
        erased_at = self._at("rows_erased", batch_id)
        return {
            "claim": predicate["claim"],
            "untouched": plan["n_trained_records"] == 0,
            "answered_at": datetime.fromisoformat(predicate["answered_at"]),
            "n_records": plan["records_by_request"][row.request_id],
            "n_tests": _n_conditions(predicate["tests"]),
            "erased_at": erased_at,
            "replaced_at": self._at("model_promoted", batch_id),
            "weights_removed_at": self._at("batch_closed", batch_id),
            "backups_until": self._backups_until(erased_at),
            "certificate_digest": digest_file(certificate),
            "key_digest": self._key_digest,
        }

    def _backups_until(self, erased_at: datetime | None) -> datetime | None:
        days = self.context.declaration.deletion.backups_expire_days
        return None if days is None or erased_at is None else erased_at + timedelta(days=days)

    def _at(self, kind: str, batch_id: str) -> datetime | None:
        """Return when the ledger says that something of a batch was done, the last time."""
        times = [
            entry["at"]
            for entry in self._entries
            if entry["kind"] == kind and entry["body"].get("batch_id") == batch_id
        ]
        return datetime.fromisoformat(times[-1]) if times else None


def keeping_grounds(context: StageContext, request_id: str) -> tuple[str, ...]:
    """Return why data of a request are kept: words of the queue, each once."""
    reservations = context.queue.reservations(request_id)
    return tuple(dict.fromkeys(r.ground for r in reservations if r.released_at is None))


def _n_conditions(tests: dict[str, Any]) -> int:
    """Return how many conditions were tested; the first version of the certificate has a count."""
    conditions = tests.get("conditions")
    return int(tests["n_conditions"]) if conditions is None else len(conditions)


def _predicate(certificate: Path) -> dict[str, Any]:
    statement = json.loads(base64.b64decode(read_json(certificate)["payload"]))
    predicate: dict[str, Any] = statement["predicate"]
    return predicate
