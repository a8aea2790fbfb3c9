"""Laws of the deletion queue, on SQLite and PostgreSQL alike."""

import hashlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from governance.deletion_queue import (
    AFTER_ERASURE,
    BEFORE_ERASURE,
    ClockState,
    Closing,
    Pseudonyms,
    State,
    SubmittedRequest,
    open_queue,
)
from governance.errors import RequestError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=61)
STEPS = ("planned", "approved", "data_erased", "model_unlearned", "verified_forgotten")


def lease(queue, run="run", now=NOW, **changes):
    return queue.lease_batch(run, **({"lease_s": 60, "max_items": 10, "now": now} | changes))


def walk(queue, batch, to_state):
    """Move a batch along the straight path up to a state."""
    for state in (*STEPS, "propagated"):
        if to_state == "leased":
            return
        queue.transition_all(batch.request_ids, state, token=batch.token, now=NOW)
        if state == to_state:
            return


def states(queue, *names):
    return [queue.get(name).state for name in names]


class TestLeases:
    """Batches: one run, one token, one snapshot."""

    def test_a_retried_run_gets_the_same_batch(self, queue, ask):
        """The claim is keyed by the run; nothing joins, the retry's token replaces the old one."""
        queue.submit(ask("a"))
        first = lease(queue)
        queue.submit(ask("b"))

        again = lease(queue)

        assert (first.batch_id, first.request_ids, first.snapshot_digest) == (
            again.batch_id,
            again.request_ids,
            again.snapshot_digest,
        )
        assert again.token > first.token
        with pytest.raises(RequestError, match="token"):
            queue.transition("a", State.PLANNED, token=first.token, now=NOW)

    def test_the_due_first_come_first_then_the_riskiest(self, queue, ask):
        """By deadline, whatever order they came in; on one day by risk; then by id."""
        queue.submit(ask("late"))
        queue.submit(ask("low", risk=0.2, received_at=NOW - timedelta(days=20)))
        queue.submit(ask("high", risk=0.9, received_at=NOW - timedelta(days=20, hours=3)))
        queue.submit(ask("also-high", risk=0.9, received_at=NOW - timedelta(days=20)))

        assert lease(queue).request_ids == ("also-high", "high", "low", "late")

    def test_the_snapshot_is_the_digest_of_the_sorted_ids(self, queue, ask):
        """Anybody can recompute it, also after a request left the batch."""
        queue.submit_many([ask("b"), ask("a")])
        batch = lease(queue)
        queue.place_hold("a", "legal_claim", now=NOW)

        assert queue.snapshot(batch.batch_id) == ["a", "b"]
        assert (
            batch.snapshot_digest
            == f"sha256:{hashlib.sha256(b'a' + bytes([10]) + b'b').hexdigest()}"
        )
        assert lease(queue).snapshot_digest == batch.snapshot_digest

    def test_an_expired_lease_gives_its_requests_to_the_next_run(self, queue, ask):
        """A crash gives items back; the first holder is fenced off."""
        queue.submit(ask("a"))
        old = lease(queue, "one")
        new = lease(queue, "two", LATER)
        assert new.request_ids == ("a",)

        with pytest.raises(RequestError, match="token"):
            queue.transition("a", State.PLANNED, token=old.token, now=LATER)
        queue.transition("a", State.PLANNED, token=new.token, now=LATER)

    def test_a_run_that_comes_back_late_gets_what_is_left_of_its_batch(self, queue, ask):
        """Requests that nobody took since are its own again; new ones never join."""
        queue.submit_many([ask("a"), ask("b")])
        lease(queue, "one")
        taken = lease(queue, "two", LATER, max_items=1)
        queue.submit(ask("c"))

        again = lease(queue, "one", LATER)

        assert (("a",), ("b",)) == (taken.request_ids, again.request_ids)

    def test_a_run_that_found_nothing_may_find_something_later(self, queue, ask):
        """An empty batch is no snapshot yet."""
        assert lease(queue).request_ids == ()
        queue.submit(ask("a"))

        assert lease(queue).request_ids == ("a",)

    def test_a_batch_that_died_after_the_erasure_is_taken_over_whole(self, queue, ask):
        """Rows are gone, so the next run finishes this batch before it begins another."""
        queue.submit_many([ask("a"), ask("b")])
        first = lease(queue, "one")
        walk(queue, first, "data_erased")
        queue.submit(ask("c"))

        second = lease(queue, "two", LATER)

        assert (first.batch_id, ("a", "b")) == (second.batch_id, second.request_ids)

    def test_a_run_whose_batch_another_one_finishes_has_nothing_to_do(self, queue, ask):
        """While the other is at it, and after it is done; it must not begin something new."""
        queue.submit(ask("a"))
        walk(queue, lease(queue, "one"), "data_erased")
        second = lease(queue, "two", LATER)
        queue.submit(ask("b"))

        assert lease(queue, "one", LATER).request_ids == ()
        walk(queue, second, "propagated")
        queue.close("a", outcome="forgotten", claim="exact", token=second.token, now=LATER)
        queue.release_lease(second.batch_id, second.token, now=LATER)

        assert lease(queue, "one", LATER).request_ids == ()
        assert lease(queue, "three", LATER).request_ids == ("b",)

    def test_a_returned_lease_cannot_write(self, queue, ask):
        """Its requests are queued again and belong to nobody."""
        queue.submit(ask("a"))
        batch = lease(queue)
        queue.release_lease(batch.batch_id, batch.token, now=NOW)

        with pytest.raises(RequestError, match="token"):
            queue.transition("a", State.PLANNED, token=batch.token, now=NOW)
        assert ("queued", None) == (queue.get("a").state, queue.get("a").batch_id)

    def test_a_renewed_lease_does_not_expire(self, queue, ask):
        """A long step keeps its batch."""
        queue.submit(ask("a"))
        batch = lease(queue)
        queue.renew_lease(batch.batch_id, batch.token, lease_s=3600, now=NOW)

        assert lease(queue, "two", LATER).request_ids == ()

    def test_a_failed_batch_can_wait_before_it_is_tried_again(self, queue, ask):
        """``retry_wait`` holds the requests until the moment that was named."""
        queue.submit(ask("a"))
        batch = lease(queue)
        retry_at = NOW + timedelta(hours=1)
        queue.release_lease(batch.batch_id, batch.token, now=NOW, retry_at=retry_at)

        assert states(queue, "a") == ["retry_wait"]
        assert lease(queue, "soon", NOW + timedelta(minutes=59)).request_ids == ()
        assert lease(queue, "then", retry_at).request_ids == ("a",)

    def test_a_batch_moves_and_closes_as_one_or_not_at_all(self, queue, ask):
        """One request that may not move keeps the others where they are."""
        queue.submit_many([ask("a"), ask("b")])
        batch = lease(queue)
        queue.place_hold("b", "legal_claim", now=NOW)

        with pytest.raises(RequestError, match="expected 2 of its requests, got 1"):
            queue.transition_all(["a", "b"], "planned", token=batch.token, now=NOW)
        assert states(queue, "a", "b") == ["leased", "held"]

    def test_steps_and_closing_are_idempotent(self, queue, ask):
        """A repeat of what was done changes nothing, not even the history."""
        queue.submit(ask("a"))
        batch = lease(queue)
        walk(queue, batch, "propagated")
        closing = Closing(request_id="a", outcome="forgotten", claim="exact", details={"k": 1})
        queue.close_many([closing], token=batch.token, now=NOW)
        events = queue.events("a")

        queue.close_many([closing], token=batch.token, now=NOW)
        walk(queue, batch, "data_erased")

        assert events == queue.events("a")
        assert [event.number for event in events] == list(range(1, 12))
        assert events[-1].details == {"k": 1}

    def test_an_escalated_batch_goes_on_to_its_end(self, queue, ask):
        """The exact lane stands between the erasure and the model."""
        queue.submit(ask("a"))
        batch = lease(queue)
        for state in ("planned", "approved", "data_erased", "escalated_exact", "model_unlearned"):
            queue.transition("a", state, token=batch.token, now=NOW)

        assert queue.events("a")[-1].from_state == "escalated_exact"

    def test_a_person_can_send_a_request_back(self, queue, ask):
        """``needs_person`` after the erasure stays with its batch."""
        queue.submit(ask("a"))
        batch = lease(queue)
        walk(queue, batch, "data_erased")
        queue.transition("a", "needs_person", token=batch.token, now=NOW, reason="refused")
        assert lease(queue, "two", LATER).request_ids == ()

        again = lease(queue, "run", LATER)
        queue.transition("a", "model_unlearned", token=again.token, now=LATER)

        assert states(queue, "a") == ["model_unlearned"]

    def test_sentinel_sees_what_is_leased(self, queue, ask):
        """Batch, end of the lease and number of requests; a batch without requests is none."""
        queue.submit_many([ask("a"), ask("b")])
        batch = lease(queue)
        lease(queue, "empty")

        assert [(batch.batch_id, batch.expires_at, 2)] == [
            (row.batch_id, row.expires_at, row.n_requests) for row in queue.open_leases()
        ]


