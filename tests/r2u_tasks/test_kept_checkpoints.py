"""Laws of checkpoints: an exact model starts from bytes that training committed to, or earlier."""

import shutil

import pytest

from benchmarks.planted import ERASED, record_of
from governance.digests import read_json, write_json
from governance.errors import DigestMismatchError
from r2u_tasks.kept_checkpoints import (
    checkpoint_path,
    checkpoint_problems,
    copy_checkpoints,
    parse_kept,
)
from r2u_tasks.models import load_record
from r2u_tasks.stages import unlearn
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.dry_run import plan_target
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.unlearn.steps import step_path

pytestmark = pytest.mark.ml


@pytest.fixture(scope="module")
def trained(plant):
    """The planted data set with a trained model; nobody changes it."""
    return plant()


@pytest.fixture
def place(trained, tmp_path):
    """A copy of the trained workspace."""
    shutil.copytree(trained["root_uri"], tmp_path / "root")
    return {**trained, "root_uri": str(tmp_path / "root")}


@pytest.fixture
def model(place):
    """The folder of the serving model."""
    return open_context(**place).workspace.model("ready-t")


def noted(model):
    """Return the digests that the model's record names."""
    return parse_kept(read_json(model / "model.json")["checkpoints"])


def flip(path, position):
    """Change one bit of a byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def planned(place, record):
    """Return a batch for a record, and its plan."""
    submit_request(request_id="ask", record_ids=[record], **place)
    lease = unlearn.lease_batch(run_id="night", **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    return batch, unlearn.plan_batch(**batch)


def test_training_commits_to_each_checkpoint_in_record_and_manifest(place, model):
    """Two slices, two checkpoints; both documents name the same digests, of other weights each."""
    record = load_record(open_context(**place).workspace, "ready-t")

    assert [1, 2] == sorted(record.checkpoints)
    assert 2 == len(set(record.checkpoints.values()))
    assert read_json(model / "manifest.json")["checkpoints"] == {
        str(number): digest for number, digest in record.checkpoints.items()
    }
    assert {} == checkpoint_problems(model, record.checkpoints)


def test_each_changed_byte_of_a_checkpoint_is_a_reason_not_to_use_it(model):
    """Length, header, first and last weight, and a file cut short; the other one stays usable."""
    kept = noted(model)
    path = checkpoint_path(model, 2)
    original = path.read_bytes()
    positions = [0, 9, len(original) // 2, len(original) - 1]
    for position in positions:
        flip(path, position)
        assert {2: "its bytes are not those that training wrote"} == checkpoint_problems(
            model, kept
        ), position
        path.write_bytes(original)
    path.write_bytes(original[:-1])
    assert [2] == list(checkpoint_problems(model, kept))
    path.unlink()
    assert {2: "it is gone"} == checkpoint_problems(model, kept)


def test_a_checkpoint_that_no_document_or_only_one_names_is_not_used(model):
    """Of an older record, or with another digest than the manifest: unknown counts as damaged."""
    kept = noted(model)
    assert [1, 2] == sorted(checkpoint_problems(model, dict.fromkeys(kept)))
    assert [1] == list(checkpoint_problems(model, {**kept, 1: kept[2]}))
    manifest = read_json(model / "manifest.json")
    write_json(model / "manifest.json", {n: v for n, v in manifest.items() if n != "checkpoints"})
    assert [1, 2] == sorted(checkpoint_problems(model, kept))


def test_a_damaged_checkpoint_is_never_copied_to_another_model(model, tmp_path):
    """The copy has the noted digest, or the copying fails by name."""
    kept = noted(model)
    assert {1: kept[1]} == copy_checkpoints(model, tmp_path, kept, [1])
    assert checkpoint_path(tmp_path, 1).read_bytes() == checkpoint_path(model, 1).read_bytes()
    flip(checkpoint_path(model, 1), -1)
    with pytest.raises(DigestMismatchError, match=r"checkpoint 1\.safetensors"):
        copy_checkpoints(model, tmp_path, kept, [1])


def dry(place, record):
    """Return the exact lane and its start by a dry run for a record."""
    lane = plan_target(record_ids=[record], **place)["lane"]
    return lane["if_refused"], lane.get("first_segment")


def last_slice(place):
    """Return a record of the last slice."""
    records = [record_of(n) for person in ERASED for n in range(person * 4, person * 4 + 4)]
    return next(record for record in records if dry(place, record) == ("replay", 2))


def test_a_plan_goes_around_a_damaged_checkpoint_before_anything_is_erased(place, model):
    """Slice 2 is hit and its checkpoint damaged: trained again from slice 1, and the plan says so.

    The dry run says the same; with both damaged, or with neither noted, everything is trained.
    """
    record = last_slice(place)
    flip(checkpoint_path(model, 2), -1)
    assert ("replay", 1) == dry(place, record)
    _, plan = planned(place, record)
    assert ("replay", 1) == (plan["exact_lane"], plan["first_segment"])
    assert {"2": "its bytes are not those that training wrote"} == plan["checkpoints_not_used"]

    flip(checkpoint_path(model, 1), -1)
    assert ("retrain", 0) == dry(place, record)
    for name, number in ((1, -1), (2, -1)):
        flip(checkpoint_path(model, name), number)
    older = read_json(model / "model.json") | {"checkpoints": [1, 2]}
    write_json(model / "model.json", older)
    assert ("retrain", 0) == dry(place, record)


def test_damage_after_the_plan_ends_in_a_retraining_not_in_a_stuck_batch(place, model):
    """The rows are gone already: an exact model is made from the beginning, and says why."""
    batch, plan = planned(place, last_slice(place))
    assert ("replay", 2) == (plan["exact_lane"], plan["first_segment"])
    unlearn.erase_rows(**batch)
    flip(checkpoint_path(model, 2), -1)
    context = open_context(**place)
    refused = {"verdict": "retrain", "claim": None, "reasons": ["refused"], "model_key": None}
    write_json(step_path(context, batch["batch_id"], "approximate"), refused)

    exact = unlearn.replay_model(**batch)

    assert "retrain" == exact["lane"]
    made = load_record(context.workspace, exact["model_key"])
    folder = context.workspace.model(exact["model_key"])
    assert {} == checkpoint_problems(folder, made.checkpoints)
    assert [1, 2] == sorted(made.checkpoints)
    evidence = read_json(context.workspace.batch(batch["batch_id"]) / "evidence-replay.json")
    assert ["refused", "the checkpoint before slice 2 is not the one that training wrote"] == (
        evidence["escalated_because"]
    )


def test_a_replay_hands_its_checkpoints_on_with_their_digests(place, model):
    """From slice 2: checkpoints 1 and 2 are those of the parent, bound in the new manifest too."""
    batch, _ = planned(place, last_slice(place))
    unlearn.erase_rows(**batch)
    context = open_context(**place)
    refused = {"verdict": "retrain", "claim": None, "reasons": ["refused"], "model_key": None}
    write_json(step_path(context, batch["batch_id"], "approximate"), refused)
    exact = unlearn.replay_model(**batch)

    assert "replay" == exact["lane"]
    record = load_record(context.workspace, exact["model_key"])
    assert noted(model) == record.checkpoints
    assert {} == checkpoint_problems(
        context.workspace.model(exact["model_key"]), record.checkpoints
    )
