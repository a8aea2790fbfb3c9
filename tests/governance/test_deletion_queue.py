"""Laws of the deletion queue: nothing lost, doubled or resurrected; the database guards itself."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from governance.deletion_queue import State, SubmittedRequest, open_queue
from governance.errors import RequestError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def request(name, **changes):
    content = {"request_id": name, "subject_key": f"key-of-{name}", "received_at": NOW}
    return SubmittedRequest(**(content | changes))


@pytest.fixture
def queue(tmp_path):
    opened = open_queue(f"sqlite:///{tmp_path / 'queue.db'}")
    yield opened
    opened.dispose()


def lease(queue, run="run", now=NOW, **changes):
    return queue.lease_batch(run, **({"lease_s": 60, "max_items": 10, "now": now} | changes))


def test_a_retried_run_gets_the_same_batch(queue):
    """The claim is keyed by the run; the retry's token replaces the old one."""
    queue.submit(request("a"))
    first = lease(queue)
    queue.submit(request("b"))

    again = lease(queue)

    assert (first.batch_id, first.request_ids) == (again.batch_id, again.request_ids)
    assert again.token > first.token


def test_the_due_first_come_first(queue):
    """Requests are leased by deadline, whatever order they came in."""
    queue.submit(request("late", received_at=NOW))
    queue.submit(request("early", received_at=NOW - timedelta(days=20)))

    assert lease(queue, max_items=1).request_ids == ("early",)


def test_an_old_token_cannot_write(queue):
    """After the lease ran out and another run took the batch, the first holder is fenced off."""
    queue.submit(request("a"))
    old = lease(queue, "one")
    later = NOW + timedelta(seconds=61)
    new = lease(queue, "two", later)
    assert new.request_ids == ("a",)

    with pytest.raises(RequestError, match="token"):
        queue.transition("a", State.PLANNED, token=old.token + 5, now=later)
    queue.transition("a", State.PLANNED, token=new.token, now=later)


def test_a_batch_that_died_after_the_erasure_is_taken_over(queue):
    """Rows are gone, so the next run finishes this batch before it begins another."""
    queue.submit(request("a"))
    first = lease(queue, "one")
    for state in (State.PLANNED, State.APPROVED, State.DATA_ERASED):
        queue.transition("a", state, token=first.token, now=NOW)
    queue.submit(request("b"))

    second = lease(queue, "two", NOW + timedelta(seconds=61))

    assert (first.batch_id, ("a",)) == (second.batch_id, second.request_ids)


def test_an_unverified_request_never_shadows_a_verified_one(queue):
    """Whichever comes first, the verified one is queued and the unverified one waits."""
    queue.submit(request("x", subject_key="same", verified=False))
    queue.submit(request("y", subject_key="same"))
    assert ("unverified", "queued") == (queue.get("x").state, queue.get("y").state)

    queue.verify("x", now=NOW)

    assert ("duplicate", "y") == (queue.get("x").state, queue.get("x").duplicate_of)


def test_a_duplicate_closes_with_its_primary(queue):
    """The same target twice is one piece of work and two answers."""
    queue.submit(request("a", subject_key="same"))
    queue.submit(request("b", subject_key="same"))
    batch = lease(queue)
    queue.close("a", outcome="not_found", claim=None, token=batch.token, now=NOW)

    assert ("closed", "duplicate", "a") == (
        queue.get("b").state,
        queue.get("b").outcome,
        queue.get("b").duplicate_of,
    )


def test_a_held_request_is_not_leased_and_comes_back_by_itself(queue):
    """A hold keeps the request out; its release queues it again."""
    queue.submit(request("a", hold_ground="legal_claim"))
    assert lease(queue).request_ids == ()

    queue.release_hold("a", now=NOW)

    assert lease(queue, "next").request_ids == ("a",)


def test_a_hold_between_plan_and_erasure_takes_the_item_out(queue):
    """Until rows are erased, a hold wins."""
    queue.submit(request("a"))
    batch = lease(queue)
    queue.transition("a", State.PLANNED, token=batch.token, now=NOW)

    queue.place_hold("a", "legal_claim", now=NOW)

    assert ("held", None) == (queue.get("a").state, queue.get("a").batch_id)


