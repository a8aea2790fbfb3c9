"""Laws of scales: every model is measured on inputs in the scale that it was trained with."""

import csv
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from benchmarks.planted import RECORDS_EACH, record_of, write_data_set
from governance.declaration import load_declaration
from governance.digests import read_json
from governance.manifest import read_members
from governance.storage import read_table
from r2u_tasks import embedded
from r2u_tasks import evidence as evidence_of_batch
from r2u_tasks.data import Records
from r2u_tasks.models import load_record
from r2u_tasks.pools import pool_digest
from r2u_tasks.records import encode_splits
from r2u_tasks.stages import unlearn
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.train import train_ready_model
from r2u_tasks.training import SegmentedRecords

RICH = 4
"""A person under contract, hence stable, whose income moves the scale of everybody."""

ASKED = (RICH, 1, 10, 13, 16, 22)


def test_a_pool_is_named_by_what_entered_its_training(tmp_path):
    """The same ids with another input, label or segment are another pool; the same are the same."""
    declaration = load_declaration(embedded.resolve("embedded:digits", tmp_path))
    ids = np.array(["a", "b"])

    def name(inputs=((1.0,), (2.0,)), labels=(0, 1), segment=(0, 1), kind=torch.float32):
        records = Records(torch.tensor(inputs, dtype=kind), torch.tensor(labels), ids)
        return pool_digest(
            declaration, SegmentedRecords(records, np.array(segment, dtype=np.int8), 3)
        )

    assert name() == name()
    others = {
        name(inputs=((1.0,), (2.5,))),  # a cell was corrected
        name(inputs=((0.5,), (1.0,))),  # another scale
        name(labels=(1, 1)),
        name(segment=(1, 1)),
        name(kind=torch.float64),
    }
    assert len(others - {name()}) == 5


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The planted data set with a rich person, and a model that was trained on it."""
    declaration = write_data_set(tmp_path)
    path = tmp_path / "planted.csv"
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    for number in range(RICH * RECORDS_EACH, (RICH + 1) * RECORDS_EACH):
        rows[number][header.index("income")] = "1500.0"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("planted_net", None)
    place = {"dataset": str(declaration), "root_uri": str(tmp_path / "root")}
    classify_data(run_id="c", **place)
    return place


def accuracy_by_hand(weights, scale, rows):
    """Return the accuracy of the planted network, worked out without any code of the product."""
    raw = np.array([rows["age"].to_pylist(), rows["income"].to_pylist()], dtype=np.float64)
    mean, deviation = (
        np.array([[scale[part][name]] for name in ("age", "income")])
        for part in ("mean", "deviation")
    )
    inputs = ((raw - mean) / deviation).T.astype(np.float32)
    hidden = np.maximum(inputs @ weights["0.weight"].T + weights["0.bias"], 0)
    logits = hidden @ weights["2.weight"].T + weights["2.bias"]
    hits = logits.argmax(axis=1) == np.array(rows["churned"].to_pylist())
    return float(hits.mean())


def spy_on_measures(monkeypatch):
    """Return a list that gets each model's weights and measured accuracy on the erased rows."""
    measured = []
    measure = evidence_of_batch.measure_pool

    def noted(models, **sets):
        result = measure(models, **sets)
        for model, margins in zip(models, result.margins, strict=True):
            weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
            measured.append((weights, float((margins > 0).mean())))
        return result

    monkeypatch.setattr(evidence_of_batch, "measure_pool", noted)
    return measured


def pool_of(context, record):
    """Return the name of the pool of models like this one, from its own record and members."""
    table = read_table(context.workspace.classified)
    path = context.workspace.model(record.model_key) / "members.parquet"
    members = read_members(path)
    ids = table["id"].to_pylist()
    keys = unlearn.steps.keys_as_in(context, table, path)
    segments = {i: members[key] for i, key in zip(ids, keys, strict=True) if key in members}
    splits = encode_splits(table, context.declaration, scale=record.scale, segments=segments)
    return pool_digest(context.declaration, splits.training)


@pytest.mark.ml
def test_a_retrained_model_and_its_original_are_each_measured_in_their_own_scale(
    place, monkeypatch
):
    """Erased stable records move the scale: the original keeps its own, and so does its pool."""
    parent = train_ready_model(run_id="t", **place)["model_key"]
    context = open_context(**place)
    numbers = [n for p in ASKED for n in range(p * RECORDS_EACH, (p + 1) * RECORDS_EACH)]
    ids = {record_of(number) for number in numbers}
    submit_request(request_id="ask", record_ids=sorted(ids), **place)
    table = read_table(context.workspace.classified)
    trained = [
        i in ids and split == "train"
        for i, split in zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True)
    ]
    erased = table.filter(trained)
    assert RICH in {int(person[4:7]) for person in erased["person"].to_pylist()}
    original = load_record(context.workspace, parent)
    before = pool_of(context, original)
    weights = load_file(context.workspace.model(parent) / "weights.safetensors")

    lease = unlearn.lease_batch(run_id="night", **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    plan = unlearn.plan_batch(**batch)
    unlearn.erase_rows(**batch)
    unlearn.unlearn_model(**batch, method="no_op")  # refused: the exact lane follows
    measured = spy_on_measures(monkeypatch)
    unlearn.replay_model(**batch)

    assert (plan["exact_lane"], plan["n_trained_records"]) == ("retrain", erased.num_rows)
    evidence = read_json(context.workspace.batch(lease["batch_id"]) / "evidence-replay.json")
    made = load_record(context.workspace, evidence["lineage"]["model_key"])
    assert made.scale.deviation["income"] < original.scale.deviation["income"] / 3
    home = context.workspace.pools / before.removeprefix("sha256:")[:24]
    old = {load_file(path)["0.bias"].tobytes() for path in home.glob("*.safetensors")}
    old.add(weights["0.bias"].tobytes())
    found = [(model["0.bias"].tobytes() in old, model, got) for model, got in measured]
    assert [is_old for is_old, *_ in found].count(True) == 4 + 1  # the pool and the original
    for is_old, model, got in found:
        scale = original.feature_scale if is_old else made.feature_scale
        assert got == pytest.approx(accuracy_by_hand(model, scale, erased), abs=1e-6)
    own = accuracy_by_hand(weights, original.feature_scale, erased)
    assert own != accuracy_by_hand(weights, made.feature_scale, erased)
    pool = [load_file(home / f"first-{index}.safetensors") for index in range(4)]
    trained_on = [accuracy_by_hand(one, original.feature_scale, erased) for one in pool]
    rebound = evidence["curves"]["rebound"]["original"]
    starts = (rebound["low"][0], rebound["mean"][0], rebound["high"][0])
    by_hand = (min(trained_on), np.mean(trained_on), max(trained_on))
    assert starts == pytest.approx(by_hand, abs=1e-6)
    candidate = load_file(context.workspace.model(made.model_key) / "weights.safetensors")
    by_hand = accuracy_by_hand(candidate, made.feature_scale, erased)
    assert evidence["candidate"]["forget_accuracy"] == pytest.approx(by_hand, abs=1e-6)
    after = pool_of(context, made)
    folders = {path.name for path in context.workspace.pools.iterdir()}
    assert folders == {name.removeprefix("sha256:")[:24] for name in (before, after)}

    unlearn.promote_model(**batch)
    unlearn.purge_leftovers(**batch)

    kept = [path.name for path in context.workspace.pools.iterdir()]
    assert kept == [after.removeprefix("sha256:")[:24]]  # the originals of the next batch
