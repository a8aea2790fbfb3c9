"""Laws of the deadline warnings: at 50, 80 and 100 % of the period, pauses left out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from governance.deletion_queue import SubmittedRequest, open_queue
from r2u_tasks.stages.sentinel import _deadlines

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def row(tmp_path):
    """A request whose period is 100 days, so that a day is a hundredth of it."""
    queue = open_queue(f"sqlite:///{tmp_path / 'queue.db'}")
    queue.submit(SubmittedRequest(request_id="a", subject_key="k", received_at=NOW))
    yield replace(queue.get("a"), due_at=NOW + timedelta(days=100))
    queue.dispose()


@pytest.mark.parametrize(
    ("days", "severity"),
    [(49, None), (50, "info"), (79, "info"), (80, "warning"), (99, "warning"), (100, "critical")],
)
def test_a_period_warns_at_half_at_four_fifths_and_at_its_end(row, days, severity):
    """Nothing before half of it is over."""
    found = [w["severity"] for w in _deadlines([row], NOW + timedelta(days=days))]

    assert found == ([severity] if severity else [])


def test_a_pause_that_lasts_stops_the_warnings(row):
    """Paused at 40 %, it stays at 40 % however long the pause lasts."""
    paused = replace(row, paused_since=NOW + timedelta(days=40))

    assert _deadlines([paused], NOW + timedelta(days=400)) == []


def test_a_thousand_late_requests_are_a_list_that_can_be_read(row):
    """The hundred that are worst off one by one, the others as a number for each level."""
    rows = [
        replace(row, request_id=f"r{i:04d}", clock_start=NOW - timedelta(minutes=i))
        for i in range(1000)
    ]
    found = _deadlines(rows, NOW + timedelta(days=60))

    assert [f"r{i:04d}" for i in range(999, 899, -1)] == [w["request_id"] for w in found[:100]]
    assert [("info", "900 more requests have used 50% of their period or more")] == [
        (w["severity"], w["message"]) for w in found[100:]
    ]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("queued", "run a batch"),
        ("rejected", "answer it"),
        ("unverified", "proof"),
        ("held", "hold"),
    ],
)
def test_the_warning_says_what_to_do(row, state, words):
    """Which depends on where the request rests."""
    (found,) = _deadlines([replace(row, state=state)], NOW + timedelta(days=101))

    assert words in found["message"]
    assert "breached" in found["message"]
