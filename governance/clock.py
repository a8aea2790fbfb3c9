"""The statutory clock: calendar months as Regulation 1182/71 counts them, and pauses.

* The day of the event is not counted; a period of months ends with the last hour of the day with
  the same number, or of the last day of the month where there is none (Article 3(1), 3(2)(c)).
* Days begin and end in the time zone of the regime; the result is UTC. Where the last second of a
  day comes twice (clocks set back at midnight), the earlier one counts.
* The roll to the next working day of Article 3(4) is not used: holidays differ from place to place,
  and an answer that is early is in time everywhere.
* A pause pushes the end by its whole days, rounded down; one that begins after the end comes too
  late to push anything.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from governance.regimes import Regime

Interval = tuple[datetime, datetime | None]
"""Start and end of a pause; no end while it lasts."""

_DAY = timedelta(days=1)


def add_months(day: date, months: int) -> date:
    """Return the same day of a later month, or its last day.

    >>> add_months(date(2027, 1, 31), 1).isoformat()
    '2027-02-28'
    >>> add_months(date(2028, 1, 31), 1).isoformat()
    '2028-02-29'
    """
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return day.replace(year=year, month=month + 1, day=min(day.day, last))


def due_at(
    clock_start: datetime,
    regime: Regime,
    *,
    extended: bool = False,
    pauses: Sequence[Interval] = (),
    time_zone: str | None = None,
) -> datetime:
    """Return the last second of the last day for an answer, in UTC.

    Args:
        clock_start: When the clock started, timezone-aware.
        regime: Periods of the law.
        extended: Whether the person was told of an extension in time.
        pauses: Finished pauses push the end; one that still lasts pushes it when it is over.
        time_zone: Where the days are counted, if not in the regime's own zone.

    Raises:
        ValueError: ``clock_start`` has no time zone.
    """
    if clock_start.tzinfo is None:
        message = "clock_start: expected a time zone, got none"
        raise ValueError(message)
    zone = ZoneInfo(time_zone or regime.time_zone)
    day = last_day(clock_start.astimezone(zone).date(), regime, extended=extended)
    waited = timedelta()
    for begin, end in _merged(clock_start, pauses):
        if begin > last_second(day + waited // _DAY * _DAY, zone):
            break
        waited += end - begin
    return last_second(day + waited // _DAY * _DAY, zone)


def last_day(first: date, regime: Regime, *, extended: bool) -> date:
    """Return the last day of the period; ``first`` is the day of the event, not counted."""
    months = regime.answer_months + (regime.extension_months if extended else 0)
    days = regime.answer_days + (regime.extension_days if extended else 0)
    return add_months(first, months) + timedelta(days=days)


def last_second(day: date, zone: ZoneInfo) -> datetime:
    """Return the last second of a day somewhere, in UTC."""
    return datetime.combine(day, time(23, 59, 59), zone).astimezone(UTC)


def paused_for(clock_start: datetime, pauses: Sequence[Interval]) -> timedelta:
    """Return how long the clock stood still in pauses that are over; an overlap counts once."""
    return sum((end - begin for begin, end in _merged(clock_start, pauses)), timedelta())


def days_used(clock_start: datetime, end: datetime) -> int:
    """Return whole days since the clock started; the day of the event is not counted."""
    return (end.astimezone(UTC).date() - clock_start.astimezone(UTC).date()).days


def _merged(start: datetime, pauses: Sequence[Interval]) -> list[tuple[datetime, datetime]]:
    """Return finished pauses after the start, in order, without overlaps."""
    merged: list[tuple[datetime, datetime]] = []
    finished = sorted((max(begin, start), end) for begin, end in pauses if end is not None)
    for begin, end in finished:
        if end <= begin:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