class TestIdentity:
    """Unverified requests wait; duplicates follow their primary."""

    @pytest.mark.parametrize("order", ["xy", "yx"])
    def test_an_unverified_request_never_shadows_a_verified_one(self, queue, ask, order):
        """Whichever comes first, the verified one is queued and the unverified one waits."""
        requests = {
            "x": ask("x", subject_key="same", verified=False),
            "y": ask("y", subject_key="same"),
        }
        for name in order:
            queue.submit(requests[name])
        assert states(queue, "x", "y") == ["unverified", "queued"]
        assert lease(queue).request_ids == ("y",)

        queue.verify("x", now=NOW)

        assert ("duplicate", "y") == (queue.get("x").state, queue.get("x").duplicate_of)

    def test_the_history_names_each_step(self, queue, ask):
        """Received, verified, queued; an unverified one waits between."""
        queue.submit(ask("a"), now=NOW)
        queue.submit(ask("b", verified=False), now=NOW)
        queue.verify("b", now=LATER)

        assert [
            ["received", "verified", "queued"],
            ["received", "unverified", "verified", "queued"],
        ] == [[event.to_state for event in queue.events(name)] for name in "ab"]

    def test_a_duplicate_closes_with_its_primary(self, queue, ask):
        """The same target twice, whatever the order of its records, is one piece of work."""
        queue.submit(ask("a", subject_key=None, record_keys=("1", "2")))
        queue.submit(ask("b", subject_key=None, record_keys=("2", "1")))
        batch = lease(queue)
        queue.submit(ask("c", subject_key=None, record_keys=("1", "2")))
        queue.close("a", outcome="not_found", claim=None, token=batch.token, now=NOW)

        assert [("closed", "duplicate", "a")] * 2 == [
            (row.state, row.outcome, row.duplicate_of) for row in map(queue.get, "bc")
        ]

    def test_a_tenant_asked_again_during_its_batch_is_looked_at_again(self, queue, ask):
        """Rows may have come in since the plan, and no tombstone suppresses those of a tenant."""
        tenant = {"subject_key": None, "selector": {"column": "tenant", "value": "v"}}
        queue.submit_many([ask("a", **tenant), ask("early", **tenant)], now=NOW)
        batch = lease(queue, now=NOW + timedelta(seconds=1))
        queue.submit(ask("late", **tenant), now=NOW + timedelta(seconds=2))
        queue.close("a", outcome="not_found", claim=None, token=batch.token, now=LATER)

        assert states(queue, "a", "early", "late") == ["closed", "closed", "queued"]

    def test_after_the_erasure_the_same_target_is_a_request_of_its_own(self, queue, ask):
        """It cannot close with an erasure that began before it came."""
        queue.submit(ask("a", subject_key="same"))
        walk(queue, lease(queue), "data_erased")
        queue.submit(ask("b", subject_key="same"))

        assert queue.get("b").state == "queued"

    @pytest.mark.parametrize("leaves", ["cancel", "reject"])
    def test_a_duplicate_takes_the_place_of_a_primary_that_leaves(self, queue, ask, leaves):
        """Its holds pass on, and the other duplicates follow the new primary."""
        for name in "abc":
            queue.submit(ask(name, subject_key="same"))
        queue.place_hold("a", "legal_claim", now=NOW)
        getattr(queue, leaves)("a", now=NOW, reason="withdrawn")
        assert [("held", None), ("duplicate", "b")] == [
            (row.state, row.duplicate_of) for row in map(queue.get, "bc")
        ]

        queue.release_hold("b", now=NOW)

        assert lease(queue).request_ids == ("b",)

    def test_a_rejection_needs_a_reason_and_an_answer(self, queue, ask):
        """It is open until the person is told; the clock runs on."""
        queue.submit(ask("a", verified=False))
        with pytest.raises(RequestError, match="reason"):
            queue.reject("a", now=NOW, reason=" ")
        queue.reject("a", now=NOW, reason="identity never proven")
        assert ("rejected", "rejected", None) == (
            queue.get("a").state,
            queue.get("a").outcome,
            queue.get("a").closed_at,
        )

        queue.answer("a", now=LATER, reference="letter-17")

        assert ("closed", "rejected", LATER) == (
            queue.get("a").state,
            queue.get("a").outcome,
            queue.get("a").closed_at,
        )
        assert queue.events("a")[-1].details == {"reference": "letter-17"}

    def test_the_same_id_for_another_target_is_refused(self, queue, ask):
        """A request id means one request for ever; the whole file is refused with it."""
        queue.submit(ask("a"))
        assert queue.submit(ask("a")) == "a"
        with pytest.raises(RequestError, match="taken"):
            queue.submit_many([ask("b"), ask("a", subject_key="another")])
        assert [row.request_id for row in queue.list_requests()] == ["a"]

    def test_receipts_say_what_became_of_each_request(self, queue, ask):
        """Also of a repeat and of a duplicate within one file."""
        queue.submit(ask("old"))
        one, two = ask("a", subject_key="s"), ask("b", subject_key="s")
        receipts = queue.submit_many([ask("old"), one, two, one], file_digest="sha256:ff")

        assert [
            ("old", "queued", None, False),
            ("a", "queued", None, True),
            ("b", "duplicate", "a", True),
            ("a", "queued", None, False),
        ] == [(r.request_id, r.state, r.duplicate_of, r.is_new) for r in receipts]
        assert queue.has_file("sha256:ff")
        assert not queue.has_file("sha256:fe")
        assert set(queue.known_targets(["a", "b", "nobody"])) == {"a", "b"}

    def test_many_requests_at_once_are_stored_like_one(self, queue, ask):
        """More than fit in one statement; order of receipts is the order asked."""
        names = [f"r{i:04d}" for i in range(3000)]
        receipts = queue.submit_many([ask(name) for name in reversed(names)])

        assert [r.request_id for r in receipts] == names[::-1]
        assert queue.counts() == {"queued": 3000}

    def test_a_target_is_recognised_under_a_rotated_key(self, queue, ask):
        """The request names the earlier pseudonym, so it finds the one that came before."""
        queue.submit(ask("a", subject_key="old-pseudonym", key_id="k1"))
        earlier = (Pseudonyms(key_id="k1", subject_key="old-pseudonym"),)
        rotated = {"subject_key": "new-pseudonym", "key_id": "k2", "earlier": earlier}
        queue.submit(ask("b", **rotated))
        assert ("duplicate", "a") == (queue.get("b").state, queue.get("b").duplicate_of)
        queue.cancel("a", now=NOW, reason="withdrawn")

        queue.submit(ask("c", **rotated))
        queue.submit(ask("d", subject_key="new-pseudonym", key_id="k2", verified=False))
        queue.verify("d", now=NOW)

        assert [("queued", None), ("duplicate", "b"), ("duplicate", "b")] == [
            (row.state, row.duplicate_of) for row in map(queue.get, "bcd")
        ]
        assert ("k2", "k1") == tuple(one.key_id for one in queue.get("b").pseudonyms)

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"subject_key": None}, "got none"),
            ({"received_at": datetime(2026, 1, 1)}, "time zone"),
            ({"hold_ground": "because"}, "expected one of legal_claim"),
            ({"ground": "because"}, "expected one of no_longer"),
            ({"risk": 1.5}, "0 to 1"),
        ],
    )
    def test_a_request_that_makes_no_sense_is_refused(self, changes, problem):
        """For nothing, at no moment, for no known reason; the words are not repeated."""
        with pytest.raises(RequestError, match=problem) as caught:
            SubmittedRequest(**({"subject_key": "k", "received_at": NOW} | changes))
        assert "because" not in str(caught.value)


