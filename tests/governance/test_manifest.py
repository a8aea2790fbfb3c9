"""Laws of the manifest: every row counts, order does not, proofs hold for one leaf only."""

import hashlib
import hmac
import os
import secrets
import time
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.commitments import ensure_salts, record_leaves, row_format
from governance.errors import DataError
from governance.hashing import binary_rows, hmac_array, in_order, sha256_array
from governance.manifest import (
    Members,
    count_drift,
    members_root,
    read_leaves,
    read_members,
    set_difference,
    write_members,
)
from governance.merkle import (
    absence_proof,
    inclusion_proof,
    merkle_root,
    stream_root,
)
from governance.storage import read_table
from governance.suppression import pseudonym, pseudonym_array
from governance.verifier import verify_absence, verify_inclusion


def rows(n=20):
    return pa.table(
        {
            "id": [f"r{i}" for i in range(n)],
            "x": [float(i) for i in range(n)],
            "n": pa.array([None if i % 7 == 3 else i for i in range(n)], pa.int32()),
            "text": [None if i % 5 == 2 else "é" * (i % 3) for i in range(n)],
            "pixels": [[float(i), 0.5] for i in range(n)],
            "day": pa.array([date(2026, 1, 1 + i % 28) for i in range(n)]),
        }
    )


def salts(n=20):
    made = [hashlib.sha256(str(i).encode()).digest() for i in range(n)]
    return pa.table({"record_id": [f"r{i}" for i in range(n)], "salt": pa.array(made, pa.binary())})


def leaves_of(table, n=20):
    return [row.tobytes() for row in record_leaves(table, salts(n), record_id_column="id")]


def root_of(table):
    return merkle_root(sorted(leaves_of(table)))


