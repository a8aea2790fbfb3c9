"""Laws of a training that an erasure overtakes: killed or running, nothing of it is left."""

import shutil
from datetime import UTC, datetime

import pytest

from governance.digests import read_json, write_json
from governance.errors import StoreBusyError
from governance.ledger import read_entries
from governance.manifest import read_members
from governance.storage import read_table
from governance.suppression import Erased, add_tombstones, pseudonym
from r2u_tasks.stages import train
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.sentinel import check
from r2u_tasks.stages.train import train_ready_model
from r2u_tasks.stages.unfinished import find_behind

pytestmark = pytest.mark.ml


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture(scope="module")
def classified(plant):
    """The planted data set, classified; nobody changes it."""
    return plant(model=False)


@pytest.fixture
def place(classified, tmp_path):
    """A copy of the classified workspace."""
    shutil.copytree(classified["root_uri"], tmp_path / "root")
    return {**classified, "root_uri": str(tmp_path / "root")}


def trained_record(place):
    """Return a record of the training split that is revocable."""
    table = read_table(open_context(**place).workspace.classified)
    return next(r["id"] for r in table.to_pylist() if r["split"] == "train" and r["revocable"])


def key_of(place, record):
    return pseudonym(open_context(**place).pseudonym_key, "record", record)


def name_as_erased(place, record, batch="b1"):
    """Do what comes first in an erasure: its tombstone. The row is still in the tables."""
    add_tombstones(
        open_context(**place).workspace.tombstones,
        Erased(
            record_keys=[key_of(place, record)],
            subject_keys=[],
        ),
        batch_id=batch,
        erased_at=datetime.now(UTC),
    )


def when(segment, act):
    """Return a callback that acts once, in the first epoch of a segment."""

    def progress(name, epoch, n_epochs, values):
        if (name, epoch) == (segment, 1):
            act()

    return progress


def kill():
    raise KilledError


def warnings(place):
    return [w["kind"] for w in check(run_id="s", **place)["warnings"]]


def test_a_training_is_noted_before_it_reads_the_table(place, monkeypatch):
    """Killed while it reads, it has written nothing else, and is older than the next erasure."""
    monkeypatch.setattr(train, "read_table", lambda path: kill())
    with pytest.raises(KilledError):
        train_ready_model(run_id="t", **place)
    context = open_context(**place)
    folder = context.workspace.model("ready-t")
    assert ["started.json"] == [path.name for path in folder.rglob("*")]
    assert 0 == read_json(folder / "started.json")["n_tombstones"]
    assert [] == find_behind(context)
    assert "unfinished_model" not in warnings(place)

    name_as_erased(place, trained_record(place))

    assert [folder] == find_behind(context)
    assert "unfinished_model" in warnings(place)


def test_a_killed_training_from_after_the_erasure_is_kept(place):
    """It left the named rows out, so nothing of it must go; without a number nobody can tell."""
    name_as_erased(place, trained_record(place))
    with pytest.raises(KilledError):
        train_ready_model(run_id="t", progress=when("slice-2", kill), **place)
    context = open_context(**place)

    assert [] == find_behind(context)
    (context.workspace.model("ready-t") / "started.json").unlink()
    assert [context.workspace.model("ready-t")] == find_behind(context)


def test_a_row_that_is_named_as_erased_is_not_trained_on(place):
    """Between tombstone and deletion the row is in the table; the model does not hold it."""
    record = trained_record(place)
    name_as_erased(place, record)
    result = train_ready_model(run_id="t", **place)
    members = read_members(
        open_context(**place).workspace.model(result["model_key"]) / "members.parquet"
    )

    assert key_of(place, record) not in members
    assert result["n_records"] == len(members)


@pytest.mark.parametrize("purged", [False, True])
def test_a_running_training_stops_at_its_next_checkpoint(place, purged):
    """Its record was erased, or all of its folder by the purge: no folder, no model, no entry."""
    context, record = open_context(**place), trained_record(place)
    folder = context.workspace.model("ready-t")

    def erase():
        name_as_erased(place, record)
        if purged:
            shutil.rmtree(folder)

    with pytest.raises(StoreBusyError, match="1 of its records were erased"):
        train_ready_model(run_id="t", progress=when("slice-1", erase), **place)

    assert not folder.exists()
    assert [] == [e for e in read_entries(context.workspace.ledger) if e["kind"] == "model_trained"]
    assert not context.workspace.champion.exists()
    train_ready_model(run_id="t", **place)
    assert key_of(place, record) not in read_members(folder / "members.parquet")


@pytest.mark.parametrize("segment", ["slice-1", "slice-2"])
def test_a_purge_that_takes_the_folder_of_a_running_training_stops_it(place, segment):
    """Others were erased, but the purge could not know: the training says so and starts again."""
    folder = open_context(**place).workspace.model("ready-t")

    def purge():
        name_as_erased(place, "of another data set")
        shutil.rmtree(folder)

    with pytest.raises(StoreBusyError, match="a purge deleted its folder"):
        train_ready_model(run_id="t", progress=when(segment, purge), **place)
    assert not folder.exists()


def test_a_running_training_survives_the_erasure_of_others(place):
    """None of its records was erased: it notes so at the checkpoint, and no purge deletes it."""
    context = open_context(**place)
    behind = []
    progress = when("slice-1", lambda: name_as_erased(place, "of another data set"))

    def watch(name, epoch, n_epochs, values):
        progress(name, epoch, n_epochs, values)
        behind.append((name, len(find_behind(context))))

    result = train_ready_model(run_id="t", progress=watch, **place)

    assert {("slice-1", 1), ("slice-2", 0)} <= set(behind)
    assert context.workspace.champion.exists()
    assert (
        1
        == read_json(context.workspace.model(result["model_key"]) / "started.json")["n_tombstones"]
    )


def test_an_erasure_while_the_guard_runs_keeps_the_model_from_being_published(place, monkeypatch):
    """After the last checkpoint: no model.json, no salt and no score of the erased record."""
    context, record = open_context(**place), trained_record(place)
    compare = train._compare

    def erased_meanwhile(*arguments):
        name_as_erased(place, record)
        return compare(*arguments)

    monkeypatch.setattr(train, "_compare", erased_meanwhile)
    with pytest.raises(StoreBusyError):
        train_ready_model(run_id="t", **place)

    assert not context.workspace.model("ready-t").exists()
    assert not context.workspace.champion.exists()
    assert record not in read_table(context.workspace.salts)["record_id"].to_pylist()
    scores = read_table(context.workspace.memorisation)["record_key"].to_pylist()
    assert key_of(place, record) not in scores
    assert scores


def test_a_training_that_is_started_again_keeps_nothing_from_before_the_erasure(place):
    """Killed, then its record erased, then started again before any purge, and killed again."""
    context = open_context(**place)
    with pytest.raises(KilledError):
        train_ready_model(run_id="t", progress=when("slice-2", kill), **place)
    folder = context.workspace.model("ready-t")
    assert (folder / "checkpoints" / "2.safetensors").exists()
    write_json(folder / "weights.safetensors", {})
    name_as_erased(place, trained_record(place))
    with pytest.raises(KilledError):
        train_ready_model(run_id="t", progress=when("stable", kill), **place)

    assert [] == sorted(folder.rglob("*.safetensors"))
    assert [] == find_behind(context)