class TestHoldsAndExemptions:
    """Per dataset, with a legal ground; partial outcomes."""

    def test_a_held_request_is_not_leased_and_comes_back_by_itself(self, queue, ask):
        """A hold keeps the request out; its release queues it again."""
        queue.submit(ask("a", hold_ground="legal_claim"))
        assert lease(queue).request_ids == ()
        assert queue.get("a").is_restricted

        queue.release_hold("a", now=NOW)

        assert lease(queue, "next").request_ids == ("a",)
        assert [("hold", "legal_claim", NOW)] == [
            (one.kind, one.ground, one.released_at) for one in queue.reservations("a")
        ]

    @pytest.mark.parametrize("step", BEFORE_ERASURE)
    def test_a_hold_before_the_erasure_takes_the_item_out(self, queue, ask, step):
        """At each step until rows are erased, a hold wins; the other requests go on."""
        queue.submit_many([ask("a"), ask("b")])
        batch = lease(queue)
        walk(queue, batch, step)

        queue.place_hold("a", "legal_claim", now=NOW)

        assert ("held", None) == (queue.get("a").state, queue.get("a").batch_id)
        assert lease(queue).request_ids == ("b",)
        queue.release_hold("a", now=NOW)
        assert queue.get("a").state == "queued"

    @pytest.mark.parametrize("step", AFTER_ERASURE)
    def test_a_hold_after_the_erasure_comes_too_late(self, queue, ask, step):
        """It is refused, so that whoever placed it learns that the rows are gone."""
        queue.submit(ask("a"))
        batch = lease(queue)
        walk(queue, batch, "data_erased")
        if step == State.ESCALATED_EXACT:
            queue.transition("a", step, token=batch.token, now=NOW)
        else:
            walk(queue, batch, step)

        with pytest.raises(RequestError, match="too late"):
            queue.place_hold("a", "legal_claim", now=NOW)
        with pytest.raises(RequestError, match="too late"):
            queue.grant_exemption("a", "legal_obligation", now=NOW)
        with pytest.raises(RequestError, match="too late"):
            queue.reject("a", now=NOW, reason="unfounded")

    def test_two_grounds_need_two_releases(self, queue, ask):
        """A request is queued when nothing holds it any more."""
        queue.submit(ask("a"))
        queue.place_hold("a", "legal_claim", now=NOW)
        queue.place_hold("a", "accuracy_contested", now=NOW)
        queue.release_hold("a", now=NOW, ground="legal_claim")
        assert ("held", "accuracy_contested") == (queue.get("a").state, queue.get("a").hold_ground)

        queue.release_hold("a", now=NOW, ground="accuracy_contested")

        assert ("queued", None) == (queue.get("a").state, queue.get("a").hold_ground)
        with pytest.raises(RequestError, match="expected an open hold"):
            queue.release_hold("a", now=NOW)

    def test_a_hold_never_queues_an_unverified_request(self, queue, ask):
        """Neither placing nor releasing it proves who they are."""
        queue.submit(ask("a", verified=False))
        queue.place_hold("a", "legal_claim", now=NOW)
        queue.release_hold("a", now=NOW)
        assert queue.get("a").state == "unverified"

        queue.place_hold("a", "legal_claim", now=NOW)
        queue.verify("a", now=NOW)
        assert queue.get("a").state == "held"

    def test_a_hold_on_a_duplicate_holds_the_data(self, queue, ask):
        """Placed on it, sent in with it, or there when it is verified: the primary is held."""
        queue.submit(ask("a", subject_key="same"))
        queue.submit(ask("b", subject_key="same", hold_ground="legal_claim"))
        assert states(queue, "a", "b") == ["held", "duplicate"]
        queue.release_hold("b", now=NOW)
        assert states(queue, "a", "b") == ["queued", "duplicate"]
        queue.place_hold("b", "authority_order", now=NOW)
        assert queue.get("a").hold_ground == "authority_order"
        queue.release_hold("a", now=NOW)

        queue.submit(ask("c", subject_key="same", hold_ground="legal_claim", verified=False))
        assert states(queue, "a", "c") == ["queued", "unverified"]
        queue.verify("c", now=NOW)
        assert states(queue, "a", "c") == ["held", "duplicate"]

    def test_a_request_for_two_datasets_is_worked_on_in_both(self, queue_url, ask):
        """One after the other; a retry changes nothing; the claim is the weaker one."""
        crm, web = open_queue(queue_url, dataset="crm"), open_queue(queue_url, dataset="web")
        crm.submit(ask("a", datasets=("crm", "web")))
        assert lease(web, "web-1").request_ids == ()
        batch = lease(crm, "crm-1")
        walk(crm, batch, "propagated")
        for _ in range(2):
            crm.close("a", outcome="forgotten", claim="approximate", token=batch.token, now=NOW)
        assert ("queued", "web", None) == (
            crm.get("a").state,
            crm.get("a").dataset,
            crm.get("a").outcome,
        )

        second = lease(web, "web-2")
        web.close("a", outcome="forgotten", claim="exact", token=second.token, now=NOW)

        assert ("closed", "forgotten", "approximate") == (
            web.get("a").state,
            web.get("a").outcome,
            web.get("a").claim,
        )
        assert [("crm", "approximate"), ("web", "exact")] == [
            (one.dataset, one.claim) for one in web.answers("a")
        ]
        assert crm.find_problems() == []
        crm.dispose()
        web.dispose()

    def test_an_exempt_request_for_a_live_target_is_its_duplicate_once_verified(self, queue, ask):
        """One request is live for a target; the exemption is about the data and passes on."""
        queue.submit(ask("late", subject_key="same", verified=False))
        queue.submit(ask("live", subject_key="same"))
        queue.grant_exemption("late", "legal_obligation", now=NOW)

        queue.verify("late", now=NOW)

        assert ["duplicate", "exempt"] == states(queue, "late", "live")
        queue.answer("live", now=NOW)
        assert ["closed", "closed"] == states(queue, "late", "live")
        assert queue.find_problems() == []

    def test_duplicates_of_a_request_that_becomes_one_follow_it(self, queue_url, ask):
        """The newer request closes the older one and the older one's duplicate."""
        crm, web = open_queue(queue_url, dataset="crm"), open_queue(queue_url, dataset="web")
        crm.submit(ask("old", subject_key="same", datasets=("crm", "web")))
        crm.submit(ask("copy", subject_key="same", datasets=("crm", "web")))
        batch = lease(crm, "crm-1")
        walk(crm, batch, "data_erased")
        crm.submit(ask("new", subject_key="same", datasets=("crm", "web")))
        walk(crm, batch, "propagated")
        crm.close("old", outcome="forgotten", claim="exact", token=batch.token, now=NOW)
        assert ["new", "new"] == [crm.get(name).duplicate_of for name in ("old", "copy")]

        for queue, run in ((crm, "crm-2"), (web, "web-1")):
            again = lease(queue, run)
            queue.close("new", outcome="not_found", claim=None, token=again.token, now=NOW)

        assert ["closed"] * 3 == states(crm, "old", "copy", "new")
        assert crm.find_problems() == []
        crm.dispose()
        web.dispose()

    def test_a_hold_in_one_dataset_lets_the_others_go_on(self, queue_url, ask):
        """Then the rest waits, and its release queues it there."""
        crm, web = open_queue(queue_url, dataset="crm"), open_queue(queue_url, dataset="web")
        crm.submit(ask("a", datasets=("crm", "web")))
        crm.place_hold("a", "legal_claim", dataset="crm", now=NOW)
        assert lease(crm, "crm-1").request_ids == ()
        batch = lease(web, "web-1")
        assert batch.request_ids == ("a",)
        web.close("a", outcome="not_found", claim=None, token=batch.token, now=NOW)
        assert ("held", "crm") == (crm.get("a").state, crm.get("a").dataset)

        crm.release_hold("a", now=NOW)

        assert lease(crm, "crm-2").request_ids == ("a",)
        crm.dispose()
        web.dispose()

    def test_an_exemption_in_one_dataset_makes_the_outcome_partial(self, queue_url, ask):
        """Forgotten in one, kept with its ground in the other."""
        crm = open_queue(queue_url, dataset="crm")
        crm.submit(ask("a", datasets=("crm", "tax")))
        crm.grant_exemption("a", "legal_obligation", dataset="tax", now=NOW, reason="10 years")
        batch = lease(crm)
        walk(crm, batch, "propagated")
        crm.close("a", outcome="forgotten", claim="exact", token=batch.token, now=NOW)

        assert ("closed", "partial", "exact") == (
            crm.get("a").state,
            crm.get("a").outcome,
            crm.get("a").claim,
        )
        assert [("exemption", "tax", "legal_obligation")] == [
            (one.kind, one.dataset, one.ground) for one in crm.reservations("a")
        ]
        crm.dispose()

    @pytest.mark.parametrize("step", ["queued", *BEFORE_ERASURE])
    def test_an_exemption_everywhere_awaits_its_answer(self, queue, ask, step):
        """It takes the request out of its batch; duplicates close when the person is told."""
        queue.submit(ask("a", subject_key="same"))
        if step != "queued":
            walk(queue, lease(queue), step)
        queue.submit(ask("b", subject_key="same"))
        queue.grant_exemption("b", "legal_claims", now=NOW)
        assert ("exempt", "kept_exempt", None) == (
            queue.get("a").state,
            queue.get("a").outcome,
            queue.get("a").batch_id,
        )
        assert lease(queue, "another").request_ids == ()

        queue.answer("a", now=LATER)

        assert [("closed", "kept_exempt"), ("closed", "duplicate")] == [
            (row.state, row.outcome) for row in map(queue.get, "ab")
        ]

    def test_an_exemption_can_be_withdrawn_before_the_answer(self, queue, ask):
        """The request is queued again and has no outcome."""
        queue.submit(ask("a"))
        queue.grant_exemption("a", "public_health", now=NOW)
        queue.withdraw_exemption("a", now=NOW)

        assert ("queued", None) == (queue.get("a").state, queue.get("a").outcome)

    def test_unknown_grounds_and_datasets_are_refused(self, queue, ask):
        """Without repeating the words."""
        queue.submit(ask("a"))
        for act in (
            lambda: queue.place_hold("a", "Mrs Smith said so", now=NOW),
            lambda: queue.grant_exemption("a", "Mrs Smith said so", now=NOW),
            lambda: queue.place_hold("a", "legal_claim", dataset="Mrs Smith", now=NOW),
        ):
            with pytest.raises(RequestError, match="expected") as caught:
                act()
            assert "Smith" not in str(caught.value)


