"""Laws of the tables: atomic, physically erased, no traces in the log, one clear error."""

import fcntl
import resource
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from governance.declaration import load_declaration
from governance.errors import DataError, DigestMismatchError
from governance.source import read_source
from governance.storage import (
    count_rows,
    erase_records,
    publish_batches,
    publish_table,
    purge_history,
    query,
    read_table,
    table_exists,
    table_version,
    with_buckets,
)

DECLARATION = """
name: people
task: tabular
source: {path: people.parquet, format: parquet}
columns:
  record_id: id
  subject_id: person
  label: {name: churned, classes: [0, 1]}
  features: [{name: age, kind: numeric}, {name: plan, kind: categorical, categories: [a, b]}]
  governance: [email]
deletion: {deletion_class: customers}
policy: policy.yaml
model: {factory: "my_net:build"}
"""


def people(n=200):
    return pa.table(
        {
            "id": [f"r{i}" for i in range(n)],
            "person": [f"p{i // 2}" for i in range(n)],
            "churned": [i % 2 for i in range(n)],
            "age": [float(20 + i % 50) for i in range(n)],
            "plan": ["a" if i % 3 else "b" for i in range(n)],
            "email": [f"planted-{i}@example.org" for i in range(n)],
        }
    )


def bytes_under(path):
    return b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())


@pytest.fixture
def declaration(tmp_path):
    (tmp_path / "people.yaml").write_text(DECLARATION)
    return load_declaration(tmp_path / "people.yaml")


@pytest.fixture
def table_path(tmp_path):
    path = tmp_path / "tables" / "raw"
    publish_table(path, with_buckets(people(), "person", 4), transaction="first")
    return path


def test_publishing_twice_under_one_name_changes_nothing(table_path):
    """A retried stage does not write again."""
    before = table_version(table_path)

    after = publish_table(table_path, people(3), transaction="first")

    assert (before, 200) == (after, read_table(table_path).num_rows)


def test_the_log_holds_no_value_of_a_person(table_path):
    """No statistics, no predicate: planted strings are nowhere in the Delta log."""
    erase_records(table_path, pa.array(["r5"]), batch_id="b", record_id_column="id")

    log = bytes_under(table_path / "_delta_log")
    assert b"planted-" not in log
    assert b"r5" not in log


def test_erasure_removes_exactly_the_asked_rows(table_path):
    """A1 = A0 - B0, B1 = 0, and the other rows are the same rows."""
    kept = read_table(table_path).sort_by("id").filter(pa.compute.field("id") != "r7")

    counts = erase_records(
        table_path, pa.array(["r7", "not-there"]), batch_id="b", record_id_column="id"
    )

    assert (200, 2, 1, 199) == (counts.before, counts.asked, counts.erased, counts.after)
    assert kept.equals(read_table(table_path).sort_by("id"))


def test_erasing_again_finds_nothing(table_path):
    """An erasure can be run twice."""
    ids = pa.array(["r1", "r2"])
    erase_records(table_path, ids, batch_id="b", record_id_column="id")

    again = erase_records(table_path, ids, batch_id="b", record_id_column="id")

    assert (0, 198) == (again.erased, again.after)


def test_purge_leaves_no_byte_of_the_erased_rows(tmp_path):
    """Before the purge the old file holds the string (positive control), after it none does."""
    path = tmp_path / "t"
    table = pa.table(
        {"id": ["secret-planted-record", "other"], "bucket": pa.array([0, 1], pa.int32())}
    )
    publish_table(path, table, transaction="one")
    erase_records(path, pa.array(["secret-planted-record"]), batch_id="b", record_id_column="id")
    assert b"secret-planted-record" in bytes_under(path)

    purge_history(path)

    assert b"secret-planted-record" not in bytes_under(path)
    assert read_table(path)["id"].to_pylist() == ["other"]


def test_a_purged_version_is_one_clear_error(table_path):
    """Reading a version whose files were purged says so."""
    erase_records(table_path, pa.array(["r1"]), batch_id="b", record_id_column="id")
    purge_history(table_path)

    with pytest.raises(DataError, match="purged"):
        read_table(table_path, version=0)


def test_buckets_keep_a_subject_together():
    """All records of a person lie in one bucket."""
    table = with_buckets(people(), "person", 4)
    pairs = set(zip(table["person"].to_pylist(), table["bucket"].to_pylist(), strict=True))

    assert len(pairs) == 100
    assert {bucket for _, bucket in pairs} == {0, 1, 2, 3}


def test_queries_see_registered_tables_and_no_files(tmp_path):
    """SQL cannot reach a file, even one that exists."""
    pq.write_table(people(2), tmp_path / "secret.parquet")

    assert query("SELECT count(*) AS n FROM t", t=people(3)).to_pylist() == [{"n": 3}]
    with pytest.raises(Exception, match=r"disabled|Permission"):
        query(f"SELECT * FROM '{tmp_path / 'secret.parquet'}'", t=people(1))


