"""Laws of the statutory clock, with hand-derived cases."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.clock import add_months, days_used, due_at, last_day, paused_for
from governance.errors import PolicyError
from governance.regimes import Regime, load_regime

GDPR, CCPA, DROP = load_regime("gdpr"), load_regime("ccpa"), load_regime("drop")
MONTH = Regime(name="month", version=1, answer_months=1, extension_months=2)  # days in UTC


@pytest.mark.parametrize(
    ("start", "zone", "due"),
    [
        # No 31 February: the last day of the month, in a common and in a leap year.
        ("2027-01-31T10:00:00+00:00", "UTC", "2027-02-28T23:59:59+00:00"),
        ("2028-01-31T10:00:00+00:00", "UTC", "2028-02-29T23:59:59+00:00"),
        ("2028-01-29T10:00:00+00:00", "UTC", "2028-02-29T23:59:59+00:00"),
        ("2027-01-29T10:00:00+00:00", "UTC", "2027-02-28T23:59:59+00:00"),
        # 2100 is no leap year.
        ("2100-01-30T10:00:00+00:00", "UTC", "2100-02-28T23:59:59+00:00"),
        # The same number, not the month's last day.
        ("2027-02-28T10:00:00+00:00", "UTC", "2027-03-28T23:59:59+00:00"),
        ("2028-02-29T10:00:00+00:00", "UTC", "2028-03-29T23:59:59+00:00"),
        ("2027-04-30T10:00:00+00:00", "UTC", "2027-05-30T23:59:59+00:00"),
        ("2026-08-31T00:00:00+00:00", "UTC", "2026-09-30T23:59:59+00:00"),
        # Over the year's end.
        ("2026-12-15T23:59:59+00:00", "UTC", "2027-01-15T23:59:59+00:00"),
        ("2026-12-31T23:59:59+00:00", "UTC", "2027-01-31T23:59:59+00:00"),
        # The day is the zone's: 00:30 on 1 March at +02:00 is 28 February in UTC ...
        ("2027-03-01T00:30:00+02:00", "UTC", "2027-03-28T23:59:59+00:00"),
        # ... and 23:30 on 28 February in Brussels, whose March ends in summer time (+02:00).
        ("2027-03-01T00:30:00+02:00", "Europe/Brussels", "2027-03-28T21:59:59+00:00"),
        ("2027-02-28T23:30:00+00:00", "Europe/Brussels", "2027-04-01T21:59:59+00:00"),
        # Summer time begins between start and end (28 March 2027): +01:00 becomes +02:00.
        ("2027-03-10T12:00:00+00:00", "Europe/Brussels", "2027-04-10T21:59:59+00:00"),
        # Summer time ends between start and end (31 October 2027).
        ("2027-10-10T12:00:00+00:00", "Europe/Brussels", "2027-11-10T22:59:59+00:00"),
        # The last day is the day that summer time begins, and the one that it ends.
        ("2027-02-28T12:00:00+00:00", "Europe/Brussels", "2027-03-28T21:59:59+00:00"),
        ("2027-09-30T21:30:00+00:00", "Europe/Brussels", "2027-10-30T21:59:59+00:00"),
        # 20:00 on 28 February in Los Angeles is 1 March in UTC: counted there, it is due earlier.
        ("2027-03-01T04:00:00+00:00", "America/Los_Angeles", "2027-03-29T06:59:59+00:00"),
        # Auckland is a day ahead: 1 March there, 28 February in UTC; +13:00 until 4 April 2027.
        ("2027-02-28T20:00:00+00:00", "Pacific/Auckland", "2027-04-01T10:59:59+00:00"),
    ],
)
def test_a_month_ends_on_the_same_number_or_the_last_day(start, zone, due):
    """Regulation 1182/71, Article 3(1) and 3(2)(c), on the days of a zone."""
    end = due_at(datetime.fromisoformat(start), MONTH, time_zone=zone)

    assert end.isoformat() == due


@pytest.mark.parametrize(
    ("regime", "start", "extended", "due"),
    [
        # Three months in all; 30 February does not exist.
        (GDPR, "2026-11-30T12:00:00+00:00", True, "2027-02-28T22:59:59+00:00"),
        # Three months from 31 March: 30 June, in summer time.
        (GDPR, "2027-03-31T12:00:00+00:00", True, "2027-06-30T21:59:59+00:00"),
        # 1 August plus 45 days: 30 days to 31 August, 15 more to 15 September; midnight at -07:00.
        (DROP, "2026-08-01T12:00:00+00:00", False, "2026-09-16T06:59:59+00:00"),
        # 45 days over 29 February 2028: 19 days to 29 February (from 10), 26 more to 26 March;
        # summer time began there on 12 March.
        (DROP, "2028-02-10T20:00:00+00:00", False, "2028-03-27T06:59:59+00:00"),
        # The same without a leap day ends one day later: 18 to 28 February, 27 more to 27 March.
        (DROP, "2027-02-10T20:00:00+00:00", False, "2027-03-28T06:59:59+00:00"),
        # 90 days from 1 January 2027: 30 to 31 January, 28 to 28 February, 31 to 31 March, 1 left.
        (CCPA, "2027-01-01T20:00:00+00:00", True, "2027-04-02T06:59:59+00:00"),
    ],
)
def test_periods_of_the_shipped_regimes(regime, start, extended, due):
    """Derived by hand, each with its reason."""
    end = due_at(datetime.fromisoformat(start), regime, extended=extended)

    assert end.isoformat() == due


def test_the_last_second_that_comes_twice_is_the_earlier_one():
    """São Paulo set its clocks back at midnight on 18 February 2018: 23:59:59 came at -02:00 first.

    45 days from 3 January: 28 to 31 January, 17 left.
    """
    start = datetime(2018, 1, 3, 12, tzinfo=ZoneInfo("America/Sao_Paulo"))

    end = due_at(start, DROP, time_zone="America/Sao_Paulo")

    assert end.isoformat() == "2018-02-18T01:59:59+00:00"


@pytest.mark.parametrize(
    ("pauses", "day"),
    [
        ([], "2026-04-01"),
        ([("2026-03-01", "2026-03-02")], "2026-04-02"),
        # 36 hours are one whole day: what is not a whole day does not count against the person.
        ([("2026-03-01T00:00", "2026-03-02T12:00")], "2026-04-02"),
        # Two times 12 hours are one day; an overlap counts once.
        ([("2026-03-02", "2026-03-02T12"), ("2026-03-04T12", "2026-03-05")], "2026-04-02"),
        ([("2026-03-02", "2026-03-05"), ("2026-03-04", "2026-03-06")], "2026-04-05"),
        # It still lasts: nothing is known yet.
        ([("2026-03-02", None)], "2026-04-01"),
        # Before the start, and after the end.
        ([("2026-02-01", "2026-02-20")], "2026-04-01"),
        ([("2026-04-03", "2026-05-01")], "2026-04-01"),
        # After the end of the period alone, but inside it thanks to the pause before.
        ([("2026-03-02", "2026-03-12"), ("2026-04-05", "2026-04-07")], "2026-04-13"),
    ],
)  # fmt: skip
def test_a_pause_pushes_the_end_by_its_whole_days(pauses, day):
    """One month from 1 March is 1 April; by hand for each list of pauses."""

    def instant(text):
        return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)

    start = datetime(2026, 3, 1, tzinfo=UTC)
    intervals = [(instant(begin), instant(end)) for begin, end in pauses]

    assert due_at(start, MONTH, pauses=intervals).date().isoformat() == day


def test_overlapping_pauses_are_counted_once():
    """2 to 5 March and 4 to 6 March are four days together."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    day = timedelta(days=1)
    pauses = [(start + day, start + 4 * day), (start + 3 * day, start + 5 * day)]

    assert paused_for(start, pauses) == 4 * day


