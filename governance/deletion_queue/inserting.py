"""Requests come in: one or 100,000 in one transaction, on the driver's own cursor.

Speed comes from few pages and few calls: ids that are made here begin with the time, so that rows,
events and index entries of one moment lie together, and every lookup is one statement for all rows.
"""

from __future__ import annotations

import gc
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from functools import cache, lru_cache
from itertools import chain
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from governance.clock import last_day, last_second
from governance.deletion_queue.database import Database
from governance.deletion_queue.moments import instant, text
from governance.deletion_queue.records import Receipt, SubmittedRequest, live_key
from governance.deletion_queue.states import State
from governance.errors import RequestError
from governance.regimes import load_regime

_COLUMNS = (
    "request_id, state, n_events, subject_key, record_keys, selector, key_id, earlier, target_key, "
    "live_target, datasets, dataset, risk, regime, regime_version, ground, received_at, "
    "clock_start, due_at, paused_s, hold_ground, duplicate_of"
)
_EVENT_COLUMNS = "request_id, number, at, from_state, to_state, reason"
_RESERVATION_COLUMNS = "request_id, dataset, kind, ground, placed_at"
_LIVE_AT_THE_DOOR = (State.QUEUED, State.HELD)
_CHUNK = 1_000
"""Requests at a time: their rows are gone before the next ones are made."""

_TOGETHER = 250
"""Rows in one statement: a statement has a cost of its own, and a limit of values."""


@dataclass(frozen=True, slots=True)
class Door:
    """What a queue adds to every request: its dataset and its time zone."""

    dataset: str
    time_zone: str | None


class _Moments(NamedTuple):
    """When a request was received and is due, as stored; when it is due; version of its regime."""

    received: str
    due: str
    due_at: datetime
    regime_version: int


@dataclass(slots=True)
class _Rows:
    """Rows to insert, and holds that came with a duplicate and belong to its primary."""

    requests: list[tuple[Any, ...]]
    events: list[tuple[Any, ...]]
    reservations: list[tuple[Any, ...]]
    receipts: list[Receipt]
    holds: list[tuple[str, str]]


def insert_requests(
    database: Database,
    cursor: Any,
    requests: Sequence[SubmittedRequest],
    *,
    door: Door,
    now: datetime,
    file: tuple[str, str] | None = None,
) -> tuple[list[Receipt], list[tuple[str, str]]]:
    """Store requests and say where each of them rests.

    Args:
        database: Where the cursor belongs to.
        cursor: The driver's cursor, inside a transaction.
        requests: The requests.
        door: Default dataset and time zone.
        now: Moment of storing.
        file: Digest and counts of the file that they came from.

    Returns:
        A receipt for each request, and (primary, ground) of holds that came with a duplicate.

    Raises:
        RequestError: An id is taken by a request for something else.
    """
    receipts: list[Receipt] = []
    holds: list[tuple[str, str]] = []
    with _no_collector() if len(requests) > _CHUNK else nullcontext():
        for start in range(0, len(requests), _CHUNK):
            rows = _prepare(database, cursor, requests[start : start + _CHUNK], door, now)
            insert = _insert if database.is_sqlite or len(rows.requests) < 50 else _copy
            insert(database, cursor, f"requests ({_COLUMNS})", rows.requests)
            insert(database, cursor, f"events ({_EVENT_COLUMNS})", rows.events)
            _insert(database, cursor, f"reservations ({_RESERVATION_COLUMNS})", rows.reservations)
            receipts += rows.receipts
            holds += rows.holds
    if file is not None:
        _insert(database, cursor, "files (digest, counts)", [file])
    return receipts, holds


