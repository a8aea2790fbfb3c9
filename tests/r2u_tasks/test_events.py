"""Laws of the events of stages: off by default, START and one end for each run, no person."""

import importlib.util
import json
from pathlib import Path

import pytest

from governance.declaration import OpenLineage
from governance.digests import write_json
from governance.errors import DataError
from r2u_tasks.stages import events
from r2u_tasks.stages.context import StageContext, open_context

_spec = importlib.util.spec_from_file_location(
    "lineage_example", Path(__file__).parent.parent / "governance" / "lineage_example.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


@pytest.fixture
def off(tmp_path):
    return open_context("embedded:digits", str(tmp_path))


@pytest.fixture
def on(off):
    declared = off.declaration.model_copy(update={"openlineage": OpenLineage(namespace="ns")})
    return StageContext(declared, off.workspace)


def written(context):
    return [json.loads(line) for line in context.workspace.events.read_text().splitlines()]


def observe(context, work):
    return events.observe(
        context,
        "classify_data",
        "c1",
        work,
        inputs=(events.source(context),),
        outputs=lambda result: (events.table(context, "raw", n_rows=result["rows"]),),
    )


def test_nothing_is_written_unless_it_is_declared(off, on):
    """The work is done all the same, and the declaration's digest does not change by it."""
    assert observe(off, lambda: {"rows": 7}) == {"rows": 7}
    assert not off.workspace.events.exists()
    assert off.declaration.digest == on.declaration.digest


def test_a_run_starts_and_completes(on):
    """Two events of one run; the second names what was written."""
    assert observe(on, lambda: {"rows": 7}) == {"rows": 7}
    start, complete = written(on)

    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"]["name"] == "digits.classify_data"
    assert [item["name"] for item in complete["outputs"]] == ["digits.raw"]
    assert complete["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert str(on.workspace.root) not in json.dumps([start, complete])


def test_a_failed_run_says_only_the_class_of_its_error(on):
    """The message may hold more than an event should; the error itself is not swallowed."""

    def fail():
        raise DataError("row 17 of somebody")

    with pytest.raises(DataError):
        observe(on, fail)
    assert [event["eventType"] for event in written(on)] == ["START", "FAIL"]
    assert written(on)[1]["run"]["facets"]["errorMessage"]["message"] == "DataError"
    assert "somebody" not in on.workspace.events.read_text()


def test_a_full_disk_does_not_stop_a_stage(on, caplog):
    """The folder of the events cannot be made: the work is done, and the log says so."""
    on.workspace.events.parent.write_text("a file where the folder should be")

    assert observe(on, lambda: {"rows": 7}) == {"rows": 7}
    assert "not written" in caplog.text


def test_a_batch_tells_what_it_erased_and_what_replaced_what(on):
    """Each table with its counts, the new model with its parent; no record and no request."""
    history = example.History(on.workspace.root)
    history.model("ready-a", ["r1", "r2"])

    def replay():
        history.model("replay-b1", ["r2"], parent="ready-a", lane="replay", batch="b1")

    history.erase("b1", ["r1"], replacement=replay)
    folder = on.workspace.batch("b1")
    counts = {"before": 2, "erased": 1, "after": 1}
    table = {**counts, "untouched_digest_before": "d", "untouched_digest_after": "d"}
    plan = {"batch_id": "b1", "model_key": "ready-a", "n_requests": 1, "n_records": 1}
    write_json(folder / "plan.json", {**plan, "requests": ["request-417"]})
    write_json(folder / "erasure.json", {"tables": {"raw": table, "salts": table}})
    events.batch_started(on, plan)
    events.batch_failed(on, "b1", "released")
    result = {"model_key": "replay-b1", "lane": "replay", "claim": "exact"}
    write_json(folder / "result.json", result)
    events.batch_completed(on, "b1")
    events.batch_failed(on, "b1", "released")
    events.batch_completed(on, "b1")

    assert [event["eventType"] for event in written(on)] == ["START", "FAIL", "COMPLETE"]
    outputs = {item["name"]: item["facets"] for item in written(on)[-1]["outputs"]}
    assert sorted(outputs) == ["digits.models.replay-b1", "digits.raw", "digits.salts"]
    assert outputs["digits.raw"]["lifecycleStateChange"]["lifecycleStateChange"] == "OVERWRITE"
    assert outputs["digits.raw"]["erasure"]["rows"] == {**counts, "othersUntouched": True}
    model = outputs["digits.models.replay-b1"]
    assert model["datasetType"]["datasetType"] == "MODEL"
    assert model["erasure"]["parentModel"] == "ready-a"
    text = on.workspace.events.read_text()
    assert "request-417" not in text
    assert example.record_key("r1") not in text
