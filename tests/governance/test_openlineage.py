"""Laws of OpenLineage events: valid by OpenLineage's own classes and by the schema of our facet."""

import copy
import json
import multiprocessing
from datetime import UTC, datetime

import jsonschema
import pytest
from openlineage.client.generated import base
from openlineage.client.generated.dataset_type_dataset import DatasetTypeDatasetFacet
from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
from openlineage.client.generated.error_message_run import ErrorMessageRunFacet
from openlineage.client.generated.job_type_job import JobTypeJobFacet
from openlineage.client.generated.lifecycle_state_change_dataset import (
    LifecycleStateChange,
    LifecycleStateChangeDatasetFacet,
)
from openlineage.client.generated.output_statistics_output_dataset import (
    OutputStatisticsOutputDatasetFacet,
)

from governance.openlineage import (
    Dataset,
    EventFile,
    EventType,
    RunEvent,
    erasure_facet,
    run_id,
    to_openlineage,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TABLE = {
    "before": 100,
    "erased": 4,
    "after": 96,
    "untouched_digest_before": "d",
    "untouched_digest_after": "d",
}
ERASURE = {
    "batch_id": "b1",
    "n_requests": 2,
    "n_records": 4,
    "claim": "exact",
    "lane": "replay",
    "bundle_root": "sha256:" + "0a" * 32,
    "ledger_entry": "sha256:" + "0b" * 32,
}
EVENTS = {
    "start": RunEvent(
        job="people.train", run_key="t1", type=EventType.START, at=NOW, inputs=(Dataset(name="a"),)
    ),
    "complete": RunEvent(
        job="people.unlearn_batch",
        run_key="b1",
        type=EventType.COMPLETE,
        at=NOW,
        inputs=(Dataset(name="people.models.m0", kind="MODEL", version="sha256:0"),),
        outputs=(
            Dataset(
                name="people.raw",
                n_rows=96,
                overwritten=True,
                erasure=erasure_facet(**ERASURE, table=TABLE),
            ),
            Dataset(
                name="people.models.m1",
                kind="MODEL",
                version="sha256:1",
                erasure=erasure_facet(**ERASURE, parent_model="m0"),
            ),
        ),
    ),
    "fail": RunEvent(
        job="people.train", run_key="t1", type=EventType.FAIL, at=NOW, error="DataError"
    ),
}
FACETS = {
    "datasetType": DatasetTypeDatasetFacet,
    "version": DatasetVersionDatasetFacet,
    "lifecycleStateChange": LifecycleStateChangeDatasetFacet,
    "outputStatistics": OutputStatisticsOutputDatasetFacet,
    "jobType": JobTypeJobFacet,
    "errorMessage": ErrorMessageRunFacet,
}


@pytest.fixture(scope="module")
def facet_schema(repository):
    path = repository / "docs" / "openlineage" / "ErasureDatasetFacet.json"
    return json.loads(path.read_text())


def rebuilt(cls, content):
    """Make an object of OpenLineage's own class; an unknown or missing key raises."""
    content = dict(content)
    schema = content.pop("_schemaURL")
    producer = content.pop("_producer")
    if cls is LifecycleStateChangeDatasetFacet:
        content["lifecycleStateChange"] = LifecycleStateChange(content["lifecycleStateChange"])
    facet = cls(**content, producer=producer)
    assert facet._schemaURL == schema
    return facet


def check_facets(facets):
    for name, content in facets.items():
        if name != "erasure":
            rebuilt(FACETS[name], content)


def check_event(content):
    """Check an event as OpenLineage's client would build it."""
    content = copy.deepcopy(content)
    content.pop("schemaURL")
    job, run = content.pop("job"), content.pop("run")
    check_facets(job["facets"])
    check_facets(run["facets"])
    places = {"inputs": base.InputDataset, "outputs": base.OutputDataset}
    for place, cls in places.items():
        for item in content[place]:
            check_facets(item["facets"])
            check_facets(item.get("outputFacets", {}))
        content[place] = [cls(**item) for item in content[place]]
    content["eventType"] = base.EventType(content["eventType"])
    return base.RunEvent(run=base.Run(**run), job=base.Job(**job), **content)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_one_of_openlineage(name):
    """Its own generated classes take every part, name the same schemas, and know no other key."""
    content = to_openlineage(EVENTS[name], "ns")
    event = check_event(content)

    assert event.schemaURL == content["schemaURL"]
    assert event.eventType.value == name.upper()
    with pytest.raises(TypeError):
        check_event({**content, "eventKind": "ERASE"})


def erasures(content):
    return [item["facets"]["erasure"] for item in content["outputs"]]


def test_the_erasure_facet_fits_its_schema(facet_schema):
    """On a table with counts, on a model with the one that it replaces."""
    jsonschema.Draft202012Validator.check_schema(facet_schema)
    on_table, on_model = erasures(to_openlineage(EVENTS["complete"], "ns"))
    for facet in (on_table, on_model):
        jsonschema.validate({"erasure": facet}, facet_schema)
        assert facet["_schemaURL"].startswith(facet_schema["$id"])

    assert on_table["rows"] == {"before": 100, "erased": 4, "after": 96, "othersUntouched": True}
    assert "rows" not in on_model
    assert on_model["parentModel"] == "m0"


@pytest.mark.parametrize(
    "change",
    [
        {"claim": "deleted"},
        {"recordCount": -1},
        {"ledgerEntry": "sha256:short"},
        {"subject": "p-17"},
        {"rows": {"before": 1}},
    ],
)
def test_a_wrong_erasure_facet_is_refused(facet_schema, change):
    """A claim that we do not make, a negative count, a key for a person: not in this facet."""
    facet = erasures(to_openlineage(EVENTS["complete"], "ns"))[0]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"erasure": {**facet, **change}}, facet_schema)


