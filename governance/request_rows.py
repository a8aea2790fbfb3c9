"""Rows of a request file as requests of pseudonyms; a row that cannot be one has a reason.

Whole batches are turned at once: the pseudonyms of a batch are made in one call. No reason holds a
value of the row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from governance.deletion_queue import HoldGround, Pseudonyms, SubmittedRequest
from governance.errors import PolicyError, RequestError
from governance.key_files import key_name
from governance.key_ring import KeyRing
from governance.regimes import load_regime
from governance.request_files import Row, text_problem
from governance.suppression import pseudonym, pseudonyms

REQUEST_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$"
TRUE, FALSE = frozenset({"true", "yes", "1"}), frozenset({"", "false", "no", "0"})
_REQUEST_ID = re.compile(REQUEST_ID)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRules:
    """What a row is read with.

    Attributes:
        ring: Pseudonym keys.
        selectable: Columns that a selector may name.
        regime: Regime of a row that names none.
        now: Nothing is received after it.
        id_prefix: A row without a request id gets this and its number, so that the same file
            gives the same ids; without it the queue makes one.
    """

    ring: KeyRing
    selectable: tuple[str, ...]
    regime: str
    now: datetime
    id_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    row: Row
    request_id: str | None
    subject: str
    records: tuple[str, ...]
    selector: tuple[str, str] | None
    verified: bool
    received_at: datetime
    hold_ground: str | None
    regime: str


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """Requests with the rows they came from, and rows with the reason why they are none."""

    requests: tuple[tuple[Row, SubmittedRequest], ...]
    rejected: tuple[tuple[Row, str], ...]


def parse_batch(rows: Sequence[Row], rules: RowRules) -> ParsedBatch:
    """Turn rows into requests; every row is in exactly one of the two lists."""
    drafts: list[_Draft] = []
    rejected: list[tuple[Row, str]] = []
    for row in rows:
        try:
            drafts.append(_draft(row, rules))
        except (RequestError, PolicyError) as error:
            rejected.append((row, " ".join(str(error).split())))
    return ParsedBatch(tuple(_submit(drafts, rules.ring)), tuple(rejected))


def parse_request(cells: Mapping[str, str], rules: RowRules) -> SubmittedRequest:
    """Turn the cells of a single request into one.

    Raises:
        RequestError: A cell is missing or malformed; the message holds no value of it.
    """
    found = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    batch = parse_batch([Row(1, found, text_problem(found))], rules)
    for _, reason in batch.rejected:
        raise RequestError(reason)
    return batch.requests[0][1]


def selector_value(key: bytes, column: str, value: str) -> str:
    """Return the pseudonym of a value that a selector asks for."""
    return pseudonym(key, f"value of {column}", value)


def _draft(row: Row, rules: RowRules) -> _Draft:
    if row.problem is not None:
        raise RequestError(row.problem)
    cell = row.cells.get
    records = tuple(part.strip() for part in cell("record_ids", "").split(";") if part.strip())
    selector = _selector(cell("select", ""), rules)
    subject = cell("subject_id", "")
    if not subject and not records and selector is None:
        message = "target: expected subject_id, record_ids or select, got none of them"
        raise RequestError(message)
    regime = cell("regime", rules.regime)
    load_regime(regime)
    return _Draft(
        row=row,
        request_id=_request_id(cell("request_id", ""), row, rules),
        subject=subject,
        records=records,
        selector=selector,
        verified=_truth(cell("verified", "")),
        received_at=_moment(cell("received_at", ""), rules.now),
        hold_ground=_hold_ground(cell("hold_ground", "")),
        regime=regime,
    )


def _submit(drafts: Sequence[_Draft], ring: KeyRing) -> list[tuple[Row, SubmittedRequest]]:
    targets = zip(*(_targets(drafts, key) for key in ring.keys), strict=True)
    return [
        (
            draft.row,
            SubmittedRequest(
                request_id=draft.request_id,
                subject_key=newest.subject_key,
                record_keys=newest.record_keys,
                selector=newest.selector,
                key_id=newest.key_id,
                earlier=tuple(earlier),
                verified=draft.verified,
                received_at=draft.received_at,
                hold_ground=draft.hold_ground,
                regime=draft.regime,
            ),
        )
        for draft, (newest, *earlier) in zip(drafts, targets, strict=True)
    ]


def _targets(drafts: Sequence[_Draft], key: bytes) -> list[Pseudonyms]:
    """Return what each row asks for, under one key."""
    subjects = [draft.subject for draft in drafts if draft.subject]
    records = [record for draft in drafts for record in draft.records]
    subject_keys = iter(pseudonyms(key, "subject", subjects))
    record_keys = iter(pseudonyms(key, "record", records))
    key_id = key_name(key)
    return [
        Pseudonyms(
            key_id=key_id,
            subject_key=next(subject_keys) if draft.subject else None,
            record_keys=tuple(next(record_keys) for _ in draft.records),
            selector=_selector_under(key, draft.selector),
        )
        for draft in drafts
    ]


def _selector_under(key: bytes, selector: tuple[str, str] | None) -> dict[str, str] | None:
    # The value may be personal (an e-mail address), so the queue holds it like an id.
    if selector is None:
        return None
    column, value = selector
    return {"column": column, "value": selector_value(key, column, value)}


def _request_id(text: str, row: Row, rules: RowRules) -> str | None:
    if not text:
        return f"{rules.id_prefix}{row.number}" if rules.id_prefix else None
    if not _REQUEST_ID.fullmatch(text):
        message = "request_id: expected up to 81 letters, digits, '.', '_' and '-'"
        raise RequestError(message)
    return text


def _selector(text: str, rules: RowRules) -> tuple[str, str] | None:
    if not text:
        return None
    column, equals, value = text.partition("=")
    if not equals or not value or column not in rules.selectable:
        message = f"select: expected column=value with one of {', '.join(rules.selectable)}"
        raise RequestError(message)
    return column, value


def _hold_ground(text: str) -> str | None:
    if text and text not in set(HoldGround):
        message = f"hold_ground: expected one of {', '.join(HoldGround)}"
        raise RequestError(message)
    return text or None


def _truth(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False  # unknown means not verified
    message = "verified: expected true or false"
    raise RequestError(message)


def _moment(text: str, now: datetime) -> datetime:
    if not text:
        return now
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = "received_at: expected an ISO 8601 date and time"
        raise RequestError(message) from error
    if moment > now:
        message = "received_at: expected a moment that is not in the future"
        raise RequestError(message)
    return moment
