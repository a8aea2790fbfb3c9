"""Laws of the statutory clock, with hand-derived cases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.clock import add_months, days_used, due_at, share_used
from governance.errors import PolicyError
from governance.regimes import load_regime

GDPR, DROP = load_regime("gdpr"), load_regime("drop")


@pytest.mark.parametrize(
    ("start", "due"),
    [
        ("2027-01-31T10:00:00+00:00", "2027-02-28"),  # no 31 February, not a leap year
        ("2028-01-31T10:00:00+00:00", "2028-02-29"),  # leap year
        ("2027-02-28T10:00:00+00:00", "2027-03-28"),  # same number, not the month's last day
        ("2026-12-15T23:59:59+00:00", "2027-01-15"),  # over the year's end
        ("2026-08-31T00:00:00+00:00", "2026-09-30"),
        ("2027-03-01T00:30:00+02:00", "2027-03-28"),  # 28 February in UTC
    ],
)
def test_a_month_ends_on_the_same_number_or_the_last_day(start, due):
    """Regulation 1182/71, Article 3(2)(c)."""
    end = due_at(datetime.fromisoformat(start), GDPR)

    assert end.isoformat() == f"{due}T23:59:59+00:00"


def test_drop_is_45_days():
    """1 August 2026 plus 45 days is 15 September."""
    assert due_at(datetime(2026, 8, 1, tzinfo=UTC), DROP).date().isoformat() == "2026-09-15"


def test_an_extension_adds_two_months():
    """Article 12(3): three months in all."""
    start = datetime(2026, 11, 30, tzinfo=UTC)
    assert due_at(start, GDPR, extended=True).date().isoformat() == "2027-02-28"


def test_a_pause_pushes_the_end_by_whole_days():
    """A pause of 36 hours counts as two days, in favour of nobody's memory."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    pause = (start, start + timedelta(hours=36))
    assert due_at(start, GDPR, pauses=[pause]).date().isoformat() == "2026-04-03"


instants = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)
)


@given(instants)
def test_a_month_is_28_to_31_days(start):
    """Whatever the start, the answer is due 28 to 31 days later."""
    assert 28 <= days_used(start, due_at(start, GDPR)) <= 31


@given(instants, instants)
def test_a_later_start_is_never_due_earlier(first, second):
    """The clock is monotone."""
    early, late = sorted((first, second))
    assert due_at(early, GDPR) <= due_at(late, GDPR)


@given(instants, st.integers(-12, 14))
def test_the_time_zone_of_the_sender_does_not_matter(start, hours):
    """One instant, one deadline."""
    elsewhere = start.astimezone(timezone(timedelta(hours=hours)))
    assert due_at(start, GDPR) == due_at(elsewhere, GDPR)


@given(instants, st.integers(0, 40))
def test_months_add_up(start, months):
    """The month of the result is the month of the start plus the number."""
    end = add_months(start, months)
    assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == months


def test_shares_are_0_at_the_start_and_1_at_the_deadline():
    """What the sentinel compares with 50, 80 and 100 %."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    due = due_at(start, GDPR)
    assert (0.0, 1.0) == (share_used(start, due, start), share_used(start, due, due))


def test_a_moment_without_a_time_zone_is_refused():
    """A naive time would be due at another moment on another machine."""
    with pytest.raises(ValueError, match="time zone"):
        due_at(datetime(2026, 1, 1), GDPR)


def test_an_unknown_regime_is_refused():
    """The message lists the known ones."""
    with pytest.raises(PolicyError, match="ccpa, drop, gdpr"):
        load_regime("nowhere")