def test_a_full_disk_leaves_the_former_version(table_path):
    """A write that hits a file-size limit fails clearly and changes nothing."""
    before = read_table(table_path)
    code = f"""
        import resource, sys, signal
        from pathlib import Path
        import numpy as np, pyarrow as pa
        from governance.errors import DataError
        from governance.storage import publish_table
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, {resource.RLIM_INFINITY}))
        noise = np.random.default_rng(0).random(200_000)
        try:
            publish_table(Path({str(table_path)!r}), pa.table({{"x": noise}}), transaction="big")
        except DataError as error:
            print("refused:", error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )

    assert "refused: table raw" in result.stdout, result.stderr
    assert before.equals(read_table(table_path))


def source_error(tmp_path, declaration, table):
    pq.write_table(table, tmp_path / "people.parquet")
    with pytest.raises(DataError) as caught:
        read_source(declaration)
    return str(caught.value)


def test_all_problems_of_a_source_are_in_one_error(tmp_path, declaration):
    """Null subjects, repeated ids, bad labels and categories are all told, without any value."""
    table = people(6)
    columns = {
        "id": ["r1", "r1", "r3", "r4", "r5", "r6"],
        "person": ["p", None, " ", "p", "p", "p"],
        "churned": [0.0, float("nan"), 1.0, 0.0, 1.0, 0.0],
        "plan": ["a", "secret-plan", "b", "a", "a", "a"],
        "age": [1.0, 2.0, float("inf"), 4.0, 5.0, 6.0],
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))

    message = source_error(tmp_path, declaration, table)

    assert "5 problems" in message
    for part in ("id: expected unique", "person: expected a value", "churned: expected a class"):
        assert part in message
    assert "secret-plan" not in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.slice(0, 0), "empty table"),
        (lambda t: t.drop_columns(["age"]), "expected columns age"),
        (
            lambda t: t.set_column(2, "churned", pa.array([7] * t.num_rows)),
            "churned: expected one of 2 declared classes",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, declaration, change, expected):
    """Empty, without a declared column, or with an undeclared class."""
    assert expected in source_error(tmp_path, declaration, change(people(4)))


def test_a_corrupt_file_is_refused(tmp_path, declaration):
    """Bytes that are no Parquet are one clear error."""
    (tmp_path / "people.parquet").write_bytes(b"PAR1 this is no table PAR1")
    with pytest.raises(DataError, match="unreadable"):
        read_source(declaration)


def test_a_table_that_is_not_there_is_told(tmp_path):
    """Nothing at the path is not an empty table."""
    assert not table_exists(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected a Delta table"):
        table_version(tmp_path / "nowhere")


def test_csv_and_parquet_give_the_same_table(tmp_path, declaration):
    """The format of the source does not change what is read."""
    import pyarrow.csv as pa_csv

    pq.write_table(people(20), tmp_path / "people.parquet")
    expected = read_source(declaration)
    pa_csv.write_csv(people(20), tmp_path / "people.csv")
    (tmp_path / "csv.yaml").write_text(
        DECLARATION.replace("people.parquet, format: parquet", "people.csv, format: csv")
    )

    got = read_source(load_declaration(tmp_path / "csv.yaml"))

    assert expected.equals(got)
    assert np.array(got["age"]).dtype == np.float64


def test_an_interrupted_erasure_counts_what_it_erased(table_path):
    """The rows before are counted once; a repeat after the kill reports the same erasure."""
    ids = pa.array(["r3", "r4", "nobody"])
    before = count_rows(table_path, ids, record_id_column="id")
    first = erase_records(table_path, ids, batch_id="b", record_id_column="id", before=before)

    again = erase_records(table_path, ids, batch_id="b", record_id_column="id", before=before)

    assert (2, before.rows - 2) == (first.erased, first.after)
    assert first == again


def test_a_load_between_a_killed_erasure_and_its_repeat_is_said(table_path):
    """The counted table is gone; that none of the rows is in the new one is checked."""
    ids = pa.array(["r3"])
    before = count_rows(table_path, ids, record_id_column="id")
    erase_records(table_path, ids, batch_id="b", record_id_column="id", before=before)
    rows = read_table(table_path)
    publish_table(table_path, rows.slice(0, 50), transaction="next load")

    counts = erase_records(table_path, ids, batch_id="b", record_id_column="id", before=before)

    assert counts.superseded
    assert (1, before.rows - 1) == (counts.erased, counts.after)
    publish_table(table_path, with_buckets(people(9), "person", 2), transaction="it came back")
    with pytest.raises(DigestMismatchError, match="1 asked ones"):
        erase_records(table_path, ids, batch_id="b", record_id_column="id", before=before)


def test_a_load_that_takes_counted_rows_before_their_erasure_is_said(table_path):
    """Fewer rows are erased than asked, and the counts say that a load was in between."""
    ids = pa.array(["r3", "r4"])
    before = count_rows(table_path, ids, record_id_column="id")
    rows = read_table(table_path)
    publish_table(table_path, rows.filter(pc.not_equal(rows["id"], "r3")), transaction="load")
    counts = erase_records(table_path, ids, batch_id="b", record_id_column="id", before=before)

    assert (2, 1, True) == (counts.asked, counts.erased, counts.superseded)
    assert counts.after == rows.num_rows - 2


def test_a_purge_takes_what_a_killed_write_left(table_path):
    """Staging files, which Delta's own clean-up does not see, hold rows too."""
    left = [
        table_path / "part-00000.parquet#1",
        table_path / "bucket=0" / "part-00001.parquet",
        table_path / "_delta_log" / "_commit_1.json.tmp",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"planted-in-a-staging-file")
    before = read_table(table_path)

    purge_history(table_path)

    assert b"planted-in-a-staging-file" not in bytes_under(table_path)
    assert before.equals(read_table(table_path))


