"""Labelled text for the detection study: real sentences, a table of persons, generated records.

Spans are characters ``[start, stop)`` of an entity. Each corpus has two halves: ``tune``, on which
rules and thresholds were chosen, and ``report``, on which the figures are taken.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faker import Faker

SHARED = Path(os.environ.get("R2U_SHARED_DATA", "../shared/data"))

HALVES = ("tune", "report")

_PRESIDIO_LABELS = {
    "CREDIT_CARD": "card",
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "DOMAIN_NAME": "url",
    "IBAN_CODE": "iban",
    "US_SSN": "us_ssn",
    "IP_ADDRESS": "ip",
    "DATE_TIME": "date",
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A cell with its true spans by entity."""

    text: str
    spans: tuple[tuple[str, int, int], ...]


def sentences(half: str) -> list[Labelled]:
    """Return presidio-research's 1,500 sentences; templates with an even number are ``tune``."""
    content = json.loads((SHARED / "pii" / "synth_dataset_v2.json").read_text(encoding="utf-8"))
    wanted = HALVES.index(half)
    return [
        Labelled(
            row["full_text"],
            tuple(
                (
                    _PRESIDIO_LABELS[span["entity_type"]],
                    span["start_position"],
                    span["end_position"],
                )
                for span in row["spans"]
                if span["entity_type"] in _PRESIDIO_LABELS
            ),
        )
        for row in content
        if row["template_id"] % 2 == wanted
    ]


def persons() -> dict[str, list[str]]:
    """Return FakeNameGenerator's 3,000 persons by column."""
    path = SHARED / "pii" / "FakeNameGenerator.com_3000.csv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


_NATIONAL_OF = {
    "Brazil": "br_cpf",
    "Denmark": "dk_cpr",
    "Finland": "fi_hetu",
    "France": "fr_nir",
    "Poland": "pl_pesel",
    "Sweden": "se_personnummer",
    "United States": "us_ssn",
}


def person_cells(half: str) -> list[Labelled]:
    """Return single cells of the persons' table; even rows are ``tune``."""
    columns = {
        "EmailAddress": "email",
        "TelephoneNumber": "phone",
        "Birthday": "date",
        "CCExpires": "date",
    }
    table = persons()
    cells = []
    for index in range(HALVES.index(half), len(table["Number"]), 2):
        labels = {table[name][index]: entity for name, entity in columns.items()}
        entity = _NATIONAL_OF.get(table["CountryFull"][index])
        if entity and table["NationalID"][index]:
            labels[table["NationalID"][index]] = entity
        cells += [Labelled(text, ((kind, 0, len(text)),)) for text, kind in labels.items()]
        for name in ("StreetAddress", "ZipCode", "Occupation", "Company", "Username"):
            cells.append(Labelled(table[name][index], ()))
    return cells


Make = Callable[[Faker, random.Random], str]


def _by_rejection(module: str, pattern: str) -> Make:
    """Draw digits for ``#`` until the oracle accepts the number."""

    def make(_: Faker, rng: random.Random) -> str:
        is_valid = importlib.import_module(f"stdnum.{module}").is_valid
        while True:
            value = "".join(rng.choice("0123456789") if c == "#" else c for c in pattern)
            if is_valid(value):
                return value

    return make


def _faker(locale: str, method: str) -> Make:
    fakers: dict[int, Faker] = {}

    def make(_: Faker, rng: random.Random) -> str:
        key = id(rng)
        if key not in fakers:
            fakers[key] = Faker(locale)
            fakers[key].seed_instance(rng.randrange(2**32))
        return str(getattr(fakers[key], method)())

    return make


def _either(*makers: Make) -> Make:
    return lambda fake, rng: rng.choice(makers)(fake, rng)


def _spaced(maker: Make, groups: tuple[int, ...], separator: str) -> Make:
    def make(fake: Faker, rng: random.Random) -> str:
        value, parts, at = maker(fake, rng), [], 0
        for size in groups:
            parts.append(value[at : at + size])
            at += size
        return separator.join(parts)

    return make


_NHS = _by_rejection("gb.nhs", "4#########")
_AADHAAR = _by_rejection("in_.aadhaar", "5###########")
_CPF = _by_rejection("br.cpf", "###########")
_IBAN = _faker("de_DE", "iban")
_CARD = _faker("en_US", "credit_card_number")


