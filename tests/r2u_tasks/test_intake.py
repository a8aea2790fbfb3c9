"""Laws of the intake: exact sums, reasons, no doubles, nothing left, whatever is dropped."""

import csv
import json
import os
import stat

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.deletion_queue import State
from governance.errors import RequestError
from r2u_tasks.stages import intake
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.intake import intake_requests
from r2u_tasks.stages.receipts import show_file
from r2u_tasks.stages.requests import list_requests, submit_request

HEADER = "request_id,subject_id,record_ids,select,verified,received_at,hold_ground,regime\n"


@pytest.fixture
def place(tmp_path, declare_people):
    path = declare_people(tmp_path, "tenant, email")
    (tmp_path / "root" / "inbox").mkdir(parents=True)
    return {"dataset": str(path), "root_uri": str(tmp_path / "root")}


@pytest.fixture
def inbox(tmp_path):
    return tmp_path / "root" / "inbox"


@pytest.fixture
def rejects(tmp_path):
    return tmp_path / "root" / "rejects"


def counts(result):
    return tuple(result[name] for name in ("read", "accepted", "duplicates", "rejected"))


def read_rejects(folder):
    (path,) = folder.iterdir()
    with path.open(newline="", encoding="utf-8") as file:
        return path, list(csv.DictReader(file))


def test_good_rows_go_in_and_bad_rows_come_out_with_reasons(place, inbox, rejects):
    """8 rows: subject, records, tenant, duplicate go in; four are bad, each for its own reason."""
    (inbox / "a.csv").write_text(
        HEADER
        + "r-1,p-1,,,true,,,\n"
        + ",,x-1;x-2,,true,2026-01-31,,\n"
        + ",,,tenant=acme,yes,,legal_claim,ccpa\n"
        + "r-4,p-1,,,true,,,\n"
        + "r-5,,,,true,,,\n"
        + "r-6,p-6,,,maybe,,,\n"
        + "r-7,p-7,,,true,2999-01-01,,\n"
        + "r-8,p-8,,age=3,true,,,\n"
    )

    result = intake_requests(run_id="one", **place)

    assert (8, 4, 1, 4) == counts(result)
    path, rows = read_rejects(rejects)
    assert [("6", "target"), ("7", "verified"), ("8", "received_at"), ("9", "select")] == [
        (row["row"], row["reason"].split(":")[0]) for row in rows
    ]
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [".lock"] == [p.name for p in inbox.iterdir()]
    states = {row["request_id"]: row["state"] for row in list_requests(**place)}
    assert {"r-1": "queued", "r-4": "duplicate"} == {k: states[k] for k in ("r-1", "r-4")}
    assert 4 == len(states)


def test_the_queue_holds_no_identifier(place, inbox, tmp_path):
    """Subject, record and the value of a selector are pseudonyms in every file of the queue."""
    (inbox / "a.csv").write_text(
        "subject_id,record_ids,select\ncanary-subject,,\n,canary-record,\n,,email=canary@x.org\n"
    )

    intake_requests(run_id="one", **place)
    open_context(**place).queue.dispose()

    files = [p for p in (tmp_path / "root").rglob("*") if p.is_file()]
    assert files
    assert [] == [p.name for p in files if b"canary" in p.read_bytes()]


def test_the_same_bytes_again_are_a_no_op_that_says_so(place, inbox):
    """Under another name too: nothing is added and the receipt is the first one."""
    text = "subject_id,verified\np-1,true\np-2,true\n"
    (inbox / "a.csv").write_text(text)
    first = intake_requests(run_id="one", **place)
    (inbox / "b.csv").write_text(text)

    again = intake_requests(run_id="two", **place)

    assert (2, 2, 0, 0) == counts(first)
    assert (0, 0, 0, 0) == counts(again)
    assert (1, 1, True) == (
        again["files"],
        again["repeated_files"],
        again["receipts"][0]["repeated"],
    )
    assert 2 == len(list_requests(**place))


