"""Laws of the stage that writes letters: what the queue and a certificate say, nothing else."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from governance.deletion_queue import SubmittedRequest
from governance.digests import write_json
from governance.errors import DataError
from governance.ledger import Ledger
from governance.signing import load_or_make_signing_key
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.letters import write_letters

NOW = datetime.now(UTC)


@pytest.fixture
def place(tmp_path):
    return {"dataset": "embedded:digits", "root_uri": str(tmp_path)}


@pytest.fixture
def context(place):
    """A queue with one open request, one that was withdrawn and one whose data were erased."""
    context = open_context(place["dataset"], place["root_uri"])
    for number, request_id in enumerate(("open", "withdrawn", "erased")):
        request = SubmittedRequest(
            request_id=request_id, subject_key=f"{number:064x}", received_at=NOW - timedelta(days=3)
        )
        context.queue.submit(request)
    context.queue.cancel("withdrawn", now=NOW, reason="asked for it")
    context.queue.place_hold("open", "legal_claim", now=NOW)
    lease = context.queue.lease_batch("night", lease_s=600, max_items=10, now=NOW)
    finish(context, "erased", lease)
    return context


def finish(context, request_id, lease):
    """Take a request through a batch, in queue and ledger."""
    states = ("planned", "approved", "data_erased", "model_unlearned", "verified_forgotten")
    for state in (*states, "propagated"):
        context.queue.transition(request_id, state, token=lease.token, now=NOW)
    context.queue.close(
        request_id, outcome="forgotten", claim="exact", token=lease.token, now=NOW, details=None
    )
    folder = context.workspace.batch(lease.batch_id)
    ledger = Ledger(context.workspace.ledger, load_or_make_signing_key(context.workspace.keys))
    for kind in ("rows_erased", "model_promoted", "batch_closed"):
        ledger.append(kind, {"batch_id": folder.name, "model_key": "replay-x", "bundle_root": "r"})
    write_json(context.workspace.model("replay-x") / "model.json", {})
    plan = {"n_trained_records": 4, "records_by_request": {request_id: 4}}
    write_json(folder / "plan.json", plan)


@pytest.fixture
def _all_mirrored(monkeypatch):
    monkeypatch.setattr("r2u_tasks.stages.letters.owed", lambda _context: [])


def certify(context, request_id="erased", claim="exact"):
    row = context.queue.get(request_id)
    predicate = {
        "claim": claim,
        "answered_at": NOW.isoformat(),
        "tests": {"conditions": ["margin", "relearning"]},
    }
    payload = base64.b64encode(json.dumps({"predicate": predicate}).encode()).decode()
    batch_id = row.batch_id or context.queue.answers(request_id)[0].batch_id
    folder = context.workspace.batch(batch_id)
    write_json(folder / "certificates" / f"{request_id}.json", {"payload": payload})


@pytest.mark.usefixtures("_all_mirrored")
def test_every_answered_request_gets_its_letter_once(place, context):
    """Two requests are answered, each gives HTML and PDF; a second run writes nothing."""
    certify(context)
    done = write_letters(**place)
    names = sorted(Path(path).name for path in done["written"])

    assert names == ["erased.en.html", "erased.en.pdf", "withdrawn.en.html", "withdrawn.en.pdf"]
    assert done["skipped"] == {}
    assert write_letters(**place)["written"] == []
    page = (context.workspace.letters / "erased.en.html").read_text()
    assert "made without your data" in page
    assert "(4 records)" in page
    assert f"{0:060x}" not in page


@pytest.mark.usefixtures("_all_mirrored")
def test_without_a_certificate_nobody_is_told_that_data_were_erased(place, context):
    """The queue's word is not enough; the request is named with the reason."""
    done = write_letters(**place)

    assert sorted(done["skipped"]) == ["erased"]
    assert not (context.workspace.letters / "erased.en.html").exists()


def test_weights_that_mlflow_still_holds_delay_the_letter(place, context, monkeypatch):
    """The letter says that every copy was deleted, so it waits until that is so."""
    certify(context)
    debts = ["removal of the weights of ready-a"]
    monkeypatch.setattr("r2u_tasks.stages.letters.owed", lambda _context: debts)
    assert "r2u mirror" in write_letters(**place)["skipped"]["erased"]
    debts.clear()

    assert write_letters(**place)["skipped"] == {}


@pytest.mark.usefixtures("_all_mirrored")
def test_a_decision_to_keep_data_is_told_before_the_request_closes(place, context):
    """An exempt and a rejected request wait for their letter; it names the ground in words."""
    for number, name in enumerate(("exempt", "refused")):
        request = SubmittedRequest(
            request_id=name, subject_key=f"{9 + number:064x}", received_at=NOW - timedelta(days=1)
        )
        context.queue.submit(request)
    context.queue.grant_exemption("exempt", "public_health", now=NOW)
    context.queue.reject("refused", now=NOW, reason="excessive")
    write_letters(**place, request_ids=["exempt", "refused"])
    page = (context.workspace.letters / "exempt.en.html").read_text()

    assert "We keep your data" in page
    assert "public health (GDPR Article 17(3)(c))" in page
    assert "did not act" in (context.workspace.letters / "refused.en.html").read_text()
    assert context.queue.get("exempt").state == "exempt"
    context.queue.answer("exempt", now=NOW, reference="letters/exempt.en.pdf")
    assert context.queue.get("exempt").outcome == "kept_exempt"


@pytest.mark.usefixtures("_all_mirrored")
def test_a_part_that_is_kept_elsewhere_makes_the_letter_a_partial_one(place, context):
    """Erased here, kept in another data set: one letter that says both, with the ground."""
    request = SubmittedRequest(
        request_id="both",
        subject_key=f"{77:064x}",
        received_at=NOW - timedelta(days=1),
        datasets=("digits", "invoices"),
    )
    context.queue.submit(request)
    context.queue.grant_exemption("both", "legal_obligation", now=NOW, dataset="invoices")
    lease = context.queue.lease_batch("next", lease_s=600, max_items=10, now=NOW)
    finish(context, "both", lease)
    certify(context, "both", claim="approximate")
    write_letters(**place, request_ids=["both"])
    page = (context.workspace.letters / "both.en.html").read_text()

    assert context.queue.get("both").outcome == "partial"
    assert "a law obliges us to keep them" in page
    assert "changed to forget the erased part" in page
    assert "made without your data" not in page


@pytest.mark.usefixtures("_all_mirrored")
def test_a_named_request_is_written_anew_in_another_language(place, context):
    """One that is not answered yet is refused, whatever the language."""
    done = write_letters(**place, request_ids=["withdrawn"], language="de")

    assert [Path(path).name for path in done["written"]] == [
        "withdrawn.de.html",
        "withdrawn.de.pdf",
    ]
    with pytest.raises(DataError, match="held"):
        write_letters(**place, request_ids=["open"])
    with pytest.raises(DataError, match="languages"):
        write_letters(**place, language="tlh")
