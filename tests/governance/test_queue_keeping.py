"""Laws of what a queue keeps: which holds and exemptions count, and holds that follow overlaps."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier

import pytest

from governance.deletion_queue import open_queue
from governance.errors import RequestError, StoreBusyError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BOTH = ("default", "web")


def lease(queue, run="run"):
    return queue.lease_batch(run, lease_s=60, max_items=10, now=NOW)


def kept(queue):
    return [(t.request.request_id, t.kind, t.ground) for t in queue.keeping().targets]


def overlap(queue, batch, name):
    """Hold a request of a batch for all that is kept."""
    queue.hold_overlaps(batch.batch_id, {name: queue.keeping().targets}, token=batch.token, now=NOW)


@pytest.fixture
def overlapping(queue, ask):
    """A queue in which ``b`` is held because it overlaps ``a``, which is held."""
    queue.submit(ask("a", hold_ground="authority_order"))
    queue.submit(ask("b"))
    overlap(queue, lease(queue), "b")
    return queue


def test_open_holds_and_exemptions_count(queue, ask):
    """Also of an unverified request, and an answered exemption; in this dataset only."""
    queue.submit(ask("a", hold_ground="legal_claim"))
    queue.submit(ask("b", hold_ground="legal_claim", verified=False))
    queue.submit(ask("c"))
    queue.grant_exemption("c", "other_law", now=NOW)
    queue.answer("c", now=NOW)
    queue.submit(ask("d", datasets=BOTH))
    queue.place_hold("d", "legal_claim", dataset="web", now=NOW)
    queue.submit(ask("e", subject_key="key-of-a", hold_ground="legal_claim"))  # a's duplicate
    queue.submit(ask("f", hold_ground="legal_claim"))
    queue.cancel("f", now=NOW, reason="withdrawn")
    assert kept(queue) == [
        ("a", "hold", "legal_claim"),
        ("b", "hold", "legal_claim"),
        ("c", "exemption", "other_law"),
    ]

    queue.release_hold("a", now=NOW)
    queue.reject("b", now=NOW, reason="never proven")
    queue.withdraw_exemption("c", now=NOW)

    assert kept(queue) == []
    assert (queue.get("c").state, queue.get("c").outcome) == ("closed", "kept_exempt")
    with pytest.raises(RequestError, match="expected an open exemption"):
        queue.withdraw_exemption("c", now=NOW)


@pytest.mark.parametrize(
    ("placed", "begins"), [(None, True), ("hold", False), ("exemption", False), ("late", False)]
)
def test_an_erasure_does_not_begin_past_a_newer_hold(queue, ask, placed, begins):
    """Of any request in the dataset; asked again with the new state, it begins."""
    for name in "ab":
        queue.submit(ask(name))
    batch = queue.lease_batch("run", lease_s=60, max_items=1, now=NOW)
    queue.transition_all(["a"], "planned", token=batch.token, now=NOW)
    queue.transition_all(["a"], "approved", token=batch.token, now=NOW)
    n_placed = queue.keeping().n_placed
    if placed == "hold":
        queue.place_hold("b", "legal_claim", now=NOW)
    elif placed == "exemption":
        queue.grant_exemption("b", "other_law", now=NOW)
    elif placed == "late":
        queue.submit(ask("c", hold_ground="legal_claim", verified=False))
    how = {"token": batch.token, "reason": "the erasure begins", "now": NOW}

    assert queue.begin_erasure(["a"], n_placed=n_placed, **how) is begins
    assert queue.get("a").state == ("data_erased" if begins else "approved")
    assert queue.begin_erasure(["a"], n_placed=queue.keeping().n_placed, **how)
    assert queue.get("a").state == "data_erased"


def approved(queue, name):
    """Lease a request as a batch of its own, up to the erasure; return how its begin is called."""
    batch = queue.lease_batch(f"run of {name}", lease_s=60, max_items=1, now=NOW)
    assert batch.request_ids == (name,)
    queue.transition_all([name], "planned", token=batch.token, now=NOW)
    queue.transition_all([name], "approved", token=batch.token, now=NOW)
    return {"token": batch.token, "n_placed": queue.keeping().n_placed, "now": NOW, "reason": None}


@pytest.mark.parametrize("ends", ["needs_person", "closed"])
def test_an_erasure_does_not_begin_while_another_one_is_not_over(queue, ask, ends):
    """Nothing moves until the other batch waits for a person or is closed; a repeat is no other."""
    for name in "ab":
        queue.submit(ask(name))
    first, second = approved(queue, "a"), approved(queue, "b")
    for _ in range(2):
        assert queue.begin_erasure(["a"], **first)
    with pytest.raises(StoreBusyError, match="no other batch"):
        queue.begin_erasure(["b"], **second)
    assert (queue.get("a").state, queue.get("b").state) == ("data_erased", "approved")

    how = {"token": first["token"], "now": NOW}
    if ends == "needs_person":
        queue.transition_all(["a"], ends, **how)
    else:
        for state in ("model_unlearned", "verified_forgotten", "propagated"):
            queue.transition_all(["a"], state, **how)
        queue.close("a", outcome="forgotten", claim="exact", details=None, **how)
    assert queue.begin_erasure(["b"], **second)


def test_of_erasures_that_begin_at_once_one_does(queue_url, ask):
    """Eight batches ask at the same moment, each by a connection of its own."""
    names = "abcdefgh"
    queues = [open_queue(queue_url) for _ in names]
    for name in names:
        queues[0].submit(ask(name))
    how = [approved(queues[0], name) for name in names]
    together = Barrier(len(names))

    def begin(number):
        together.wait()
        try:
            return queues[number].begin_erasure([names[number]], **how[number])
        except StoreBusyError:
            return "busy"

    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(begin, range(len(names))))
    states = [queues[0].get(name).state for name in names]
    for queue in queues:
        queue.dispose()

    assert sorted(map(str, answers)) == ["True"] + ["busy"] * 7
    assert [state == "data_erased" for state in states] == [answer is True for answer in answers]


def test_a_hold_of_an_overlap_follows_it(overlapping):
    """It says whose data are kept, keeps nothing itself, and its release queues the request."""
    queue = overlapping
    assert (queue.get("b").state, queue.get("b").hold_ground) == ("held", "authority_order")
    assert "kept for a" in queue.reservations("b")[0].reason
    assert [row.request_id for row in queue.overlapping()] == ["b"]
    assert kept(queue) == [("a", "hold", "authority_order")]

    for _ in range(2):
        queue.release_overlaps(["a", "b"], now=NOW)

    assert (queue.get("a").state, queue.get("b").state) == ("held", "queued")
    assert queue.overlapping() == []


def test_a_hold_of_its_own_outlasts_the_overlap(overlapping):
    """Also with the same ground: a person's decision is not ended by the end of an overlap."""
    queue = overlapping
    queue.place_hold("b", "authority_order", now=NOW)
    queue.release_overlaps(["b"], now=NOW)

    assert queue.get("b").state == "held"
    assert ("b", "hold", "authority_order") in kept(queue)
    queue.release_hold("b", now=NOW)
    assert queue.get("b").state == "queued"


def test_an_overlap_holds_in_its_dataset_only(queue, ask):
    """The request goes on in the other one; with an old token nothing is held."""
    queue.submit(ask("a", hold_ground="authority_order"))
    queue.submit(ask("b", datasets=BOTH))
    batch = lease(queue)
    again = lease(queue)
    with pytest.raises(RequestError, match="expected the current token"):
        overlap(queue, batch, "b")
    overlap(queue, again, "b")

    assert (queue.get("b").state, queue.get("b").dataset) == ("queued", "web")
    assert [row.request_id for row in queue.overlapping()] == ["b"]
