"""A small data set with planted strings and numbers, and a search for them in every kind of file.

The search is not the product's own (``governance.traces``), so that it cannot share its mistakes:
it decodes Parquet cell by cell, opens archives and databases, and looks at the raw bytes of all
files, weights included.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

N_PERSONS = 100
RECORDS_EACH = 4
ERASED = (6, 18, 36)
"""Persons whom the studies erase: their records are revocable, and in training by the split."""

_NETWORK = """
from torch import nn


def build(*, input_shape, n_classes, width=16):
    return nn.Sequential(nn.Linear(input_shape[0], width), nn.ReLU(), nn.Linear(width, n_classes))
"""

_POLICY = """
policy: {name: planted-risk, version: 1}
required: [basis]
rules:
  - {id: consent, when: {column: basis, equals: consent}, add: 0.5}
  - {id: contract, when: {column: basis, equals: contract}, set: low}
"""

_DECLARATION = """
name: planted
task: tabular
source: {path: planted.csv, format: csv, erase: true}
columns:
  record_id: id
  subject_id: person
  label: {name: churned, classes: [0, 1]}
  features:
    - {name: age, kind: numeric}
    - {name: income, kind: numeric}
  governance: [name, email, basis]
deletion:
  deletion_class: customers
  backups_expire_days: 30
  recipients: [{name: acme, contact: api, answer_days: 14}]
policy: policy.yaml
model: {factory: "planted_net:build", parameters: {width: 16}}
training: {stable_epochs: 12, revocable_epochs: 3, n_slices: 2, learning_rate: 0.02}
readiness: {efficiency_weight: 0.0, retention_weight: 0.0, resistance_weight: 0.0}
evidence: {pool_size: 4}
queue: {lease_s: 1}
buckets: 2
"""


@dataclass(frozen=True)
class Planted:
    """One thing that must be gone: what it is, as text, and as a number where it is one."""

    what: str
    text: str
    number: float | None = None

    @property
    def raw(self) -> tuple[bytes, ...]:
        """Byte strings that stand for it in a file."""
        texts = [self.text.encode(), self.text.encode("utf-16-le")]
        return (*texts, struct.pack("<d", self.number)) if self.number is not None else (*texts,)


def write_data_set(folder: Path, *, records_each: int = RECORDS_EACH) -> Path:
    """Write table, network, policy and declaration; return the path of the declaration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "planted_net.py").write_text(_NETWORK)
    (folder / "policy.yaml").write_text(_POLICY)
    (folder / "planted.yaml").write_text(_DECLARATION)
    chance = random.Random(0)  # noqa: S311 - a data set, not a secret
    with (folder / "planted.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "person", "age", "income", "churned", "name", "email", "basis"])
        for number in range(N_PERSONS * records_each):
            person = number // records_each
            age, income = chance.randint(18, 90), income_of(number)
            churned = int(age / 90 + income / 100 + chance.gauss(0, 0.05) < 1.1)
            basis = "consent" if person % 3 == 0 else "contract"
            who = (name_of(person), email_of(person))
            rows.writerow(
                [record_of(number), subject_of(person), age, income, churned, *who, basis]
            )
    return folder / "planted.yaml"


def record_of(number: int) -> str:
    """Return the id of a record."""
    return f"REC-{number:04d}-qz"


def subject_of(person: int) -> str:
    """Return the id of a person."""
    return f"SUB-{person:03d}-qz"


def name_of(person: int) -> str:
    """Return a name that is in nobody else's row."""
    return f"Zephyrine Qvortrup{person:03d}"


def email_of(person: int) -> str:
    """Return an e-mail address that is in nobody else's row."""
    return f"zq{person:03d}@planted.example.org"


def income_of(number: int) -> float:
    """Return a number with seventeen digits that is in no other row."""
    return 20.0 + number * 0.2718281828459045


def planted_in(person: int) -> list[Planted]:
    """Return everything that was planted in the rows of a person."""
    found = [
        Planted("subject id", subject_of(person)),
        Planted("name", name_of(person)),
        Planted("e-mail", email_of(person)),
    ]
    for number in range(person * RECORDS_EACH, (person + 1) * RECORDS_EACH):
        income = income_of(number)
        found.append(Planted("record id", record_of(number)))
        found.append(Planted("feature", repr(income), income))
    return found


def search(root: Path, planted: list[Planted]) -> dict[str, list[str]]:
    """Return, for each kind of planted thing, the places where one of them is found."""
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            place = path.relative_to(root).as_posix()
            for what, where in _look_into(path.read_bytes(), planted, place):
                found.setdefault(what, set()).add(where)
    return {what: sorted(places) for what, places in sorted(found.items())}


def _look_into(data: bytes, planted: list[Planted], place: str) -> Iterator[tuple[str, str]]:
    for thing in planted:
        if any(raw in data for raw in thing.raw):
            yield thing.what, place
    if data[:4] == b"PAR1":
        yield from _look_into_parquet(data, planted, place)
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from _look_into(archive.read(name), planted, f"{place}!{name}")
    elif data[:2] == b"\x1f\x8b":
        yield from _look_into(gzip.decompress(data), planted, f"{place}!")
    elif data[:16] == b"SQLite format 3\x00":
        yield from _look_into_database(data, planted, place)


def _look_into_parquet(
    data: bytes, planted: list[Planted], place: str
) -> Iterator[tuple[str, str]]:
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowException:  # what a killed write left; its raw bytes were searched
        return
    for name in table.column_names:
        column = table[name].combine_chunks()
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.list_flatten(column)
        where = f"{place}:{name}"
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            values = set(column.cast(pa.float64(), safe=False).to_pylist())
            yield from ((thing.what, where) for thing in planted if thing.number in values)
        elif not pa.types.is_nested(column.type):
            text = "\x00".join(str(value) for value in column.to_pylist())
            yield from ((thing.what, where) for thing in planted if thing.text in text)
        else:
            text = str(column.to_pylist())
            yield from ((thing.what, where) for thing in planted if thing.text in text)


def _look_into_database(
    data: bytes, planted: list[Planted], place: str
) -> Iterator[tuple[str, str]]:
    with tempfile.NamedTemporaryFile(suffix=".db") as file:
        file.write(data)
        file.flush()
        with sqlite3.connect(file.name) as connection:
            text = "\n".join(connection.iterdump())
    yield from ((thing.what, f"{place}!") for thing in planted if thing.text in text)
