"""Random histories on both databases: no request is lost, doubled or resurrected."""

import os
import tempfile
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from governance.deletion_queue import (
    AFTER_ERASURE,
    BEFORE_ERASURE,
    Closing,
    State,
    SubmittedRequest,
    open_queue,
)
from governance.errors import RequestError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATH = ("planned", "approved", "data_erased", "model_unlearned", "verified_forgotten", "propagated")
RUNS = st.sampled_from(["one", "two", "three"])
DATASETS = (("crm",), ("crm", "web"), ("web",))
numbers = st.integers(0, 9)


class QueueMachine(RuleBasedStateMachine):
    """Two datasets, three runs, ten requests for three targets, people who change their mind."""

    url = ""

    def __init__(self):
        super().__init__()
        self.queues = {name: open_queue(self.url, dataset=name) for name in ("crm", "web")}
        self.queue = self.queues["crm"]
        self.submitted = set()
        self.closed = {}
        self.events = {}
        self.leases = {}
        self.now = NOW

    def teardown(self):
        self.everything_can_be_brought_to_an_end()
        for queue in self.queues.values():
            queue.dispose()

    def attempt(self, work):
        """Do something that may be refused; a refusal changes nothing (see the invariants)."""
        try:
            return work()
        except RequestError:
            return None

    @initialize(verified=st.lists(st.sampled_from([True, True, False]), min_size=6, max_size=10))
    def fill(self, verified):
        for number, flag in enumerate(verified):
            self.submit(number, flag, False)

    @rule(number=numbers, verified=st.sampled_from([True, True, False]), held=st.booleans())
    def submit(self, number, verified, held):
        name = f"r{number}"
        request = SubmittedRequest(
            request_id=name,
            subject_key=f"s{number % 3}",
            verified=verified,
            hold_ground="legal_claim" if held and number == 5 else None,
            datasets=DATASETS[number % 3],
            received_at=NOW,
        )
        if self.attempt(lambda: self.queue.submit(request, now=self.now)) is not None:
            self.submitted.add(name)

    @rule(run=RUNS, dataset=st.sampled_from(["crm", "web"]), size=st.integers(1, 5))
    def take(self, run, dataset, size):
        key = f"{dataset}-{run}"
        queue = self.queues[dataset]
        first = queue.lease_batch(key, lease_s=90, max_items=size, now=self.now)
        again = queue.lease_batch(key, lease_s=90, max_items=size, now=self.now)
        assert (first.batch_id, first.request_ids) == (again.batch_id, again.request_ids)
        for request_id in again.request_ids:
            row = queue.get(request_id)
            assert (row.batch_id, row.dataset) == (again.batch_id, dataset)
        self.leases.setdefault(key, []).append(again)

    @rule(minutes=st.integers(1, 3))
    def wait(self, minutes):
        self.now += timedelta(minutes=minutes)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), steps=st.integers(1, 6), stale=st.sampled_from([False, False, True]))
    def work(self, data, steps, stale):
        leases = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
        lease = leases[0] if stale else leases[-1]
        for state in PATH[:steps]:
            self.attempt(
                lambda s=state: self.queue.transition_all(
                    lease.request_ids, s, token=lease.token, now=self.now
                )
            )

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), outcome=st.sampled_from(["forgotten", "not_found"]))
    def close(self, data, outcome):
        lease = self.leases[data.draw(st.sampled_from(sorted(self.leases)))][-1]
        closings = [Closing(request_id=name, outcome=outcome) for name in lease.request_ids]
        for _ in range(2):
            self.attempt(lambda: self.queue.close_many(closings, token=lease.token, now=self.now))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), later=st.booleans())
    def give_back(self, data, later):
        lease = self.leases[data.draw(st.sampled_from(sorted(self.leases)))][-1]
        retry_at = self.now + timedelta(minutes=2) if later else None
        self.attempt(
            lambda: self.queue.release_lease(
                lease.batch_id, lease.token, now=self.now, retry_at=retry_at
            )
        )

    @rule(
        number=numbers,
        act=st.sampled_from(
            ["verify", "cancel", "reject", "answer", "hold", "hold web", "release", "exempt",
             "exempt web", "withdraw", "pause", "resume", "person"]
        ),
    )  # fmt: skip
    def decide(self, number, act):
        name, now, queue = f"r{number}", self.now, self.queue
        acts = {
            "verify": lambda: queue.verify(name, now=now),
            "cancel": lambda: queue.cancel(name, now=now, reason="withdrawn"),
            "reject": lambda: queue.reject(name, now=now, reason="unfounded"),
            "answer": lambda: queue.answer(name, now=now),
            "hold": lambda: queue.place_hold(name, "legal_claim", now=now),
            "hold web": lambda: queue.place_hold(name, "legal_claim", now=now, dataset="web"),
            "release": lambda: queue.release_hold(name, now=now),
            "exempt": lambda: queue.grant_exemption(name, "legal_obligation", now=now),
            "exempt web": lambda: queue.grant_exemption(
                name, "legal_obligation", now=now, dataset="web"
            ),
            "withdraw": lambda: queue.withdraw_exemption(name, now=now),
            "pause": lambda: queue.pause(name, reason="identity", now=now),
            "resume": lambda: queue.resume(name, now=now),
            "person": lambda: self.to_a_person(name),
        }
        self.attempt(acts[act])

    def to_a_person(self, name):
        row = self.queue.get(name)
        tokens = [one.token for leases in self.leases.values() for one in leases]
        for token in reversed(tokens):
            if row.batch_id is not None:
                self.attempt(
                    lambda t=token: self.queue.transition(
                        name, "needs_person", token=t, now=self.now
                    )
                )

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
    def events_only_grow_and_tell_of_one_erasure_for_each_dataset(self):
        for row in self.queue.list_requests():
            events = self.queue.events(row.request_id)
            before = self.events.get(row.request_id, [])
            assert events[: len(before)] == before
            assert events[-1].to_state == row.state
            erased = [e for e in events if e.to_state == "data_erased" != e.from_state]
            assert len(erased) <= len(row.datasets)
            self.events[row.request_id] = events

    def everything_can_be_brought_to_an_end(self):
        """From wherever the history left it, each request reaches an answer."""
        assert self.queue.find_problems() == []
        for row in self.queue.list_requests():
            name = row.request_id
            self.attempt(lambda n=name: self.queue.verify(n, now=self.now))
            self.attempt(lambda n=name: self.queue.release_hold(n, now=self.now))
        self.now += timedelta(days=1)
        for turn in range(30):
            for dataset, queue in self.queues.items():
                key = f"end-{dataset}-{turn}"
                lease = queue.lease_batch(key, lease_s=60, max_items=50, now=self.now)
                for name in lease.request_ids:
                    self.finish(queue, queue.get(name), lease.token)
                self.now += timedelta(minutes=2)
            for row in self.queue.list_requests():
                self.decide_at_the_end(row)
        assert set(self.queue.counts()) <= {State.CLOSED}
        self.nothing_is_lost_doubled_or_resurrected()
        assert self.queue.find_problems() == []

    def decide_at_the_end(self, row):
        name, now = row.request_id, self.now
        if row.state in {State.REJECTED, State.EXEMPT}:
            self.queue.answer(name, now=now)
        elif row.state == State.NEEDS_PERSON:
            # A person withdraws what was not erased; the rest they finish, in its batch.
            if not self.queue.cancel(name, now=now, reason="withdrawn"):
                self.by_hand(self.queue, row)
        elif row.hold_ground is not None and row.state != State.CLOSED:
            self.attempt(lambda: self.queue.release_hold(name, now=now))

    def finish(self, queue, row, token):
        if row.state in BEFORE_ERASURE:
            queue.close(row.request_id, outcome="not_found", claim=None, token=token, now=self.now)
        elif row.state in AFTER_ERASURE:
            for state in PATH:
                queue.transition(row.request_id, state, token=token, now=self.now)
            queue.close(
                row.request_id, outcome="forgotten", claim="exact", token=token, now=self.now
            )

    def by_hand(self, queue, row):
        keys = [key for key, leases in self.leases.items() if leases[-1].batch_id == row.batch_id]
        for key in keys:
            lease = queue.lease_batch(key, lease_s=60, max_items=50, now=self.now)
            self.attempt(
                lambda t=lease.token: queue.close(
                    row.request_id, outcome="forgotten", claim="exact", token=t, now=self.now
                )
            )


def run(machine):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("R2U_EXAMPLES", "15")),
            # The same histories each time, unless a search is asked for: R2U_EXAMPLES=500.
            derandomize="R2U_EXAMPLES" not in os.environ,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_random_histories_keep_every_request_exactly_once(where, request):
    """The laws of ``QueueMachine`` after every step, and an answer for everybody at the end."""

    class Machine(QueueMachine):
        def __init__(self):
            if where == "sqlite":
                self.folder = tempfile.TemporaryDirectory()
                self.url = f"sqlite:///{self.folder.name}/q.db"
            else:
                self.url = request.getfixturevalue("wipe_postgres_queue")()
            super().__init__()

        def teardown(self):
            super().teardown()
            if where == "sqlite":
                self.folder.cleanup()

    run(Machine)
