"""Laws of the guard over real MLflow: a move behind our back is found, ours is refused."""

import importlib.util
import sys
import zipfile
from pathlib import Path

import mlflow
import pytest

from governance.digests import write_json
from r2u_tasks.checkpoint import save_weights
from r2u_tasks.cli.main import main
from r2u_tasks.model import build_model
from r2u_tasks.models import load_record, read_champion, update_record
from r2u_tasks.stages import mirror
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.mirror import catch_up, mirror_model
from r2u_tasks.stages.sentinel import check

pytestmark = pytest.mark.ml

_spec = importlib.util.spec_from_file_location(
    "lineage_example", Path(__file__).parent.parent / "governance" / "lineage_example.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def context(tmp_path, monkeypatch):
    """Two models that served, mirrored into SQLite; a record of the first is then erased."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    context = open_context("embedded:digits", str(tmp_path))
    history = example.History(tmp_path)
    for seed, (key, records) in enumerate((("first", ["r1", "r2"]), ("second", ["r2"]))):
        history.model(key, records)
        weights = context.workspace.model(key) / "weights.safetensors"
        digest = save_weights(build_model(context.declaration, seed), weights)
        update_record(context.workspace, key, weights_digest=digest)
        write_json(weights.with_name("manifest.json"), {})
    catch_up(context)
    history.erase("b1", ["r1"])
    context.workspace.ledger.unlink()  # the example's lines are not signed
    for key in ("first", "second"):
        context.ledger.append("model_promoted", {"model_key": key, "batch_id": None})
    return context


def test_an_alias_that_was_moved_in_mlflow_is_found_and_no_rollback_follows_it(
    context, monkeypatch, capsys
):
    """MLflow's own client points the alias to who knew the person; our tool refuses with 3."""
    place = {"dataset": "embedded:digits", "root_uri": str(context.workspace.root)}

    def tainted():
        warnings = check(run_id="s", **place)["warnings"]
        return [w["message"] for w in warnings if w["kind"] == "tainted_champion"]

    assert tainted() == []
    uri = context.workspace.tracking_uri
    assert uri.startswith("sqlite:")
    first, second = (
        load_record(context.workspace, key).model_version for key in ("first", "second")
    )
    client = mlflow.MlflowClient(uri, uri)

    def serving():
        return str(client.get_model_version_by_alias("digits", "champion").version)

    assert serving() == second
    client.set_registered_model_alias("digits", "champion", first)

    assert len(tainted()) == 1
    assert f"'champion' (version {first}) is first" in tainted()[0]
    assert "1 erased records" in tainted()[0]
    line = ["r2u", "rollback", "--root", place["root_uri"], "--json"]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert "erased" in capsys.readouterr().err
    assert read_champion(context.workspace) == "second"
    catch_up(context)
    assert serving() == second
    assert tainted() == []


def holders(context, needle):
    """Return the files of MLflow that hold these bytes, in archives too."""
    found = []
    for path in context.workspace.artifacts.rglob("*"):
        if not path.is_file():
            continue
        parts = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        found += [path] if any(needle in part for part in parts) else []
    return found


def test_weights_of_a_killed_registration_leave_mlflow_and_the_right_ones_come(
    context, monkeypatch
):
    """Killed between "version made" and "version noted", then trained again without the person."""

    def kill(*_, **__):
        raise Killed

    network = build_model(context.declaration, 2)
    example.History(context.workspace.root).model("third", ["r2"], serve=False)
    weights = context.workspace.model("third") / "weights.safetensors"
    write_json(weights.with_name("manifest.json"), {})
    old = save_weights(network, weights)
    record = update_record(context.workspace, "third", weights_digest=old)
    context.ledger.append("model_trained", {"model_key": "third", "weights_digest": old})
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "update_record", kill)
        with pytest.raises(Killed):
            mirror_model(context, record, network)
    needle = list(network.state_dict().values())[-2].numpy().tobytes()[:256]
    assert holders(context, needle)
    assert load_record(context.workspace, "third").model_version is None

    again = build_model(context.declaration, 3)
    new = save_weights(again, weights)
    record = update_record(context.workspace, "third", weights_digest=new)
    mirror_model(context, record, again)
    made = load_record(context.workspace, "third")
    params = context.tracker.version_params("digits", made.model_version)
    assert params["weights_digest"] == new
    assert catch_up(context)["removed"] == ["third"]  # as the purge does

    assert holders(context, needle) == []
    assert holders(context, list(again.state_dict().values())[-2].numpy().tobytes()[:256])
    assert catch_up(context)["removed"] == []