instants = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)
)
zones = st.sampled_from(
    ["UTC", "Europe/Brussels", "America/Los_Angeles", "Pacific/Auckland", "Asia/Kathmandu",
     "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca", "America/Sao_Paulo"]
)  # fmt: skip


@given(instants, zones)
def test_the_local_date_has_the_same_number_or_is_the_months_last(start, zone):
    """Slow oracle: walk day by day from the local day of the event to the next month."""
    end = due_at(start, MONTH, time_zone=zone).astimezone(ZoneInfo(zone))
    first = start.astimezone(ZoneInfo(zone)).date()
    day, days = first + timedelta(days=1), []
    while (day.year * 12 + day.month) - (first.year * 12 + first.month) < 2:
        if (day.year * 12 + day.month) - (first.year * 12 + first.month) == 1:
            days.append(day)
        day += timedelta(days=1)
    same = [day for day in days if day.day == first.day]

    assert end.date() == (same[0] if same else days[-1])
    assert (end.hour, end.minute, end.second) == (23, 59, 59)


@given(instants, zones, st.integers(1, 60))
def test_days_are_calendar_days_whatever_the_clocks_do(start, zone, days):
    """45 days over a change of the clocks are 45 dates, not 45 times 24 hours."""
    regime = Regime(name="days", version=1, answer_days=days)
    end = due_at(start, regime, time_zone=zone).astimezone(ZoneInfo(zone))

    assert (end.date() - start.astimezone(ZoneInfo(zone)).date()).days == days


