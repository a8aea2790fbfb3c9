"""Bank accounts and payment cards.

Sources: ISO 13616 and the IBAN registry (SWIFT) for lengths; ISO/IEC 7812 and the networks' public
ranges for cards.
"""

from __future__ import annotations

import numpy as np

from governance.scanner import checksums
from governance.scanner.matches import (
    CERTAIN,
    FAINT,
    PLAUSIBLE,
    Matches,
    isolated,
    make_matches,
    merge,
)
from governance.scanner.templates import group_span, grouped, isolated_groups
from governance.scanner.text import DIGIT, KIND, LETTER, Text

_IBAN_LENGTH = {
    **{15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI"},
    **{20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV"},
    **{22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL"},
    **{24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR"},
    **{27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV"},
    **{29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU"},
}


def _lengths() -> np.ndarray:
    table = np.zeros(65536, np.int64)
    for length, countries in _IBAN_LENGTH.items():
        for country in countries.lower().split():
            table[ord(country[0]) * 256 + ord(country[1])] = length
    return table


_LENGTHS = _lengths()


def find_iban(text: Text) -> Matches:
    """IBAN in one piece or in groups with spaces or hyphens, by length of country and checksum."""
    # Two letters that name a country of the registry start a word, two digits follow.
    digits = text.digits
    start = digits.first[digits.length >= 2] - 2
    letters = KIND[text.data[start]] & KIND[text.data[start + 1]] & LETTER
    free = (KIND[text.data[start - 1]] & (LETTER | DIGIT)) == 0
    start = start[(letters != 0) & free]
    length = _LENGTHS[text.lower[start].astype(np.int64) * 256 + text.lower[start + 1]]
    start, length = start[length > 0], length[length > 0]
    if not len(start):
        return make_matches(start, start, CERTAIN)
    words = text.words
    first, index = words.first, words.at(start)
    end = words.ordinal[index] + length
    inside = end <= len(words.squeezed)
    index, length, end = index[inside], length[inside], end[inside]
    last = np.searchsorted(words.ordinal, end - 1, "right") - 1
    whole = words.ordinal[last] + words.length[last] == end
    start, stop = first[index], words.stop[last]
    whole &= _grouped_in_fours(text, index, last, start, stop, length)
    whole &= isolated(text, start, stop)
    index, length, start, stop = index[whole], length[whole], start[whole], stop[whole]
    valid = np.zeros(len(index), bool)
    for size in np.unique(length):
        these = length == size
        valid[these] = checksums.iban(words.window(index[these], int(size)))
    return make_matches(start[valid], stop[valid], CERTAIN)


def _grouped_in_fours(
    text: Text,
    index: np.ndarray,
    last: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    length: np.ndarray,
) -> np.ndarray:
    """Return where the characters are one word, or words of four with single separators."""
    n_words = last - index + 1
    one_piece = n_words == 1
    fours = (text.words.length[index] == 4) & (n_words == -(-length // 4))
    fours &= stop - start == length + n_words - 1
    if not fours.any():
        return one_piece
    long_word = np.cumsum(np.r_[0, text.words.length > 4])
    fours &= long_word[last + 1] == long_word[index]
    separator = text.data[np.minimum(start + 4, len(text.data) - 1)]
    return one_piece | (fours & ((separator == ord(" ")) | (separator == ord("-"))))


_CARD_SHAPES = (
    *((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 1), (4, 4, 4, 4, 3), (4, 3, 3, 3), (4, 4, 5)),
    *((4, 4, 4), (4, 4, 4, 3)),
)

_RANGES = (  # first and last prefix of six digits, lengths, name
    (400000, 499999, (13, 16, 19), "visa"),
    (510000, 559999, (16,), "mastercard"),
    (222100, 272099, (16,), "mastercard"),
    (340000, 349999, (15,), "amex"),
    (370000, 379999, (15,), "amex"),
    (300000, 305999, (14, 16, 17, 18, 19), "diners"),
    (309500, 309599, (14, 16, 17, 18, 19), "diners"),
    (360000, 369999, (14, 16, 17, 18, 19), "diners"),
    (380000, 399999, (14, 16, 17, 18, 19), "diners"),
    (601100, 601199, (16, 17, 18, 19), "discover"),
    (644000, 659999, (16, 17, 18, 19), "discover"),
    (352800, 358999, (16, 17, 18, 19), "jcb"),
    (213100, 213199, (15,), "jcb"),
    (180000, 180099, (15,), "jcb"),
    (620000, 629999, (16, 17, 18, 19), "unionpay"),
    (220000, 220499, (16, 17, 18, 19), "mir"),
    (500000, 509999, (12, 13, 14, 15, 16, 17, 18, 19), "maestro"),
    (560000, 589999, (12, 13, 14, 15, 16, 17, 18, 19), "maestro"),
    (600000, 699999, (12, 13, 14, 15, 16, 17, 18, 19), "maestro"),
)


def find_card(text: Text) -> Matches:
    """Payment card numbers: range and length of a network, Luhn; with spaces or hyphens, too."""
    lengths = text.digits.length
    fours = np.flatnonzero((lengths[:-1] == 4) & (lengths[1:] >= 3) & (lengths[1:] <= 6))
    single = [(size,) for size in range(12, 20) if (lengths == size).any()]
    parts = []
    for shape in (*single, *(_CARD_SHAPES if len(fours) else ())):
        index = grouped(text, shape, b" -", among=fours if len(shape) > 1 else None)
        index = isolated_groups(text, index, len(shape))
        if not len(index):
            continue
        digits = text.digits.window(index, sum(shape))
        valid = checksums.luhn(digits)
        index, digits = index[valid], digits[valid]
        prefix = checksums.number(digits, 0, 6)
        issued = digits.max(axis=1, initial=0) > 0
        parts.append(make_matches(*group_span(text, index[issued], len(shape)), FAINT))
        for first, last, sizes, name in _RANGES:
            if sum(shape) in sizes:
                mine = (prefix >= first) & (prefix <= last)
                # Twelve to fourteen digits with a check digit are also how goods are numbered.
                # JCB's old ranges of fifteen digits are also how French NIR numbers start.
                old = first in (180000, 213100)
                level = CERTAIN if sum(shape) >= 15 and not old else PLAUSIBLE
                parts.append(make_matches(*group_span(text, index[mine], len(shape)), level, name))
    return merge(parts)