class TestCancellation:
    """Honoured until the erasure, answered after it."""

    @pytest.mark.parametrize("step", ["unverified", "queued", "held", "retry", *BEFORE_ERASURE])
    def test_a_cancellation_before_the_erasure_is_honoured(self, queue, ask, step):
        """The request is closed and nothing of it is erased."""
        queue.submit(ask("a", verified=step != "unverified"))
        if step == "held":
            queue.place_hold("a", "legal_claim", now=NOW)
        elif step == "retry":
            batch = lease(queue)
            queue.release_lease(batch.batch_id, batch.token, now=NOW, retry_at=LATER)
        elif step in BEFORE_ERASURE:
            walk(queue, lease(queue), step)

        assert queue.cancel("a", now=NOW, reason="withdrawn")

        assert ("closed", "cancelled", None) == (
            queue.get("a").state,
            queue.get("a").outcome,
            queue.get("a").batch_id,
        )
        assert queue.cancel("a", now=NOW, reason="withdrawn")
        assert lease(queue, "another", LATER).request_ids == ()

    @pytest.mark.parametrize("step", [*STEPS[2:], "propagated"])
    def test_a_cancellation_after_the_erasure_is_noted(self, queue, ask, step):
        """It changes nothing but the history, where the answer finds it."""
        queue.submit(ask("a"))
        walk(queue, lease(queue), step)
        before = queue.get("a")

        assert not queue.cancel("a", now=NOW, reason="withdrawn")

        assert queue.get("a") == before
        assert queue.events("a")[-1].details == {"cancellation": "too late"}

    def test_a_cancellation_between_two_datasets_is_partly_honoured(self, queue_url, ask):
        """What was erased in the first stays erased, and the outcome says so."""
        queue = open_queue(queue_url, dataset="crm")
        queue.submit(ask("a", datasets=("crm", "web")))
        batch = lease(queue)
        walk(queue, batch, "propagated")
        queue.close("a", outcome="forgotten", claim="exact", token=batch.token, now=NOW)

        assert queue.cancel("a", now=NOW, reason="withdrawn")

        assert ("closed", "partial") == (queue.get("a").state, queue.get("a").outcome)
        queue.dispose()