def _phone(fake: Faker, rng: random.Random) -> str:
    del fake
    digit = "0123456789"

    def fill(pattern: str) -> str:
        out = "".join(rng.choice(digit) if c == "#" else c for c in pattern)
        return out.replace("N", rng.choice("23456789"))

    patterns = (
        *("+1 N## 555 ####", "+44 20 7### ####", "+49 30 ########", "+33 6 ## ## ## ##"),
        *("+34 6## ### ###", "+39 3## #######", "+91 98### #####", "+46 70 ### ## ##"),
        *("(N12) 555-####", "N15-555-####", "N09.555.####", "020 7### ####", "0151 ########"),
        *("01 4# ## ## ##", "06-########", "+4917########", "+1N125550###"),
    )
    return fill(rng.choice(patterns))


def _nino(fake: Faker, rng: random.Random) -> str:
    """Letters that HMRC gives out; Faker's are none of them."""
    del fake
    digits = "".join(rng.choice("0123456789") for _ in range(6))
    letters = rng.choice("ABCEHJLMPRSWXY") + rng.choice("ABCEHJLMPRSWXYZ")
    prefix = "AB" if letters in {"ZZ"} else letters
    pairs = [digits[0:2], digits[2:4], digits[4:6]]
    separator = rng.choice(("", " "))
    return separator.join([prefix, *pairs, rng.choice("ABCD")])


def _grouped_card(fake: Faker, rng: random.Random) -> str:
    """Sixteen digits in groups of four; other lengths in one piece."""
    value = _CARD(fake, rng)
    return (
        _spaced(lambda _f, _r: value, (4, 4, 4, 4), " ")(fake, rng) if len(value) == 16 else value
    )


MAKERS: dict[str, Make] = {
    "email": _either(*(_faker(loc, "email") for loc in ("en_US", "de_DE", "fr_FR", "pl_PL"))),
    "url": _faker("en_US", "url"),
    "iban": _either(
        _IBAN,
        _faker("fr_FR", "iban"),
        _faker("en_GB", "iban"),
        _spaced(_IBAN, (4, 4, 4, 4, 4, 2), " "),
    ),
    "card": _either(_CARD, _grouped_card),
    "ip": _either(_faker("en_US", "ipv4"), _faker("en_US", "ipv6")),
    "mac": _faker("en_US", "mac_address"),
    "phone": _phone,
    "us_ssn": _faker("en_US", "ssn"),
    "uk_nhs": _either(_NHS, _spaced(_NHS, (3, 3, 4), " ")),
    "uk_nino": _nino,
    "de_tax_id": _by_rejection("de.idnr", "###########"),
    "fr_nir": _faker("fr_FR", "ssn"),
    "es_dni": _faker("es_ES", "nif"),
    "es_nie": _faker("es_ES", "nie"),
    "it_codice_fiscale": _faker("it_IT", "ssn"),
    "pl_pesel": _faker("pl_PL", "pesel"),
    "nl_bsn": _faker("nl_NL", "ssn"),
    "se_personnummer": _faker("sv_SE", "ssn"),
    "fi_hetu": _faker("fi_FI", "ssn"),
    "br_cpf": _either(_CPF, _faker("pt_BR", "cpf")),
    "in_aadhaar": _either(_AADHAAR, _spaced(_AADHAAR, (4, 4, 4), " ")),
    "ca_sin": _faker("en_CA", "ssn"),
    "tr_kimlik": _faker("tr_TR", "ssn"),
    "au_tfn": _spaced(_by_rejection("au.tfn", "#########"), (3, 3, 3), " "),
}
"""Valid identifiers from sources other than our own code: Faker, and random digits that
python-stdnum accepts."""

_WORDS = {
    "email": "e-mail", "url": "site", "iban": "IBAN", "card": "card", "ip": "IP", "mac": "MAC",
    "phone": "phone", "us_ssn": "SSN", "uk_nhs": "NHS number", "uk_nino": "National Insurance",
    "de_tax_id": "Steuer-ID", "fr_nir": "NIR", "es_dni": "DNI", "es_nie": "NIE",
    "it_codice_fiscale": "codice fiscale", "pl_pesel": "PESEL", "nl_bsn": "BSN",
    "se_personnummer": "personnummer", "fi_hetu": "henkilötunnus", "br_cpf": "CPF",
    "in_aadhaar": "Aadhaar", "ca_sin": "SIN", "tr_kimlik": "TC kimlik", "au_tfn": "TFN",
}  # fmt: skip

_FRAMES = {
    "tune": (
        ("{w}: {v}", "Please note my {w} {v} for the file.", "{w} = {v}; thanks"),
        ("{v}", "He gave {v} on the form.", "see {v}, as discussed", "({v})"),
        ("order {v} was sent", "Invoice no. {v}", "ticket #{v} is open", "SKU {v}"),
    ),
    "report": (
        ("My {w} is {v}.", "customer's {w} ({v}) was checked", "{w}\t{v}"),
        ("{v} ", "They wrote down {v} yesterday", "\"{v}\" according to her", "it says {v}"),
        ("your order number {v}", "reference {v} on the invoice", "parcel tracking {v}",
         "item {v} out of stock"),
    ),
}  # fmt: skip
"""Sentences with the word for the entity, without any, and about goods."""

