"""Checksums of identifiers over matrices of digits: one row for each match, no loop over rows.

Every function takes integers ``[n, k]`` (a digit in each column) and returns bool ``[n]``.
Sources are named with each function.
"""

from __future__ import annotations

import numpy as np


def _table(rows: str) -> np.ndarray:
    return np.array([[int(digit) for digit in row] for row in rows.split()])


_VERHOEFF_PRODUCT = _table(
    "0123456789 1234067895 2340178956 3401289567 4012395678 "
    "5987604321 6598710432 7659821043 8765932104 9876543210"
)
_VERHOEFF_PLACE = _table(
    "0123456789 1576283094 5803796142 8916043527 9453126870 4286573901 2793806415 7046913258"
)


def weighted_sum(digits: np.ndarray, weights: tuple[int, ...]) -> np.ndarray:
    """Return the sum of digit times weight for each row."""
    return digits[:, : len(weights)].astype(np.int64) @ np.array(weights, np.int64)


def luhn(digits: np.ndarray) -> np.ndarray:
    """ISO/IEC 7812-1: payment cards, Swedish and Canadian numbers.

    >>> luhn(np.array([[int(d) for d in "4111111111111111"]])).tolist()
    [True]
    """
    values = digits.astype(np.int64)[:, ::-1].copy()
    doubled = values[:, 1::2] * 2
    values[:, 1::2] = doubled - 9 * (doubled > 9)
    return values.sum(axis=1) % 10 == 0


def verhoeff(digits: np.ndarray) -> np.ndarray:
    """J. Verhoeff, Error Detecting Decimal Codes (1969): Aadhaar.

    >>> verhoeff(np.array([[2, 3, 6, 3], [2, 3, 6, 4]])).tolist()
    [True, False]
    """
    check = np.zeros(len(digits), np.int64)
    for place, column in enumerate(digits.T[::-1]):
        check = _VERHOEFF_PRODUCT[check, _VERHOEFF_PLACE[place % 8, column]]
    return check == 0


def iban(characters: np.ndarray) -> np.ndarray:
    """ISO 13616 and ISO/IEC 7064 mod 97-10.

    Args:
        characters: Lower-case letters and digits as bytes, ``[n, length]``.
    """
    moved = np.concatenate([characters[:, 4:], characters[:, :4]], axis=1)
    letter = moved >= ord("a")
    values = np.where(letter, moved.astype(np.int64) - (ord("a") - 10), moved.astype(np.int64) - 48)
    rest = np.zeros(len(values), np.int64)
    for column, is_letter in zip(values.T, letter.T, strict=True):
        rest = (rest * np.where(is_letter, 100, 10) + column) % 97
    return rest == 1


def nhs_number(digits: np.ndarray) -> np.ndarray:
    """UK, 10 digits. NHS Data Dictionary, NHS NUMBER: modulo 11, check 10 is never issued."""
    check = (11 - weighted_sum(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2)) % 11) % 11
    return (check == digits[:, 9]) & (digits[:, :9].max(axis=1, initial=0) > 0)


def bsn(digits: np.ndarray) -> np.ndarray:
    """Netherlands, 9 digits: the eleven test with weight -1 at the end (Logisch ontwerp BSN)."""
    total = weighted_sum(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1))
    return (total % 11 == 0) & (digits.max(axis=1, initial=0) > 0)


def tax_id_de(digits: np.ndarray) -> np.ndarray:
    """Germany, 11 digits (Steuer-Identifikationsnummer): ISO/IEC 7064 mod 11,10.

    Among the first ten digits one occurs twice or three times and the others at most once
    (section 139b AO; Bundeszentralamt fuer Steuern, Aufbau der IdNr).
    """
    product = np.full(len(digits), 10, np.int64)
    for column in digits[:, :10].T:
        rest = (column + product) % 10
        product = np.where(rest == 0, 10, rest) * 2 % 11
    check = (11 - product) % 10
    counts = (digits[:, :10, None] == np.arange(10)).sum(axis=1)
    repeated = (counts > 1).sum(axis=1)
    built = (repeated == 1) & (counts.max(axis=1, initial=0) <= 3) & (digits[:, 0] > 0)
    return built & (check == digits[:, 10])


