"""Laws of the stage that answers about a person: found before and after erasure, never named."""

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pytest

from governance.errors import DataError
from governance.lineage import write_erased
from governance.signing import load_or_make_signing_key
from governance.storage import publish_table
from governance.suppression import pseudonym
from governance.tracking import MemoryTracker
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.lineage import trace

_spec = importlib.util.spec_from_file_location(
    "lineage_example", Path(__file__).parent.parent / "governance" / "lineage_example.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)

GONE, STAYS = "person-gone-7731", "person-stays-7732"


@pytest.fixture
def place(tmp_path):
    """Two persons with two records each; one was erased, and the model replaced."""
    place = {"dataset": "embedded:digits", "root_uri": str(tmp_path), "with_mlflow": False}
    context = open_context("embedded:digits", str(tmp_path))
    load_or_make_signing_key(context.workspace.keys)
    key_file = context.workspace.keys / "pseudonym.key"
    key_file.write_bytes(example.KEY)
    key_file.chmod(0o600)
    columns = context.declaration.columns
    table = pa.table(
        {
            columns.record_id: ["record-c", "record-d"],
            columns.subject_id: [STAYS, STAYS],
            "bucket": pa.array([0, 0], pa.int32()),
        }
    )
    publish_table(context.workspace.classified, table, transaction="t")
    history = example.History(tmp_path)
    history.model("ready-a", ["record-a", "record-b", "record-c"])

    def replay():
        history.model("replay-b1", ["record-c"], parent="ready-a", lane="replay", batch="b1")

    history.erase("b1", ["record-a", "record-b"], replacement=replay)
    history.remove("ready-a")
    person = pseudonym(example.KEY, "subject", GONE)
    records = [example.record_key(record) for record in ("record-a", "record-b")]
    write_erased(context.workspace.batch("b1"), [person, person], records)
    return place


def relations(answer):
    return {known["model"]["model_key"]: known["relation"] for known in answer["models"]}


def test_an_erased_person_is_found_by_their_id(place):
    """Two records, known by the first model until the batch closed, not by the second."""
    answer = trace(asked=GONE, **place)

    assert (answer["kind"], answer["status"], answer["n_records"]) == ("subject", "erased", 2)
    assert relations(answer) == {"ready-a": "knew", "replay-b1": "made without"}
    assert answer["known_until"] is not None
    assert [known["n_records"] for known in answer["models"]] == [2, 0]


def test_a_person_in_the_tables_is_found_by_their_id(place):
    """One of their two records was trained on, by both models; what serves is named."""
    answer = trace(asked=STAYS, **place)

    assert (answer["status"], answer["n_records"]) == ("in the tables", 2)
    assert relations(answer) == {"ready-a": "knew", "replay-b1": "knew"}
    assert answer["serving_now"] == ["replay-b1"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [("record-a", "erased"), ("record-c", "in the tables"), ("nobody", "unknown")],
)
def test_a_record_is_found_before_and_after(place, asked, status):
    """By its id, and by its pseudonym with the same answer."""
    answer = trace(asked=asked, **place)
    again = trace(asked=example.record_key(asked), kind="record", **place)

    assert answer["status"] == again["status"] == status
    assert relations(answer) == relations(again)


def test_no_id_and_no_whole_pseudonym_leaves_the_stage(place):
    """Neither what comes back nor any file that was written names the person."""
    person = pseudonym(example.KEY, "subject", GONE)
    answer = json.dumps(trace(asked=GONE, **place))
    written = [p for p in Path(place["root_uri"]).glob("reports/lineage/*") if p.is_file()]

    assert len(written) == 2
    for text in (answer, *(p.read_bytes().decode("latin-1") for p in written), *map(str, written)):
        assert GONE not in text
        assert person not in text
    assert person[:12] in answer


def test_an_id_of_a_record_and_of_a_person_must_be_told_apart(place):
    """Two answers would fit: none is given without --kind."""
    context = open_context("embedded:digits", place["root_uri"])
    person = pseudonym(example.KEY, "subject", "record-c")
    write_erased(context.workspace.batch("b9"), [person], [example.record_key("record-x")])
    with pytest.raises(DataError, match="--kind"):
        trace(asked="record-c", **place)

    assert trace(asked="record-c", kind="subject", **place)["status"] == "erased"
    assert trace(asked="record-c", kind="record", **place)["status"] == "in the tables"


def test_a_model_is_asked_for_by_its_key(place):
    """It needs no pseudonym; an unknown key is an error."""
    answer = trace(asked="ready-a", **place)

    assert (answer["kind"], answer["n_records"]) == ("model", 2)
    with pytest.raises(DataError):
        trace(asked="ready-zzz", kind="model", **place)


def test_the_picture_goes_where_it_is_asked_for(place, tmp_path):
    """As SVG or PNG by its name; another ending is refused."""
    trace(asked=GONE, picture=str(tmp_path / "here.png"), **place)

    assert (tmp_path / "here.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="svg"):
        trace(asked=GONE, picture=str(tmp_path / "here.gif"), **place)


def test_what_mlflow_lacks_is_reported_and_changes_no_answer(place, monkeypatch):
    """Both models served, and this MLflow knows neither."""
    without = trace(asked=GONE, **place)
    monkeypatch.setattr("r2u_tasks.stages.context.open_tracker", lambda *_: MemoryTracker())
    with_it = trace(asked=GONE, **{**place, "with_mlflow": True})

    assert without["differences"] is None
    assert len(with_it["differences"]) == 2
    assert with_it["models"] == without["models"]


def test_an_empty_workspace_says_what_to_do(tmp_path):
    """No model: nobody was known, and the answer would look like an all-clear."""
    with pytest.raises(DataError, match="r2u train"):
        trace(asked="x", dataset="embedded:digits", root_uri=str(tmp_path))
