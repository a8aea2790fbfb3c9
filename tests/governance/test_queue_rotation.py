"""Laws of the queue around a rotation of the pseudonym key, on both databases."""

from datetime import UTC, datetime

import pytest

from governance.deletion_queue import Pseudonyms, SubmittedRequest, open_queue
from governance.errors import RequestError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

TARGETS = {
    "subject": lambda key: Pseudonyms(key_id=key, subject_key=f"{key}-person"),
    "records": lambda key: Pseudonyms(key_id=key, record_keys=(f"{key}-b", f"{key}-a_%")),
    "selector": lambda key: Pseudonyms(
        key_id=key, selector={"column": "tenant", "value": f"{key}-t"}
    ),
}


def request(request_id, target, *keys, **more):
    """A request under the first of some keys, known under the others."""
    newest, *earlier = (TARGETS[target](key) for key in keys)
    return SubmittedRequest(
        request_id=request_id,
        subject_key=newest.subject_key,
        record_keys=newest.record_keys,
        selector=newest.selector,
        key_id=newest.key_id,
        earlier=tuple(earlier),
        received_at=NOW,
        **more,
    )


@pytest.mark.parametrize("target", TARGETS)
def test_a_newer_request_is_a_duplicate_of_an_older_one(queue, target):
    """Found by the index, as the newer one knows the older key."""
    queue.submit(request("old", target, "k1"))
    (receipt,) = queue.submit_many([request("new", target, "k2", "k1")])
    (other,) = queue.submit_many([request("other", target, "k3")])

    assert ("duplicate", "old") == (receipt.state, receipt.duplicate_of)
    assert "queued" == other.state
    assert {"k1": 1, "k2": 1, "k3": 1} == queue.key_ids()
    assert queue.get("new").pseudonyms == tuple(TARGETS[target](key) for key in ("k2", "k1"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("key_id", [None, "k3"])
def test_an_older_request_that_is_verified_late_is_a_duplicate_too(queue_url, target, key_id):
    """It does not know the newer key, but the newer request knows its own."""
    queue = open_queue(queue_url, key_id=key_id)
    queue.submit(request("late", target, "k1", verified=False))
    queue.submit(request("later", target, "k2", "k1", verified=False))
    queue.submit(request("like", target, "k11", verified=False))
    queue.submit(request("new", target, "k3", "k2", "k1"))
    for name in ("late", "later", "like"):
        queue.verify(name, now=NOW)

    found = [(row.state, row.duplicate_of) for row in map(queue.get, ("late", "later", "like"))]
    assert [("duplicate", "new"), ("duplicate", "new"), ("queued", None)] == found
    assert queue.find_problems() == []
    queue.dispose()


def test_other_datasets_are_another_target(queue):
    """The same person under an older key, asked for in another dataset."""
    queue.submit(request("late", "subject", "k1", verified=False, datasets=("a",)))
    queue.submit(request("new", "subject", "k2", "k1", datasets=("b",)))
    queue.verify("late", now=NOW)

    assert "queued" == queue.get("late").state


def test_an_id_under_a_key_that_was_dropped_is_refused_in_words(queue):
    """Nobody can tell if it is the same request; with the key it is, and nothing is stored."""
    queue.submit(request("one", "subject", "k1"))
    (again,) = queue.submit_many([request("one", "subject", "k2", "k1")])

    assert not again.is_new
    with pytest.raises(RequestError, match="under the pseudonym key k1, which is none"):
        queue.submit(request("one", "subject", "k2"))
    with pytest.raises(RequestError, match="for something else"):
        queue.submit(request("one", "records", "k2", "k1"))
