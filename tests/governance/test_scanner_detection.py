"""Laws of detection by cell: what is found, what is not, wherever it stands and however cut."""

# ruff: noqa: RUF001 - confusable characters are the subject

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.scanner import NAMES, detect, scan_column
from governance.scanner.matches import FAINT
from governance.scanner.search import searched, spans_in

FOUND = {
    "email": ["write to a.b+c@example.co.uk!", "müller@exämple.de", "<x@example.org>"],
    "url": ["see https://example.org/a?b=1.", "www.example.com", "shop.example.fr/x"],
    "ip": ["10.0.0.1", "from 192.168.001.001,", "2001:db8::1", "addr:2001:db8::1", "10.1.2.3/8"],
    "mac": ["aa:bb:cc:dd:ee:f0", "00-1A-2B-3C-4D-5E", "0012.3456.789a"],
    "phone": [
        "+49 30 123456",
        "(555) 123-4567",
        "345-899-3560x4587",
        "+41 (0)38 549 02 90",
        "call 781 1704",
        "01 02 03 04 05",
        "call me at 2025550123",
        "00 44 20 7946 0018",
        "(030 123 4567)",
    ],
    "date": ["2020-01-02", "4/14/1962", "31.12.1999", "March 5, 1985", "2018-02-24T12:45"],
    "date_of_birth": ["born 4/14/1962", "DOB: 1985-03-05", "geboren am 1. Mai 1985"],
    "aws_key": ["key AKIAIOSFODNN7EXAMPLE;"],
    "github_token": ["ghp_" + "a1B2" * 9],
    "api_token": ["sk_live_" + "a1B2" * 6, "glpat-" + "x1Y2z" * 4],
    "private_key": ["-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", "-----BEGIN PRIVATE KEY-----"],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"],
    "password": ["password: hunter22", "api_key=abc123def", '"secret": "tr0ub4dor"'],
    "random_token": ["wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"],
}

NOT_FOUND = {
    "email": ["icon@2x.png", "a@b", "@handle", "a@.com", "a b@", "x@1.2"],
    "url": ["end.It was", "john@example.org", "e.g.", "node.js", "http://"],
    "ip": ["v1.2.3.4", "1.2.3.4.5", "999.1.1.1", "12:34:56", "std::vector", "version 1.2.3.4"],
    "mac": ["12:34:56:78", "00:00:00:00:00:00"],
    "phone": ["2020-01-02", "12 34", "order 123-456-7890", "1.2.3.4", "4111 1111 1111 1111"],
    "iban": ["DE88 3704 0044 0532 0130 00", "XX89370400440532013000"],
    "card": ["4111111111111112", "order 5610591081018"],
    "us_ssn": ["000-12-3456", "1-494-33-0748", "494330748", "494-33-0748 is a part number"],
    "date": ["13/13/2000", "1/2", "2020-02-30", "vägen 21"],
    "date_of_birth": ["4/14/1962"],
    "password": ["the password is", "token: ******", "password = ${PASSWORD}"],
    "random_token": ["thisIsALongCamelCaseIdentifierName", "d41d8cd98f00b204e9800998ecf8427e"],
}


@pytest.mark.parametrize("entity", FOUND)
def test_everyday_spellings_are_found(entity):
    """Each way of writing in common use is a match."""
    assert [True] * len(FOUND[entity]) == detect(pa.array(FOUND[entity]), entity).tolist()


@pytest.mark.parametrize("entity", NOT_FOUND)
def test_lookalikes_are_not_found(entity):
    """Versions, times, file names, part numbers, broken checksums are none."""
    cells = NOT_FOUND[entity]
    assert [] == [c for c, hit in zip(cells, detect(pa.array(cells), entity), strict=True) if hit]


@pytest.mark.parametrize(
    ("plain", "folded", "entity"),
    [
        ("4111 1111 1111 1111", "４１１１ １１１１ １１１１ １１１１", "card"),
        ("4111111111111111", "411\u200b1111\u200d1111\u20601111\ufeff1", "card"),
        ("4111 1111 1111 1111", "4111\u00a01111\u202f1111\u30001111", "card"),
        ("536-90-4399", "536\u201190\u20114399", "us_ssn"),
        ("536-90-4399", "٥٣٦-٩٠-٤٣٩٩", "us_ssn"),
        ("536-90-4399", "५३६-९०-४३९९", "us_ssn"),
        ("a@example.org", "ａ＠example．org", "email"),
        ("+49 30 123456", "\u202d+49 30 123456\u202c", "phone"),
        ("4111111111111111", "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏", "card"),
    ],
)
def test_characters_that_hide_digits_hide_nothing(plain, folded, entity):
    """Full-width, Arabic, Devanagari, mathematical digits; zero-width and typographic marks."""
    assert [True, True] == detect(pa.array([plain, folded]), entity).tolist()