def test_a_killed_run_doubles_nothing(place, inbox, monkeypatch):
    """Killed after the second of three batches: the next run ends with each row once."""
    monkeypatch.setattr(intake, "_BATCH_ROWS", 10)
    rows = "".join(f"p-{number},true\n" for number in range(30))
    (inbox / "a.csv").write_text("subject_id,verified\n" + rows)
    submit, calls = intake._submit_batch, []

    def killed(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        submit(*arguments)

    monkeypatch.setattr(intake, "_submit_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        intake_requests(run_id="one", **place)
    assert 20 == len(list_requests(**place))
    monkeypatch.setattr(intake, "_submit_batch", submit)

    result = intake_requests(run_id="one", **place)

    assert (30, 30, 0, 0) == counts(result)
    assert 30 == len(list_requests(**place))


def test_three_formats_say_the_same(place, inbox, tmp_path):
    """The same requests as CSV, JSON Lines and Parquet: the later ones are duplicates."""
    rows = [
        {"subject_id": "p-1", "record_ids": None, "verified": True},
        {"subject_id": None, "record_ids": ["x-1", "x-2"], "verified": True},
        {"subject_id": None, "record_ids": ["7"], "verified": False},
    ]
    (inbox / "a.csv").write_text("subject_id,record_ids,verified\np-1,,true\n,x-1;x-2,1\n,7,no\n")
    (inbox / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), inbox / "c.parquet")

    result = intake_requests(run_id="one", **place)

    assert (9, 9, 4, 0) == counts(result)
    targets = [row.target_key for row in open_context(**place).queue.list_requests()]
    assert {3} == {targets.count(target) for target in targets}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b'subject_id,verified\np-1,true\n"p-2,true\n', "quotes"),
        ("a.csv", b"subject_id,colour\np-1,red\n", "header"),
        ("a.csv", b"subject_id,subject_id\np-1,p-2\n", "header"),
        ("a.csv", b"request_id,verified\nr-1,true\n", "subject_id"),
        ("a.csv", b"", "subject_id"),
        ("a.csv", "subject_id\np-1\n".encode("utf-16"), "header"),
        ("a.csv", b"subject_id\n" + b"x" * 200_000, "cells of at most"),
        ("a.parquet", b"PAR1 this is no table PAR1", "damaged"),
    ],
)
def test_a_file_whose_rows_are_uncertain_is_refused_as_a_whole(
    place, inbox, rejects, name, content, reason
):
    """Nothing of it goes in; it lies in the rejects (mode 600), and the next file is read."""
    (inbox / name).write_bytes(content)
    (inbox / "z.csv").write_text("subject_id,verified\np-9,true\n")

    result = intake_requests(run_id="one", **place)

    assert (1, 1, 0, 0) == counts(result)
    assert (2, 1) == (result["files"], result["refused_files"])
    assert reason in result["receipts"][0]["refused"]
    (kept,) = rejects.iterdir()
    assert content == kept.read_bytes()
    assert 0o600 == stat.S_IMODE(kept.stat().st_mode)
    assert ["queued"] == [row["state"] for row in list_requests(**place)]


def test_lines_that_are_no_request_are_rejected_one_by_one(place, inbox, rejects):
    """Broken, no object, a key twice, an unknown key, a wrong kind, not UTF-8, too deep."""
    lines = [
        b'{"subject_id": "p-1", "verified": true}',
        b"{not json",
        b"[1, 2]",
        b'{"subject_id": "p-2", "subject_id": "p-3"}',
        b'{"subject_id": "p-2", "colour": "red"}',
        b'{"subject_id": {"a": 1}}',
        b'{"subject_id": "\xff\xfe"}',
        b'{"subject_id": "a\\u0000b"}',
        b'{"record_ids": ["a;b"]}',
        b"[" * 100_000,
        b'{"subject_id": "' + b"x" * 200_000 + b'"}',
        b'{"subject_id": "p-4", "verified": true}',
    ]
    (inbox / "a.jsonl").write_bytes(b"\n".join(lines))

    result = intake_requests(run_id="one", **place)

    assert (12, 2, 0, 10) == counts(result)
    _, rows = read_rejects(rejects)
    assert [str(number) for number in range(2, 12)] == [row["row"] for row in rows]


