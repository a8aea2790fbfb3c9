"""Laws of lineage: who knew a record, until when, and what replaced it."""

import importlib.util
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from governance.lineage import (
    erased_records,
    erased_records_of,
    known_records,
    read_graph,
    to_json,
    write_erased,
)
from governance.lineage_answer import Question, Relation, Status, about_model, who_knew
from governance.lineage_picture import MAX_MODELS, draw_lineage

_spec = importlib.util.spec_from_file_location(
    "lineage_example", Path(__file__).with_name("lineage_example.py")
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)
record_key = example.record_key
START = example.START

DAY = timedelta(days=1)


@pytest.fixture
def history(tmp_path):
    """Two trained models; record r1 is erased on day 20 and the model replayed on day 21."""
    history = example.History(tmp_path)
    history.model("ready-a", ["r1", "r2"])
    history.wait(10)
    history.model("ready-b", ["r1", "r2", "r3"])
    history.wait(10)
    history.erase(
        "batch-1",
        ["r1"],
        replacement=lambda: history.model(
            "replay-1", ["r2", "r3"], parent="ready-b", lane="replay", batch="batch-1"
        ),
    )
    history.remove("ready-a", "ready-b")
    history.wait(5)
    return history


def graph_of(history):
    return read_graph(history.workspace, now=history.at)


def ask(history, *records, in_tables=(), complete=True):
    graph = graph_of(history)
    keys = frozenset(record_key(record) for record in records)
    batches = erased_records(history.workspace)
    erased = {batch: frozenset(keys & gone) for batch, gone in batches.items() if keys & gone}
    question = Question(
        kind="subject",
        shown="0123456789ab",
        record_keys=keys,
        in_tables=frozenset(record_key(record) for record in in_tables),
        erased=erased,
        complete=complete,
    )
    return who_knew(graph, question, known_records(history.workspace, graph, keys))


def relations(answer):
    return {known.model.model_key: known.relation for known in answer.models}


def test_an_erased_record_was_known_until_its_weights_were_removed(history):
    """Made on day 0; served until the promotion on day 21; weights removed with the close on 22."""
    answer = ask(history, "r1")

    assert answer.status is Status.ERASED
    assert relations(answer) == {
        "ready-a": Relation.KNEW,
        "ready-b": Relation.KNEW,
        "replay-1": Relation.MADE_WITHOUT,
    }
    assert answer.known_from == START
    assert answer.served_until == START + 21 * DAY
    assert answer.known_until == START + 22 * DAY
    assert (answer.serving_now, answer.left) == ((), ())
    assert [known.replaced_by for known in answer.models] == ["ready-b", "replay-1", None]
    assert [erasure.batch_id for erasure in answer.erasures] == ["batch-1"]
    assert "replay-1 took their place" in answer.summary


def test_a_record_that_nobody_erased_is_known_by_what_serves(history):
    """r3 came with the second model and is in the third, which serves: no end is claimed."""
    answer = ask(history, "r3", in_tables=["r3"])

    assert answer.status is Status.IN_TABLES
    assert relations(answer) == {
        "ready-a": Relation.NEVER,
        "ready-b": Relation.KNEW,
        "replay-1": Relation.KNEW,
    }
    assert answer.serving_now == ("replay-1",)
    assert answer.served_until is None
    assert answer.known_until is None


def test_weights_that_are_left_are_named_and_no_end_is_claimed(history):
    """Weights put back behind our back: the model did not serve since, but it still knows."""
    (history.workspace.model("ready-b") / "weights.safetensors").write_bytes(b"back again")
    answer = ask(history, "r1")

    assert answer.left == ("ready-b",)
    assert answer.known_until is None
    assert "ready-b" in answer.summary


def test_a_model_whose_members_cannot_be_read_may_have_known(history):
    """Unknown is the stricter side, for its own and never silently."""
    (history.workspace.model("ready-a") / "members.parquet").write_bytes(b"no table")
    answer = ask(history, "r3")

    assert relations(answer)["ready-a"] is Relation.MAY_HAVE_KNOWN
    assert any("ready-a" in note for note in answer.notes)
    assert graph_of(history).model("ready-a").holds_erased is None


def test_an_approximate_descent_is_a_statistical_claim_until_an_exact_step(history):
    """ready-b -> approximate-2 -> approximate-3 without r2: *unlearned*; a replay starts anew.

    For r1, replay-1 was exact already: no later step, of whatever lane, can bring it back.
    """

    def made(key, parent, batch):
        lane = key.split("-")[0]
        return lambda: history.model(key, ["r3"], parent=parent, lane=lane, batch=batch)

    history.erase("b2", ["r2"], replacement=made("approximate-2", "replay-1", "b2"))
    history.erase("b3", ["x"], replacement=made("approximate-3", "approximate-2", "b3"))
    history.erase("b4", ["y"], replacement=made("replay-4", "approximate-3", "b4"))
    later = ("approximate-2", "approximate-3", "replay-4")
    of_r1, of_r2 = relations(ask(history, "r1")), relations(ask(history, "r2"))

    assert [of_r2[key] for key in later] == [
        Relation.UNLEARNED,
        Relation.UNLEARNED,
        Relation.MADE_WITHOUT,
    ]
    assert {of_r1[key] for key in later} == {Relation.MADE_WITHOUT}