def test_a_cancellation_is_honoured_until_rows_are_erased(queue):
    """Before the erasure it closes the request; afterwards it is noted and answered."""
    for name in ("early", "late"):
        queue.submit(request(name))
    batch = lease(queue)
    assert queue.cancel("early", now=NOW, reason="withdrawn") is True
    for state in (State.PLANNED, State.APPROVED, State.DATA_ERASED):
        queue.transition("late", state, token=batch.token, now=NOW)

    assert queue.cancel("late", now=NOW, reason="withdrawn") is False
    assert ("cancelled", None) == (queue.get("early").outcome, queue.get("late").outcome)
    assert queue.events("late")[-1].details == {"cancellation": "too late"}


def test_the_database_refuses_what_goes_around_the_code(queue, tmp_path):
    """Illegal transitions, changed events and deleted rows fail in plain SQL too."""
    queue.submit(request("a"))
    connection = sqlite3.connect(tmp_path / "queue.db")
    for statement, expected in (
        ("UPDATE requests SET state = 'propagated'", "illegal transition|needs its event"),
        ("UPDATE requests SET state = 'closed'", "constraint|illegal|needs its event"),
        ("UPDATE requests SET state = 'leased'", "needs its event"),
        ("DELETE FROM requests", "never deleted"),
        ("DELETE FROM events", "append-only"),
        ("UPDATE events SET reason = 'x'", "append-only"),
    ):
        with pytest.raises(sqlite3.DatabaseError, match=expected):
            connection.execute(statement)
    connection.close()


def test_the_database_is_durable(queue, tmp_path):
    """WAL and FULL: what ``submit`` returned survives a power cut."""
    with queue._database.read() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        ]
    assert values == ["wal", 2, 1, 1]


def test_the_same_id_for_another_target_is_refused(queue):
    """A request id means one request for ever."""
    queue.submit(request("a"))
    assert queue.submit(request("a")) == "a"
    with pytest.raises(RequestError, match="taken"):
        queue.submit(request("a", subject_key="another"))


def test_a_request_for_nothing_is_refused():
    """No subject, no record, no selector."""
    with pytest.raises(RequestError, match="got none"):
        SubmittedRequest(received_at=NOW)


class QueueMachine(RuleBasedStateMachine):
    """Random histories: every request stays exactly one, and closed ones stay closed."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.queue = open_queue(f"sqlite:///{self.folder.name}/q.db")
        self.submitted = set()
        self.closed = {}
        self.events = {}
        self.leases = {}
        self.now = NOW

    def teardown(self):
        self.queue.dispose()
        self.folder.cleanup()

    @rule(target=names, number=st.integers(0, 30), verified=st.booleans(), held=st.booleans())
    def submit(self, number, verified, held):
        name = f"r{number}"
        ground = "legal_claim" if held else None
        try:
            self.queue.submit(
                request(name, subject_key=f"s{number % 7}", verified=verified, hold_ground=ground)
            )
            self.submitted.add(name)
        except RequestError:
            assert name in self.submitted
        return name

    @rule(run=st.sampled_from(["one", "two", "three"]), size=st.integers(1, 5))
    def take(self, run, size):
        self.leases[run] = self.queue.lease_batch(run, lease_s=60, max_items=size, now=self.now)

    @rule(minutes=st.integers(1, 3))
    def wait(self, minutes):
        self.now += timedelta(minutes=minutes)

    @rule(
        run=st.sampled_from(["one", "two", "three"]),
        name=names,
        action=st.sampled_from(["planned", "approved", "data_erased", "close", "hold", "release"]),
    )
    def act(self, run, name, action):
        token = self.leases[run].token if run in self.leases else 0
        try:
            if action == "close":
                self.queue.close(name, outcome="not_found", claim=None, token=token, now=self.now)
            elif action == "hold":
                self.queue.place_hold(name, "legal_claim", now=self.now)
            elif action == "release":
                self.queue.release_hold(name, now=self.now)
            else:
                self.queue.transition(name, action, token=token, now=self.now)
        except RequestError:
            pass

    @invariant()
    def nothing_is_lost_doubled_or_resurrected(self):
        rows = self.queue.list_requests()
        assert sorted(row.request_id for row in rows) == sorted(self.submitted)
        for row in rows:
            if row.request_id in self.closed:
                assert row == self.closed[row.request_id]
            if row.state == State.CLOSED:
                self.closed[row.request_id] = row

    @invariant()
    def events_only_grow_and_end_at_the_state(self):
        for row in self.queue.list_requests():
            events = self.queue.events(row.request_id)
            before = self.events.get(row.request_id, [])
            assert events[: len(before)] == before
            assert events[-1].to_state == row.state
            self.events[row.request_id] = events


QueueMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, database=None
)
TestQueueMachine = QueueMachine.TestCase
