"""Laws of what a queue keeps: which holds and exemptions count, and holds that follow overlaps."""

from datetime import UTC, datetime

import pytest

from governance.errors import RequestError

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
