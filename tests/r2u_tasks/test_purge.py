"""Laws of the purge: children, aliases and recipients are reached, and MLflow is not waited for."""

import os
import sys
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.planted import ERASED, subject_of, write_data_set
from governance.digests import read_json, write_json
from governance.errors import RequestError
from governance.key_files import load_or_make_key
from governance.ledger import read_entries, verify_chain
from governance.suppression import pseudonym
from governance.verifier import verify_certificate
from r2u_tasks.stages import unlearn
from r2u_tasks.stages.children import register_child
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.mirror import mirror, owed
from r2u_tasks.stages.recipients import answer_notice, list_notices, notices_of
from r2u_tasks.stages.requests import list_requests, submit_request
from r2u_tasks.stages.sentinel import check
from r2u_tasks.stages.taint import why_tainted
from r2u_tasks.stages.train import train_ready_model

pytestmark = pytest.mark.ml


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The planted data set, classified, with requests of three persons."""
    declaration = write_data_set(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("planted_net", None)
    place = {"dataset": str(declaration), "root_uri": str(tmp_path / "root")}
    classify_data(run_id="c", **place)
    for person in ERASED:
        submit_request(request_id=f"ask-{person}", subject_id=subject_of(person), **place)
    return place


def outcomes(place):
    return {r["request_id"]: (r["state"], r["outcome"]) for r in list_requests(**place)}


def kinds(context):
    return [entry["kind"] for entry in read_entries(context.workspace.ledger)]


def test_an_erasure_reaches_children_aliases_and_recipients(place):
    """A fine-tuned child is retired, no alias is left on what knew them, each recipient is told."""
    trained = train_ready_model(run_id="t", **place)
    context = open_context(**place)
    weights = context.workspace.model(trained["model_key"]) / "weights.safetensors"
    register_child(model_key="mobile", parent=trained["model_key"], weights=str(weights), **place)
    context.tracker.set_alias("planted", "shadow", trained["model_version"])
    held = submit_request(request_id="held", subject_id=subject_of(48), **place)
    lease = unlearn.lease_batch(run_id="night", **place)
    batch = {"batch_id": lease["batch_id"], "token": lease["token"], **place}
    unlearn.plan_batch(**batch)
    context.queue.place_hold(held["request_id"], "legal_claim", now=datetime.now(UTC))

    killed = context.workspace.model("ready-killed") / "checkpoints" / "1.safetensors"
    killed.parent.mkdir(parents=True)
    killed.write_bytes(weights.read_bytes())  # of an older version: nobody noted when it began

    noted = context.workspace.model("ready-noted") / "started.json"
    write_json(noted, {"n_tombstones": 0})
    later = datetime.now(UTC).timestamp() + 3600
    os.utime(noted, (later, later))  # the number tells, not the clock of a file

    unlearn.run_batch(run_id="night", **place)

    assert not killed.parent.parent.exists()
    assert not noted.parent.exists()
    (said,) = [e for e in read_entries(context.workspace.ledger) if e["kind"] == "purge_started"]
    assert said["body"]["unfinished"] == ["models/ready-killed", "models/ready-noted"]
    assert outcomes(place) == {
        **{f"ask-{person}": ("closed", "forgotten") for person in ERASED},
        "held": ("held", None),  # it left the batch between plan and erasure, with its rows
    }
    folder = context.workspace.batch(lease["batch_id"])
    assert read_json(folder / "erasure.json")["tables"]["raw"]["erased"] == 12
    purge = read_json(folder / "purge.json")
    assert purge["children_retired"] == ["mobile"]
    assert purge["source_rows_erased"] == 12
    assert not (context.workspace.model("mobile") / "weights.safetensors").exists()
    aliases = context.tracker.aliases("planted")
    assert set(aliases) == {"champion"}
    params = context.tracker.version_params("planted", aliases["champion"])
    assert why_tainted(context, params["model_key"]) is None
    assert check(run_id="s", **place)["warnings"] == []

    notice = read_json(folder / "notices" / "acme.json")
    key = load_or_make_key(context.workspace.keys, "recipient-acme.key")
    asked = {pseudonym(key, "subject", subject_of(person)) for person in ERASED}
    assert asked == set(notice["subject_digests"])
    assert pseudonym(context.pseudonym_key, "subject", subject_of(6)) not in asked
    late = datetime.now(UTC) + timedelta(days=15)
    assert [n["overdue"] for n in notices_of(context, now=late)] == [True]
    write_json(folder / "notices" / "acme.json", {**notice, "due_at": "2026-01-01T00:00:00+00:00"})
    assert "recipient_overdue" in {w["kind"] for w in check(run_id="s", **place)["warnings"]}
    with pytest.raises(RequestError):
        answer_notice(batch_id=lease["batch_id"], recipient="nobody", **place)
    for _ in range(2):
        answer_notice(batch_id=lease["batch_id"], recipient="acme", **place)
    assert [n["outcome"] for n in list_notices(**place)] == ["erased"]
    assert "subject_digests" not in read_json(folder / "notices" / "acme.json")
    told = [kinds(context).count(kind) for kind in ("recipient_told", "recipient_answered")]
    assert told == [1, 1]
    assert "model_retired" in kinds(context)
    wal = context.workspace.root / "queue.db-wal"
    assert not wal.exists() or wal.stat().st_size == 0


def test_a_batch_closes_while_mlflow_is_down(place, monkeypatch):
    """Ledger, certificates and weights are as always; what MLflow is owed is paid later."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    trained = train_ready_model(run_id="t", **place)
    result = unlearn.run_batch(run_id="night", **place)
    context = open_context(**place)
    folder = context.workspace.batch(result["batch_id"])
    certificates = sorted((folder / "certificates").glob("*.json"))
    public = next(context.workspace.root.rglob("*.pub.pem"))

    assert set(outcomes(place).values()) == {("closed", "forgotten")}
    assert len(certificates) == 3
    for path in certificates:
        verified = verify_certificate(path, public_key_path=public)
        assert verified.ok, verified.problem
    assert verify_chain(context.workspace.ledger, public).ok
    assert not (context.workspace.model(trained["model_key"]) / "weights.safetensors").exists()
    debts = owed(context)
    assert f"batch {result['batch_id']}" in debts
    remains = read_json(folder / "remains.json")["remains"]
    assert any(entry["where"] == "tracking server" for entry in remains)
    assert {"mlflow_silent", "mirror_owed"} <= {
        warning["kind"] for warning in check(run_id="s", **place)["warnings"]
    }

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert mirror(**place)["owed"] == []
    context = open_context(**place)
    aliases = context.tracker.aliases("planted")
    served = context.tracker.version_params("planted", aliases["champion"])
    assert served["model_key"] == result["model_key"]
    assert {w["kind"] for w in check(run_id="s", **place)["warnings"]} <= {"deadline"}
