"""Laws of a rotation in the life of a request: whenever it comes, all is recognised."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.planted import record_of, subject_of
from governance.digests import read_json
from governance.errors import PermanentError, StoreBusyError
from governance.ledger import read_entries, verify_chain
from governance.manifest import members_key_id
from governance.storage import publish_table, read_table
from governance.verifier import verify_certificate
from r2u_tasks.models import read_champion
from r2u_tasks.stages import unlearn
from r2u_tasks.stages.classify import classify_data, explain
from r2u_tasks.stages.commitment import compare_members
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.decisions import hold_request, verify_request
from r2u_tasks.stages.dry_run import plan_request, plan_target
from r2u_tasks.stages.lineage import trace
from r2u_tasks.stages.proofs import check_members, prove_record
from r2u_tasks.stages.pseudonym_keys import (
    drop_pseudonym_key,
    list_pseudonym_keys,
    rotate_pseudonyms,
)
from r2u_tasks.stages.replay import replay_batch
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.review import set_override
from r2u_tasks.stages.sentinel import check
from r2u_tasks.stages.taint import why_tainted
from r2u_tasks.stages.train import train_ready_model
from r2u_tasks.stages.unlearn import binding
from r2u_tasks.stages.unlearn.steps import now

pytestmark = pytest.mark.ml

PERSON, OTHER, THIRD = 6, 18, 36
RECORDS_EACH = 12

STEPS = (
    "submitted",
    "verified",
    "leased",
    "planned",
    "erased",
    "unlearned",
    "replayed",
    "promoted",
    "purged",
    "closed",
)


@pytest.fixture(scope="module")
def trained(plant):
    """The folder of the planted data set with a model, made once."""
    return Path(plant(records_each=RECORDS_EACH)["dataset"]).parent


@pytest.fixture
def place(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    return {"dataset": str(folder / "planted.yaml"), "root_uri": str(folder / "root")}


def reload(trained, place, run_id):
    """Load the source as it was before any erasure."""
    source = Path(place["dataset"]).with_name("planted.csv")
    shutil.copyfile(trained / "planted.csv", source)
    return classify_data(run_id=run_id, **place)


def live_through(place, before=lambda step: None):
    """Bring the request of a person from door to end; ``before`` is called after each step."""
    submit_request(request_id="one", subject_id=subject_of(PERSON), verified=False, **place)
    before("submitted")
    verify_request(request_id="one", **place)
    before("verified")
    lease = unlearn.lease_batch(run_id="night", **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    before("leased")
    works = (
        unlearn.plan_batch,
        unlearn.erase_rows,
        unlearn.unlearn_model,
        unlearn.replay_model,
        unlearn.promote_model,
        unlearn.purge_leftovers,
        unlearn.close_batch,
    )
    for work, step in zip(works, STEPS[3:], strict=True):
        result = work(**batch)
        before(step)
    return result


def persons(place):
    table = read_table(open_context(**place).workspace.classified, columns=["person"])
    return set(table["person"].to_pylist())


def state(place, name):
    return open_context(**place).queue.get(name).state


def kinds(place):
    return [warning["kind"] for warning in check(run_id="s", **place)["warnings"]]


@pytest.mark.parametrize("when", [None, *STEPS, "always"])
def test_a_rotation_after_any_step_changes_no_end(trained, place, when):
    """Forgotten, certified, suppressed and recognised, as without a rotation (``None``).

    Twelve runs of a whole batch, as every pair of steps has its own comparison of pseudonyms.
    """

    def rotate(step):
        if when in {step, "always"}:
            rotate_pseudonyms(**place)
        if step == "planned":  # a second request for the same, under the ring of the moment
            submit_request(request_id="copy", subject_id=subject_of(PERSON), **place)

    old = read_champion(open_context(**place).workspace)
    result = live_through(place, rotate)
    context = open_context(**place)
    row, copy = context.queue.get("one"), context.queue.get("copy")

    assert ("closed", "forgotten") == (row.state, row.outcome)
    assert ("closed", "duplicate", "one") == (copy.state, copy.outcome, copy.duplicate_of)
    assert "exact" == result["claim"]
    assert "same" == replay_batch(batch_id=result["batch_id"], **place)["outcome"]
    certificate = context.workspace.batch(result["batch_id"]) / "certificates" / "one.json"
    key = context.workspace.keys / "signing.pub.pem"
    verified = verify_certificate(certificate, public_key_path=key)
    assert verified.ok, verified.problem
    assert check_members(batch_dir=certificate.parent.parent)["ok"]
    assert why_tainted(context, result["model_key"]) is None
    assert f"{RECORDS_EACH} erased records" in why_tainted(context, old)
    assert subject_of(PERSON) not in persons(place)

    asked = plan_target(subject_id=subject_of(PERSON), **place)
    assert "already_forgotten" == asked["closes_at_once_as"]  # before a load carried tombstones

    assert RECORDS_EACH == reload(trained, place, "c2")["raw"]["suppressed"]
    assert subject_of(PERSON) not in persons(place)
    submit_request(request_id="again", subject_id=subject_of(PERSON), **place)
    assert "already_forgotten" == plan_request(request_id="again", **place)["closes_at_once_as"]
    assert 1 == unlearn.run_batch(run_id="second", **place)["outcomes"]["already_forgotten"]
    answer = trace(asked=subject_of(PERSON), with_mlflow=False, **place)
    assert ("erased", RECORDS_EACH) == (answer["status"], answer["n_records"])
    assert [old] == [m["model"]["model_key"] for m in answer["models"] if m["relation"] == "knew"]
    assert context.queue.find_problems() == []
    assert not {"key_missing", "key_rotation", "erased_record_is_back"} & set(kinds(place))
    assert verify_chain(context.workspace.ledger, key).ok


def test_the_ledger_names_keys_and_holds_none(place):
    """An entry for each rotation, ids only; no key is readable outside of its file."""
    context = open_context(**place)
    first = context.key_ring
    results = [rotate_pseudonyms(**place) for _ in range(2)]
    again = rotate_pseudonyms(**place, only_from=first.ids[0])
    context = open_context(**place)
    entries = read_entries(context.workspace.ledger)
    bodies = [e["body"] for e in entries if e["kind"] == "pseudonym_key_rotated"]

    assert [(one["former"], one["key"]) for one in results] == [
        (body["old_key"], body["new_key"]) for body in bodies
    ]
    assert not again["rotated"]
    assert again["key"] == results[1]["key"] == context.key_ring.ids[0]
    assert [*context.key_ring.ids[1:]] == results[1]["earlier"]
    held = [
        path
        for path in context.workspace.root.rglob("*")
        if path.is_file() and path.suffix != ".key"
        for data in [path.read_bytes()]
        if any(key in data or key.hex().encode() in data for key in context.key_ring.keys)
    ]
    assert [] == held
    controls = [p for p in context.workspace.keys.glob("*.key") if p.read_bytes() == first.current]
    assert controls


def test_duplicates_are_recognised_across_a_rotation_in_both_directions(place):
    """Older first, newer first and verified later; by person, by records and by tenant."""
    targets = {
        "person": {"subject_id": subject_of(PERSON)},
        "records": {"record_ids": [record_of(OTHER * RECORDS_EACH)]},
        "tenant": {"select": "basis=consent"},
    }
    for name, target in targets.items():
        submit_request(request_id=f"{name}-old", **target, **place)
        submit_request(request_id=f"{name}-late", **target, verified=False, **place)
    rotate_pseudonyms(**place)
    for name, target in targets.items():
        known = submit_request(request_id=f"{name}-new", **target, **place)
        same = submit_request(request_id=f"{name}-old", **target, **place)
        assert f"{name}-old" == known["duplicate_of"]
        assert f"{name}-old" == same["request_id"]
        open_context(**place).queue.cancel(f"{name}-old", now=now(), reason="taken back")
        assert "queued" == state(place, f"{name}-new")  # now the primary, under the new key
        verify_request(request_id=f"{name}-late", **place)  # under the old key
        late = open_context(**place).queue.get(f"{name}-late")
        assert ("duplicate", f"{name}-new") == (late.state, late.duplicate_of)

    assert "queued" == submit_request(request_id="other", subject_id="SUB-1", **place)["state"]
    assert open_context(**place).queue.find_problems() == []


def test_a_hold_and_an_override_outlive_a_rotation(place):
    """What one person keeps under the old key keeps back a tenant's request under the new one."""
    submit_request(request_id="kept", subject_id=subject_of(PERSON), **place)
    hold_request(request_id="kept", ground="legal_claim", **place)
    signed = {"who": "officer", "why": "a reason", "valid_days": 9}
    set_override(level="high", subject_id=subject_of(OTHER), **signed, **place)
    rotate_pseudonyms(**place)
    classify_data(run_id="c2", **place)

    asked = plan_target(select=f"name={_name(place, PERSON)}", **place)
    assert RECORDS_EACH == asked["n_kept"]
    assert "officer" not in explain(record_id=record_of(PERSON * RECORDS_EACH), **place)
    levels = read_table(open_context(**place).workspace.classified)
    of_other = [
        level
        for person, level in zip(
            levels["person"].to_pylist(), levels["risk_level"].to_pylist(), strict=True
        )
        if person == subject_of(OTHER)
    ]
    assert ["high"] * RECORDS_EACH == of_other
    old = list_pseudonym_keys(**place)["keys"][1]
    assert {"open requests", "overrides in force"} <= old["needed_by"].keys()