class TestClock:
    """Deadlines, extensions, pauses; days end at midnight in Brussels for the GDPR."""

    def test_the_deadline_is_a_month_or_45_days(self, queue, ask):
        """From 1 March: 1 April in summer time; for DROP 30 days to 31 March and 15 more."""
        queue.submit(ask("a"))
        queue.submit(ask("b", regime="drop"))

        assert datetime(2026, 4, 1, 21, 59, 59, tzinfo=UTC) == queue.get("a").due_at
        assert datetime(2026, 4, 16, 6, 59, 59, tzinfo=UTC) == queue.get("b").due_at

    def test_the_queues_own_time_zone_goes_first(self, queue_url, ask):
        """1 March, 12:00 UTC is 2 March, 01:00 in Auckland, which is at +13:00 until April."""
        queue = open_queue(queue_url, time_zone="Pacific/Auckland")
        queue.submit(ask("a"))

        assert datetime(2026, 4, 2, 10, 59, 59, tzinfo=UTC) == queue.get("a").due_at
        queue.dispose()
        with pytest.raises(RequestError, match="IANA"):
            open_queue(queue_url, time_zone="Auckland")

    def test_an_extension_counts_if_the_person_was_told_in_time(self, queue, ask):
        """Two months more, once, with a reason, within the first month."""
        queue.submit(ask("a"))
        told = datetime(2026, 3, 20, tzinfo=UTC)
        for changes, problem in (
            ({"reason": ""}, "reason"),
            ({"notice_at": datetime(2026, 4, 2, tzinfo=UTC)}, "within the first period"),
            ({"notice_at": datetime(2026, 5, 2, tzinfo=UTC)}, "between the receipt and now"),
        ):
            arguments = {"reason": "many records", "notice_at": told} | changes
            with pytest.raises(RequestError, match=problem):
                queue.extend("a", now=datetime(2026, 4, 3, tzinfo=UTC), **arguments)

        due = queue.extend("a", reason="many records", notice_at=told, now=told)

        assert datetime(2026, 6, 1, 21, 59, 59, tzinfo=UTC) == due == queue.get("a").due_at
        assert queue.get("a").clock(told) == ClockState.EXTENDED
        with pytest.raises(RequestError, match="already"):
            queue.extend("a", reason="again", notice_at=told, now=told)

    def test_drop_knows_no_extension(self, queue, ask):
        """The regime's file says so."""
        queue.submit(ask("a", regime="drop"))
        with pytest.raises(RequestError, match="no extension"):
            queue.extend("a", reason="many", notice_at=NOW, now=NOW)

    def test_a_pause_pushes_the_deadline_and_stops_the_share(self, queue, ask):
        """Ten days and two hours from 11 March: ten days more, until 11 April."""
        queue.submit(ask("a", verified=False))
        start = datetime(2026, 3, 11, 12, tzinfo=UTC)
        queue.pause("a", reason="asked for a proof of identity", now=start)
        paused = queue.get("a")
        assert paused.clock(start + timedelta(days=9)) == ClockState.PAUSED
        assert paused.share_used(start) == paused.share_used(start + timedelta(days=9))

        end = start + timedelta(days=10, hours=2)
        due = queue.resume("a", now=end)

        assert datetime(2026, 4, 11, 21, 59, 59, tzinfo=UTC) == due
        assert [(start, end)] == [(p.started_at, p.ended_at) for p in queue.pauses("a")]
        # Used: 10 days from 1 to 11 March. Whole: from 1 March 12:00 to 11 April 21:59:59, less the
        # pause of 10 days and 2 hours.
        whole = (due - NOW - (end - start)).total_seconds()
        assert queue.get("a").share_used(end) == pytest.approx(10 * 86400 / whole)
        assert queue.get("a").clock(due + timedelta(seconds=1)) == ClockState.BREACHED

    def test_a_verified_identity_ends_the_pause(self, queue, ask):
        """The clock runs on from there, and the request is queued."""
        queue.submit(ask("a", verified=False))
        queue.pause("a", reason="asked for a proof of identity", now=NOW)
        queue.verify("a", now=NOW + timedelta(days=3))

        assert ("queued", None, 3 * 86400) == (
            queue.get("a").state,
            queue.get("a").paused_since,
            queue.get("a").paused_s,
        )
        assert datetime(2026, 4, 4, 21, 59, 59, tzinfo=UTC) == queue.get("a").due_at

    def test_a_pause_after_the_deadline_is_refused(self, queue, ask):
        """A breach is not undone by asking for a passport."""
        queue.submit(ask("a"))
        with pytest.raises(RequestError, match="too late"):
            queue.pause("a", reason="identity", now=datetime(2026, 5, 1, tzinfo=UTC))

    def test_a_clock_is_paused_once_and_resumed_once(self, queue, ask):
        """Anything else is a mistake of somebody."""
        queue.submit(ask("a"))
        with pytest.raises(RequestError, match="paused clock"):
            queue.resume("a", now=NOW)
        queue.pause("a", reason="identity", now=NOW)
        with pytest.raises(RequestError, match="running clock"):
            queue.pause("a", reason="identity", now=LATER)