def test_kinds_of_columns_give_the_same():
    """Strings, large strings, binary, views, dictionaries, chunks and slices, with nulls."""
    cells = ["a@example.org", None, "no", "b@example.org", ""]
    expected = [True, False, False, True, False]
    plain = pa.array(cells)
    kinds = [
        plain,
        plain.cast(pa.large_string()),
        plain.cast(pa.binary()),
        plain.cast(pa.large_binary()),
        plain.cast(pa.string_view()),
        plain.dictionary_encode(),
        pa.chunked_array([plain[:2], plain[2:2], plain[2:]]),
        pa.concat_arrays([pa.array(["x"]), plain])[1:],
    ]

    assert [expected] * len(kinds) == [detect(kind, "email").tolist() for kind in kinds]


def test_numbers_and_dates_are_read_as_they_print():
    """Integers, floats that went through a missing value, and dates; other types hold nothing."""
    cards = [4111111111111111, None, 4111111111111112]
    assert [True, False, False] == detect(pa.array(cards), "card").tolist()
    assert [True, False, False] == detect(pa.array(cards, pa.float64()), "card").tolist()
    assert [True] == detect(pa.array([5], pa.date32()), "date").tolist()
    assert [False] == detect(pa.array([True]), "card").tolist()
    assert [False] == detect(pa.array([[1.0, 2.0]]), "card").tolist()
    assert [] == detect(pa.array([], pa.string()), "card").tolist()


@pytest.mark.parametrize(
    "kind",
    [
        *(
            pa.null(),
            pa.bool_(),
            pa.float16(),
            pa.decimal128(9, 2),
            pa.time32("s"),
            pa.duration("s"),
        ),
        *(pa.timestamp("us", "UTC"), pa.date64(), pa.binary(3), pa.list_(pa.string())),
        *(
            pa.struct([("a", pa.string())]),
            pa.map_(pa.string(), pa.int8()),
            pa.large_list(pa.int8()),
        ),
    ],
    ids=str,
)
def test_no_type_of_column_makes_it_fail(kind):
    """Every Arrow type gives a mask of its length, with nulls or without rows."""
    for n in (0, 2):
        column = pa.nulls(n, kind)
        assert [False] * n == detect(column, "email").tolist()
        assert n == scan_column(column).n_cells


def test_an_unknown_entity_is_refused():
    """The error names what exists."""
    with pytest.raises(ValueError, match=r"expected entities out of .*email.*got e-mail"):
        detect(pa.array(["x"]), "e-mail")


PIECES = [
    *(cell for cells in FOUND.values() for cell in cells),
    *("DE89 3704 0044 0532 0130 00", "4111 1111 1111 1111", "943 476 5919", "811228-9874"),
    *("plain words", "", "é", "\x00", "1 2 3 4 5", "a.b.c", "::::", "@@@@", "x" * 50, "🦄👍🏽"),
]
SEARCHED = ("email", "url", "iban", "card", "ip", "phone", "us_ssn", "uk_nhs", "date", "jwt")


def spans_of(column, entity, **cut):
    found = []
    for part in searched(column, **cut):
        spans = spans_in(part, entity, level=FAINT)
        found += zip(spans.cell.tolist(), spans.start.tolist(), spans.stop.tolist(), strict=True)
    return sorted(found)


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=6), max_size=12), st.integers(8, 400))
@settings(max_examples=60, deadline=None)
def test_where_slices_are_cut_changes_nothing(cells, size):
    """Slices and windows of any size find the same spans, once each: no border loses a match."""
    column = pa.array(["; ".join(pieces) for pieces in cells], pa.string())

    for entity in SEARCHED:
        assert spans_of(column, entity) == spans_of(column, entity, size=size, margin=512)


@given(st.permutations(range(12)))
@settings(max_examples=20, deadline=None)
def test_a_cell_is_judged_by_itself(order):
    """The mask moves with the rows: a neighbour cell never speaks for or against a match."""
    cells = [
        *("order", "943 476 5919", "ssn", "494330748", "phone", "781 1704", "born", "4/14/1962"),
        *("4111 1111", "1111 1111", "a@", "example.org"),
    ]
    for entity in ("uk_nhs", "us_ssn", "phone", "date_of_birth", "card", "email"):
        mask = detect(pa.array(cells), entity)
        moved = detect(pa.array([cells[i] for i in order]), entity)

        assert mask[list(order)].tolist() == moved.tolist()


def test_spans_are_bytes_of_the_cell_as_it_was():
    """Offsets point into the original bytes, also behind characters that were folded away."""
    cell = "né\u200b 🦄 ４111 1111 1111 1111 x"
    column = pa.array(["", cell])
    (part,) = searched(column)
    spans = spans_in(part, "card")
    raw = cell.encode()

    assert [1] == spans.cell.tolist()
    assert "４111 1111 1111 1111" == raw[spans.start[0] : spans.stop[0]].decode()


def test_every_entity_can_be_asked_for():
    """No name of the list fails, on text or on nothing."""
    column = pa.array(["x", None, "1"])

    assert all(detect(column, entity).shape == (3,) for entity in NAMES)
    assert all(detect(column[:0], entity).dtype == np.dtype(bool) for entity in NAMES)
