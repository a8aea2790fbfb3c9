"""Laws of the report's numbers, on small cases whose answers are counted by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from governance.report_numbers import (
    backups_until,
    batch_cost,
    batch_times,
    cost_numbers,
    deadline_numbers,
    head_problems,
    quantile,
    request_numbers,
    set_difference_holds,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def row(name, *, due, closed=None, state=None, outcome=None, days=0):
    """A request due so many days from now, answered so many days from now (None: not yet)."""
    return {
        "request_id": name,
        "state": state or ("queued" if closed is None else "closed"),
        "outcome": outcome or (None if closed is None else "forgotten"),
        "claim": None if closed is None else "exact",
        "regime": "gdpr",
        "due_at": (NOW + timedelta(days=due)).isoformat(),
        "closed_at": None if closed is None else (NOW + timedelta(days=closed)).isoformat(),
        "days_used": days,
    }


ROWS = [
    row("in-time", due=-1, closed=-2, days=10),
    row("last-moment", due=-3, closed=-3, days=30),
    row("late", due=-9, closed=-8, days=31),
    row("overdue", due=-1),
    row("soon", due=7),
    row("far", due=8, state="held"),
]


def test_every_request_is_counted_once():
    """Six requests, three answered; states and outcomes add up to the same numbers."""
    numbers = request_numbers(ROWS)

    assert (numbers["total"], numbers["open"], numbers["closed"]) == (6, 3, 3)
    assert numbers["by_state"] == {"closed": 3, "held": 1, "queued": 2}
    assert numbers["by_outcome"] == {"forgotten": 3}
    assert sum(numbers["by_regime"].values()) == 6


def test_a_deadline_is_kept_up_to_its_last_moment():
    """Answered at the deadline is in time; one second later would be late. 2 of 3 in time."""
    numbers = deadline_numbers(ROWS, NOW)

    assert (numbers["answered_in_time"], numbers["answered_late"]) == (2, 1)
    assert numbers["share_in_time"] == pytest.approx(2 / 3)
    assert (numbers["open_overdue"], numbers["open_due_in_7_days"]) == (1, 1)
    assert numbers["late_requests"] == ["late", "overdue"]
    assert numbers["days_to_answer"] == {"n": 3, "median": 30, "p90": 31, "longest": 31}


def test_of_nothing_there_is_no_share():
    """Without an answer, *100 % in time* would be untrue: there is no number."""
    numbers = deadline_numbers([], NOW)

    assert numbers["share_in_time"] is None
    assert numbers["days_to_answer"] == {"n": 0, "median": None, "p90": None, "longest": None}
    assert cost_numbers([])["share_of_retrain"] is None


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([1], 0.5, 1), ([1, 2], 0.5, 1), ([1, 2, 3], 0.5, 2), (list(range(1, 11)), 0.9, 9)],
)
def test_a_quantile_is_a_value_that_was_seen(values, share, expected):
    """Nearest rank: the smallest value that so many are not above."""
    assert quantile(values, share) == expected


def test_all_lanes_that_were_tried_cost():
    """A refused lane of 1 + 4 s and an exact one of 2 + 3 s against a retrain of 20 s: half."""
    tried = [
        {"cost": {"unlearn_s": 1.0, "evidence_s": 4.0, "retrain_s": 20.0}},
        {"cost": {"unlearn_s": 2.0, "evidence_s": 3.0, "retrain_s": 20.0}},
    ]
    cost = batch_cost(tried)
    idle = batch_cost([{"verdict": "accept"}])

    assert cost == {
        "unlearn_s": 3.0,
        "evidence_s": 7.0,
        "retrain_s": 20.0,
        "share_of_retrain": 0.5,
    }
    assert idle["share_of_retrain"] is None
    total = cost_numbers([{"cost": cost, "n_requests": 3}, {"cost": idle, "n_requests": 2}])
    assert (total["share_of_retrain"], total["seconds_per_request"]) == (0.5, 2.0)


def test_a_batch_has_the_times_of_its_own_entries():
    """Entries of another batch, and of none, are passed over."""
    entries = [
        {"kind": "batch_planned", "at": "1", "body": {"batch_id": "b"}},
        {"kind": "rows_erased", "at": "2", "body": {"batch_id": "other"}},
        {"kind": "model_promoted", "at": "3", "body": {"batch_id": None}},
        {"kind": "batch_closed", "at": "4", "body": {"batch_id": "b"}},
    ]
    times = batch_times(entries, "b")

    assert {name: at for name, at in times.items() if at} == {"planned_at": "1", "closed_at": "4"}


@pytest.mark.parametrize("change", [{"after": 8}, {"untouched_digest_after": "x"}])
def test_a_row_more_or_another_content_breaks_the_set_difference(change):
    """10 rows before, 1 erased: 9 after, and the 9 are the same 9."""
    good = {
        "before": 10,
        "erased": 1,
        "after": 9,
        "untouched_digest_before": "d",
        "untouched_digest_after": "d",
    }

    assert set_difference_holds({"raw": good})
    assert not set_difference_holds({"raw": good, "salts": {**good, **change}})


def test_backups_end_so_many_days_after_the_erasure():
    """30 days after 2 May is 1 June; without a declared period, or an erasure, nobody knows."""
    times = {"rows_erased_at": "2026-05-02T10:00:00+00:00"}

    assert backups_until(times, 30) == "2026-06-01"
    assert backups_until(times, 0) == "2026-05-02"
    assert backups_until(times, None) is None
    assert backups_until({"rows_erased_at": None}, 30) is None


def test_a_ledger_that_was_cut_or_written_anew_misses_a_noted_head():
    """Three entries were noted; with two left, or another third one, the report says so."""
    noted = [{"made_at": "m", "n_entries": 3, "head": "sha256:c"}]
    entries = [{"digest": f"sha256:{name}"} for name in "abc"]

    assert head_problems([*entries, {"digest": "sha256:d"}], noted) == []
    assert len(head_problems(entries[:2], noted)) == 1
    assert len(head_problems([*entries[:2], {"digest": "sha256:forged"}], noted)) == 1
    assert head_problems([], [{"made_at": "m", "n_entries": 0, "head": "sha256:0"}]) == []
