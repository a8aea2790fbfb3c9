"""The statutory clock: calendar months as Regulation 1182/71 counts them, pauses, shares used.

The day of the event is not counted; a period of months ends with the last hour of the day with the
same number, or of the last day of the month where there is none (Article 3(2)(c)). All instants
are UTC.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from governance.regimes import Regime

Pause = tuple[datetime, datetime | None]
"""Start and end of a pause; no end while it lasts."""


def add_months(moment: datetime, months: int) -> datetime:
    """Return the same day of a later month, or its last day.

    >>> add_months(datetime(2027, 1, 31, tzinfo=UTC), 1).date().isoformat()
    '2027-02-28'
    >>> add_months(datetime(2028, 1, 31, tzinfo=UTC), 1).date().isoformat()
    '2028-02-29'
    """
    index = moment.year * 12 + moment.month - 1 + months
    year, month = divmod(index, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return moment.replace(year=year, month=month + 1, day=min(moment.day, last))


def due_at(
    clock_start: datetime, regime: Regime, *, extended: bool = False, pauses: Sequence[Pause] = ()
) -> datetime:
    """Return the last instant of the last day for an answer.

    Args:
        clock_start: When the clock started, timezone-aware.
        regime: Periods of the law.
        extended: Whether the person was told of an extension in time.
        pauses: Finished pauses push the end; days of one that still lasts are not known yet.

    Raises:
        ValueError: ``clock_start`` has no time zone.
    """
    if clock_start.tzinfo is None:
        message = "clock_start: expected a time zone, got none"
        raise ValueError(message)
    start = clock_start.astimezone(UTC)
    months = regime.answer_months + (regime.extension_months if extended else 0)
    days = regime.answer_days + (regime.extension_days if extended else 0)
    end = add_months(start, months) + timedelta(days=days)
    waited = sum(((stop - begin) for begin, stop in pauses if stop is not None), timedelta())
    end += timedelta(days=-(-waited // timedelta(days=1)) if waited else 0)
    return end.replace(hour=23, minute=59, second=59, microsecond=0)


def share_used(clock_start: datetime, due: datetime, now: datetime) -> float:
    """Return the share of the period that is over: 0 at the start, 1 at the deadline."""
    return (now - clock_start) / (due - clock_start)


def days_used(clock_start: datetime, end: datetime) -> int:
    """Return whole days since the clock started; the day of the event is not counted."""
    return (end.astimezone(UTC).date() - clock_start.astimezone(UTC).date()).days