@given(instants)
def test_a_month_is_28_to_31_days(start):
    """Whatever the start, the answer is due 28 to 31 days later."""
    assert 28 <= days_used(start, due_at(start, MONTH)) <= 31


@given(instants, instants, zones)
def test_a_later_start_is_never_due_earlier(first, second, zone):
    """The clock is monotone."""
    early, late = sorted((first, second))
    assert due_at(early, GDPR, time_zone=zone) <= due_at(late, GDPR, time_zone=zone)


@given(instants, st.integers(-12, 14))
def test_the_time_zone_of_the_sender_does_not_matter(start, hours):
    """One instant, one deadline."""
    elsewhere = start.astimezone(timezone(timedelta(hours=hours)))
    assert due_at(start, GDPR) == due_at(elsewhere, GDPR)


@given(instants, st.lists(st.tuples(st.integers(0, 900), st.integers(0, 200)), max_size=4))
def test_pauses_never_take_time_away_and_never_give_more_than_they_lasted(start, hours):
    """The end moves by 0 to the sum of the pauses, in whole days."""
    pauses = [
        (start + timedelta(hours=begin), start + timedelta(hours=begin + length))
        for begin, length in hours
    ]
    pushed = due_at(start, MONTH, pauses=pauses) - due_at(start, MONTH)

    assert timedelta() <= pushed <= sum((end - begin for begin, end in pauses), timedelta())
    assert pushed % timedelta(days=1) == timedelta()


@given(instants)
def test_an_extension_ends_later_than_the_period(start):
    """Also when the longer period ends in a shorter month."""
    assert due_at(start, GDPR, extended=True) > due_at(start, GDPR)


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(0, 40))
def test_months_add_up(start, months):
    """The month of the result is the month of the start plus the number."""
    end = add_months(start, months)
    assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == months


def test_the_day_of_the_event_is_not_counted():
    """Article 3(1): one day from 1 March ends on 2 March."""
    one_day = Regime(name="day", version=1, answer_days=1)
    assert last_day(date(2026, 3, 1), one_day, extended=False) == date(2026, 3, 2)


def test_a_moment_without_a_time_zone_is_refused():
    """A naive time would be due at another moment on another machine."""
    with pytest.raises(ValueError, match="time zone"):
        due_at(datetime(2026, 1, 1), GDPR)


def test_an_unknown_regime_is_refused():
    """The message lists the known ones."""
    with pytest.raises(PolicyError, match="ccpa, drop, gdpr"):
        load_regime("nowhere")


def test_a_regime_in_no_zone_of_the_earth_is_refused():
    """A misspelt zone must not become UTC."""
    with pytest.raises(ValueError, match="IANA"):
        Regime(name="x", version=1, answer_days=1, time_zone="Europe/Brusels")
