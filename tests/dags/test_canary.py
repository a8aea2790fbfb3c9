"""Law of the purge: after a batch nothing under the run directory holds a string of the erased."""

import json
import os
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from benchmarks.planted import (
    ERASED,
    email_of,
    income_of,
    name_of,
    planted_in,
    record_of,
    search,
    subject_of,
    write_data_set,
)

pytestmark = [pytest.mark.airflow, pytest.mark.ml]

KINDS = {"subject id", "record id", "name", "e-mail", "feature"}


def run(bag, name):
    result = bag.dags[name].test()
    states = {ti.task_id: str(ti.state) for ti in result.get_task_instances()}
    assert str(result.state) == "success", states


def test_no_byte_of_the_erased_persons_is_left(
    airflow_database, repository, workspace_root, monkeypatch
):
    """Names, e-mails, ids and features: found everywhere before the batch, nowhere after it.

    Searched: every file below Airflow's home, which holds the workspace: tables (decoded), ledger,
    queue, registry and its artifacts, checkpoints, logs, reports, rejects, XCom database. What the
    notice to a recipient and the tombstones hold are keyed digests. Another person's strings stay.
    """
    home = Path(os.environ["AIRFLOW_HOME"])
    root = home / "canary"
    declaration = write_data_set(root / "source")  # in the workspace: the source is ours
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "source"), str(repository)]))
    monkeypatch.syspath_prepend(str(root / "source"))
    extra = {"root_uri": str(root), "dataset": str(declaration)}
    monkeypatch.setenv(
        "AIRFLOW_CONN_R2U_WORKSPACE", json.dumps({"conn_type": "generic", "extra": extra})
    )
    bag = DagBag(str(repository / "dags"))
    planted = [thing for person in ERASED for thing in planted_in(person)]
    staying = planted_in(0)
    (root / "inbox").mkdir()
    lines = ["request_id,subject_id,verified,regime"]
    lines += [f"ask-{person},{subject_of(person)},true," for person in ERASED]
    lines += [f"bad-row,{subject_of(ERASED[0])},true,no-such-regime"]
    (root / "inbox" / "requests.csv").write_text("\n".join(lines) + "\n")
    log = root / "runs" / "somebody" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text(f"a line to keep\nlost mail to {email_of(ERASED[1])}\n")

    for name in ("classify_data", "train_ready_model", "intake_requests"):
        run(bag, name)
    before = search(home, planted)
    for name in ("unlearn_batch", "sentinel", "governance_report"):
        run(bag, name)
    after = search(home, planted)

    assert set(before) == KINDS
    for place in ("canary/source/", "canary/tables/raw/", "canary/tables/classified/"):
        for kind in KINDS:
            assert any(place in where for where in before[kind]), (place, kind)
    assert any("rejects/" in where for where in before["subject id"])
    assert after == {}
    assert set(search(home, staying)) == KINDS
    assert log.read_text().startswith("a line to keep\n[a line")
    remains = json.loads(next(root.glob("batches/*/remains.json")).read_text())
    assert remains["found"] == []
    assert any(entry["what"] == "backups" for entry in remains["remains"])
    assert {row["state"] for row in states(root, declaration)} == {"closed"}


def states(root, declaration):
    from r2u_tasks.stages.requests import list_requests

    return list_requests(dataset=str(declaration), root_uri=str(root))


def test_the_search_finds_what_is_hidden(tmp_path):
    """Control: compressed pages, archives, database pages and raw floats are all looked into."""
    import gzip
    import sqlite3
    import struct
    import zipfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    person = ERASED[0]
    income = income_of(person * 4)
    hidden = {"name": [name_of(person)] * 50, "income": [income] * 50, "more": [[income]] * 50}
    pq.write_table(pa.table(hidden), tmp_path / "page.parquet", compression="zstd")
    with zipfile.ZipFile(tmp_path / "a.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "page.parquet", "inner.parquet")
    (tmp_path / "log.gz").write_bytes(gzip.compress(email_of(person).encode()))
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE t (v TEXT)")
        connection.execute("INSERT INTO t VALUES (?)", [record_of(person * 4)])
    (tmp_path / "weights.safetensors").write_bytes(b"x" + struct.pack("<d", income) + b"y")

    found = search(tmp_path, planted_in(person))

    assert "page.parquet:name" in found["name"]
    assert {"page.parquet:income", "page.parquet:more"} <= set(found["feature"])
    assert "a.pt2!inner.parquet:name" in found["name"]
    assert "log.gz!" in found["e-mail"]
    assert "x.db" in found["record id"]
    assert "weights.safetensors" in found["feature"]
    assert search(tmp_path, planted_in(person + 1)) == {}
