"""1,797 real images of digits, given to 180 invented persons of 12 invented tenants.

Everything about the persons is synthetic and says so: ids start with ``SYN-``, addresses end in
``example.org``. The same seed gives the same table, byte for byte.
"""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from faker import Faker
from sklearn.datasets import load_digits

N_SUBJECTS = 180
N_TENANTS = 12
_SEED = 20250516
_COUNTRIES = ("DE", "FR", "IT", "US", "US", "BR", "")
_BASES = ("contract", "contract", "contract", "legitimate_interest", "consent", "")


def digits_table() -> pa.Table:
    """Return the table: one row for each image, ids, images and the invented person."""
    digits = load_digits()
    n = len(digits.target)
    generator = np.random.default_rng(_SEED)
    people = [_person(number, generator) for number in range(N_SUBJECTS)]
    owner = generator.permutation(np.arange(n) % N_SUBJECTS)
    rows = [people[number] for number in owner]
    columns: dict[str, pa.Array] = {
        "record_id": pa.array([f"SYN-R{index:05d}" for index in range(n)]),
        "digit": pa.array(digits.target.astype(np.int64)),
        "pixels": pa.array(list(digits.data.astype(np.uint8)), pa.list_(pa.uint8())),
    }
    for name in rows[0]:
        kind = pa.date32() if name == "consented_at" else None
        columns[name] = pa.array([row[name] for row in rows], kind)
    return pa.table(columns)


def write_digits(path: Path) -> None:
    """Write the table as Parquet, all at once."""
    temporary = path.with_name(f".{path.name}")
    pq.write_table(digits_table(), temporary)
    temporary.replace(path)


def write_demo_requests(root: Path) -> Path:
    """Drop a file of deletion requests into the inbox and return its path.

    Three persons, one whole tenant, one person on legal hold, one person whom nobody knows, and a
    duplicate of the first. All of them gave consent, so their records are revocable. Another call
    in the same workspace takes other persons.
    """
    table = pq.read_table(root / "source" / "digits.parquet")
    consenting = table.filter(pc.equal(table["consent_basis"], "consent"))
    people = sorted(set(consenting["subject_id"].to_pylist()))
    tenants = sorted(set(consenting["tenant"].to_pylist()))
    done = len(list((root / "runs" / "intake").glob("*/result.json")))
    tenant = tenants[done % len(tenants)]
    in_tenant = set(
        consenting.filter(pc.equal(consenting["tenant"], tenant))["subject_id"].to_pylist()
    )
    others = [person for person in people if person not in in_tenant]
    start = 4 * done % max(1, len(others) - 4)
    first, second, third, held = others[start : start + 4]
    name = f"demo-{done + 1}"
    rows = [
        {"request_id": f"{name}-person-1", "subject_id": first},
        {"request_id": f"{name}-person-2", "subject_id": second},
        {"request_id": f"{name}-person-3", "subject_id": third},
        {"request_id": f"{name}-tenant", "select": f"tenant={tenant}"},
        {"request_id": f"{name}-held", "subject_id": held, "hold_ground": "legal_claim"},
        {"request_id": f"{name}-unknown", "subject_id": "SYN-P9999"},
        {"request_id": f"{name}-duplicate", "subject_id": first},
    ]
    path = root / "inbox" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = ["request_id", "subject_id", "select", "verified", "hold_ground"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows({"verified": "true", **row} for row in rows)
    return path


def _person(number: int, generator: np.random.Generator) -> dict[str, object]:
    """Invent a person; one tenant of twelve runs on consent, the others on a mix."""
    fake = Faker("en_US")
    fake.seed_instance(_SEED + number)
    name = fake.name()
    tenant = number % N_TENANTS
    basis = "consent" if tenant == 0 else _BASES[int(generator.integers(len(_BASES)))]
    consented = date(2024, 1, 1) + timedelta(days=int(generator.integers(700)))
    local = name.lower().replace(" ", ".").replace("..", ".")
    return {
        "subject_id": f"SYN-P{number:04d}",
        "name": name,
        "email": f"{local}@example.org",
        "country": _COUNTRIES[int(generator.integers(len(_COUNTRIES)))],
        "tenant": f"syn-tenant-{tenant:02d}",
        "consent_basis": basis,
        "consented_at": consented,
        "subject_type": "minor" if generator.random() < 0.06 else "adult",
        "birth_year": int(generator.integers(1940, 2012)),
    }
