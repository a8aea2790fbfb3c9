"""National identifiers: shape, structure (dates, ranges) and checksum of each.

Sources stand with the checksums (``governance.scanner.checksums``) and with each function here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from governance.scanner import checksums as check
from governance.scanner.matches import CERTAIN, FAINT, PLAUSIBLE, Matches, make_matches, merge
from governance.scanner.templates import (
    byte_set,
    columns,
    group_span,
    grouped,
    isolated_groups,
    shaped,
)
from governance.scanner.text import Text

Holds = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Shape:
    """Groups of digits, what lies between them, and how much the shape says."""

    lengths: tuple[int, ...]
    separators: bytes
    level: int
    same: bool = True


def find_digits(text: Text, shapes: tuple[Shape, ...], holds: Holds) -> Matches:
    """Return identifiers that consist of digits."""
    parts = []
    for shape in shapes:
        n_groups = len(shape.lengths)
        index = grouped(text, shape.lengths, shape.separators, same=shape.same)
        index = isolated_groups(text, index, n_groups)
        index = index[holds(text.digits.window(index, sum(shape.lengths)))]
        parts.append(make_matches(*group_span(text, index, n_groups), shape.level))
    return merge(parts)


def find_words(text: Text, templates: dict[str, int], holds: Holds) -> Matches:
    """Return identifiers of letters and digits; ``holds`` sees their lower-case bytes."""
    parts = []
    for template, level in templates.items():
        start = shaped(text, template)
        start = start[holds(columns(text, start, template))]
        parts.append(make_matches(start, start + len(template), level))
    return merge(parts)


def _ssn(digits: np.ndarray) -> np.ndarray:
    """US. SSA, high group list and randomisation: no area 000, 666, 9xx; no group 00, serial 0000.

    Two numbers were printed in advertisements and are void: 078-05-1120 and 219-09-9999.
    """
    area, group = check.number(digits, 0, 3), check.number(digits, 3, 5)
    serial, whole = check.number(digits, 5, 9), check.number(digits, 0, 9)
    issued = (area > 0) & (area != 666) & (area < 900) & (group > 0) & (serial > 0)
    varied = (digits != digits[:, :1]).any(axis=1)
    return issued & varied & ~np.isin(whole, (78051120, 219099999, 123456789))


def _pesel(digits: np.ndarray) -> np.ndarray:
    """The century is added to the month: 80 for 18xx, 0, 20 for 20xx, 40, 60."""
    month = check.number(digits, 2, 4)
    century = np.array([1900, 2000, 2100, 2200, 1800])[month // 20]
    born = check.date_holds(
        century + check.number(digits, 0, 2), month % 20, check.number(digits, 4, 6)
    )
    return born & check.pesel(digits)


def _personnummer(digits: np.ndarray) -> np.ndarray:
    """Sweden: last ten digits by Luhn; 60 is added to the day of a coordination number."""
    ten = digits[:, -10:]
    year = check.number(digits, 0, digits.shape[1] - 8)
    year = year + 2000 * (digits.shape[1] == 10)  # 2000 is a leap year: no 29 February is lost
    day = check.number(ten, 4, 6)
    born = check.date_holds(year, check.number(ten, 2, 4), day - 60 * (day > 60))
    return born & check.luhn(ten) & (year >= 1840) & (year < 2100)


def _aadhaar(digits: np.ndarray) -> np.ndarray:
    """India: twelve digits, the first 2 to 9, no palindrome (UIDAI)."""
    palindrome = (digits == digits[:, ::-1]).all(axis=1)
    return (digits[:, 0] >= 2) & ~palindrome & check.verhoeff(digits)


def _nir(digits: np.ndarray) -> np.ndarray:
    """France: sex, year, month (special ones up to 99), department, commune, order, key."""
    month = check.number(digits, 3, 5)
    months = ((month >= 1) & (month <= 12)) | ((month >= 20) & (month != 43))
    sex = np.isin(digits[:, 0], (1, 2, 3, 4, 7, 8))
    return sex & months & check.nir_key(digits[:, :13], digits[:, 13:15])


def _nir_corsica(characters: np.ndarray) -> np.ndarray:
    """Departments 2A and 2B count as 19 and 18 in the key (INSEE)."""
    values = characters.astype(np.int64) - 48
    north = characters[:, 6] == ord("b")
    island = (characters[:, 5] == ord("2")) & (north | (characters[:, 6] == ord("a")))
    values[:, 5] = 1
    values[:, 6] = np.where(north, 8, 9)
    return island & _nir(values)


_NINO_VOID = ("bg", "gb", "kn", "nk", "nt", "tn", "zz")


def _nino(characters: np.ndarray) -> np.ndarray:
    """UK. HMRC, NIM39110: letters that are not used, prefixes that are not given, suffix A-D."""
    first, second = characters[:, 0], characters[:, 1]
    prefix = ~byte_set(b"dfiquv")[first] & ~byte_set(b"dfioquv")[second]
    pairs = first.astype(np.int64) * 256 + second
    void = [ord(pair[0]) * 256 + ord(pair[1]) for pair in _NINO_VOID]
    suffix = byte_set(b"abcd")[characters[:, 8]]
    return prefix & suffix & ~np.isin(pairs, void)


_DNI_LETTERS = np.frombuffer(b"trwagmyfpdxbnjzsqvhlcke", np.uint8)


def _dni(characters: np.ndarray) -> np.ndarray:
    """Spain: letter = number modulo 23 (Ministerio del Interior, NIF)."""
    digits = characters[:, :8].astype(np.int64) - 48
    return _DNI_LETTERS[check.number(digits, 0, 8) % 23] == characters[:, 8]


def _nie(characters: np.ndarray) -> np.ndarray:
    """Spain, foreigners: X, Y, Z stand for 0, 1, 2 in front of seven digits."""
    first = characters[:, 0].astype(np.int64) - ord("x")
    known = (first >= 0) & (first <= 2)
    digits = characters[:, 1:8].astype(np.int64) - 48
    value = np.where(known, first, 0) * 10_000_000 + check.number(digits, 0, 7)
    return known & (_DNI_LETTERS[value % 23] == characters[:, 8])


_ODD = np.array(
    [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]
)
_OMOCODIA = byte_set(b"0123456789lmnpqrstuv")
_OMOCODIA_DIGIT = np.zeros(256, np.int64)
_OMOCODIA_DIGIT[list(b"0123456789")] = np.arange(10)
_OMOCODIA_DIGIT[list(b"lmnpqrstuv")] = np.arange(10)
_FISCAL_DIGITS = (6, 7, 9, 10, 12, 13, 14)


def _codice_fiscale(characters: np.ndarray) -> np.ndarray:
    """Italy. Decree of 12 March 1974: sums of odd and of even places modulo 26.

    Letters stand for digits where two persons would share a code (omocodia).
    """
    letters = characters[:, [0, 1, 2, 3, 4, 5, 8, 11, 15]]
    built = byte_set(b"abcdefghijklmnopqrstuvwxyz")[letters].all(axis=1)
    built &= _OMOCODIA[characters[:, _FISCAL_DIGITS]].all(axis=1)
    month = byte_set(b"abcdehlmprst")[characters[:, 8]]
    day = _OMOCODIA_DIGIT[characters[:, 9]] * 10 + _OMOCODIA_DIGIT[characters[:, 10]]
    born = month & (day >= 1) & (day <= 71) & ((day <= 31) | (day >= 41))
    values = characters.astype(np.int64)
    values = np.where(values >= ord("a"), values - ord("a"), values - 48)
    values = np.clip(values, 0, 25)
    total = _ODD[values[:, 0:15:2]].sum(axis=1) + values[:, 1:14:2].sum(axis=1)
    return built & born & (total % 26 == values[:, 15])


_HETU_CHECK = np.frombuffer(b"0123456789abcdefhjklmnprstuvwxy", np.uint8)
_HETU_CENTURY = {b"+": 1800, b"-yxwvu": 1900, b"abcdef": 2000}


def find_hetu(text: Text) -> Matches:
    """Finland: date, century sign, number, check = nine digits modulo 31 (DVV, henkilötunnus)."""
    parts = []
    for signs, century in _HETU_CENTURY.items():
        for sign in signs.decode():
            template = f"999999{sign}999X"
            start = shaped(text, template)
            seen = columns(text, start, template, "9X")
            digits = seen[:, :9].astype(np.int64) - 48
            born = check.date_holds(
                century + check.number(digits, 4, 6),
                check.number(digits, 2, 4),
                check.number(digits, 0, 2),
            )
            start = start[born & (_HETU_CHECK[check.number(digits, 0, 9) % 31] == seen[:, 9])]
            parts.append(make_matches(start, start + len(template), CERTAIN))
    return merge(parts)


def find_nir(text: Text) -> Matches:
    """France, also of persons born in Corsica."""
    whole = find_digits(text, _NIR_SHAPES, _nir)
    island = find_words(
        text, {"99999" + "9A" + "99999999": CERTAIN, "9 99 99 9A 999 999 99": CERTAIN}, _nir_corsica
    )
    return merge([whole, island])


_NIR_SHAPES = tuple(
    Shape(lengths, b" ", CERTAIN) for lengths in ((15,), (13, 2), (1, 2, 2, 2, 3, 3, 2))
)


def _resident_cn(characters: np.ndarray) -> np.ndarray:
    """China: area, date of birth, order, check where X is 10."""
    last = characters[:, 17]
    digits = characters.astype(np.int64) - 48
    digits[:, 17] = np.where(last == ord("x"), 10, digits[:, 17])
    year = check.number(digits, 6, 10)
    born = check.date_holds(year, check.number(digits, 10, 12), check.number(digits, 12, 14))
    ends = (last == ord("x")) | ((last >= 48) & (last < 58))
    return ends & born & (year >= 1900) & (year < 2100) & check.resident_id_cn(digits)


def _birth_number_no(digits: np.ndarray) -> np.ndarray:
    """Norway: 40 is added to the day of a D-number; the century is not needed for a check."""
    day = check.number(digits, 0, 2)
    born = check.date_holds(
        np.full(len(digits), 2000), check.number(digits, 2, 4), day - 40 * (day > 40)
    )
    return born & check.birth_number_no(digits)


def find_cpr(text: Text) -> Matches:
    """Denmark: date of birth and four digits; those of before 2007 have a checksum."""
    parts = []
    for shape in (Shape((6, 4), b"- ", FAINT), Shape((10,), b"", FAINT)):
        found = find_digits(text, (shape,), _born_ddmm)
        index = text.digits.at(found.start)
        checked = check.cpr_dk(text.digits.window(index, 10))
        parts.append(found.with_level(np.where(checked, PLAUSIBLE, FAINT).astype(np.int8)))
    return merge(parts)


def _born_ddmm(digits: np.ndarray) -> np.ndarray:
    """Day and month exist; 2000 is a leap year, so that no 29 February is lost."""
    year = np.full(len(digits), 2000)
    return check.date_holds(year, check.number(digits, 2, 4), check.number(digits, 0, 2))


def _national_register_be(digits: np.ndarray) -> np.ndarray:
    """Belgium: year, month (20 or 40 is added where the sex is not known), day, order, key."""
    month = check.number(digits, 2, 4) % 20
    return (month <= 12) & (check.number(digits, 4, 6) <= 31) & check.national_register_be(digits)


NATIONAL: dict[str, Callable[[Text], Matches]] = {
    "us_ssn": partial(
        find_digits,
        shapes=(
            Shape((3, 2, 4), b"-", CERTAIN),
            Shape((3, 2, 4), b" .", PLAUSIBLE),
            Shape((9,), b"", FAINT),
        ),
        holds=_ssn,
    ),
    "uk_nhs": partial(
        find_digits,
        shapes=(Shape((3, 3, 4), b" -", PLAUSIBLE), Shape((10,), b"", PLAUSIBLE)),
        holds=check.nhs_number,
    ),
    "uk_nino": partial(
        find_words,
        templates=dict.fromkeys(
            (
                "AA999999A",
                "AA 99 99 99 A",
                "AA-99-99-99-A",
                "AA 999999 A",
                "AA 999999A",
                "AA999999 A",
            ),
            CERTAIN,
        ),
        holds=_nino,
    ),
    "de_tax_id": partial(
        find_digits,
        shapes=(Shape((11,), b"", PLAUSIBLE), Shape((2, 3, 3, 3), b" ", PLAUSIBLE)),
        holds=check.tax_id_de,
    ),
    "fr_nir": find_nir,
    "es_dni": partial(
        find_words, templates=dict.fromkeys(("99999999A", "99999999-A"), PLAUSIBLE), holds=_dni
    ),
    "es_nie": partial(
        find_words,
        templates=dict.fromkeys(("A9999999A", "A-9999999-A", "A9999999-A"), CERTAIN),
        holds=_nie,
    ),
    "it_codice_fiscale": partial(
        find_words,
        templates=dict.fromkeys(("AAAAAAXXAXXAXXXA", "AAA AAA XXAXX AXXXA"), CERTAIN),
        holds=_codice_fiscale,
    ),
    "pl_pesel": partial(find_digits, shapes=(Shape((11,), b"", PLAUSIBLE),), holds=_pesel),
    "nl_bsn": partial(
        find_digits,
        shapes=(
            Shape((9,), b"", PLAUSIBLE),
            Shape((4, 2, 3), b".", PLAUSIBLE),
            Shape((3, 3, 3), b".", PLAUSIBLE),
        ),
        holds=check.bsn,
    ),
    "se_personnummer": partial(
        find_digits,
        shapes=(
            Shape((6, 4), b"-+", CERTAIN),
            Shape((8, 4), b"-+", CERTAIN),
            Shape((12,), b"", CERTAIN),
            Shape((10,), b"", PLAUSIBLE),
        ),
        holds=_personnummer,
    ),
    "fi_hetu": find_hetu,
    "br_cpf": partial(
        find_digits,
        shapes=(
            Shape((3, 3, 3, 2), b".-", CERTAIN, same=False),
            Shape((11,), b"", PLAUSIBLE),
        ),
        holds=check.cpf,
    ),
    "in_aadhaar": partial(
        find_digits,
        shapes=(Shape((4, 4, 4), b" -:", PLAUSIBLE), Shape((12,), b"", PLAUSIBLE)),
        holds=_aadhaar,
    ),
    "ca_sin": partial(
        find_digits,
        shapes=(Shape((3, 3, 3), b" -", PLAUSIBLE), Shape((9,), b"", FAINT)),
        holds=lambda digits: (digits[:, 0] > 0) & (digits[:, 0] != 8) & check.luhn(digits),
    ),
    "be_national_register": partial(
        find_digits,
        shapes=(
            Shape((2, 2, 2, 3, 2), b".-", CERTAIN, same=False),
            Shape((11,), b"", PLAUSIBLE),
        ),
        holds=_national_register_be,
    ),
    "dk_cpr": find_cpr,
    "no_birth_number": partial(
        find_digits,
        shapes=(Shape((6, 5), b" ", CERTAIN), Shape((11,), b"", PLAUSIBLE)),
        holds=_birth_number_no,
    ),
    "cn_resident_id": partial(
        find_words, templates={"99999999999999999X": CERTAIN}, holds=_resident_cn
    ),
    "tr_kimlik": partial(
        find_digits, shapes=(Shape((11,), b"", PLAUSIBLE),), holds=check.kimlik_tr
    ),
    "au_tfn": partial(
        find_digits,
        shapes=(Shape((3, 3, 3), b" ", PLAUSIBLE), Shape((9,), b"", FAINT)),
        holds=check.tax_file_number_au,
    ),
}
"""Finder of each national identifier; the country leads the name."""
