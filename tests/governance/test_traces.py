"""Laws of the search for traces: whole words, everywhere in a file, only what says who it was."""

import pyarrow as pa
import pytest

from governance.traces import (
    Needles,
    find_traces,
    remove_lines,
    telling_values,
)

MAIL = "zoë@example.org"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("asked by p-17.", {b"p-17"}),
        ('{"subject":"p-17"}', {b"p-17"}),
        ("p-170 and xp-17", set()),
        (f"to <{MAIL}>", {MAIL.encode()}),
        ("", set()),
    ],
)
def test_a_value_is_found_as_a_whole_word(text, found):
    """``p-17`` is in ``asked by p-17.`` and not in ``p-170``."""
    assert found == Needles(["p-17", MAIL]).find(text.encode())


def test_what_is_everywhere_by_accident_is_not_searched():
    """Short numbers and short hex say nothing of a person; six bytes do, or four with a mark."""
    assert [b"123456", b"p-17"] == Needles(["17", "beef", "p-1", "p-17", "123456"]).values


@pytest.mark.parametrize("offset", range(-20, 3))
def test_a_value_on_the_edge_of_a_block_is_found_once_and_whole(tmp_path, offset):
    """Wherever the block of one mebibyte ends, the word is found, and a longer word is not."""
    start = (1 << 20) + offset
    needles = Needles([MAIL])
    (tmp_path / "log.txt").write_bytes(b" " * start + MAIL.encode() + b" " * 500)
    (tmp_path / "other.txt").write_bytes(b" " * start + MAIL.encode() + b"x" * 500)

    assert ["log.txt"] == [trace.path for trace in find_traces(tmp_path, needles)]


def test_only_values_of_erased_rows_are_telling(tmp_path):
    """A city that somebody else has too, and a short word, name nobody; an id does."""
    erased = pa.table({"id": ["r1"], "mail": [MAIL], "city": ["Vienna"], "plan": ["plus"]})
    remaining = pa.table({"id": ["r2"], "mail": ["b@x.org"], "city": ["Vienna"], "plan": ["base"]})

    values = telling_values(
        erased, remaining, id_columns=["id"], text_columns=["mail", "city", "plan"]
    )

    assert {"r1", MAIL} == values


def test_a_line_is_removed_and_the_others_stay(tmp_path):
    """A log keeps a note in its place; rows of a file go without one."""
    needles = Needles([MAIL])
    for name in ("log.txt", "rows.csv"):
        (tmp_path / name).write_text(f"first\nfor {MAIL} only\nlast\n")

    counts = [
        remove_lines(tmp_path / "log.txt", needles, keep_place=True),
        remove_lines(tmp_path / "rows.csv", needles, keep_place=False),
        remove_lines(tmp_path / "rows.csv", needles, keep_place=False),
    ]

    assert [1, 1, 0] == counts
    assert (tmp_path / "log.txt").read_text().splitlines()[::2] == ["first", "last"]
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3
    assert (tmp_path / "rows.csv").read_text() == "first\nlast\n"
    assert find_traces(tmp_path, needles) == []