def test_a_reject_file_holds_no_formula_and_goes_in_again_when_corrected(place, inbox, rejects):
    """Cells that a spreadsheet would run are quoted; corrected, the file is an ordinary request."""
    (inbox / "a.csv").write_text(
        'request_id,subject_id,verified\n=1+1,"=HYPERLINK(""http://x"",""y"")",true\n'
        "@sum,+49123,true\n-2,\tp-3,true\nok,=1+1,true\n"
    )
    result = intake_requests(run_id="one", **place)
    _, rows = read_rejects(rejects)
    cells = [cell for row in rows for cell in row.values()]
    assert (4, 1, 0, 3) == counts(result)
    assert [] == [cell for cell in cells if cell[:1] in set("=+-@\t\r")]

    for number, row in enumerate(rows):
        row["request_id"] = f"r-{number}"
    with (inbox / "again.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    again = intake_requests(run_id="two", **place)

    assert (3, 3, 0, 0) == counts(again)
    direct = submit_request(subject_id="+49123", **place)
    assert "r-1" == direct["duplicate_of"]


def test_links_are_not_followed(place, inbox, rejects, tmp_path):
    """A link in the inbox is removed; what it points to is neither read nor copied nor deleted."""
    secret = tmp_path / "secret.csv"
    secret.write_text("subject_id\np-1\n")
    (inbox / "a.csv").symlink_to(secret)
    (inbox / "notes.txt").write_text("hello")

    result = intake_requests(run_id="one", **place)

    assert (1, 1, 1) == (result["files"], result["refused_files"], result["ignored_files"])
    assert secret.exists()
    assert not rejects.exists()
    assert [] == list_requests(**place)


def test_an_id_that_is_taken_by_another_target_is_rejected(place, inbox, rejects):
    """Within the file, and by the queue; the same target under the same id is no second request."""
    submit_request(request_id="r-1", subject_id="p-1", **place)
    (inbox / "a.csv").write_text(
        "request_id,subject_id,verified\nr-1,p-1,true\nr-1,p-2,true\nr-2,p-3,true\nr-2,p-4,true\n"
    )

    result = intake_requests(run_id="one", **place)

    assert (4, 2, 0, 2) == counts(result)
    _, rows = read_rejects(rejects)
    assert ["3", "5"] == [row["row"] for row in rows]
    assert 2 == len(list_requests(**place))


def test_a_file_that_is_written_to_meanwhile_waits_for_the_next_run(place, inbox, monkeypatch):
    """The half that was there is not taken for the whole: the run fails as transient, and again."""
    from governance.errors import TransientError

    path = inbox / "a.csv"
    path.write_text("subject_id,verified\np-1,true\n")
    submit = intake._submit_batch

    def grow(*arguments):
        submit(*arguments)
        with path.open("a") as file:
            file.write("p-2,true\n")

    monkeypatch.setattr(intake, "_submit_batch", grow)
    with pytest.raises(TransientError, match="written to"):
        intake_requests(run_id="one", **place)
    monkeypatch.setattr(intake, "_submit_batch", submit)

    result = intake_requests(run_id="one", **place)

    assert (2, 2, 1, 0) == counts(result)
    open_states = [r["state"] for r in list_requests(**place)]
    assert ["duplicate", "queued", "queued"] == sorted(open_states)


def test_a_receipt_is_found_by_digest_only(place, inbox):
    """What became of a file; an unknown or malformed digest is refused, a path among them."""
    (inbox / "a.csv").write_text("subject_id\np-1\n")
    digest = intake_requests(run_id="one", **place)["receipts"][0]["digest"]

    assert 1 == show_file(digest=digest, **place)["accepted"]
    for wrong in ("sha256:" + "0" * 64, "../../keys", "sha256:../" + "0" * 61):
        with pytest.raises(RequestError):
            show_file(digest=wrong, **place)


def test_nothing_temporary_is_left(place, inbox, tmp_path, monkeypatch):
    """A failure in the middle leaves the file in the inbox and no part of a reject file."""
    (inbox / "a.csv").write_text("subject_id,verified\n,true\np-1,true\n")

    def fail(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("governance.deletion_queue.DeletionQueue.submit_many", fail)
    with pytest.raises(OSError, match="space"):
        intake_requests(run_id="one", **place)

    assert {"a.csv", ".lock"} == {p.name for p in inbox.iterdir()}
    assert [] == list((tmp_path / "root" / "rejects").iterdir())
    assert not os.path.exists(tmp_path / "root" / "runs" / "intake" / "one" / "result.json")
    assert State.QUEUED not in open_context(**place).queue.counts()