_HARD = (
    "version 10.4.{a}.{b}-rc1 of the build", "{a}-{b}-{c} is a part number", "score 12:{m}:45",
    "commit 3f{a}e{b}9a1b2c3d4e5f60718293a4b5c6d7e8f9", "order 2024-{a}-{c}", "id {a}{b}{c}{a}",
    "total 1.{a}.{b},50 EUR", "ISBN 978-3-16-1{a}{m}-0", "size 1024x768@2x.png", "room {a}/{m}",
    "uuid 123e4567-e89b-12d3-a456-4266141{a}{m}", "12.{m}.{a}", "lot {c}-{a}", "{a} {b} {c} units",
    "#include <std::vector>", "the ratio 3.14159{a}{b} of 2.71828{c}", "E{a}{b}{c}X",
    "§ {a} Abs. 2",
)  # fmt: skip


def generated(half: str, *, per_entity: int) -> list[Labelled]:
    """Return generated records, seeded.

    For each entity: valid values in sentences with its word and without, near misses (one digit
    changed so that the oracle refuses it) in the same, valid-looking numbers of goods; and
    sentences with versions, part numbers, times, hashes, prices.
    """
    rng = random.Random(f"detection-{half}")  # noqa: S311 - not for keys
    fake = Faker("en_US")
    fake.seed_instance(rng.randrange(2**32))
    cells = [cell for entity in MAKERS for cell in _of_entity(entity, half, per_entity, fake, rng)]
    for _ in range(per_entity * 4):
        a, b, c, m = (rng.randrange(low, high) for low, high in _HARD_RANGES)
        cells.append(Labelled(rng.choice(_HARD).format(a=a, b=b, c=c, m=m), ()))
    rng.shuffle(cells)
    return cells


_HARD_RANGES = ((100, 1000), (10, 100), (1000, 10000), (10, 60))


def _of_entity(
    entity: str, half: str, n: int, fake: Faker, rng: random.Random
) -> Iterator[Labelled]:
    named, plain, goods = _FRAMES[half]
    word = _WORDS[entity]
    for index in range(n):
        value = MAKERS[entity](fake, rng)
        yield _framed(rng.choice(named if index % 2 else plain), entity, word, value)
        wrong = _near_miss(entity, value, rng)
        if wrong:
            yield _framed(rng.choice(named if index % 2 else plain), None, word, wrong)
        if entity in _NUMBERS and index % 4 == 0:
            digits = "".join(rng.choice("0123456789") for c in value if c.isdigit())
            yield _framed(rng.choice(goods), None, word, digits)


_NUMBERS = (
    *("card", "uk_nhs", "de_tax_id", "pl_pesel", "nl_bsn", "br_cpf", "in_aadhaar", "tr_kimlik"),
    *("us_ssn", "se_personnummer", "ca_sin", "au_tfn"),
)
_ORACLE = {
    "iban": "iban", "card": "luhn", "uk_nhs": "gb.nhs", "de_tax_id": "de.idnr",
    "fr_nir": "fr.nir", "es_dni": "es.dni", "es_nie": "es.nie",
    "it_codice_fiscale": "it.codicefiscale", "pl_pesel": "pl.pesel", "nl_bsn": "nl.bsn",
    "se_personnummer": "se.personnummer", "fi_hetu": "fi.hetu", "br_cpf": "br.cpf",
    "in_aadhaar": "in_.aadhaar", "ca_sin": "ca.sin", "tr_kimlik": "tr.tckimlik",
    "au_tfn": "au.tfn",
}  # fmt: skip


def _framed(frame: str, entity: str | None, word: str, value: str) -> Labelled:
    before = frame.partition("{v}")[0].format(w=word)
    text = frame.format(w=word, v=value)
    spans = ((entity, len(before), len(before) + len(value)),) if entity else ()
    return Labelled(text, spans)


def _near_miss(entity: str, value: str, rng: random.Random) -> str | None:
    """Change one digit so that the oracle refuses the value; None where there is no oracle."""
    if entity not in _ORACLE:
        return None
    is_valid = importlib.import_module(f"stdnum.{_ORACLE[entity]}").is_valid
    places = [index for index, character in enumerate(value) if character.isdigit()]
    for _ in range(50):
        place = rng.choice(places)
        wrong = value[:place] + rng.choice("0123456789") + value[place + 1 :]
        if not is_valid(wrong.replace(" ", "") if entity == "card" else wrong):
            return wrong
    return None
