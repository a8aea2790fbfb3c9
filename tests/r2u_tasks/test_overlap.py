"""Laws of overlaps: what one request keeps, no other request erases, until it is kept no more."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.planted import N_PERSONS, RECORDS_EACH, record_of, subject_of
from governance.digests import read_json
from governance.ledger import read_entries
from governance.storage import read_table
from governance.suppression import read_tombstones
from r2u_tasks.stages import unlearn
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.dry_run import plan_request
from r2u_tasks.stages.requests import submit_request

pytestmark = pytest.mark.ml

PERSON, OTHER = 6, 7
"""The kept person has given consent, the other one has not: see ``benchmarks.planted``."""
N_CONSENT = RECORDS_EACH * len(range(0, N_PERSONS, 3))


@pytest.fixture(scope="module")
def trained(plant):
    """The folder of the planted data set with a model, made once."""
    return Path(plant()["dataset"]).parent


@pytest.fixture
def place(trained, tmp_path):
    """A copy of it, with a request of another person, whom nothing keeps."""
    folder = shutil.copytree(trained, tmp_path / "copy")
    place = {"dataset": str(folder / "planted.yaml"), "root_uri": str(folder / "root")}
    submit_request(request_id="other", subject_id=subject_of(OTHER), **place)
    return place


def planned(place, run_id):
    """Lease and plan a batch; return how it is named and its plan."""
    lease = unlearn.lease_batch(run_id=run_id, **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    return batch, unlearn.plan_batch(**batch)


def state(place, name):
    row = open_context(**place).queue.get(name)
    return row.state, row.hold_ground


def now():
    return datetime.now(UTC)


def rows_of(place, person):
    table = read_table(open_context(**place).workspace.raw)
    return table["person"].to_pylist().count(subject_of(person))


def keep(place, how):
    """Keep the data of the person; return the way to end that."""
    queue = open_context(**place).queue
    verified = how != "unverified hold"
    submit_request(request_id="kept", subject_id=subject_of(PERSON), verified=verified, **place)
    if how == "answered exemption":
        queue.grant_exemption("kept", "legal_claims", now=now())
        queue.answer("kept", now=now())
        return lambda: queue.withdraw_exemption("kept", now=now())
    queue.place_hold("kept", "legal_claim", now=now())
    return lambda: queue.release_hold("kept", now=now())


TENANT = ({"select": "basis=consent"}, N_CONSENT, RECORDS_EACH)
RECORDS = ({"record_ids": [record_of(RECORDS_EACH * PERSON), record_of(0)]}, 2, 1)


@pytest.mark.parametrize("how", ["hold", "unverified hold", "answered exemption"])
@pytest.mark.parametrize(
    ("asked", "n_rows", "n_kept"), [TENANT, RECORDS], ids=["tenant", "records"]
)
def test_a_request_over_kept_data_is_held_until_they_are_kept_no_more(
    place, how, asked, n_rows, n_kept
):
    """It erases nothing, the batch goes on without it, and it is served after the release."""
    end = keep(place, how)
    submit_request(request_id="over", **asked, **place)
    assert plan_request(request_id="over", **place)["n_kept"] == n_kept

    batch, plan = planned(place, "first")

    assert (plan["requests"], plan["n_records"]) == (["other"], RECORDS_EACH)
    assert plan["kept_back"] == {"n_records": n_kept, "n_requests": 1}
    assert state(place, "over") == ("held", "legal_claim")
    context = open_context(**place)
    noted = [e["body"] for e in read_entries(context.workspace.ledger)]
    assert plan["kept_back"] in [body.get("kept_back") for body in noted]
    assert "kept for kept" in context.queue.reservations("over")[-1].reason
    unlearn.release_batch(**batch)

    batch, plan = planned(place, "second")
    assert "over" not in plan["requests"]  # still kept, so it waits
    unlearn.release_batch(**batch)
    end()
    batch, plan = planned(place, "third")

    asked_again = {"hold": RECORDS_EACH}.get(how, 0)  # the person's own request is served as well
    union = n_rows + RECORDS_EACH + max(0, asked_again - n_kept)
    assert plan["records_by_request"]["over"] == n_rows
    assert plan["n_records"] == union
    assert plan["kept_back"] == {"n_records": 0, "n_requests": 0}
    assert open_context(**place).queue.find_problems() == []


def test_without_a_hold_the_rows_go(place):
    """The control: the same tenant, and a person who asks but is not held."""
    submit_request(request_id="asks", subject_id=subject_of(PERSON), **place)
    submit_request(request_id="over", select="basis=consent", **place)
    _, plan = planned(place, "first")

    assert plan["requests"] == ["asks", "other", "over"]
    assert plan["n_records"] == N_CONSENT + RECORDS_EACH
    assert plan["kept_back"] == {"n_records": 0, "n_requests": 0}


def test_an_overlap_keeps_nothing_else_back(place):
    """The tenant is held for one person; another person of the tenant is served meanwhile."""
    keep(place, "hold")
    submit_request(request_id="over", select="basis=consent", **place)
    batch, _ = planned(place, "first")
    unlearn.release_batch(**batch)
    submit_request(request_id="neighbour", subject_id=subject_of(9), **place)
    _, plan = planned(place, "second")

    assert plan["requests"] == ["neighbour", "other"]


@pytest.mark.parametrize("kept", [True, False], ids=["held", "control"])
def test_a_hold_between_plan_and_erasure_keeps_the_rows_of_an_overlap(place, kept):
    """The plan is made again without the tenant; the other person's rows go."""
    submit_request(request_id="over", select="basis=consent", **place)
    batch, plan = planned(place, "first")
    assert plan["requests"] == ["other", "over"]
    if kept:
        keep(place, "unverified hold")

    unlearn.erase_rows(**batch)

    context = open_context(**place)
    again = read_json(context.workspace.batch(batch["batch_id"]) / "plan.json")
    assert rows_of(place, OTHER) == 0
    assert rows_of(place, PERSON) == (RECORDS_EACH if kept else 0)
    assert again["requests"] == (["other"] if kept else ["other", "over"])
    assert state(place, "over") == (("held", "legal_claim") if kept else ("data_erased", None))
    assert len(read_tombstones(context.workspace.tombstones)["selector"]) == (0 if kept else 1)
