"""Laws of conclusions about columns: name, share with interval, chance; counts, never values."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.scanner import (
    ENTITIES,
    ColumnCounts,
    conclude,
    count_column,
    detect,
    scan_column,
    scan_table,
)
from governance.scanner.decision import wilson

SHARED = Path(os.environ.get("R2U_SHARED_DATA", "../shared/data"))


def emails(n):
    return [f"person{i}@example.org" for i in range(n)]


def test_a_column_of_emails_is_email_and_never_url():
    """Every e-mail address holds a host name; that is no vote for a URL."""
    found = scan_column(pa.array(emails(50)), name="kontakt")

    assert ("email", ()) == (found.entity, found.contains)
    assert ["email"] == [finding.entity for finding in found.findings]


def test_free_text_is_nothing_but_contains_what_is_certain():
    """Notes with an address here and there are not a column of addresses."""
    notes = ["nothing to see"] * 95 + ["mail to a@example.org please"] * 5
    found = scan_column(pa.array(notes), name="note")
    (finding,) = found.findings

    assert (None, ("email",)) == (found.entity, found.contains)
    assert (5, 0.05) == (finding.n_cells, finding.share)
    assert wilson(5, 100) == (finding.low, finding.high)


def test_order_numbers_are_no_identifier_by_chance():
    """One in eleven random numbers passes an eleven test, one in ten a Luhn test."""
    rng = np.random.default_rng(3)
    for n_digits in (9, 10, 11, 12, 16):
        numbers = rng.integers(10 ** (n_digits - 1), 10**n_digits, 3000)
        found = scan_column(pa.array(numbers), name="order_number")

        assert found.entity is None, n_digits


@pytest.mark.parametrize(
    ("entity", "name", "cell"),
    [
        ("us_ssn", "ssn", "494330748"),
        ("phone", "Mobile phone", "84 23 30"),
        ("date_of_birth", "birth_date", "1980-03-05"),
        ("person_name", "LastName", "Hamanová"),
        ("street_address", "Straße", "Askelund 93"),
        ("password", "pwd", "Koocei5Ai"),
        ("username", "user_name", "Prom1964"),
    ],
)
def test_the_name_of_a_column_speaks_for_a_shape(entity, name, cell):
    """What a bare shape cannot tell, shape and column name can; the name alone tells nothing."""
    cells = pa.array([cell] * 40)

    assert entity == scan_column(cells, name=name).entity
    assert detect(cells, entity, name=name).all()
    assert entity != scan_column(cells, name="x1").entity
    assert entity != scan_column(pa.array([12, 7] * 20), name=name).entity


@pytest.mark.parametrize(
    "name", ["product_name", "file name", "CountryName", "hostname", "NameSet"]
)
def test_names_of_things_are_no_names_of_persons(name):
    """A name column about something else is not personal."""
    assert scan_column(pa.array(["Alpha", "Beta"] * 20), name=name).entity is None


def test_streets_are_told_without_a_column_name():
    """Words for street in many cells, beside numbers, are enough."""
    cells = ["12 Bay Street", "Via Roma 3", "Hauptstraße 7", "7 rue des Lacs"] * 10

    assert "street_address" == scan_column(pa.array(cells), name="c7").entity


def test_counts_of_parts_add_up():
    """Counting in parts and adding is counting the whole; JSON keeps them."""
    column = pa.array([*emails(30), "+49 30 123456", None, "", "x"] * 3)
    whole = count_column(column, name="m")
    parts = [count_column(column[at : at + 7], name="m") for at in range(0, len(column), 7)]
    total = sum(parts[1:], start=parts[0])

    assert whole == total
    assert whole == ColumnCounts.from_dict(json.loads(json.dumps(total.to_dict())))
    assert conclude(whole) == conclude(total)


def test_batches_are_one_table():
    """Findings of a table do not depend on how it comes in batches."""
    table = pa.table({"mail": emails(50), "n": list(range(50))})

    assert scan_table(table) == scan_table(table.to_batches(max_chunksize=7))


def test_columns_of_the_same_name_stay_apart():
    """A file may name two columns alike; each has its own findings."""
    table = pa.Table.from_arrays([pa.array(emails(30)), pa.array(["x"] * 30)], names=["a", "a"])

    assert ["email", None] == [found.entity for found in scan_table(table)]


TOKENS = st.sampled_from(
    ["planted@example.org", "536-90-4399", "4111111111111111", "+49 30 5550199", "Plantedname"]
)


@given(st.lists(TOKENS, min_size=1, max_size=30), st.sampled_from(["mail", "name", "x"]))
@settings(max_examples=30, deadline=None)
def test_findings_never_hold_a_value(cells, name):
    """Neither counts nor conclusions hold any part of a cell, whatever is found."""
    counts = count_column(pa.array(cells), name=name)
    told = repr(counts) + repr(conclude(counts)) + json.dumps(conclude(counts).to_dict())

    for cell in cells:
        for word in cell.replace("@", " ").split():
            assert len(word) < 6 or word not in told
    numbers = [dataclasses.asdict(f) for f in conclude(counts).findings]
    assert all(set(f["variants"]) <= {"+49", "visa"} for f in numbers)


def test_an_interval_is_that_of_wilson():
    """8 of 10: Wilson's interval is 0.490 to 0.943 (Agresti and Coull, 1998); of none it is all."""
    assert (0.490, 0.943) == tuple(round(end, 3) for end in wilson(8, 10))
    assert (0.0, 1.0) == wilson(0, 0)


def test_categories_are_keys_of_fideslang():
    """Every suggested category is a key under ``user``; dates suggest none."""
    assert all(e.category.startswith("user.") for e in ENTITIES.values() if e.name != "date")
    assert "" == ENTITIES["date"].category


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data (R2U_SHARED_DATA)")
def test_columns_of_the_table_of_persons_are_told():
    """3,000 fictitious persons of 31 countries: each column is what its provider says."""
    with (SHARED / "pii" / "FakeNameGenerator.com_3000.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    told = {column.name: column.entity for column in scan_table(table) if column.entity}

    assert {
        "GivenName": "person_name",
        "Surname": "person_name",
        "MothersMaiden": "person_name",
        "StreetAddress": "street_address",
        "EmailAddress": "email",
        "Username": "username",
        "Password": "password",
        "TelephoneNumber": "phone",
        "Birthday": "date_of_birth",
        "CCExpires": "date",
        "Domain": "url",
    } == told