@contextmanager
def _no_collector() -> Iterator[None]:
    """Stop the collector of cycles: these rows make none, and it would visit them all each time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _prepare(
    database: Database,
    cursor: Any,
    requests: Sequence[SubmittedRequest],
    door: Door,
    now: datetime,
) -> _Rows:
    new_ids = _new_ids(len(requests))
    ids = [r.request_id or new for r, new in zip(requests, new_ids, strict=True)]
    datasets = [request.datasets or (door.dataset,) for request in requests]
    targets = [request.target_keys for request in requests]
    lives = [
        [live_key(key, names) for key in keys]
        for keys, names in zip(targets, datasets, strict=True)
    ]
    known = _known(database, cursor, [r.request_id for r in requests if r.request_id is not None])
    primaries = _primaries(
        database,
        cursor,
        [key for r, keys in zip(requests, lives, strict=True) if r.verified for key in keys],
    )
    rows = _Rows([], [], [], [], [])
    stored = text(now)
    for request, request_id, names, keys, live in zip(
        requests, ids, datasets, targets, lives, strict=True
    ):
        before = known.get(request_id)
        if before is not None:
            if before[0] not in keys:
                raise RequestError(_taken(request, request_id, before[2]))
            rows.receipts.append(replace(before[1], is_new=False))
            continue
        primary = _first(primaries, live)
        state = _resting_state(request, primary)
        if state in _LIVE_AT_THE_DOOR:
            primaries[live[0]] = request_id
        target = (keys[0], live[0])
        moments = _moments(request.regime, door.time_zone, request.received_at)
        _add(rows, request, request_id, names, target, state, primary, stored, moments)
        known[request_id] = (keys[0], rows.receipts[-1], request.key_id)
    return rows


def _first(known: dict[str, str], keys: Sequence[str]) -> str | None:
    for key in keys:
        if key in known:
            return known[key]
    return None


def _taken(request: SubmittedRequest, request_id: str, stored_key: str) -> str:
    """Say why an id is refused; under a key that was dropped nobody can tell if it is the same."""
    if stored_key in {one.key_id for one in request.pseudonyms}:
        return f"request {request_id}: this id is taken by a request for something else"
    return (
        f"request {request_id}: this id is taken by a request under the pseudonym key "
        f"{stored_key or 'without a name'}, which is none of this ring; was it dropped? Give the "
        "request another id, or this machine the ring of the others (docs/keys.md)"
    )


def _resting_state(request: SubmittedRequest, primary: str | None) -> State:
    """Say where a new request rests; an unverified one waits, whatever else is there."""
    if not request.verified:
        return State.UNVERIFIED
    if primary is not None:
        return State.DUPLICATE
    return State.HELD if request.hold_ground else State.QUEUED


def _add(
    rows: _Rows,
    request: SubmittedRequest,
    request_id: str,
    datasets: Sequence[str],
    target: tuple[str, str],
    state: State,
    primary: str | None,
    stored: str,
    moments: _Moments,
) -> None:
    path = _path(state)
    duplicate_of = primary if state == State.DUPLICATE else None
    rows.requests.append(
        (
            request_id,
            path[-1],
            len(path),
            request.subject_key,
            json.dumps(request.record_keys) if request.record_keys else "[]",
            json.dumps(request.selector, sort_keys=True) if request.selector else None,
            request.key_id,
            json.dumps([asdict(one) for one in request.earlier]) if request.earlier else None,
            target[0],
            target[1] if state in _LIVE_AT_THE_DOOR else None,
            _datasets_text(tuple(datasets)),
            datasets[0],
            request.risk,
            request.regime,
            moments.regime_version,
            request.ground,
            moments.received,
            moments.received,
            moments.due,
            0,
            request.hold_ground,
            duplicate_of,
        )
    )
    at, before = moments.received, None
    for number, word in enumerate(path, start=1):
        rows.events.append((request_id, number, at, before, word, None))
        at, before = stored, word
    if request.hold_ground is not None:
        rows.reservations += [
            (request_id, name, "hold", request.hold_ground, stored) for name in datasets
        ]
        if duplicate_of is not None:
            rows.holds.append((duplicate_of, request.hold_ground))
    rows.receipts.append(
        Receipt(
            request_id=request_id,
            state=path[-1],
            duplicate_of=duplicate_of,
            due_at=moments.due_at,
            is_new=True,
        )
    )


def _known(
    database: Database, cursor: Any, ids: Sequence[str]
) -> dict[str, tuple[str, Receipt, str]]:
    """Return target, receipt and name of the key of those ids that are stored."""
    columns = "request_id, target_key, state, duplicate_of, due_at, key_id"
    found = _select(database, cursor, columns, "request_id", ids)
    return {
        row[0]: (
            row[1],
            Receipt(
                request_id=row[0],
                state=row[2],
                duplicate_of=row[3],
                due_at=instant(row[4]),
                is_new=False,
            ),
            row[5],
        )
        for row in found
    }


def _primaries(database: Database, cursor: Any, targets: Sequence[str]) -> dict[str, str]:
    found = _select(database, cursor, "live_target, request_id", "live_target", targets)
    return {row[0]: row[1] for row in found}


def _select(
    database: Database, cursor: Any, columns: str, key: str, values: Sequence[str]
) -> list[Any]:
    if not values:
        return []
    statement = f"SELECT {columns} FROM requests WHERE {key}"
    if not database.is_sqlite:
        cursor.execute(f"{statement} = ANY(%s)", (list(values),))
    elif len(values) == 1:
        cursor.execute(f"{statement} = ?", (values[0],))
    else:
        cursor.execute(f"{statement} IN (SELECT value FROM json_each(?))", (json.dumps(values),))
    rows: list[Any] = cursor.fetchall()
    return rows


def _insert(database: Database, cursor: Any, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    mark = "?" if database.is_sqlite else "%s"
    for start in range(0, len(rows), _TOGETHER):
        part = rows[start : start + _TOGETHER]
        one = f"({', '.join([mark] * len(part[0]))})"
        values = ", ".join([one] * len(part))
        cursor.execute(f"INSERT INTO {into} VALUES {values}", [*chain.from_iterable(part)])


def _copy(database: Database, cursor: Any, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    del database
    with cursor.copy(f"COPY {into} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


@lru_cache(maxsize=4096)
def _moments(regime_name: str, time_zone: str | None, received_at: datetime) -> _Moments:
    """Return what is stored of a moment of receipt under a regime."""
    regime = load_regime(regime_name)
    zone = ZoneInfo(time_zone or regime.time_zone)
    end = _end(regime_name, time_zone, received_at.astimezone(zone).date())
    return _Moments(text(received_at), text(end), end, regime.version)


@lru_cache(maxsize=1024)
def _end(regime_name: str, time_zone: str | None, day: date) -> datetime:
    """Return the deadline, which depends on the regime and the day alone."""
    regime = load_regime(regime_name)
    zone = ZoneInfo(time_zone or regime.time_zone)
    return last_second(last_day(day, regime, extended=False), zone)


@cache
def _path(state: State) -> tuple[str, ...]:
    """Return the words of the states that a new request went through."""
    verified = () if state == State.UNVERIFIED else (State.VERIFIED.value,)
    return (State.RECEIVED.value, *verified, state.value)


@lru_cache(maxsize=1024)
def _datasets_text(datasets: tuple[str, ...]) -> str:
    return json.dumps(datasets)


def _new_ids(n: int) -> list[str]:
    """Return ids that nobody can guess and that sort in the order of their requests."""
    moment = time.time_ns() // 1000
    tail = secrets.token_hex(6 * n)
    return [f"r{moment + k:013x}{tail[12 * k : 12 * k + 12]}" for k in range(n)]