def naive_root(leaves):
    """RFC 6962, section 2.1, as it is written: split at the largest power of two."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    halves = naive_root(leaves[:split]) + naive_root(leaves[split:])
    return hashlib.sha256(b"\x01" + halves).digest()


@given(st.integers(0, 19), st.sampled_from(["x", "n", "text", "pixels", "day"]))
def test_any_changed_or_dropped_record_changes_the_root(index, column):
    """Row and column order do not matter, every single value does; a null is not a zero."""
    table = rows()
    other = {"x": -1.5, "n": 0, "text": "e", "pixels": [0.5], "day": date(2020, 2, 29)}
    values = table[column].to_pylist()
    values[index] = None if values[index] is not None else other[column]
    place = table.column_names.index(column)
    changed = table.set_column(place, column, pa.array(values, table[column].type))
    values[index] = other[column]
    again = table.set_column(place, column, pa.array(values, table[column].type))
    dropped = table.filter(pa.array([i != index for i in range(20)]))
    shuffled = table.take(list(reversed(range(20)))).select(table.column_names[::-1])

    assert root_of(table) == root_of(shuffled)
    same = again.equals(table) or again.equals(changed)
    assert len({root_of(t) for t in (table, changed, again, dropped)}) == (3 if same else 4)


def test_content_cannot_move_between_columns():
    """Lengths stand before content: ("ab", "c") is not ("a", "bc"), null is not empty."""
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("abc", None), (None, "abc"), ("", "abc")]
    tables = [
        pa.table({"id": ["r1"], "a": pa.array([a], pa.string()), "b": pa.array([b], pa.string())})
        for a, b in pairs
    ]
    assert len({leaves_of(table)[0] for table in tables}) == len(pairs)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([True, False, None]),
        pa.array([1, 2, None], pa.uint64()),
        pa.array([1.5, float("nan"), None], pa.float32()),
        pa.array([datetime(2026, 1, 1), datetime(2026, 1, 2), None]),
        pa.array(["a", "b", None]).dictionary_encode(),
        pa.array([b"a", b"b", None]),
        pa.array([[1, 2], [], None]),
        pa.array([["a", "b"], ["a, b"], None]),
        pa.array([[1.0, None], [1.0], None]),
        pa.array([{"a": 1}, {"a": None}, None]),
        pa.array([[1, 2], [3, 4], None], pa.list_(pa.int8(), 2)),
    ],
    ids=lambda array: str(array.type),
)
def test_every_column_type_has_a_form(array):
    """Three values, three leaves; slices of a table give the leaves of its rows."""
    table = pa.table({"id": ["r0", "r0", "r0"], "value": array})
    leaves = leaves_of(table)
    assert len(set(leaves)) == 3
    assert leaves_of(table.slice(1)) == leaves[1:]
    assert row_format(table.schema)["columns"][0] == ["id", "bytes"]


def test_a_type_that_cannot_be_written_is_an_error_without_its_value():
    """Unknown content is refused, and the message holds no value."""
    table = pa.table({"id": ["r0"], "t": pa.array([12345], pa.duration("s"))})
    with pytest.raises(DataError, match="timedelta") as error:
        leaves_of(table)
    assert "12345" not in str(error.value)


def test_large_tables_have_the_leaves_of_small_ones():
    """Slices and threads change nothing."""
    n = 150_000
    table, known = rows(n), salts(n)
    leaves = record_leaves(table, known, record_id_column="id")
    some = [0, 65_535, 65_536, 131_071, 149_999]
    few = record_leaves(table.take(some), known, record_id_column="id")
    assert (leaves[some] == few).all()


@given(st.integers(1, 40), st.data())
def test_inclusion_proofs_hold_for_their_leaf_only(n, data):
    """Every leaf is proven, no other leaf is."""
    leaves = [bytes([i]) * 32 for i in range(n)]
    index = data.draw(st.integers(0, n - 1))
    proof = inclusion_proof(leaves, index)

    assert merkle_root(leaves) == "sha256:" + naive_root(leaves).hex()
    assert verify_inclusion(leaves[index], proof, merkle_root(leaves))
    assert not verify_inclusion(b"\xff" * 32, proof, merkle_root(leaves))


@given(st.integers(0, 40), st.data())
def test_absence_is_proven_for_absent_leaves_only(n, data):
    """A value between, before or after the leaves is proven absent; a proof fits no leaf."""
    leaves = [bytes([2 * i + 1]) * 32 for i in range(n)]
    place = data.draw(st.integers(0, n))
    absent = bytes([2 * place]) * 32
    proof = absence_proof(leaves, absent)
    root = merkle_root(leaves)

    assert verify_absence(absent, proof, root=root, n_leaves=n)
    for leaf in leaves:
        assert not verify_absence(leaf, proof, root=root, n_leaves=n)
    if leaves:
        with pytest.raises(ValueError, match="got one that is"):
            absence_proof(leaves, leaves[place - 1])


def test_a_hole_in_the_neighbourhood_is_no_proof_of_absence():
    """Neighbours that are not side by side, or misplaced ones, prove nothing."""
    leaves = [bytes([2 * i + 1]) * 32 for i in range(9)]
    root, hidden = merkle_root(leaves), leaves[4]

    def at(index, stated=None):
        proof = inclusion_proof(leaves, index)
        stated = index if stated is None else stated
        return {"index": stated, "leaf": leaves[index].hex(), "proof": proof}

    forged = [
        {"left": at(3), "right": at(5)},
        {"left": at(3), "right": at(5, stated=4)},
        {"left": at(3, stated=4), "right": at(5)},
        {"left": None, "right": at(5)},
        {"left": None, "right": at(5, stated=0)},
        {"left": at(3), "right": None},
        {"left": at(3, stated=8), "right": None},
        {"left": None, "right": None},
    ]
    for proof in forged:
        assert not verify_absence(hidden, proof, root=root, n_leaves=9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 100_000))
def test_blocks_of_any_size_give_one_root(n, size):
    """Streaming is the tree of RFC 6962, whatever the blocks are."""
    leaves = np.random.default_rng(n).integers(0, 256, (n, 32), np.uint8)
    streamed = stream_root(leaves[start : start + size] for start in range(0, n, size))
    assert streamed == stream_root([leaves])
    if n < 5_000:
        assert streamed == "sha256:" + naive_root([row.tobytes() for row in leaves]).hex()


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(0, 1), st.binary(max_size=64))
def test_column_hashes_are_those_of_the_standard_library(messages, many, key):
    """Both ways, for few and for many messages."""
    messages = messages * (200 if many else 1)
    array = pa.array(messages, pa.large_binary())
    assert [row.tobytes() for row in sha256_array(array)] == [
        hashlib.sha256(message).digest() for message in messages
    ]
    assert [row.tobytes() for row in hmac_array(key, array)] == [
        hmac.digest(key, message, "sha256") for message in messages
    ]
    assert [row.tobytes() for row in hmac_array(key, array, prefix=b"kind\x00")] == [
        hmac.digest(key, b"kind\x00" + message, "sha256") for message in messages
    ]


def test_work_in_order_keeps_the_order_holds_few_results_and_passes_errors_on():
    """Slow items do not change the order; one more than there are cores waits at most."""
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.01 if item % 3 == 0 else 0)
        if item == 40:
            raise ValueError(item)
        return item

    results = in_order(work, range(100))
    for n_taken in range(40):
        assert next(results) == n_taken
        assert len(begun) <= n_taken + 1 + (os.cpu_count() or 1) + 1
    with pytest.raises(ValueError, match="40"):
        next(results)


def test_pseudonyms_of_a_column_are_those_of_its_values():
    """One definition, two speeds."""
    for n in (0, 1, 700):
        names = [f"pérson-{i}" for i in range(n)]
        made = pseudonym_array(b"k" * 32, "subject", pa.chunked_array([names], pa.string()))
        assert made.to_pylist() == [pseudonym(b"k" * 32, "subject", name) for name in names]


def test_a_record_without_a_salt_is_an_error():
    """Nobody commits to a record without a salt: the hash would identify it."""
    with pytest.raises(DataError, match="1 have none"):
        record_leaves(rows(21), salts(20), record_id_column="id")


def salts_in(path):
    return {row["record_id"]: row["salt"] for row in read_table(path).to_pylist()}


def test_a_salt_is_given_once(tmp_path):
    """New records get one, known ones keep theirs, no two are equal."""
    table = rows().append_column("bucket", pa.array([i % 3 for i in range(20)], pa.int32()))
    ensure_salts(tmp_path, table.slice(0, 12), record_id_column="id", transaction="a")
    first = salts_in(tmp_path)
    ensure_salts(tmp_path, table, record_id_column="id", transaction="b")
    ensure_salts(tmp_path, table, record_id_column="id", transaction="c")
    made = salts_in(tmp_path)
    assert len(made) == len(set(made.values())) == 20
    assert first.items() <= made.items()


def key_of(record_id):
    return hashlib.sha256(record_id.encode()).hexdigest()


def write(path, table, *, segments=None, n=20):
    names = table["id"].to_pylist()
    keys = np.array([list(bytes.fromhex(key_of(name))) for name in names], np.uint8)
    part = np.zeros(len(table), np.int8) if segments is None else np.array(segments, np.int8)
    leaves = record_leaves(table, salts(n), record_id_column="id")
    half = len(table) // 2
    write_members(
        path,
        [
            Members(keys[:half], part[:half], leaves[:half]),
            Members(keys[half:], part[half:], leaves[half:]),
        ],
    )


def test_members_are_sorted_by_leaf_and_have_the_root_of_the_table(tmp_path):
    """The file is the tree: in its order, for all and by segment."""
    table = rows()
    path = tmp_path / "members.parquet"
    write(path, table, segments=[i % 3 for i in range(20)])
    found = [leaf.tobytes() for leaf in read_leaves(path)]

    assert found == sorted(leaves_of(table))
    assert members_root(path) == (root_of(table), 20)
    third = table.filter(pa.array([i % 3 == 2 for i in range(20)]))
    assert members_root(path, 2) == (root_of(third), 6)
    assert read_members(path)[key_of("r5")] == 2
    assert list(tmp_path.iterdir()) == [path]


def test_the_set_difference_finds_who_stayed_came_or_changed(tmp_path):
    """A1 = A0 - B0, B1 = 0, C1 = C0 hold for the honest child alone."""
    table, asked = rows(), {key_of(name) for name in ("r3", "r4", "unknown")}
    parent, child = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write(parent, table)
    honest = table.filter(pa.array([i not in (3, 4) for i in range(20)]))
    changed = honest.set_column(1, "x", pa.array([x + (x == 9) for x in honest["x"].to_pylist()]))

    def difference(other):
        write(child, other, n=25)
        return set_difference(parent, child, asked)

    good = difference(honest)
    assert good.holds
    assert (good.parent, good.asked, good.child) == (20, 2, 18)
    assert (difference(table).asked_left, difference(table).holds) == (2, False)
    assert difference(rows(21)).added == 1
    assert difference(honest.slice(1)).missing == 1
    assert (difference(changed).added, difference(changed).missing) == (1, 1)
    child.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="members"):
        set_difference(parent, child, asked)


def test_drift_is_what_loads_changed_and_nothing_that_was_asked_for(tmp_path):
    """Changed and gone rows are counted, records that are about to go are not, new rows neither."""
    table, path = rows(), tmp_path / "members.parquet"
    write(path, table)

    def drift(current, asked=()):
        names = current["id"].to_pylist()
        keys = np.array([list(bytes.fromhex(key_of(name))) for name in names], np.uint8)
        leaves = record_leaves(current, salts(25), record_id_column="id")
        part = np.zeros(len(names), np.int8)
        half = len(names) // 2
        parts = [
            Members(keys[:half], part[:half], leaves[:half]),
            Members(keys[half:], part[half:], leaves[half:]),
        ]
        found = count_drift(path, parts, {key_of(name) for name in asked})
        return found.changed, found.gone

    other = [x + (x in {4.0, 15.0}) for x in table["x"].to_pylist()]
    changed = table.set_column(1, "x", pa.array(other))
    assert (0, 0) == drift(table)
    assert (0, 0) == drift(pa.concat_tables([table, rows(23).slice(20)]))
    assert (2, 0) == drift(changed)
    assert (1, 0) == drift(changed, asked=["r4"])
    assert (2, 3) == drift(pa.concat_tables([changed.slice(0, 17)]))
    assert (1, 1) == drift(changed.slice(0, 17), asked=["r15", "r17", "r18", "never"])


def test_random_positions_of_a_large_table_count(tmp_path):
    """Far beyond the first rows: each of 10 random changes, drops and additions is another root."""
    n = 200_000
    generator = np.random.default_rng(0)
    table = pa.table({"id": [f"r{i}" for i in range(n)], "x": generator.normal(size=n)})
    raw = binary_rows(np.frombuffer(secrets.token_bytes(32 * (n + 1)), np.uint8).reshape(-1, 32))
    known = pa.table({"record_id": [f"r{i}" for i in range(n + 1)], "salt": raw.cast(pa.binary())})
    leaves = record_leaves(table, known, record_id_column="id")

    def root(values):
        order = np.lexsort(values.view(">u8").reshape(-1, 4).T[::-1])
        return stream_root([values[order]])

    seen = {root(leaves)}
    for index in generator.integers(10_000, n, 10):
        one = table.slice(index, 1)
        changed = one.set_column(1, "x", pa.array([one["x"][0].as_py() + 1e-9]))
        other = leaves.copy()
        other[index] = record_leaves(changed, known, record_id_column="id")[0]
        seen |= {root(other), root(np.delete(leaves, index, axis=0))}
    added = pa.table({"id": [f"r{n}"], "x": [0.0]})
    extra = record_leaves(added, known, record_id_column="id")
    seen.add(root(np.concatenate([leaves, extra])))
    assert len(seen) == 22


def test_mlflows_dataset_digest_misses_what_the_root_finds():
    """Beyond the first 10,000 rows MLflow sees no change; the root sees each of ten."""
    import mlflow.data

    n = 20_000
    generator = np.random.default_rng(1)
    table = pa.table({"id": [f"r{i}" for i in range(n)], "x": generator.normal(size=n)})
    frame, known = table.to_pandas(), salts(n)
    leaves = record_leaves(table, known, record_id_column="id")
    theirs, ours = mlflow.data.from_pandas(frame).digest, merkle_root(leaves)
    for index in generator.integers(10_000, n, 10):
        changed, other = frame.copy(), leaves.copy()
        changed.loc[index, "x"] += 1.0
        row = pa.Table.from_pandas(changed.iloc[[index]], preserve_index=False)
        other[index] = record_leaves(row, known, record_id_column="id")[0]

        assert theirs == mlflow.data.from_pandas(changed).digest
        assert ours != merkle_root(other)