def test_another_content_of_the_untouched_rows_is_not_hidden():
    """The facet says so when a row that nobody asked for was changed."""
    changed = {**TABLE, "untouched_digest_after": "other"}

    assert erasure_facet(**ERASURE, table=changed)["rows"]["othersUntouched"] is False


def test_an_event_is_written_once(tmp_path):
    """The same run and type again, also with another time, adds nothing; another type does."""
    file = EventFile(tmp_path / "openlineage" / "events.jsonl", "ns")

    assert file.emit(EVENTS["start"])
    assert not file.emit(EVENTS["start"])
    assert file.emit(EVENTS["fail"])
    assert [json.loads(x)["eventType"] for x in file.path.read_text().splitlines()] == [
        "START",
        "FAIL",
    ]


def test_a_torn_line_is_left_alone_and_the_next_event_is_whole(tmp_path):
    """What a crash leaves is no event; the one after it starts on its own line."""
    file = EventFile(tmp_path / "events.jsonl", "ns")
    file.path.write_bytes(b'{"eventType": "STA')

    assert file.emit(EVENTS["start"])
    assert json.loads(file.path.read_text().splitlines()[1])["eventType"] == "START"


def emit(path):
    return EventFile(path, "ns").emit(EVENTS["start"])


def test_of_writers_at_once_one_writes(tmp_path):
    """Four processes, one event: the file is locked from the look to the line."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        written = pool.map(emit, [tmp_path / "events.jsonl"] * 8)

    assert sum(written) == 1
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 1


def test_a_run_has_one_id_everywhere():
    """It follows from namespace, job and run; any other of them gives another id."""
    first = run_id("ns", "people.train", "t1")

    assert first == run_id("ns", "people.train", "t1")
    others = {
        run_id("x", "people.train", "t1"),
        run_id("ns", "x", "t1"),
        run_id("ns", "people", "x"),
    }
    assert first not in others
    assert len(others) == 3
