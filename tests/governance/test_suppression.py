"""Laws of suppression: an erased record does not come back, in whatever order or under what id."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from governance.declaration import load_declaration
from governance.source import read_source
from governance.source_erasure import erase_from_source, is_ours
from governance.storage import append_table, read_table
from governance.suppression import Erased, add_tombstones, pseudonym, read_tombstones, suppress
from governance.workspace import Workspace

KEY = bytes(range(32))


def source(n=12):
    """Two rows for each person."""
    return pa.table(
        {
            "id": [f"r{i}" for i in range(n)],
            "person": [f"p{i // 2}" for i in range(n)],
            "churned": [i % 2 for i in range(n)],
            "age": [20.0 + i for i in range(n)],
            "note": [f'said "{i}",\nand more' for i in range(n)],
        }
    )


@pytest.fixture
def tombstones(tmp_path):
    """Person p1 asked for everything; of p2 one record was erased; p3's was, with a tenant."""
    path = tmp_path / "tombstones"
    add_tombstones(
        path,
        Erased(
            record_keys=[pseudonym(KEY, "record", r) for r in ("r2", "r3", "r4", "r6", "r7")],
            subject_keys=[pseudonym(KEY, "subject", "p1")],
            touched_subject_keys=[pseudonym(KEY, "subject", "p3")],
        ),
        batch_id="b",
        erased_at=datetime(2026, 1, 5, tzinfo=UTC),
    )
    return read_tombstones(path)


def kept(table, tombstones):
    rows, n_dropped = suppress(
        table, tombstones=tombstones, keys=[KEY], record_id_column="id", subject_id_column="person"
    )
    assert n_dropped == table.num_rows - rows.num_rows
    return rows


def test_the_same_source_again_brings_nobody_back(tombstones):
    """Rows of the erased records are dropped, and no other."""
    expected = [f"r{i}" for i in range(12) if i not in (2, 3, 4, 6, 7)]

    assert expected == kept(source(), tombstones)["id"].to_pylist()


def test_the_order_of_the_source_is_irrelevant(tombstones):
    """A permuted source gives the same rows, in its own order."""
    order = np.random.default_rng(0).permutation(12)
    permuted = source().take(pa.array(order))

    got = kept(permuted, tombstones)

    assert sorted(kept(source(), tombstones)["id"].to_pylist()) == sorted(got["id"].to_pylist())
    assert [f"r{i}" for i in order if i not in (2, 3, 4, 6, 7)] == got["id"].to_pylist()


def test_who_asked_for_everything_does_not_return_under_another_record_id(tombstones):
    """New ids: p1 stays away; p2 and p3 did not ask to be unknown, and may give new records."""
    renamed = source().set_column(0, "id", pa.array([f"new-{i}" for i in range(12)]))

    people = kept(renamed, tombstones)["person"].to_pylist()

    assert "p1" not in people
    assert people.count("p2") == people.count("p3") == 2


@pytest.mark.parametrize("kind", ["csv", "parquet", "delta"])
def test_a_source_that_is_ours_is_rewritten_without_them(
    tmp_path, declare_people, tombstones, kind
):
    """Every format: the erased rows are gone, the others are as they were, twice is once."""
    path = tmp_path / f"people.{kind}"
    if kind == "csv":
        pa_csv.write_csv(source(), path)
    elif kind == "parquet":
        pa.parquet.write_table(source(), path)
    else:
        append_table(path, source(), transaction="t")
    source_of_kind = {"people.csv, format: csv": f"people.{kind}, format: {kind}"}
    declaration = load_declaration(declare_people(tmp_path, "note", changes=source_of_kind))
    before = read_source(declaration)
    expected = kept(before, tombstones)

    counts = [
        erase_from_source(declaration, tombstones=tombstones, keys=[KEY], batch_id="b")
        for _ in range(2)
    ]

    assert [5, 0] == counts
    assert expected.equals(read_source(declaration).combine_chunks())
    held = b"".join(p.read_bytes() for p in tmp_path.rglob(f"people.{kind}*") if p.is_file())
    assert b'said ""3""' not in held
    if kind == "delta":
        assert read_table(path).num_rows == 7


def test_only_a_source_of_ours_is_touched(tmp_path, declare_people):
    """In the workspace, or declared so; the user's own file elsewhere is not."""
    declaration = load_declaration(declare_people(tmp_path))

    assert not is_ours(declaration, Workspace(tmp_path / "elsewhere"))
    assert is_ours(declaration, Workspace(tmp_path.resolve()))
    ours = declare_people(tmp_path, changes={"format: csv": "format: csv, erase: true"})
    assert is_ours(load_declaration(ours), Workspace(tmp_path / "elsewhere"))


def test_missing_ids_keep_the_others_in_their_places():
    """Each id has the digest that it has alone, also beside missing ones and in an empty column."""
    from governance.suppression import pseudonym, pseudonym_array

    key = b"k" * 32

    for values in (["a", None, "b"], [None, None]):
        column = pa.chunked_array([pa.array(values)])
        expected = [pseudonym(key, "subject", value or "") for value in values]
        assert expected == pseudonym_array(key, "subject", column).to_pylist()
