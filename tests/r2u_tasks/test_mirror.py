"""Laws of the mirror: MLflow follows our own records, late if it must, and never blocks."""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch

from governance.digests import read_json, write_json
from governance.errors import TrackingUnavailableError
from governance.lineage import read_graph
from governance.tracking import MemoryTracker, compare_lineage
from r2u_tasks.checkpoint import save_weights
from r2u_tasks.model import build_model
from r2u_tasks.models import load_record, update_record
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.mirror import catch_up, mirror, or_owe, owed, point_alias

_spec = importlib.util.spec_from_file_location(
    "lineage_example", Path(__file__).parent.parent / "governance" / "lineage_example.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)

RUN_A = "model:ready-a:sha256:ready-a"
NOTHING = {"models": [], "removed": [], "batches": [], "alias": False, "owed": []}


class DownTracker(MemoryTracker):
    """A tracking server that answers only so many times."""

    answers: int = 0

    def record_run(self, **content):
        if self.answers <= 0:
            raise TrackingUnavailableError("MLflow: expected an answer, got none")
        self.answers -= 1
        return super().record_run(**content)

    def aliases(self, name):
        if self.answers <= 0:
            raise TrackingUnavailableError("MLflow: expected an answer, got none")
        return super().aliases(name)


@pytest.fixture
def context(tmp_path):
    """A ready model that a batch replaced while MLflow was down; nothing is mirrored yet."""
    context = open_context("embedded:digits", str(tmp_path))
    history = example.History(tmp_path)
    history.model("ready-a", ["r1", "r2"])
    history.wait(5)

    def replay():
        history.model("replay-b1", ["r2"], parent="ready-a", lane="replay", batch="b1")

    history.erase("b1", ["r1"], replacement=replay)
    history.remove("ready-a")
    torch.manual_seed(0)
    weights = context.workspace.model("replay-b1") / "weights.safetensors"
    digest = save_weights(build_model(context.declaration, 0), weights)
    update_record(context.workspace, "replay-b1", weights_digest=digest)
    folder = context.workspace.batch("b1")
    write_json(
        folder / "plan.json",
        {
            "model_key": "ready-a",
            "plan_digest": "sha256:plan",
            "policy_digest": "sha256:policy",
            "parent_manifest_root": "sha256:root-ready-a",
            "n_requests": 1,
            "n_records": 1,
        },
    )
    columns = {"original": {"value": 0.9}, "unlearned": {"value": None}}
    suite = {"rows": [{"name": "lrt_auc", "columns": columns}]}
    write_json(folder / "evidence.json", {"lane": "replay", "suite": suite})
    write_json(
        folder / "result.json", {"model_key": "replay-b1", "lane": "replay", "claim": "exact"}
    )
    with_tracker(context, MemoryTracker())
    return context


def with_tracker(context, tracker):
    context.__dict__["tracker"] = tracker
    return tracker


def run_of(context, key):
    return f"model:{key}:{load_record(context.workspace, key).weights_digest}"


def differences(context):
    graph = read_graph(context.workspace, now=example.START)
    return compare_lineage(context.tracker, context.registered_model, graph)


def test_the_mirror_catches_up_from_our_own_records(context):
    """Both models, the batch and the alias; versions in the order in which the models were made."""
    assert owed(context) == [
        "model ready-a",
        "model replay-b1",
        "removal of the weights of ready-a",  # nobody knows what a killed run registered
        "batch b1",
        "alias champion",
    ]
    assert len(differences(context)) == 2  # both models served and have no version
    done = catch_up(context)

    assert done == {
        "models": ["ready-a", "replay-b1"],
        "removed": [],
        "batches": ["b1"],
        "alias": True,
        "owed": [],
    }
    assert differences(context) == []
    name = context.registered_model
    params = context.tracker.version_params(name, "2")
    assert params["parent_model_key"] == "ready-a"
    assert params["parent_version"] == "1"
    assert params["batch_id"] == "b1"
    assert params["evidence_digest"].startswith("sha256:")
    assert context.tracker.aliases(name) == {"champion": "2"}
    batch = context.tracker.runs["batch:b1"]["params"]
    assert (batch["model_version"], batch["bundle_root"]) == ("2", "sha256:b1")
    assert batch["ledger_head"] == "sha256:batch_closed"
    metrics = context.tracker.runs["batch:b1"]["metrics"]
    shown = {name: value for name, value in metrics.items() if name.startswith("evidence/")}
    assert shown == {"evidence/lrt_auc/original": 0.9}


def test_a_second_mirror_writes_nothing(context):
    """Also when our marks are lost: then MLflow is asked, and holds everything already."""
    catch_up(context)
    before = repr(context.tracker)
    assert catch_up(context) == NOTHING
    (context.workspace.root / "mirror.json").unlink()
    catch_up(context)

    assert repr(context.tracker) == before


def test_weights_that_are_gone_are_registered_as_gone(context):
    """Lineage is whole: the version is there, says that its weights were removed, and has none."""
    catch_up(context)
    first, second = context.tracker.versions[context.registered_model]

    assert first["tags"]["weights"] == "removed"
    assert "weights" not in second["tags"]


def test_weights_removed_while_mlflow_was_down_are_removed_later(context):
    """A version that was mirrored with its weights loses them when ours are gone."""
    catch_up(context)
    (context.workspace.model("replay-b1") / "weights.safetensors").unlink()

    assert owed(context) == ["removal of the weights of replay-b1"]
    assert catch_up(context)["removed"] == ["replay-b1"]
    assert context.tracker.versions[context.registered_model][1]["tags"]["weights"] == "removed"
    assert owed(context) == []


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_server_that_goes_down_loses_nothing(context, answers):
    """Whatever was written stays, the rest is owed, and the next mirror ends at the same state."""
    tracker = with_tracker(context, DownTracker())
    tracker.answers = answers
    with pytest.raises(TrackingUnavailableError):
        catch_up(context)
    assert owed(context)
    tracker.answers = 10
    catch_up(context)

    assert owed(context) == []
    assert differences(context) == []
    assert len(tracker.versions[context.registered_model]) == 2


def test_a_stage_goes_on_without_mlflow(caplog):
    """An unreachable server is a warning that says what to do; another error is not hidden."""

    def down():
        raise TrackingUnavailableError("MLflow: expected an answer, got none")

    def broken():
        raise KeyError("a mistake of ours")

    with caplog.at_level(logging.WARNING):
        assert not or_owe("model ready-a", down)
    assert "r2u mirror" in caplog.text
    with pytest.raises(KeyError):
        or_owe("model ready-a", broken)


@pytest.mark.parametrize("lost", ["all", "the first version"])
def test_a_server_that_lost_its_data_is_filled_again(context, monkeypatch, lost):
    """Losing all is noticed; for a part, ``everything`` asks about each model and batch."""
    catch_up(context)
    name = context.registered_model
    monkeypatch.setattr("r2u_tasks.stages.mirror.open_context", lambda *_: context)
    if lost == "all":
        with_tracker(context, MemoryTracker())
        done = catch_up(context)
    else:
        context.tracker.runs[RUN_A]["params"] = {}
        assert catch_up(context) == NOTHING
        del context.tracker.runs[RUN_A]
        done = mirror(dataset="", root_uri="", everything=True)

    assert done["models"] == (["ready-a", "replay-b1"] if lost == "all" else ["ready-a"])
    assert differences(context) == []
    assert context.tracker.aliases(name) == {"champion": "2"}


def test_an_alias_that_somebody_moved_is_found_and_moved_back(context):
    """MLflow's alias points to a model that knew the person: reported first, corrected second."""
    catch_up(context)
    context.tracker.set_alias(context.registered_model, "champion", "1")
    found = differences(context)

    assert len(found) == 1
    assert "alias champion" in found[0]
    assert catch_up(context)["alias"] is True
    assert differences(context) == []


def test_a_version_that_says_something_else_is_reported(context):
    """Each param that differs is named with what we expected."""
    catch_up(context)
    context.tracker.runs[run_of(context, "replay-b1")]["params"]["manifest_root"] = "sha256:forged"
    found = differences(context)

    assert len(found) == 1
    assert "expected manifest_root sha256:root-replay-b1" in found[0]


def test_weights_of_another_model_are_never_registered(context):
    """A model whose file was exchanged stays owed, with the batch that names it, for a person."""
    save_weights(
        build_model(context.declaration, 7),
        context.workspace.model("replay-b1") / "weights.safetensors",
    )
    done = catch_up(context)

    assert done["models"] == ["ready-a"]
    assert done["owed"] == ["model replay-b1", "batch b1", "alias champion"]
    assert load_record(context.workspace, "replay-b1").model_version is None
    assert read_json(context.workspace.root / "mirror.json")["alias"] is None


@pytest.mark.parametrize("key", ["model:replay-b1", None])
def test_weights_of_a_run_that_was_killed_before_its_version_was_noted_are_removed(
    context, monkeypatch, key
):
    """Made anew with other weights, the model gets a version of its own; the old one is emptied.

    Also where an older release named the run by the model alone; what another workspace made stays.
    """
    catch_up(context)
    name, record = context.registered_model, load_record(context.workspace, "replay-b1")
    update_record(context.workspace, "replay-b1", model_version=None, mlflow_run_id=None)
    old = run_of(context, "replay-b1")
    if key is not None:  # as the older release left it
        context.tracker.runs[key] = context.tracker.runs.pop(old)
        context.tracker.versions[name][1]["run_id"] = key
    foreign = {"model_key": "replay-b1", "weights_digest": "sha256:elsewhere"}
    context.tracker.record_run(key="x", name="x", dataset="digits", params=foreign)
    context.tracker.register_version(name=name, run_id="x", model_object=object(), tags={})
    example.History(context.workspace.root).say(
        "model_unlearned", {"model_key": "replay-b1", "weights_digest": record.weights_digest}
    )
    weights = context.workspace.model("replay-b1") / "weights.safetensors"
    digest = save_weights(build_model(context.declaration, 5), weights)
    update_record(context.workspace, "replay-b1", weights_digest=digest)
    done = catch_up(context)

    version = load_record(context.workspace, "replay-b1").model_version
    assert version == "4"
    assert context.tracker.version_params(name, version)["weights_digest"] == digest
    assert done["removed"] == ["replay-b1"]
    gone = [v["tags"].get("weights") for v in context.tracker.versions[name]]
    assert gone == ["removed", "removed", None, None]
    assert context.tracker.aliases(name) == {"champion": version}
    assert catch_up(context) == NOTHING


def test_weights_that_no_version_was_noted_for_are_removed_with_ours(context):
    """The purge took the weights of a model that MLflow has and whose record has no version."""
    catch_up(context)
    update_record(context.workspace, "replay-b1", model_version=None, mlflow_run_id=None)
    (context.workspace.model("replay-b1") / "weights.safetensors").unlink()
    catch_up(context)

    assert context.tracker.versions[context.registered_model][1]["tags"]["weights"] == "removed"
    assert load_record(context.workspace, "replay-b1").model_version == "2"
    assert owed(context) == []


def test_an_alias_never_points_to_other_weights_than_the_record_has(context):
    """The version that was noted holds other weights: the right ones are registered first."""
    catch_up(context)
    weights = context.workspace.model("replay-b1") / "weights.safetensors"
    digest = save_weights(build_model(context.declaration, 5), weights)
    record = update_record(context.workspace, "replay-b1", weights_digest=digest)
    with pytest.raises(TrackingUnavailableError, match="expected version 2"):
        point_alias(context, record)
    catch_up(context)
    params = context.tracker.version_params(context.registered_model, "3")

    assert params["weights_digest"] == digest
    assert context.tracker.aliases(context.registered_model) == {"champion": "3"}
