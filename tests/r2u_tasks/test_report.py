"""Laws of the governance report: every number comes from queue and ledger, nothing from outside."""

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from governance.deletion_queue import SubmittedRequest
from governance.digests import read_json, write_json
from governance.ledger import Ledger
from governance.signing import load_or_make_signing_key
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.report import governance_report

NOW = datetime.now(UTC)
PLACE = {"dataset": "embedded:digits"}


@pytest.fixture
def context(tmp_path):
    """Nine requests in all kinds of states, and one batch with plan, erasure and evidence."""
    context = open_context("embedded:digits", str(tmp_path))
    received = {"late": 100, "overdue": 90}
    for number, name in enumerate(
        ("forgotten", "late", "overdue", "held", "withdrawn", "waiting", "unproven", "again")
    ):
        context.queue.submit(
            SubmittedRequest(
                request_id=name,
                subject_key=f"{0 if name == 'again' else number:064x}",
                verified=name != "unproven",
                received_at=NOW - timedelta(days=received.get(name, 2)),
            )
        )
    for name in ("held", "overdue", "waiting"):
        context.queue.place_hold(name, "legal_claim", now=NOW)
    context.queue.cancel("withdrawn", now=NOW, reason="asked for it")
    lease = context.queue.lease_batch("night", lease_s=600, max_items=10, now=NOW)
    states = ("planned", "approved", "data_erased", "model_unlearned", "verified_forgotten")
    for name in ("forgotten", "late"):
        for state in (*states, "propagated"):
            context.queue.transition(name, state, token=lease.token, now=NOW)
        context.queue.close(
            name, outcome="forgotten", claim="exact", token=lease.token, now=NOW, details=None
        )
    context.queue.release_hold("waiting", now=NOW)
    write_batch(context, lease.batch_id)
    return context


def write_batch(context, batch_id):
    folder = context.workspace.batch(batch_id)
    table = {
        "before": 100,
        "erased": 6,
        "after": 94,
        "untouched_digest_before": "d",
        "untouched_digest_after": "d",
    }
    ledger = Ledger(context.workspace.ledger, load_or_make_signing_key(context.workspace.keys))
    for kind in ("batch_planned", "erasure_started", "rows_erased", "batch_closed"):
        ledger.append(kind, {"batch_id": batch_id, "n_records": 6, "bundle_root": None})
    plan = {"batch_id": batch_id, "n_requests": 2, "n_records": 6, "n_trained_records": 6}
    write_json(folder / "plan.json", plan)
    write_json(folder / "erasure.json", {"tables": {"raw": table, "salts": table}})
    write_json(folder / "result.json", {"lane": "replay", "claim": "exact", "model_key": "m"})
    for name, lane, verdict, seconds in (
        ("evidence", "approximate", "retrain", 1.0),
        ("evidence-replay", "replay", "accept", 3.0),
    ):
        cost = {"unlearn_s": seconds, "evidence_s": 2.0, "retrain_s": 10.0}
        evidence = {"lane": lane, "verdict": verdict, "reasons": ["because"], "cost": cost}
        shown = {"batch_id": batch_id, "schema": "r2u-evidence/1", "n_forget": 6, "lineage": {}}
        write_json(folder / f"{name}.json", {**evidence, **shown})


def report(context, run_id="r"):
    done = governance_report(run_id=run_id, root_uri=str(context.workspace.root), **PLACE)
    return read_json(Path(done["json"])), Path(done["html"]).read_text()


def test_every_number_follows_from_queue_and_ledger(context):
    """Counted again here, by other code, from the rows and the lines themselves."""
    made, page = report(context)
    rows = context.queue.list_requests()
    entries = [json.loads(line) for line in context.workspace.ledger.read_text().splitlines()]
    closed = [row for row in rows if row.state == "closed"]
    late = [row for row in closed if row.closed_at > row.due_at]

    assert made["counts"]["total"] == len(rows)
    assert made["counts"]["by_state"] == Counter(str(row.state) for row in rows)
    assert made["counts"]["by_outcome"] == Counter(row.outcome for row in closed)
    assert made["deadlines"]["answered_late"] == len(late) == 1
    assert made["deadlines"]["answered_in_time"] == len(closed) - len(late)
    overdue = [r for r in rows if r.closed_at is None and r.due_at < datetime.now(UTC)]
    assert made["deadlines"]["open_overdue"] == len(overdue) == 1
    assert {kept["request_id"] for kept in made["kept"]} == {
        row.request_id for row in rows if row.hold_ground
    }
    assert made["ledger"]["n_entries"] == len(entries)
    assert made["ledger"]["head"] == entries[-1]["digest"]
    assert made["ledger"]["ok"]
    erased = [e["body"]["n_records"] for e in entries if e["kind"] == "erasure_started"]
    assert made["lineage"]["n_erased"] == sum(erased)
    batch = made["batches"][0]
    assert batch["cost"] == {
        "unlearn_s": 4.0,
        "evidence_s": 4.0,
        "retrain_s": 10.0,
        "share_of_retrain": 0.8,
    }
    assert batch["only_asked_rows_left"] is True
    assert made["cost"]["seconds_per_request"] == 4.0
    for number in (len(rows), made["ledger"]["head"], "80 %"):
        assert str(number) in page


def test_the_page_stands_alone_and_its_links_lead_somewhere(context):
    """No script, no outside host; each link is a place on the page or a file that exists."""
    report(context)
    folder = context.workspace.reports / "latest"
    page = (folder / "report.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)

    assert not re.search(r"<script|src=|url\(|@import", page)
    assert not [link for link in links if "//" in link]
    assert {link for link in links if link.endswith(".html")}
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in page
        else:
            assert (folder / link).exists()
    assert "prefers-color-scheme: dark" in page


def test_a_cut_ledger_shows_in_the_next_report(context):
    """The first report notes the head; with the last line gone, the second says what is missing."""
    first, _ = report(context, "first")
    assert first["ledger"]["missing_heads"] == []
    path = context.workspace.ledger
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    again, page = report(context, "second")

    assert again["ledger"]["ok"]  # what is left is a chain: only the noted head tells
    assert again["ledger"]["n_earlier_heads"] == 1
    assert len(again["ledger"]["missing_heads"]) == 1
    assert "does not hold them any more" in page
    assert '<b class="bad">broken</b>' in page


def test_what_a_purge_listed_is_what_remains(context):
    """Of two batches the later word on the same thing counts; readable strings come first."""
    first = {"what": "backups", "where": "tape", "until": "2026-06-01", "why": "they expire"}
    batch = next(context.workspace.root.glob("batches/*"))
    write_json(batch / "remains.json", {"found": [], "remains": [first]})
    write_batch(context, "later")
    later = {**first, "until": "2026-07-01"}
    found = [{"file": "log.txt", "line": 1}]
    folder = context.workspace.batch("later")
    write_json(folder / "remains.json", {"found": found, "remains": [later]})
    made, page = report(context)

    assert [line["until"] for line in made["remains"]] == [None, "2026-07-01"]
    assert made["remains"][0]["what"].startswith("1 files in which a string")
    assert "2026-07-01" in page


def test_an_empty_workspace_has_a_report(tmp_path):
    """On the first day there is nothing to say, and the page says so."""
    done = governance_report(run_id="r", root_uri=str(tmp_path), **PLACE)
    page = Path(done["html"]).read_text()

    assert "No request yet." in page
    assert "No batch yet." in page
    assert "none yet" in page
