"""Phone numbers: international (E.164) with the country, and the national ways of writing them.

Sources: ITU-T E.164 and its list of country codes (lengths of national numbers, rounded outwards);
ITU-T E.123 for notation; NANPA for North America.
"""

from __future__ import annotations

import numpy as np

from governance.scanner.matches import CERTAIN, FAINT, PLAUSIBLE, Matches, make_matches, merge
from governance.scanner.templates import byte_set
from governance.scanner.text import DIGIT, KIND, LETTER, UNDERSCORE, Text

_MAX_GROUPS = 8
_SEPARATOR = byte_set(b" -./()")
_PAIRS = (" (", ") ", ")-", "-(", ").", ")/", "/ ", " /", "- ", " -")
_TRIPLES = (" - ", ") (", " / ", ") -")

_ONE_DIGIT = (1, 7)
_TWO_DIGITS = (
    *(20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49),
    *(51, 52, 53, 54, 55, 56, 57, 58, 60, 61, 62, 63, 64, 65, 66),
    *(81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98),
)
_THREE_DIGITS = (
    *(211, 212, 213, 216, 218, *range(220, 259), *range(260, 270), 290, 291, 297, 298, 299),
    *(*range(350, 360), *range(370, 390), *range(420, 424), *range(500, 510), *range(590, 600)),
    *(*range(670, 693), 800, 808, 850, 852, 853, 855, 856, 870, 878, 880, 881, 882, 883, 886),
    *(*range(960, 969), *range(970, 980), *range(992, 999)),
)
_NATIONAL = {  # digits of a national number without trunk prefix: fewest, most
    **{1: (10, 10), 7: (10, 10), 27: (9, 9), 30: (10, 10), 31: (9, 9), 32: (8, 9), 33: (9, 9)},
    **{34: (9, 9), 36: (8, 9), 39: (6, 11), 40: (9, 9), 41: (9, 9), 43: (4, 13), 44: (9, 10)},
    **{45: (8, 8), 46: (7, 10), 47: (8, 8), 48: (9, 9), 49: (5, 13), 52: (10, 11), 55: (10, 11)},
    **{61: (9, 9), 64: (8, 10), 65: (8, 8), 81: (9, 10), 82: (8, 11), 86: (9, 11), 90: (10, 10)},
    **{91: (10, 10), 298: (6, 6), 299: (6, 6), 351: (9, 9), 353: (7, 9), 354: (7, 9)},
    **{358: (5, 12), 380: (9, 9), 420: (9, 9), 421: (9, 9), 972: (8, 9)},
}
_ANY_COUNTRY = (5, 12)


