"""Laws of the erasure's begin: the plan is about the tables and the model of that moment."""

import csv
import fcntl
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.planted import record_of, subject_of
from governance.digests import read_json
from governance.errors import ReleaseBlockedError, StoreBusyError
from governance.manifest import find_members, read_members
from governance.storage import publish_table, read_table
from governance.suppression import Erased, add_tombstones, pseudonyms, read_tombstones
from governance.verifier import verify_certificate
from r2u_tasks.models import read_champion
from r2u_tasks.stages import unlearn
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.train import train_ready_model
from r2u_tasks.stages.unlearn import binding, erase
from r2u_tasks.stages.unlearn.steps import now

pytestmark = pytest.mark.ml

PERSON, OTHER = 6, 18
"""Two persons whose records are revocable and in training: see ``benchmarks.planted``."""
RECORDS_EACH = 12
"""Of one person alone, so many are enough for the evidence to tell models apart."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture(scope="module")
def trained(plant):
    """The folder of the planted data set with a model, made once."""
    return Path(plant(records_each=RECORDS_EACH)["dataset"]).parent


@pytest.fixture
def place(trained, tmp_path):
    """A copy of it, with a request of a person."""
    folder = shutil.copytree(trained, tmp_path / "copy")
    place = {"dataset": str(folder / "planted.yaml"), "root_uri": str(folder / "root")}
    submit_request(request_id="one", subject_id=subject_of(PERSON), **place)
    return place


def load(place, run_id, *, more=(), without=()):
    """Load the source again, with another row of some persons and without those of others."""
    path = Path(place["dataset"]).with_name("planted.csv")
    with path.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    rows = [row for row in rows if row[1] not in {subject_of(person) for person in without}]
    for person in more:
        like = next(row for row in rows if row[1] == subject_of(person))
        rows.append([f"NEW-{person}-{run_id}", *like[1:]])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    classify_data(run_id=run_id, **place)


def planned(place, run_id="night"):
    """Lease and plan a batch; return how it is named."""
    lease = unlearn.lease_batch(run_id=run_id, **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    unlearn.plan_batch(**batch)
    return batch


def finish(batch):
    """Do what follows the erasure; return what the batch says of itself."""
    unlearn.unlearn_model(**batch)
    unlearn.replay_model(**batch)
    unlearn.promote_model(**batch)
    unlearn.purge_leftovers(**batch)
    return unlearn.close_batch(**batch)


def rows_of(place, person=PERSON):
    """Return the number of a person's rows in each table."""
    workspace = open_context(**place).workspace
    tables = (
        read_table(path, columns=["person"]) for path in (workspace.raw, workspace.classified)
    )
    return [table["person"].to_pylist().count(subject_of(person)) for table in tables]


def plan_of(batch):
    root = Path(batch["root_uri"])
    return read_json(root / "batches" / batch["batch_id"] / "plan.json")


def tombstones(place, **which):
    return read_tombstones(open_context(**place).workspace.tombstones, **which)


def state(place, name):
    return open_context(**place).queue.get(name).state


def check_certificate(place, result, name="one"):
    """The certificate holds, and the model that it names serves and knows no erased record."""
    context = open_context(**place)
    batch = context.workspace.batch(result["batch_id"])
    verified = verify_certificate(
        batch / "certificates" / f"{name}.json",
        public_key_path=context.workspace.root / "keys" / "signing.pub.pem",
    )
    assert verified.ok, verified.problem
    assert read_champion(context.workspace) == result["model_key"]
    members = context.workspace.model(result["model_key"]) / "members.parquet"
    assert find_members(members, list(tombstones(place)["record"])) == {}
    assert context.queue.find_problems() == []


@pytest.mark.parametrize("loads", [False, True], ids=["control", "loaded"])
def test_a_row_that_came_after_the_plan_is_erased_with_the_others(place, loads):
    """The plan is made again; what is certified is what is gone, from both tables and the model."""
    batch = planned(place)
    n_rows = RECORDS_EACH + loads
    if loads:
        load(place, "c2", more=[PERSON])
    assert rows_of(place) == [n_rows, n_rows]

    unlearn.erase_rows(**batch)

    assert rows_of(place) == [0, 0]
    assert (plan_of(batch)["n_records"], plan_of(batch)["requests"]) == (n_rows, ["one"])
    assert len(tombstones(place)["record"]) == n_rows
    check_certificate(place, finish(batch))