def _name(place, person):
    table = read_table(open_context(**place).workspace.classified, columns=["person", "name"])
    names = dict(zip(table["person"].to_pylist(), table["name"].to_pylist(), strict=True))
    return names[subject_of(person)]


def test_a_record_is_proved_and_compared_across_models_of_two_keys(place):
    """Same records, two trainings, two keys: the same commitments, and no difference."""
    before = read_champion(open_context(**place).workspace)
    rotate_pseudonyms(**place)
    train_ready_model(run_id="t2", **place)
    context = open_context(**place)
    after = read_champion(context.workspace)
    paths = [context.workspace.model(key) / "members.parquet" for key in (before, after)]
    proof = prove_record(record_id=record_of(PERSON * RECORDS_EACH), **place)
    members = compare_members(context, "b", parent=before, child=after, asked_keys=[])

    assert [*reversed(context.key_ring.ids)] == [members_key_id(path) for path in paths]
    assert [before, after] == proof["held_by"]
    assert {"added": 0, "missing": 0}.items() <= members["difference"].items()


def test_an_earlier_key_is_dropped_when_nothing_needs_it_and_not_before(trained, place):
    """Refused with what needs it; each need ends in its own way; then the key is gone for good."""
    result = live_through(place)
    old = open_context(**place).key_ring.ids[0]
    submit_request(request_id="late", subject_id=subject_of(OTHER), **place)
    rotate_pseudonyms(**place)

    def needed():
        keys = {one["key"]: one for one in list_pseudonym_keys(**place)["keys"]}
        return set(keys[old]["needed_by"]) if old in keys else set()

    assert needed() >= {"open requests", "tombstones under no other key", "models with weights"}
    with pytest.raises(PermanentError, match=r"open requests.*tombstones") as refused:
        drop_pseudonym_key(key_id=old, **place)
    assert open_context(**place).key_ring.keys[1].hex() not in str(refused.value)
    assert "key_not_needed" not in kinds(place)

    assert RECORDS_EACH == reload(trained, place, "c2")["raw"]["suppressed"]  # carries tombstones
    assert "tombstones under no other key" not in needed()
    unlearn.run_batch(run_id="second", **place)  # answers the request; its model is a new one
    assert "open requests" not in needed()
    train_ready_model(run_id="t2", **place)
    workspace = open_context(**place).workspace
    for path in workspace.models.glob("*/model.json"):  # as an operator retires old models
        if members_key_id(path.parent / "members.parquet") == old:
            (path.parent / "weights.safetensors").unlink(missing_ok=True)
            shutil.rmtree(path.parent / "checkpoints", ignore_errors=True)
    assert needed() == set()
    assert "key_not_needed" in kinds(place)
    assert drop_pseudonym_key(key_id=old, **place)["dropped"]
    assert not drop_pseudonym_key(key_id=old, **place)["dropped"]

    ring = open_context(**place).key_ring
    assert old not in ring.ids
    assert 2 * RECORDS_EACH == reload(trained, place, "c3")["raw"]["suppressed"]
    entries = read_entries(workspace.ledger)
    assert [{"key": old}] == [e["body"] for e in entries if e["kind"] == "pseudonym_key_dropped"]
    with pytest.raises(PermanentError, match="current one"):
        drop_pseudonym_key(key_id=ring.ids[0], **place)
    assert result["batch_id"]


