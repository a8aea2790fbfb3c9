"""Laws of the guard: no alias moves to a model that knows an erased person, whoever asks."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from governance.digests import write_json
from governance.errors import DataError, ReleaseBlockedError
from governance.ledger import read_entries
from governance.tracking import MemoryTracker
from r2u_tasks.checkpoint import save_weights
from r2u_tasks.cli.main import main
from r2u_tasks.model import build_model
from r2u_tasks.models import load_record, read_champion, update_record
from r2u_tasks.stages.children import register_child
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.mirror import catch_up, point_alias
from r2u_tasks.stages.promotion import promote, roll_back
from r2u_tasks.stages.sentinel import check
from r2u_tasks.stages.taint import why_tainted

_spec = importlib.util.spec_from_file_location(
    "lineage_example", Path(__file__).parent.parent / "governance" / "lineage_example.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


@pytest.fixture
def context(tmp_path):
    """Two models that served, of which the first knew an erased record; a third never served."""
    context = open_context("embedded:digits", str(tmp_path))
    history = example.History(tmp_path)
    torch.manual_seed(0)
    for key, records in (("first", ["r1", "r2"]), ("other", ["r2", "r3"]), ("second", ["r2"])):
        history.model(key, records, serve=key != "other")
        weights = tmp_path / "models" / key / "weights.safetensors"
        model = build_model(context.declaration, 0)
        update_record(context.workspace, key, weights_digest=save_weights(model, weights))
        write_json(weights.with_name("manifest.json"), {})
    history.erase("b1", ["r1"])
    context.workspace.ledger.unlink()  # the example's lines are not signed
    for key in ("first", "second"):
        context.ledger.append("model_promoted", {"model_key": key, "batch_id": None})
    return context


def place(context):
    return {"dataset": "embedded:digits", "root_uri": str(context.workspace.root)}


@pytest.fixture(autouse=True)
def tracker(monkeypatch):
    """MLflow's twin in memory, the same one for every stage of a test."""
    memory = MemoryTracker()
    monkeypatch.setattr("r2u_tasks.stages.context.open_tracker", lambda *_: memory)
    return memory


def test_a_rollback_to_a_tainted_model_is_refused(context):
    """The champion stays, the ledger is silent, and the message counts and names nobody."""
    entries = read_entries(context.workspace.ledger)
    with pytest.raises(ReleaseBlockedError, match="holds 1 erased records"):
        roll_back(**place(context))

    assert read_champion(context.workspace) == "second"
    assert entries == read_entries(context.workspace.ledger)


def test_the_command_line_refuses_with_its_own_exit_code(context, monkeypatch, capsys):
    """3 for a tainted model, 2 for one that is not there, 0 for a clean one."""
    codes = []
    for command in (
        ["rollback"],
        ["promote", "first"],
        ["promote", "nobody"],
        ["promote", "other"],
    ):
        line = ["r2u", *command, "--root", str(context.workspace.root), "--json"]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            main()
        codes.append(ended.value.code)

    assert [3, 3, 2, 0] == codes
    assert "erased" in capsys.readouterr().err
    assert read_champion(context.workspace) == "other"


def test_a_clean_model_is_promoted_by_key_or_version(context, tracker):
    """Ledger, champion file and alias say the same; asking twice is once."""
    catch_up(context)
    result = promote(model="other", **place(context))
    catch_up(context)
    version = load_record(context.workspace, "other").model_version
    promote(model=version, **place(context))

    assert ("other", "second") == (result["model_key"], result["before"])
    assert tracker.aliases("digits") == {"champion": version}
    promoted = [e["body"]["model_key"] for e in read_entries(context.workspace.ledger)]
    assert promoted.count("other") == 2  # without and with its version
    assert read_champion(context.workspace) == "other"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "members.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (lambda folder: (folder / "members.parquet").unlink(), "cannot be read"),
        (lambda folder: (folder / "model.json").unlink(), "nobody can tell"),
    ],
)
def test_what_is_not_known_is_tainted(context, change, why):
    """Without a readable manifest nobody knows whom a model knew."""
    assert why_tainted(context, "other") is None
    change(context.workspace.model("other"))

    assert why in why_tainted(context, "other")