def _country_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return by the first three digits: country code, and fewest and most national digits."""
    code, fewest, most = (np.zeros(1000, np.int64) for _ in range(3))
    for codes, width in ((_THREE_DIGITS, 1), (_TWO_DIGITS, 10), (_ONE_DIGIT, 100)):
        for country in codes:
            rows = slice(country * width, (country + 1) * width)
            code[rows] = country
            fewest[rows], most[rows] = _NATIONAL.get(country, _ANY_COUNTRY)
    return code, fewest, most


_COUNTRY, _FEWEST, _MOST = _country_tables()


def find_phone(text: Text) -> Matches:
    """Phone numbers; the variant is the country code where the number says it."""
    runs = text.digits
    if not len(runs.first):
        return make_matches(runs.first, runs.first, CERTAIN)
    joined = _joined_before(text)
    start = _starts(text, joined)
    parts = [_one_group(text, start)]
    index = start
    for n_groups in range(2, _MAX_GROUPS + 1):
        last = index + n_groups - 1
        linked = last < len(runs.first)
        linked[linked] = joined[last[linked]]
        index = index[linked]
        if not len(index):
            break
        parts.append(_many_groups(text, index, n_groups))
    return merge([_with_extension(text, part) for part in parts])


def _joined_before(text: Text) -> np.ndarray:
    """Return for each run of digits whether the one before belongs to the same number."""
    runs = text.digits
    gap = np.r_[0, runs.first[1:] - runs.stop[:-1]]
    at = np.r_[0, runs.stop[:-1]]
    one, two, three = text.data[at], text.data[at + 1], text.data[at + 2]
    joined = (gap == 1) & _SEPARATOR[one]
    for pair in _PAIRS:
        joined |= (gap == 2) & (one == ord(pair[0])) & (two == ord(pair[1]))
    for triple in _TRIPLES:
        last = three == ord(triple[2])
        joined |= (gap == 3) & (one == ord(triple[0])) & (two == ord(triple[1])) & last
    return joined


_NOT_BEFORE = byte_set(b"$#@%=&*\\^<")


def _starts(text: Text, joined: np.ndarray) -> np.ndarray:
    """Return the runs at which a number may start: after a space, ``+``, ``(`` or punctuation."""
    first = text.digits.first
    before = text.data[first - 1]
    word = (KIND[before] & (DIGIT | LETTER | UNDERSCORE)) != 0
    inner = joined & ~np.isin(before, list(b" (+"))
    hyphen = np.isin(before, list(b"-./,")) & ((KIND[text.data[first - 2]] & (DIGIT | LETTER)) != 0)
    # Numbers in groups of four (cards, accounts) hold no phone number after their first group.
    length = text.digits.length
    fours = joined & (before == ord(" ")) & (length == 4) & (np.r_[0, length[:-1]] == 4)
    return np.flatnonzero(~(word | inner | hyphen | fours | _NOT_BEFORE[before]))


def _span(text: Text, index: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return start, with ``+`` or ``(`` in front, and stop."""
    runs = text.digits
    start, stop = runs.first[index], runs.stop[index + n_groups - 1]
    # A bracket that closes behind the first group is the area code's; one around all is not.
    bracket = text.data[start - 1] == ord("(")
    start = start - (bracket & (text.data[runs.stop[index]] == ord(")")) & (n_groups > 1))
    start = start - (text.data[start - 1] == ord("+"))
    return start, stop


def _ends(text: Text, stop: np.ndarray) -> np.ndarray:
    """Return where a number may end: no letter (but an extension), no number that goes on."""
    after, then = text.data[stop], text.data[stop + 1]
    extension = (after == ord("x")) & ((KIND[then] & DIGIT) != 0)
    word = (KIND[after] & (LETTER | UNDERSCORE)) != 0
    goes_on = np.isin(after, list(b"-./:,)%")) & ((KIND[then] & DIGIT) != 0)
    return ~((word & ~extension) | goes_on | (after == ord("%")))


def _one_group(text: Text, index: np.ndarray) -> Matches:
    """Numbers in one piece: certain with ``+`` and a country, else only by context."""
    start, stop = _span(text, index, 1)
    length = text.digits.length[index]
    good = (length >= 7) & (length <= 17) & _ends(text, stop)
    index, start, stop, length = index[good], start[good], stop[good], length[good]
    abroad = _international(text, index, 1, start, stop)
    faint = length <= 13
    rest = make_matches(start[faint], stop[faint], FAINT)
    return merge([abroad, rest])


def _many_groups(text: Text, index: np.ndarray, n_groups: int) -> Matches:
    """Numbers in groups."""
    start, stop = _span(text, index, n_groups)
    good = _ends(text, stop)
    index, start, stop = index[good], start[good], stop[good]
    return merge(
        [
            _international(text, index, n_groups, start, stop),
            _national(text, index, n_groups, start, stop),
        ]
    )


def _total(text: Text, index: np.ndarray, n_groups: int) -> np.ndarray:
    runs = text.digits
    last = index + n_groups - 1
    return runs.ordinal[last] + runs.length[last] - runs.ordinal[index]


def _international(
    text: Text, index: np.ndarray, n_groups: int, start: np.ndarray, stop: np.ndarray
) -> Matches:
    """Numbers with ``+``, ``00`` or ``011`` and a country code that exists."""
    runs = text.digits
    head = runs.window(index, 6).astype(np.int64)
    plus = text.data[start] == ord("+")
    plus |= text.data[runs.first[index] - 1] == ord("+")
    oh_oh = (head[:, 0] == 0) & (head[:, 1] == 0) & ~plus
    oh_eleven = (head[:, 0] == 0) & (head[:, 1] == 1) & (head[:, 2] == 1) & ~plus
    skip = np.where(oh_oh, 2, np.where(oh_eleven, 3, 0))
    rows = np.arange(len(index))
    three = sum(head[rows, skip + place] * 10 ** (2 - place) for place in range(3))
    country = _COUNTRY[three]
    width = 1 + (country >= 10) + (country >= 100)
    national = _total(text, index, n_groups) - skip - width
    # The trunk zero in "+41 (0)38" is written but not dialled.
    for place in (1, 2):
        if n_groups > place:
            group = index + place
            bracketed = (text.data[runs.first[group] - 1] == ord("(")) & (runs.length[group] == 1)
            national = national - (bracketed & (text.data[runs.first[group]] == ord("0")))
    good = (plus | oh_oh | oh_eleven) & (country > 0)
    good &= (national >= _FEWEST[three]) & (national <= _MOST[three])
    level = np.where(plus | (n_groups > 1), CERTAIN, FAINT)
    found, number = np.unique(country[good], return_inverse=True)
    names = tuple(f"+{code}" for code in found) or ("",)
    return Matches(
        start[good], stop[good], level[good].astype(np.int8), number.astype(np.int16), names
    )


def _national(
    text: Text, index: np.ndarray, n_groups: int, start: np.ndarray, stop: np.ndarray
) -> Matches:
    runs = text.digits
    total = _total(text, index, n_groups)
    length = [runs.length[index + place] for place in range(n_groups)]
    first_digit = text.data[runs.first[index]] - 48
    after_first = text.data[runs.stop[index]]
    bracket = (text.data[start] == ord("(")) & (after_first == ord(")"))
    bracket &= (total >= 6) & (total <= 12) & (length[0] <= 5)
    trunk = (first_digit == 0) & (length[0] >= 2) & (length[0] <= 5) & (total >= 9) & (total <= 12)
    trunk &= ~_is_date(text, index, n_groups) & (length[-1] >= 2)
    america = _is_american(text, index, n_groups, length)
    regular = np.all([size >= 2 for size in length], axis=0) & np.all(
        [size <= 5 for size in length], axis=0
    )
    faint = regular & (total >= 6) & (total <= 12) & ~_is_date(text, index, n_groups)
    pairs = (n_groups == 5) & np.all([size == 2 for size in length], axis=0) & trunk
    plain = trunk | (america & (after_first == ord(" ")))
    level = np.where(bracket | (america & ~plain) | pairs, CERTAIN, np.where(plain, PLAUSIBLE, -1))
    level = np.where((level < 0) & faint, FAINT, level)
    good = (level >= 0) & (text.data[start] != ord("+"))
    good &= bracket | (text.data[start] != ord("("))
    return make_matches(start[good], stop[good], level[good])


def _is_american(
    text: Text, index: np.ndarray, n_groups: int, length: list[np.ndarray]
) -> np.ndarray:
    """Three, three and four digits, perhaps after a 1; an area code starts with 2 to 9."""
    if n_groups not in {3, 4}:
        return np.zeros(len(index), bool)
    offset = n_groups - 3
    shape = (length[offset] == 3) & (length[offset + 1] == 3) & (length[offset + 2] == 4)
    if offset:
        shape &= (length[0] == 1) & (text.data[text.digits.first[index]] == ord("1"))
    return shape & (text.data[text.digits.first[index + offset]] >= ord("2"))


def _is_date(text: Text, index: np.ndarray, n_groups: int) -> np.ndarray:
    """Day, month and year of four digits in some order, with the same separator."""
    if n_groups < 3:
        return np.zeros(len(index), bool)
    runs = text.digits
    one, two, three = (runs.length[index + place] for place in range(3))
    separators = [text.data[runs.stop[index + place]] for place in range(2)]
    same = (separators[0] == separators[1]) & (separators[0] != ord(" "))
    ends = (one <= 2) & (two <= 2) & ((three == 4) | ((three == 2) & (n_groups == 3)))
    return same & (ends | ((one == 4) & (two <= 2) & (three <= 2)))


def _with_extension(text: Text, matches: Matches) -> Matches:
    """Take in an extension: ``x123``."""
    stop = matches.stop
    follows = (text.data[stop] == ord("x")) & ((KIND[text.data[stop + 1]] & DIGIT) != 0)
    if not follows.any():
        return matches
    runs = text.digits
    place = np.minimum(runs.at(stop + 1), len(runs.first) - 1)
    stop = np.where(follows, runs.stop[place], stop)
    return Matches(matches.start, stop, matches.level, matches.variant, matches.names)