def test_a_candidate_that_the_gate_refused_may_have_known(history):
    """It was changed from weights that knew the record, and nothing shows that it forgot."""
    history.model(
        "approximate-1",
        ["r2", "r3"],
        parent="ready-b",
        lane="approximate",
        batch="batch-1",
        verdict="retrain",
        serve=False,
    )

    assert relations(ask(history, "r1"))["approximate-1"] is Relation.MAY_HAVE_KNOWN


def test_an_unknown_id_is_said_to_be_unknown_and_nobody_knew_it(history):
    """Not *erased*, not an error: a person may have mistyped it."""
    answer = ask(history)

    assert answer.status is Status.UNKNOWN
    assert set(relations(answer).values()) == {Relation.NEVER}
    assert (answer.known_from, answer.known_until) == (None, None)


def test_a_lost_link_is_not_an_all_clear(history):
    """A person whose records cannot be named any more counts as erased, incompletely answered."""
    answer = ask(history, complete=False)

    assert answer.status is Status.ERASED
    assert "by its id" in answer.summary


def test_serving_ends_with_the_next_promotion_and_can_come_back(history):
    """A rollback gives a model a second interval; promoting what serves changes nothing."""
    before = graph_of(history).model("ready-a").serving
    history.say("model_promoted", {"model_key": "ready-a"})
    history.wait(1)
    history.say("model_promoted", {"model_key": "ready-a"})
    serving = graph_of(history).model("ready-a").serving

    assert serving[:1] == before
    assert [interval.end for interval in serving] == [START + 10 * DAY, None]
    assert graph_of(history).model("replay-1").serving[0].end == START + 27 * DAY


def test_only_the_retirement_of_what_serves_ends_its_time(history):
    """A child that was retired says nothing about the serving model; its own retirement does."""
    history.say("model_retired", {"model_key": "ready-a"})
    assert graph_of(history).model("replay-1").serving[-1].end is None
    history.wait(1)
    history.say("model_retired", {"model_key": "replay-1"})

    assert graph_of(history).model("replay-1").serving[-1].end == START + 28 * DAY
    assert graph_of(history).successor("replay-1") is None


def test_the_erased_records_of_a_person_are_found_after_the_erasure(tmp_path):
    """By pseudonym, of each batch, and of nobody else; writing twice changes nothing."""
    workspace = example.History(tmp_path).workspace
    first, second = workspace.batch("b1"), workspace.batch("b2")
    write_erased(first, ["s1", "s2", "s1"], ["k3", "k2", "k1"])
    content = (first / "erased.parquet").read_bytes()
    write_erased(first, ["s2", "s1", "s1"], ["k2", "k1", "k3"])
    write_erased(second, ["s1"], ["k9"])

    assert content == (first / "erased.parquet").read_bytes()
    assert erased_records_of(workspace, "s1") == {"b1": {"k1", "k3"}, "b2": {"k9"}}
    assert erased_records_of(workspace, "nobody") == {}


def test_a_model_shows_its_family_and_what_it_held(history):
    """ready-b held one record that batch-1 erased; its child holds none."""
    answer = about_model(graph_of(history), "ready-b")

    assert relations(answer) == {"ready-b": Relation.KNEW, "replay-1": Relation.NEVER}
    assert answer.n_records == 1
    assert answer.known_until == START + 22 * DAY
    assert about_model(graph_of(history), "ready-a").models[0].replaced_by == "ready-b"


def test_an_answer_is_plain_json_without_an_id(history):
    """Instants are text, and neither the record's id nor its whole pseudonym is in it."""
    import json

    text = json.dumps(to_json(ask(history, "r1")))

    assert '"known_until": "2026-01-27T08:00:00+00:00"' in text
    assert record_key("r1") not in text
    assert '"r1"' not in text


@pytest.mark.parametrize("format_name", ["svg", "png"])
def test_the_same_answer_gives_the_same_picture(history, format_name):
    """Bytes can be compared; the SVG names every model and loads nothing from elsewhere."""
    answer = ask(history, "r1")
    first = draw_lineage(answer, format_name=format_name)

    assert first == draw_lineage(answer, format_name=format_name)
    assert first != draw_lineage(ask(history, "r3"), format_name=format_name)
    if format_name == "svg":
        text = first.decode()
        assert all(node.model_key in text for node in graph_of(history).models)
        assert "<image" not in text
        assert 'href="http' not in text


def test_of_too_many_models_those_that_matter_are_drawn(history):
    """The oldest two knew the record; 60 later ones did not, and what is left out is counted."""
    answer = ask(history, "r1")
    known = answer.models[0]
    others = tuple(
        replace(
            known,
            relation=Relation.NEVER,
            model=replace(
                known.model, model_key=f"other-{n:02}", created_at=START + n * DAY, serving=()
            ),
        )
        for n in range(60)
    )
    text = draw_lineage(replace(answer, models=(*answer.models, *others)), format_name="svg")
    drawn = text.decode()

    assert all(key in drawn for key in ("ready-a", "ready-b", "replay-1", "other-59"))
    assert f"{63 - MAX_MODELS} models are not drawn" in drawn
    assert "other-00" not in drawn