def test_a_model_that_was_promoted_after_the_plan_is_made_to_forget(place):
    """The plan is made again for the one that serves; the one before loses its weights as well."""
    batch = planned(place)
    train_ready_model(run_id="t2", **place)
    unlearn.erase_rows(**batch)
    result = finish(batch)

    assert plan_of(batch)["model_key"] == "ready-t2"
    check_certificate(place, result)
    weights = Path(place["root_uri"]).glob("models/*/weights.safetensors")
    assert [path.parent.name for path in weights] == [result["model_key"]]


def test_nobody_loads_or_promotes_while_the_plan_is_bound(place, monkeypatch):
    """Both tables and the serving model are locked when the tombstones are written; not after."""
    batch = planned(place)
    workspace = open_context(**place).workspace
    paths = [workspace.raw, workspace.classified, workspace.champion]
    add, seen = binding.add_tombstones, []

    def locked():
        found = []
        for path in paths:
            with path.with_name(f".{path.name}.lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(path)
        return found

    def watch(*arguments, **named):
        seen.append((locked(), state(place, "one"), rows_of(place)))
        add(*arguments, **named)

    monkeypatch.setattr(binding, "add_tombstones", watch)
    unlearn.erase_rows(**batch)

    assert seen == [(paths, "data_erased", [RECORDS_EACH, RECORDS_EACH])]
    assert locked() == []


def test_nothing_is_destroyed_while_a_load_is_between_its_tables(place):
    """As many raw rows as classified ones, but others: the batch waits, and then goes on."""
    batch = planned(place)
    workspace = open_context(**place).workspace
    raw = read_table(workspace.raw)
    ids = pa.array(["NEW" if i == record_of(0) else i for i in raw["id"].to_pylist()])
    torn = raw.set_column(raw.column_names.index("id"), "id", ids)
    publish_table(workspace.raw, torn, transaction="torn")

    with pytest.raises(StoreBusyError, match="the same records raw and classified"):
        unlearn.erase_rows(**batch)
    assert rows_of(place) == [RECORDS_EACH, RECORDS_EACH]
    assert state(place, "one") == "approved"
    assert not any(tombstones(place).values())

    publish_table(workspace.raw, raw, transaction="whole")
    unlearn.erase_rows(**batch)
    assert rows_of(place) == [0, 0]


def test_a_ground_that_never_rests_destroys_nothing(place, monkeypatch):
    """The control of all others: with a load after each plan, the batch gives up for now."""
    batch = planned(place)
    monkeypatch.setattr(binding, "table_version", lambda path: -1)

    with pytest.raises(StoreBusyError, match="nothing was erased"):
        unlearn.erase_rows(**batch)
    assert state(place, "one") == "approved"
    assert not any(tombstones(place).values())
    unlearn.release_batch(**batch)
    assert state(place, "one") == "queued"


def test_of_two_batches_the_second_begins_when_the_first_has_ended(place):
    """Planned at the same time: both are certified, and the second model knows neither person."""
    first = planned(place, "first")
    submit_request(request_id="two", subject_id=subject_of(OTHER), **place)
    second = planned(place, "second")
    unlearn.erase_rows(**first)

    with pytest.raises(StoreBusyError, match="no other batch"):
        unlearn.erase_rows(**second)
    assert (state(place, "two"), rows_of(place, OTHER)) == ("approved", [RECORDS_EACH] * 2)
    assert not any(tombstones(place, batch_id=second["batch_id"]).values())

    check_certificate(place, finish(first))
    unlearn.erase_rows(**second)
    check_certificate(place, finish(second), "two")
    assert state(place, "one") == state(place, "two") == "closed"


def test_the_certified_model_serves_also_when_another_was_promoted_meanwhile(place, caplog):
    """A training that began after the erasure knows nobody; the warning says how to go back."""
    batch = planned(place)
    unlearn.erase_rows(**batch)
    train_ready_model(run_id="t2", **place)
    with caplog.at_level(logging.WARNING):
        result = finish(batch)

    assert "ready-t2 was promoted while it ran" in caplog.text
    assert result["model_key"] != "ready-t2"
    check_certificate(place, result)


def untrained_person(place):
    """Return a person of whom the serving model has no record, and a record that it has."""
    context = open_context(**place)
    table = read_table(context.workspace.classified)
    champion = context.workspace.model(read_champion(context.workspace))
    members = read_members(champion / "members.parquet")
    keys = pseudonyms(context.pseudonym_key, "record", table["id"].to_pylist())
    known = pa.array([key in members for key in keys])
    seen = set(table.filter(known)["person"].to_pylist())
    return next(p for p in table["person"].to_pylist() if p not in seen), next(iter(members))


@pytest.mark.parametrize("refused", [False, True], ids=["untouched", "knows another's"])
def test_an_untouched_model_serves_again_unless_it_knows_other_erased_persons(place, refused):
    """Then the requests wait for a person, nobody is certified, and the queue goes on."""
    person, known = untrained_person(place)
    context = open_context(**place)
    if refused:  # what a batch that the gate refused leaves behind
        add_tombstones(
            context.workspace.tombstones,
            Erased(
                record_keys=[known],
                subject_keys=[],
            ),
            batch_id="refused",
            erased_at=now(),
        )
        classify_data(run_id="c2", **place)
    context.queue.cancel("one", now=now(), reason="withdrawn")
    submit_request(request_id="two", subject_id=person, **place)
    batch = planned(place)
    assert plan_of(batch)["n_trained_records"] == 0
    unlearn.erase_rows(**batch)
    train_ready_model(run_id="t2", **place)

    if not refused:
        result = finish(batch)
        assert result["model_key"] == "ready-t"
        check_certificate(place, result, "two")
        return
    with pytest.raises(ReleaseBlockedError, match="knows no erased record"):
        finish(batch)
    assert (state(place, "two"), read_champion(context.workspace)) == ("needs_person", "ready-t2")
    unlearn.release_batch(**batch)
    submit_request(request_id="three", subject_id=subject_of(OTHER), **place)
    check_certificate(place, unlearn.run_batch(run_id="next", **place), "three")


MOMENTS = {
    "planned again": (binding, "make_plan"),
    "begun": (binding, "note_once"),
    "counted": (binding, "add_tombstones"),
    "bound": (erase, "write_erased"),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", [{}, {"more": [PERSON]}, {"without": [PERSON]}], ids=str)
def test_whenever_the_begin_is_killed_the_next_run_certifies_what_is_gone(
    place, monkeypatch, moment, change
):
    """Loads in between too: a new row goes with the others, and rows that went are not counted."""
    submit_request(request_id="two", subject_id=subject_of(OTHER), **place)
    batch = planned(place)
    if moment == "planned again":
        load(place, "c2", more=[OTHER])
    with monkeypatch.context() as patch:

        def killed(*arguments, **named):
            raise Killed

        patch.setattr(*MOMENTS[moment], killed)
        with pytest.raises(Killed):
            unlearn.erase_rows(**batch)
    bound, begun = moment == "bound", moment != "planned again"
    assert any(tombstones(place).values()) == bound
    if change:
        load(place, "c3", **change)

    result = unlearn.run_batch(run_id="night", **place)

    check_certificate(place, result, "two")
    assert rows_of(place) == rows_of(place, OTHER) == [0, 0]
    row = open_context(**place).queue.get("one")
    went = "without" in change and not bound
    if went and begun:
        assert row.state == "needs_person"  # nobody can prove an erasure of what was not there
    elif went:
        assert row.outcome == "not_found"
    else:
        assert row.outcome == "forgotten"
        check_certificate(place, result, "one")
    counts = read_json(open_context(**place).workspace.batch(result["batch_id"]) / "erasure.json")[
        "tables"
    ]["raw"]
    assert counts["superseded"] == (bound and bool(change))
    expected = (2 - went) * RECORDS_EACH + (moment == "planned again")
    expected += "more" in change and not bound
    assert counts["asked"] == expected


def test_a_hold_after_a_killed_begin_keeps_no_planned_row_but_a_new_plan_asks_it(
    place, monkeypatch
):
    """Too late for what was begun; where a load forces another plan, kept rows go to a person."""
    submit_request(request_id="over", select="basis=consent", **place)
    submit_request(request_id="kept", subject_id=subject_of(OTHER), verified=False, **place)
    batch = planned(place)
    with monkeypatch.context() as patch:
        patch.setattr(binding, "note_once", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            unlearn.erase_rows(**batch)
    open_context(**place).queue.place_hold("kept", "legal_claim", now=now())
    load(place, "c2", more=[OTHER])

    unlearn.erase_rows(**batch)

    assert (state(place, "over"), state(place, "one")) == ("needs_person", "data_erased")
    assert rows_of(place, OTHER) == [RECORDS_EACH + 1] * 2
    assert rows_of(place) == [0, 0]
    raw = read_table(open_context(**place).workspace.raw)
    assert pc.sum(pc.equal(raw["basis"], "consent")).as_py() > RECORDS_EACH
