"""Laws of the guard over real MLflow: a move behind our back is found, ours is refused."""

import importlib.util
import sys
from pathlib import Path

import mlflow
import pytest

from governance.digests import write_json
from r2u_tasks.checkpoint import save_weights
from r2u_tasks.cli.main import main
from r2u_tasks.model import build_model
from r2u_tasks.models import load_record, read_champion, update_record
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.mirror import catch_up
from r2u_tasks.stages.sentinel import check

pytestmark = pytest.mark.ml

_spec = importlib.util.spec_from_file_location(
    "lineage_example", Path(__file__).parent.parent / "governance" / "lineage_example.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


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