def test_a_candidate_that_the_gate_refused_never_serves(context):
    """Its manifest names nobody who was erased, but its weights came from a model that did."""
    update_record(context.workspace, "other", verdict="retrain")

    with pytest.raises(ReleaseBlockedError, match="verdict"):
        promote(model="other", **place(context))


def test_a_model_without_weights_is_not_promoted(context):
    """A clean manifest does not help when the weights were purged."""
    (context.workspace.model("other") / "weights.safetensors").unlink()
    with pytest.raises(ReleaseBlockedError, match="purged"):
        promote(model="other", **place(context))


def test_an_alias_that_was_moved_behind_our_back_is_found(context, tracker):
    """Any alias counts, and so does a version of which nothing is known; a clean one is silent."""
    catch_up(context)
    assert [w for w in check(run_id="s", **place(context))["warnings"] if is_taint(w)] == []
    first = load_record(context.workspace, "first").model_version
    tracker.runs["strange"] = {"name": "strange", "dataset": "digits", "params": {}}
    strange = tracker.register_version(name="digits", run_id="strange", model_object=None, tags={})
    for alias, version in (("shadow", first), ("champion", strange)):
        tracker.set_alias("digits", alias, version)

    found = [w["message"] for w in check(run_id="s", **place(context))["warnings"] if is_taint(w)]

    assert len(found) == 2
    assert any("'shadow'" in text and "1 erased records" in text for text in found)
    assert any("'champion'" in text and "unknown origin" in text for text in found)


def test_an_alias_to_other_weights_than_the_record_has_is_found(context, tracker):
    """A clean record says nothing about a version that holds weights of another training."""
    catch_up(context)
    second = load_record(context.workspace, "second")
    tracker.runs[second.mlflow_run_id]["params"]["weights_digest"] = "sha256:other"

    found = [w["message"] for w in check(run_id="s", **place(context))["warnings"] if is_taint(w)]

    assert len(found) == 1
    assert "'champion'" in found[0]
    assert "not those of the model's record" in found[0]


def test_mlflow_is_only_told_through_the_guard(context, tracker):
    """The mirror refuses too; and in the code one function sets an alias, in the mirror."""
    catch_up(context)
    with pytest.raises(ReleaseBlockedError):
        point_alias(context, load_record(context.workspace, "first"))
    write_json(context.workspace.champion, {"model_key": "first"})
    assert not catch_up(context)["alias"]

    callers = []
    for path in sorted(Path(example.__file__).parent.parent.parent.glob("r2u_tasks/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "set_alias":
                callers.append(path.name)
    assert callers == ["mirror.py"]


def test_a_child_inherits_what_its_parent_knew(context, tmp_path):
    """Clean parent: registered, and tainted as soon as a record of the parent is erased."""
    weights = tmp_path / "tuned.safetensors"
    save_file(build_model(context.declaration, 1).state_dict(), weights)
    child = {"model_key": "mobile", "weights": str(weights), **place(context)}
    with pytest.raises(DataError, match="expected"):
        register_child(parent="nobody", **child)
    with pytest.raises(ReleaseBlockedError, match="erased"):
        register_child(parent="first", **child)
    assert not context.workspace.model("mobile").exists()

    first = register_child(parent="other", **child)
    again = register_child(parent="other", **child)
    assert first == again
    assert why_tainted(context, "mobile") is None
    example.History(context.workspace.root).erase("b2", ["r3"])
    assert "1 erased records" in why_tainted(context, "mobile")


def test_a_child_is_no_better_than_its_parent(context, tmp_path):
    """Also when its own manifest is clean: nothing was done to it to forget."""
    weights = tmp_path / "tuned.safetensors"
    save_file(build_model(context.declaration, 1).state_dict(), weights)
    register_child(model_key="mobile", parent="other", weights=str(weights), **place(context))
    update_record(context.workspace, "other", verdict="refuse")

    assert "fine-tuned from other" in why_tainted(context, "mobile")


def is_taint(warning):
    return warning["kind"] == "tainted_champion"
