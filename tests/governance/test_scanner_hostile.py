"""Laws under hostile text: no crash, no lost match, work that the bytes bound and nothing else."""

import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.detection_parts.hostile import KINDS
from governance.scanner import NAMES, count_column, detect
from governance.scanner.scan import _count_slice
from governance.scanner.search import searched

SLICE = 1 << 15


@pytest.fixture(scope="module", autouse=True)
def folding_table():
    """Tables that are made once and kept are no work of a slice."""
    detect(pa.array(["\u0660"]), "card")


def calls_and_peak(column):
    """Count the calls of functions, Python's and C's, and the bytes of the largest moment."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in {"call", "c_call"}

    tracemalloc.start()
    sys.setprofile(count)
    try:
        n_slices = 0
        for part in searched(column, size=SLICE):
            _count_slice(part, "x", NAMES)
            n_slices += 1
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return calls / n_slices, peak


@pytest.mark.parametrize("kind", KINDS)
def test_work_is_bounded_by_the_bytes_whatever_they_say(kind):
    """A slice takes a bounded number of calls on arrays of bounded size, as one cell or as many.

    A loop over cells, matches or positions would be tens of thousands of calls for 32 KiB, and an
    engine that backtracks would be unbounded. Plain text takes about 8,000 calls; NumPy's arrays
    (which tracemalloc sees) are at most 250 bytes for each byte of the slice, beside 4 MB.
    """
    text = KINDS[kind](3 * SLICE)
    cells = [text[at : at + 61] for at in range(0, len(text), 61)]
    for column in (pa.array([text], pa.large_binary()), pa.array(cells, pa.binary())):
        calls, peak = calls_and_peak(column)

        assert calls < 25_000
        assert peak < 250 * SLICE + 4_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_address_is_found_in_whatever_stands_around(kind):
    """Planted numbers in a long cell are found, at every border of a window as well."""
    planted = b" , 536-90-4399 , "
    text = KINDS[kind](SLICE)
    pieces = [
        text[:9000],
        text[:SLICE],
        text[:100],
        text[: SLICE - 60],
        text[:7],
        text[: SLICE - 8],
    ]
    cell = planted.join([*pieces, b""])
    column = pa.array([cell, b"", text], pa.large_binary())
    found = [0, 0, 0]
    for part in searched(column, size=SLICE):
        matches = part.matches("us_ssn")
        starts = matches.start[matches.level > 0]
        for index in part.text.cell[part.text.cells_of(starts)]:
            found[index] += 1

    around = "context words" == kind  # "order" stands beside each planted number there
    assert found[1] == 0
    assert around or len(pieces) == found[0]


def test_a_long_cell_counts_once():
    """A cell that is read in windows is one cell with all of its matches."""
    cell = "a@example.org " * 200_000
    counts = count_column(pa.array([cell, "x", cell]), entities=("email",))

    assert 400_000 == counts.evidence["email"].n_matches
    assert (2, 2) == (counts.evidence["email"].n_cells, counts.evidence["email"].n_certain)
    assert (3, 3, 2 * len(cell) + 1) == (
        counts.profile.n_cells,
        counts.profile.n_filled,
        counts.profile.n_bytes,
    )


def test_a_cell_of_fifty_megabytes_is_read_to_its_end():
    """One address at the end of 50 MB of letters is found, in the memory of some slices."""
    cell = b"lorem ipsum dolor " * (50_000_000 // 18) + b"planted@example.org"
    column = pa.array([cell], pa.large_binary())
    tracemalloc.start()
    try:
        mask = detect(column, "email")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert [True] == mask.tolist()
    assert peak < 60_000_000


@given(st.lists(st.one_of(st.none(), st.binary(max_size=200)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_bytes_make_it_fail(cells):
    """Any bytes, any nulls: a mask of the right length, counts that add up."""
    column = pa.array(cells, pa.binary())
    counts = count_column(column)

    assert len(cells) == counts.profile.n_cells
    for entity, evidence in counts.evidence.items():
        mask = detect(column, entity)
        assert np.count_nonzero(mask) == evidence.n_cells
        assert evidence.n_cells <= evidence.n_matches
        assert evidence.n_certain <= evidence.n_cells <= counts.profile.n_filled


LETTERS = st.text(st.characters(categories=("L", "M", "So", "Zs", "Cf")), max_size=120)


@given(LETTERS)
@settings(max_examples=60, deadline=None)
def test_letters_of_any_script_never_hide_a_card(around):
    """Whatever letters, marks, symbols and unseen characters stand around, the card is found."""
    cells = pa.array([f"{around} 4111 1111 1111 1111", f"4111 1111 1111 1111 {around}"])

    assert [True, True] == detect(cells, "card").tolist()