class TestReading:
    """What the pages and sentinel see."""

    def test_pages_follow_each_other_by_deadline(self, queue, ask):
        """The last row of a page is where the next begins."""
        for number in range(7):
            queue.submit(ask(f"r{number}", received_at=NOW - timedelta(days=number % 3)))
        everything = [row.request_id for row in queue.list_requests()]
        pages, last = [], None
        while page := queue.list_requests(limit=3, after=last):
            pages.append([row.request_id for row in page])
            last = page[-1]

        assert [len(page) for page in pages] == [3, 3, 1]
        assert [name for page in pages for name in page] == everything
        assert [row.request_id for row in queue.iterate_open()] == sorted(everything)

    def test_the_database_counts_deadlines_as_the_rows_do(self, queue, ask):
        """Levels of urgency, with pauses that run and pauses that ended; closed ones left out."""
        for number in range(40):
            began = NOW - timedelta(days=number, seconds=17 * number)
            queue.submit(ask(f"r{number}", received_at=began), now=began)
        for number in range(10, 20):
            queue.pause(f"r{number}", reason="identity", now=NOW - timedelta(days=number - 3))
        for number in range(10, 15):
            queue.resume(f"r{number}", now=NOW - timedelta(days=4))
        batch = lease(queue, max_items=3)
        ends = [Closing(request_id=name, outcome="not_found") for name in batch.request_ids]
        queue.close_many(ends, token=batch.token, now=NOW)
        levels, now = (0.25, 0.8, 1.0), NOW + timedelta(days=1)
        used = [row.share_used(now) for row in queue.iterate_open()]

        counted = queue.count_by_share(now, levels)

        bounds = (float("-inf"), *levels, float("inf"))
        assert counted == [
            sum(low <= share < high for share in used) for low, high in pairwise(bounds)
        ]
        assert sum(counted) == 37
        assert all(counted)

    def test_all_requests_of_a_batch_closed_ones_and_no_others(self, queue, ask):
        """Those that left it are not in it."""
        queue.submit_many([ask(name) for name in "abcd"])
        batch = lease(queue, max_items=3)
        queue.close_many([Closing(request_id="a", outcome="not_found")], token=batch.token, now=NOW)
        queue.place_hold("b", "legal_claim", now=NOW)

        rows = queue.batch_requests(batch.batch_id)

        assert [(row.request_id, row.state) for row in rows] == [("a", "closed"), ("c", "leased")]

    def test_a_row_shows_no_pseudonym(self, queue, ask):
        """What goes to pages, logs and reports."""
        earlier = (Pseudonyms(key_id="k0", subject_key="secret-earlier"),)
        queue.submit(ask("a", subject_key="secret", record_keys=("secret-1",), earlier=earlier))

        assert "secret" not in str(queue.get("a").to_dict())
        assert queue.get("a").target_key not in str(queue.get("a").to_dict())

    def test_nobody_is_an_error(self, queue):
        """An id that is not there."""
        with pytest.raises(RequestError, match="expected a request in the queue"):
            queue.get("nobody")


def test_the_sqlite_database_is_durable(tmp_path):
    """WAL and FULL: what ``submit`` returned survives a power cut."""
    queue = open_queue(f"sqlite:///{tmp_path / 'queue.db'}")
    with queue._database.read() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        ]
    assert values == ["wal", 2, 1, 1]
    queue.dispose()
