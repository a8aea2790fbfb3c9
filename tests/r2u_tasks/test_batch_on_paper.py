"""Laws of what a batch writes down: fixed before it is sealed, whole, and without contacts."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from benchmarks.planted import subject_of, write_data_set
from governance.errors import StoreBusyError
from governance.ledger import read_entries
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.recipients import tell_recipients
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.unlearn import close, lease_batch, purge


@pytest.fixture
def place(tmp_path):
    """The planted declaration and its queue; no table, no model."""
    return {"dataset": str(write_data_set(tmp_path)), "root_uri": str(tmp_path / "root")}


def test_an_extension_while_sealing_changes_no_sealed_request(place):
    """A run that is taken over seals what the killed one said, whatever the clock says now."""
    submit_request(request_id="one", subject_id=subject_of(6), **place)
    batch_id = lease_batch(run_id="night", **place)["batch_id"]
    context = open_context(**place)
    context.workspace.batch(batch_id).mkdir(parents=True, exist_ok=True)
    promotion = {"claim": "exact", "lane": "replay"}
    first = close.answered_requests(context, batch_id, ["one"], promotion)
    at = datetime.now(UTC)
    due = context.queue.extend("one", reason="complex", notice_at=at, now=at)

    assert due.isoformat() != first[0]["due_at"]
    assert close.answered_requests(context, batch_id, ["one"], promotion) == first


def test_the_ledger_names_recipients_but_no_way_to_contact_them(place):
    """What is never deleted holds no contact; the notice, which the batch owns, has it."""
    context = open_context(**place)
    rows = pa.table({"id": ["r"], "person": ["s"]})
    (notice,) = tell_recipients(context, "b1", rows)
    (told,) = [e for e in read_entries(context.workspace.ledger) if e["kind"] == "recipient_told"]

    assert told["body"]["recipient"] == "acme"
    assert "contact" not in told["body"]
    assert notice["contact"] == "api"
    due = datetime.fromisoformat(notice["due_at"])
    assert due - datetime.fromisoformat(notice["told_at"]) == timedelta(days=14)


def test_weights_that_stay_on_the_disk_are_not_called_removed(place, monkeypatch):
    """The purge of a model fails as one that is tried again while its checkpoints are there."""
    context = open_context(**place)
    checkpoints = context.workspace.model("m") / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "1.safetensors").write_bytes(b"weights")

    def refuse(path, *arguments, **named):
        raise PermissionError(13, "refused", str(path))

    monkeypatch.setattr("os.unlink", refuse)
    with pytest.raises(StoreBusyError):
        purge._remove_weights(context, "m")
    assert (checkpoints / "1.safetensors").exists()