def test_a_full_disk_in_an_erasure_leaves_the_former_version(tmp_path):
    """The rewrite stops in the middle; the rows are as before, and the same step finishes later."""
    path = tmp_path / "raw"
    noise = np.random.default_rng(0).random(200_000)
    table = pa.table({"id": [f"r{i}" for i in range(200_000)], "x": noise})
    publish_table(path, table, transaction="t")
    ids = pa.array(["r3", "r150000"])
    before = count_rows(path, ids, record_id_column="id")
    code = f"""
        import resource, signal
        from pathlib import Path
        import pyarrow as pa
        from governance.errors import StoreBusyError
        from governance.storage import erase_records
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, {resource.RLIM_INFINITY}))
        try:
            erase_records(Path({str(path)!r}), pa.array(["r3", "r150000"]), batch_id="b",
                          record_id_column="id")
        except StoreBusyError as error:
            print("refused:", error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )

    assert "refused: table raw" in result.stdout, result.stderr
    assert before == count_rows(path, ids, record_id_column="id")
    counts = erase_records(path, ids, batch_id="b", record_id_column="id", before=before)
    assert (2, 199_998) == (counts.erased, counts.after)
    purge_history(path)
    assert len(list(path.glob("*.parquet*"))) == 1


def test_a_purge_waits_for_a_writer(table_path):
    """It would take the files of a write that is not committed yet for those of an old version."""
    steps = []
    writing = threading.Event()

    def another_writer():
        with table_path.with_name(f".{table_path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            writing.set()
            time.sleep(0.3)
            steps.append("written")

    writer = threading.Thread(target=another_writer)
    writer.start()
    writing.wait()
    purge_history(table_path)
    steps.append("purged")
    writer.join()

    assert ["written", "purged"] == steps


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (pa.array([[0, 255], [1, 2]], pa.list_(pa.uint8(), 2)), pa.list_(pa.int16())),
        (pa.array([0, 2**32 - 1], pa.uint32()), pa.int64()),
        (pa.array([1_000, 2_000], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array(["a", "b"]).dictionary_encode(), pa.string()),
        (pa.array(["a", "b"], pa.string_view()), pa.string()),
    ],
    ids=["pixels", "unsigned", "nanoseconds", "dictionary", "view"],
)
def test_a_stream_keeps_its_values_in_types_that_delta_has(tmp_path, values, kept):
    """Delta has no unsigned numbers: the next larger signed type holds them."""
    table = pa.table({"x": values, "bucket": pa.array([0, 0], pa.int32())})

    publish_batches(tmp_path / "t", table.schema, table.to_batches, transaction="one")

    found = read_table(tmp_path / "t")["x"]
    assert found.to_pylist() == values.to_pylist()
    assert str(found.type).replace("element", "item") == str(kept)


def test_a_stream_that_breaks_publishes_nothing_and_a_purge_takes_its_files(tmp_path):
    """Its own error comes out; the former rows stay, in another schema than the stream's."""
    path = tmp_path / "t"
    former = pa.table({"id": ["a"], "bucket": pa.array([0], pa.int32())})
    publish_batches(path, former.schema, former.to_batches, transaction="one")
    rows = pa.table({"id": ["b"], "more": [1.0], "bucket": pa.array([1], pa.int32())})

    def broken():
        yield from rows.to_batches()
        raise DigestMismatchError("a row is missing")

    with pytest.raises(DigestMismatchError):
        publish_batches(path, rows.schema, broken, transaction="two")
    assert read_table(path).to_pylist() == former.to_pylist()
    assert len(list(path.glob("bucket=*/*"))) == 2
    purge_history(path)
    assert len(list(path.glob("bucket=*/*"))) == 1

    versions = {
        publish_batches(path, rows.schema, rows.to_batches, transaction="three") for _ in range(2)
    }
    assert read_table(path).to_pylist() == rows.to_pylist()
    assert versions == {table_version(path)}
