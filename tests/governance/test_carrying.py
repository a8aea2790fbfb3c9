"""Laws of tombstones under several keys: nobody returns, no count changes, most can be carried."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from governance.carrying import Carrier, find_alone
from governance.key_files import key_name
from governance.key_ring import KeyRing
from governance.request_rows import selector_value
from governance.storage import append_table, read_table
from governance.suppression import (
    Erased,
    add_tombstones,
    count_erased,
    pseudonym,
    pseudonyms,
    read_tombstones,
    suppress,
)

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
RING = KeyRing.of(NEW, OLD)
AT = datetime(2026, 1, 5, tzinfo=UTC)


def erased(key, records, subjects=(), touched=(), values=(), *, named=True):
    return Erased(
        key_id=key_name(key) if named else "",
        record_keys=pseudonyms(key, "record", records),
        subject_keys=pseudonyms(key, "subject", subjects),
        touched_subject_keys=pseudonyms(key, "subject", touched),
        selector_keys=[selector_value(key, "tenant", value) for value in values],
    )


def source():
    return pa.table(
        {
            "id": ["r1", "r2", "r3", "r4"],
            "person": ["p1", "p2", "p3", "p4"],
            "tenant": ["t1", "t1", "t2", "t3"],
        }
    )


def stays(path, keys):
    rows, _ = suppress(
        source(),
        tombstones=read_tombstones(path),
        keys=keys,
        record_id_column="id",
        subject_id_column="person",
    )
    return rows["id"].to_pylist()


@pytest.fixture
def path(tmp_path):
    """Before the rotation: r1, all of p2, tenant t2 with p3, and q9, of whom no row is left."""
    path = tmp_path / "tombstones"
    before = erased(OLD, ["r1", "r2", "r3", "r9"], ["p2", "q9"], ["p3"], ["t2"], named=False)
    add_tombstones(path, before, batch_id="b1", erased_at=AT)
    return path


def test_a_row_is_dropped_under_whatever_key_its_tombstone_is(path):
    """And is not, without that key: the control."""
    add_tombstones(path, erased(NEW, ["r4"]), batch_id="b2", erased_at=AT)

    assert [] == stays(path, RING.keys)
    assert ["r4"] == stays(path, [OLD])
    assert ["r1", "r2", "r3"] == stays(path, [NEW])


def test_a_batch_under_two_keys_erased_what_it_erased(path):
    """The count of erased records is that of the records, not of the tombstones."""
    before = count_erased(path)
    both = [erased(key, ["r4", "r5"]) for key in RING.keys]
    for _ in range(2):
        add_tombstones(path, *both, batch_id="b2", erased_at=AT)

    assert (4, 6) == (before, count_erased(path))
    assert 10 == sum(len(one) for one in [read_tombstones(path)["record"]]) + 2
    assert [] == [one for one in find_alone(path, RING) if one.batch_id == "b2"]


def test_a_table_of_an_older_version_gets_the_column(tmp_path):
    """Tombstones without a name are those of the first key of the workspace."""
    path = tmp_path / "tombstones"
    old = pa.table(
        {
            "kind": ["record"],
            "key": [pseudonym(OLD, "record", "r1")],
            "batch_id": ["b0"],
            "erased_at": pa.array([AT], pa.timestamp("us", tz="UTC")),
        }
    )
    append_table(path, old, transaction="old")
    (alone,) = find_alone(path, RING)
    add_tombstones(path, *[erased(key, ["r2"]) for key in RING.keys], batch_id="b1", erased_at=AT)

    assert (key_name(OLD), "b0", "record", 1, AT) == (
        alone.key_id,
        alone.batch_id,
        alone.kind,
        alone.n,
        alone.erased_at,
    )
    assert {None, *RING.ids} == set(read_table(path)["key_id"].to_pylist())
    assert [alone] == find_alone(path, RING)
    assert ["r3", "r4"] == stays(path, RING.keys)


def carry(path, transaction="c"):
    carrier = Carrier(path, RING, columns=("id", "person"), selectable=("tenant",))
    carrier.see(source())
    return carrier.write(transaction=transaction)


def test_what_comes_by_is_carried_and_the_rest_keeps_the_old_key(path):
    """r1, r2, r3, p2, p3 and t2 come by; r9 and q9 do not, and are counted."""
    assert 8 == sum(one.n for one in find_alone(path, RING))
    assert 6 == carry(path)

    assert {"record": 1, "subject": 1} == {one.kind: one.n for one in find_alone(path, RING)}
    assert ["r4"] == stays(path, [NEW])
    kept = read_table(path).filter(pa.compute.equal(read_table(path)["key_id"], key_name(NEW)))
    assert {AT} == set(kept["erased_at"].to_pylist())
    assert 4 == count_erased(path)


def test_carrying_twice_adds_nothing(path):
    """Neither a repeat of the load, nor the next one, nor two at once are counted twice."""
    first = Carrier(path, RING, columns=("id", "person"), selectable=("tenant",))
    first.see(source())
    carry(path)
    n_rows = read_table(path).num_rows
    assert 0 == carry(path, "another")
    assert n_rows == read_table(path).num_rows
    first.write(transaction="at once")

    assert {"record": 1, "subject": 1} == {one.kind: one.n for one in find_alone(path, RING)}


def test_without_a_rotation_nothing_is_looked_for(path):
    """The ring of one key: no tombstone is alone, and none is written."""
    ring = KeyRing.of(OLD)
    carrier = Carrier(path, ring, columns=("id", "person"), selectable=("tenant",))
    carrier.see(source())

    assert [] == find_alone(path, ring)
    assert 0 == carrier.write(transaction="c")