def pesel(digits: np.ndarray) -> np.ndarray:
    """Poland, 11 digits: weights 1 3 7 9, modulo 10 (act on population records, article 15)."""
    return weighted_sum(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def cpf(digits: np.ndarray) -> np.ndarray:
    """Brazil, 11 digits: two check digits modulo 11 (Receita Federal); no digit eleven times."""
    first = weighted_sum(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2)) * 10 % 11 % 10
    second = weighted_sum(digits, (11, 10, 9, 8, 7, 6, 5, 4, 3, 2)) * 10 % 11 % 10
    varied = (digits != digits[:, :1]).any(axis=1)
    return varied & (first == digits[:, 9]) & (second == digits[:, 10])


def nir_key(number: np.ndarray, key: np.ndarray) -> np.ndarray:
    """France: key = 97 - number of 13 digits modulo 97 (INSEE, Répertoire national)."""
    value = np.zeros(len(number), np.int64)
    for column in number.T:
        value = value * 10 + column
    return 97 - value % 97 == key[:, 0] * 10 + key[:, 1]


def national_register_be(digits: np.ndarray) -> np.ndarray:
    """Belgium, 11 digits: 97 - (nine digits, with a 2 in front when born from 2000) modulo 97."""
    number = digits[:, :9].astype(np.int64) @ 10 ** np.arange(8, -1, -1)
    key = digits[:, 9] * 10 + digits[:, 10]
    return (97 - number % 97 == key) | (97 - (number + 2_000_000_000) % 97 == key)


def birth_number_no(digits: np.ndarray) -> np.ndarray:
    """Norway, 11 digits: two check digits modulo 11 (Skatteetaten, fødselsnummer)."""
    first = weighted_sum(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
    return first & (weighted_sum(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0)


def cpr_dk(digits: np.ndarray) -> np.ndarray:
    """Denmark, 10 digits: weights 4 3 2 7 6 5 4 3 2 1, modulo 11; not of all since 2007 (CPR)."""
    return weighted_sum(digits, (4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0


def resident_id_cn(digits: np.ndarray) -> np.ndarray:
    """China, 17 digits and a check of 0 to 10 (GB 11643-1999; ISO/IEC 7064 mod 11-2)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return (weighted_sum(digits, weights) + digits[:, 17]) % 11 == 1


def kimlik_tr(digits: np.ndarray) -> np.ndarray:
    """Türkiye, 11 digits: the tenth from odd and even places, the eleventh from the sum."""
    odd, even = digits[:, 0:9:2].sum(axis=1), digits[:, 1:8:2].sum(axis=1)
    tenth = (7 * odd.astype(np.int64) - even) % 10 == digits[:, 9]
    return tenth & (digits[:, :10].sum(axis=1) % 10 == digits[:, 10]) & (digits[:, 0] > 0)


def tax_file_number_au(digits: np.ndarray) -> np.ndarray:
    """Australia, 9 digits: weights 1 4 3 7 5 8 6 9 10, modulo 11 (ATO)."""
    total = weighted_sum(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10))
    return (total % 11 == 0) & (digits.max(axis=1, initial=0) > 0)


def date_holds(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Return whether such a day exists in the Gregorian calendar."""
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    within = (month >= 1) & (month <= 12)
    last = lengths[np.where(within, month, 0)] + (leap & (month == 2))
    return within & (day >= 1) & (day <= last)


def number(digits: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Return the columns as a number."""
    value = np.zeros(len(digits), np.int64)
    for column in digits[:, first:stop].T:
        value = value * 10 + column
    return value
