"""Requests come in: one or 100,000 in one transaction, on the driver's own cursor.

Speed comes from few pages and few calls: ids that are made here begin with the time, so that rows,
events and index entries of one moment lie together, and every lookup is one statement for all rows.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any
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


@dataclass(frozen=True, slots=True)
class Door:
    """What a queue adds to every request: its dataset and its time zone."""

    dataset: str
    time_zone: str | None


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
    rows = _prepare(database, cursor, requests, door, now)
    many = database.is_sqlite or len(rows.requests) < 50
    insert = _executemany if many else _copy
    insert(database, cursor, f"requests ({_COLUMNS})", rows.requests)
    insert(database, cursor, f"events ({_EVENT_COLUMNS})", rows.events)
    _executemany(database, cursor, f"reservations ({_RESERVATION_COLUMNS})", rows.reservations)
    if file is not None:
        _executemany(database, cursor, "files (digest, counts)", [file])
    return rows.receipts, rows.holds


def _prepare(
    database: Database,
    cursor: Any,
    requests: Sequence[SubmittedRequest],
    door: Door,
    now: datetime,
) -> _Rows:
    ids = [request.request_id or _new_id() for request in requests]
    datasets = [request.datasets or (door.dataset,) for request in requests]
    targets = [request.target_keys for request in requests]
    lives = [
        tuple(live_key(key, names) for key in keys)
        for keys, names in zip(targets, datasets, strict=True)
    ]
    known = _known(database, cursor, [r.request_id for r in requests if r.request_id is not None])
    primaries = _primaries(
        database,
        cursor,
        [key for r, keys in zip(requests, lives, strict=True) if r.verified for key in keys],
    )
    due = _due_dates(door.time_zone)
    rows = _Rows([], [], [], [], [])
    stored = text(now)
    for request, request_id, names, keys, live in zip(
        requests, ids, datasets, targets, lives, strict=True
    ):
        before = known.get(request_id)
        if before is not None:
            if before[0] not in keys:
                message = f"request {request_id}: this id is taken by a request for something else"
                raise RequestError(message)
            rows.receipts.append(before[1])
            continue
        primary = next((primaries[key] for key in live if key in primaries), None)
        state = _resting_state(request, primary)
        if state in {State.QUEUED, State.HELD}:
            primaries[live[0]] = request_id
        target = (keys[0], live[0])
        _add(rows, request, request_id, names, target, state, primary, stored, due(request))
        known[request_id] = (keys[0], replace(rows.receipts[-1], is_new=False))
    return rows


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
    due: tuple[str, datetime, int],
) -> None:
    received = text(request.received_at)
    path = (
        (State.RECEIVED, state) if not request.verified else (State.RECEIVED, State.VERIFIED, state)
    )
    duplicate_of = primary if state == State.DUPLICATE else None
    rows.requests.append(
        (
            request_id,
            state.value,
            len(path),
            request.subject_key,
            json.dumps(request.record_keys) if request.record_keys else "[]",
            json.dumps(request.selector, sort_keys=True) if request.selector else None,
            request.key_id,
            json.dumps([asdict(one) for one in request.earlier]) if request.earlier else None,
            target[0],
            target[1] if state in {State.QUEUED, State.HELD} else None,
            _datasets_text(tuple(datasets)),
            datasets[0],
            request.risk,
            request.regime,
            due[2],
            request.ground,
            received,
            received,
            due[0],
            0,
            request.hold_ground,
            duplicate_of,
        )
    )
    before = None
    for number, word in enumerate(path, start=1):
        at = received if number == 1 else stored
        rows.events.append((request_id, number, at, before, word.value, None))
        before = word.value
    if request.hold_ground is not None:
        rows.reservations += [
            (request_id, name, "hold", request.hold_ground, stored) for name in datasets
        ]
        if duplicate_of is not None:
            rows.holds.append((duplicate_of, request.hold_ground))
    rows.receipts.append(
        Receipt(
            request_id=request_id,
            state=state.value,
            duplicate_of=duplicate_of,
            due_at=due[1],
            is_new=True,
        )
    )


def _known(database: Database, cursor: Any, ids: Sequence[str]) -> dict[str, tuple[str, Receipt]]:
    columns = "request_id, target_key, state, duplicate_of, due_at"
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


def _executemany(
    database: Database, cursor: Any, into: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    if rows:
        mark = "?" if database.is_sqlite else "%s"
        values = ", ".join([mark] * len(rows[0]))
        cursor.executemany(f"INSERT INTO {into} VALUES ({values})", rows)


def _copy(database: Database, cursor: Any, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    del database
    with cursor.copy(f"COPY {into} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _due_dates(time_zone: str | None) -> Callable[[SubmittedRequest], tuple[str, datetime, int]]:
    """Return a function from request to deadline (text, instant) and version of its regime.

    The deadline depends on the regime and the day alone, so it is worked out once for each.
    """
    known: dict[tuple[str, date], tuple[str, datetime, int]] = {}

    def due(request: SubmittedRequest) -> tuple[str, datetime, int]:
        regime = load_regime(request.regime)
        zone = ZoneInfo(time_zone or regime.time_zone)
        day = request.received_at.astimezone(zone).date()
        found = known.get((request.regime, day))
        if found is None:
            end = last_second(last_day(day, regime, extended=False), zone)
            found = known[request.regime, day] = (text(end), end, regime.version)
        return found

    return due


@lru_cache(maxsize=1024)
def _datasets_text(datasets: tuple[str, ...]) -> str:
    return json.dumps(datasets)


def _new_id() -> str:
    """Return an id that nobody can guess and that sorts by the time it was made."""
    moment = datetime.now(UTC)
    return f"r{int(moment.timestamp() * 1e6):013x}{secrets.token_hex(6)}"
