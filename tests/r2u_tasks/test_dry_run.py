"""Laws of the dry run: it changes nothing, and the batch that follows does what it said."""

import hashlib
import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import pytest

from governance.digests import read_json
from governance.errors import RequestError
from governance.manifest import read_members
from governance.storage import read_table
from governance.suppression import Erased, add_tombstones, pseudonyms
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.dry_run import plan_request, plan_target
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.train import train_ready_model
from r2u_tasks.stages.unlearn import lease_batch, plan_batch, run_batch

pytestmark = pytest.mark.ml

_path = Path(__file__).parent.parent / "acceptance" / "readme.py"
_spec = importlib.util.spec_from_file_location("readme_for_dry_run", _path)
readme = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(readme)


@pytest.fixture
def place(repository, tmp_path):
    """The README's example, classified, not trained yet."""
    readme.write_example((repository / "README.md").read_text(), tmp_path)
    declaration = tmp_path / "people.yaml"
    text = declaration.read_text().replace("pool_size: 6", "pool_size: 4")
    declaration.write_text(text.replace("stable_epochs: 10", "stable_epochs: 3"))
    place = {"dataset": str(declaration), "root_uri": str(tmp_path / "root")}
    classify_data(run_id="c", **place)
    return place


def content(root):
    """Return the digest of every file of the workspace; the queue by its rows and events."""
    files = [p for p in sorted(Path(root).rglob("*")) if p.is_file() and "queue.db" not in p.name]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def queue_content(place):
    queue = open_context(**place).queue
    rows = queue.list_requests()
    return [(row, queue.events(row.request_id)) for row in rows]


def test_a_dry_run_changes_nothing_and_the_batch_does_what_it_said(place):
    """Untrained, trained, forgotten: each answer is what then happens; no file changes."""
    submit_request(request_id="r-1", subject_id="p-17", **place)
    untrained = plan_request(request_id="r-1", **place)
    train_ready_model(run_id="t", **place)
    before, queued = content(place["root_uri"]), queue_content(place)

    plan = plan_request(request_id="r-1", **place)
    preview = plan_target(subject_id="p-17", **place)

    assert (before, queued) == (content(place["root_uri"]), queue_content(place))
    assert "none" == untrained["lane"]["first"]
    assert (4, 4) == (untrained["n_records"], plan["n_records"])  # the example: 4 rows a person
    assert preview["tables"] == plan["tables"]
    assert [("raw", 4, 1200, 1), ("classified", 4, 1200, 1)] == [
        (t["table"], t["n_rows"], t["n_total"], t["n_subjects"]) for t in plan["tables"][:2]
    ]
    estimate = plan["estimate"]
    assert estimate["low_s"] is None
    assert "never measured" in estimate["basis"]["evidence_s"]["from"]

    run_batch(run_id="b", **place)
    (path,) = Path(place["root_uri"]).glob("batches/*/plan.json")
    done = read_json(path)
    after = plan_request(request_id="r-1", **place)
    measured = plan_target(subject_id="p-18", **place)

    assert (done["n_records"], done["exact_lane"]) == (4, plan["lane"]["if_refused"] or "none")
    saw = [model["model_key"] for model in plan["models"] if model["serves"]]
    assert ([done["model_key"]] if done["n_trained_records"] else []) == saw
    assert (0, "already_forgotten") == (after["n_records"], after["closes_at_once_as"])
    assert [] == after["models"]
    basis = measured["estimate"]["basis"]
    assert measured["lane"]["first"] == "none" or basis["evidence_s"]["n"] >= 1


def test_a_person_nobody_knows_is_said_to_be_unknown(place):
    """No table holds a record: no lane, no cost, closes as not found."""
    plan = plan_target(subject_id="nobody", **place)

    assert (0, "not_found", "none") == (
        plan["n_records"],
        plan["closes_at_once_as"],
        plan["lane"]["first"],
    )
    assert (0.0, 0.0) == (plan["estimate"]["low_s"], plan["estimate"]["high_s"])


def test_what_an_unfinished_batch_left_in_the_model_counts_as_in_the_plan(place):
    """Nobody is called forgotten while the model knows erased records; the exact lane is first.

    The control is the same two persons before that batch.
    """
    train_ready_model(run_id="t", **place)
    context = open_context(**place)
    table = read_table(context.workspace.classified)
    keys = pseudonyms(context.pseudonym_key, "record", table["id"].to_pylist())
    members = read_members(context.workspace.model("ready-t") / "members.parquet")
    known: dict[str, list[str]] = {}
    for person, key in zip(table["person"].to_pylist(), keys, strict=True):
        if key in members:
            known.setdefault(person, []).append(key)
    gone, other = sorted(known)[:2]
    before = [plan_target(subject_id=person, **place) for person in (gone, other)]
    assert [one["lane"]["first"] for one in before] == ["approximate"] * 2
    add_tombstones(
        context.workspace.tombstones,
        Erased(
            record_keys=known[gone],
            subject_keys=pseudonyms(context.pseudonym_key, "subject", [gone]),
        ),
        batch_id="refused",
        erased_at=datetime.now(UTC),
    )
    classify_data(run_id="c2", **place)
    for name, person in (("gone", gone), ("other", other), ("nobody", "nobody")):
        submit_request(request_id=name, subject_id=person, **place)

    said = {name: plan_request(request_id=name, **place) for name in ("gone", "other", "nobody")}
    lease = lease_batch(run_id="b", **place)
    plan = plan_batch(batch_id=lease["batch_id"], token=lease["token"], **place)

    assert [one["closes_at_once_as"] for one in said.values()] == [None, None, "not_found"]
    assert f"still knows {len(known[gone])} erased" in said["gone"]["lane"]["why"]
    lane = said["other"]["lane"]
    assert (lane["first"], lane["if_refused"]) == (plan["exact_lane"], None)
    assert lane["first_segment"] == plan["first_segment"]
    estimate = said["other"]["estimate"]
    assert set(estimate["basis"]) == {"evidence_s", f"{lane['first']}_s"}
    assert plan["n_unfinished_records"] == len(known[gone])
    assert (plan["requests"], plan["not_found"], plan["already_forgotten"]) == (["other"], 1, 0)
    assert context.queue.get("gone").state == "leased"


def test_a_selector_counts_every_row_of_its_value(place):
    """All customers of one country: as many as the table has, and a foreign column is refused."""
    import csv

    with open(Path(place["dataset"]).with_name("people.csv")) as file:
        expected = sum(row["country"] == "US" for row in csv.DictReader(file))

    assert expected == plan_target(select="country=US", **place)["n_records"] > 0
    with pytest.raises(RequestError, match="select"):
        plan_target(select="age=30", **place)