def test_a_tombstone_that_cannot_come_back_needs_no_key(place):
    """The source is ours and the backups have expired: 30 days are declared, unknown is never."""
    live_through(place)
    rotate_pseudonyms(**place)
    path = open_context(**place).workspace.tombstones
    old = list_pseudonym_keys(**place)["keys"][1]

    assert old["needed_by"]["tombstones under no other key"] >= RECORDS_EACH
    _make_older(path, days=31)
    old = list_pseudonym_keys(**place)["keys"][1]
    assert "tombstones under no other key" not in old["needed_by"]
    declaration = Path(place["dataset"])
    text = declaration.read_text()
    declaration.write_text(text.replace("  backups_expire_days: 30\n", ""))
    old = list_pseudonym_keys(**place)["keys"][1]
    assert old["needed_by"]["tombstones under no other key"] >= RECORDS_EACH


def _make_older(path, days):
    table = read_table(path)
    at = pa.array([datetime.now(UTC) - timedelta(days=days)] * table.num_rows)
    place = table.column_names.index("erased_at")
    at = at.cast(table.schema.field("erased_at").type)
    publish_table(path, table.set_column(place, "erased_at", at), transaction="older")


def test_a_request_under_a_key_that_this_machine_has_not_got_stops_the_batch(place, monkeypatch):
    """A clear error before anything is destroyed and a warning, instead of ``not_found``."""
    context = open_context(**place)
    ring = context.key_ring
    submit_request(request_id="one", subject_id=subject_of(PERSON), **place)
    other = bytes(range(32))
    monkeypatch.setenv("R2U_PSEUDONYM_KEYS", other.hex())
    (context.workspace.keys / "pseudonym.json").unlink()
    (context.workspace.keys / "pseudonym.key").unlink()  # as in a workspace of another machine

    lease = unlearn.lease_batch(run_id="night", **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    with pytest.raises(PermanentError, match=f"expected its pseudonym key {ring.ids[0]}"):
        unlearn.plan_batch(**batch)
    assert "leased" == state(place, "one")
    assert "key_missing" in kinds(place)
    assert subject_of(PERSON) in persons(place)


def test_an_erasure_with_a_ring_that_was_changed_meanwhile_begins_again(place, monkeypatch):
    """Tombstones under the old key alone would be unknown to models of the new one."""
    submit_request(request_id="one", subject_id=subject_of(PERSON), **place)
    lease = unlearn.lease_batch(run_id="night", **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    unlearn.plan_batch(**batch)
    stale = open_context(**place)
    assert stale.key_ring
    rotate_pseudonyms(**place)
    with pytest.raises(StoreBusyError, match="rotated meanwhile"):
        binding.bind_plan(stale, batch["batch_id"], batch["token"])
    assert subject_of(PERSON) in persons(place)

    unlearn.erase_rows(**batch)
    assert subject_of(PERSON) not in persons(place)
    table = read_table(stale.workspace.tombstones)
    assert 2 == len(set(table["key_id"].to_pylist()))
    assert read_json(stale.workspace.batch(batch["batch_id"]) / "plan.json")
