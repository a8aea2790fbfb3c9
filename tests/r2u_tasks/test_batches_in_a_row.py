"""Laws of the sequence: drift is summed over approximate batches, and a budget ends it."""

from types import SimpleNamespace

import pytest

from governance.digests import write_json
from governance.forgetting_suite.sequence import MAX_BATCHES
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.unlearn.sequence import retrain_reasons, sequence_with


@pytest.fixture
def context(tmp_path):
    return open_context("embedded:digits", str(tmp_path))


def evidence(test_accuracy=0.95):
    """What the point of a batch is made of; retrained models have 0.95."""

    def column(value):
        names = ("test_accuracy", "retain_accuracy", "batch_auc_likelihood")
        return {name: {"value": value} for name in names}

    return {
        "n_forget": 3,
        "candidate": {"test_accuracy": test_accuracy, "retain_accuracy": 0.95, "shift": 0.2},
        "columns": {"retrained": column(0.95), "unlearned": column(0.5)},
    }


def model_of(batch_id, lane="approximate"):
    return SimpleNamespace(lane=lane, batch_id=batch_id)


FIRST = model_of(None, lane=None)


def serve(context, batch_id, parent, **numbers):
    """Write the evidence of one approximate batch, as the stage does."""
    document = evidence(**numbers)
    document["sequence"] = sequence_with(context, parent, document, batch_id)
    write_json(context.workspace.batch(batch_id) / "evidence.json", document)
    return document["sequence"]


def test_points_follow_each_other_until_an_exact_model(context):
    """Each batch carries those before it; a replayed model starts anew."""
    serve(context, "b1", FIRST)
    second = serve(context, "b2", model_of("b1"))
    third = serve(context, "b3", model_of("b2", lane="replay"))

    assert [point["batch"] for point in second["points"]] == ["b1", "b2"]
    assert second["n_forgotten"] == [3, 6]
    assert [point["batch"] for point in third["points"]] == ["b3"]


def test_a_crossed_budget_sends_the_next_batch_to_the_exact_lane(context):
    """Test accuracy more than ``max_accuracy_drop`` below retrained models."""
    budget = context.declaration.evidence.max_accuracy_drop
    serve(context, "b1", FIRST, test_accuracy=0.95 - budget / 2)
    serve(context, "b2", model_of("b1"), test_accuracy=0.95 - 2 * budget)

    assert retrain_reasons(context, model_of("b1")) == []
    assert "test accuracy" in retrain_reasons(context, model_of("b2"))[0]
    assert retrain_reasons(context, model_of("b2", lane="replay")) == []
    assert retrain_reasons(context, FIRST) == []


def test_too_many_batches_in_a_row_end_it_too(context):
    """Whatever their numbers say."""
    parent = FIRST
    for number in range(MAX_BATCHES):
        assert retrain_reasons(context, parent) == []
        serve(context, f"b{number}", parent)
        parent = model_of(f"b{number}")

    assert "in a row" in retrain_reasons(context, parent)[0]


def test_evidence_of_schema_2_counts_as_the_first_point(context):
    """It has no sequence: its own numbers are taken."""
    write_json(context.workspace.batch("old") / "evidence.json", evidence())
    sequence = serve(context, "b1", model_of("old"))

    assert [point["batch"] for point in sequence["points"]] == ["old", "b1"]
    assert retrain_reasons(context, model_of("old")) == []
