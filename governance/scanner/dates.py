"""Calendar dates in digits and with names of months. Source: ISO 8601; CLDR for month names."""

from __future__ import annotations

import numpy as np

from governance.scanner.checksums import date_holds
from governance.scanner.matches import (
    CERTAIN,
    FAINT,
    PLAUSIBLE,
    Matches,
    isolated,
    make_matches,
    merge,
)
from governance.scanner.templates import byte_set
from governance.scanner.text import DIGIT, KIND, WIDE, Text, code_of, pairs_of, word_codes

_MONTHS = (
    "january jan januar janvier janv enero ene gennaio gen januari janeiro stycznia",
    "february feb februar fevrier fevr febrero febbraio februari fevereiro fev lutego",
    "march mar marz maerz mars marzo maart mrt marco marca",
    "april apr avril avr abril abr aprile kwietnia",
    "may mai mayo maggio mag mei maio maj maja",
    "june jun juni juin junio giugno giu junho czerwca",
    "july jul juli juillet juil julio luglio lug julho lipca",
    "august aug aout agosto ago augustus augusti sierpnia",
    "september sep sept septembre septiembre settembre set setembro wrzesnia",
    "october oct oktober okt octobre octubre ottobre ott outubro out pazdziernika",
    "november nov novembre noviembre novembro listopada",
    "december dec dezember dez decembre diciembre dic dicembre dezembro grudnia",
)
_GLUE = byte_set(b" ,.-/")
_MONTH_CODES = np.array(sorted({code_of(word) for words in _MONTHS for word in words.split()}))
_MONTH_PAIRS = pairs_of(word for words in _MONTHS for word in words.split())


def find_date(text: Text) -> Matches:
    """Dates; certain with a year of four digits."""
    return merge([_in_digits(text), _with_month_name(text)])


def find_birth_date(text: Text) -> Matches:
    """Dates of birth: any full date, which only a word about birth or the column can vouch for."""
    dates = find_date(text)
    full = dates.take(dates.stop - dates.start >= 6)
    return full.with_level(np.full(len(full), FAINT, np.int8))


def _in_digits(text: Text) -> Matches:
    runs = text.digits
    n = len(runs.first)
    if n < 3:
        empty = np.zeros(0, np.int64)
        return make_matches(empty, empty, CERTAIN)
    index = np.arange(n - 2)
    one = text.data[runs.stop[:-2]]
    same = (one == text.data[runs.stop[1:-1]]) & np.isin(one, list(b"-/."))
    same &= (runs.first[1:-1] == runs.stop[:-2] + 1) & (runs.first[2:] == runs.stop[1:-1] + 1)
    length = runs.length
    same &= (length[:-2] <= 4) & (length[1:-1] <= 2) & (length[2:] <= 4)
    index = index[same]
    first, middle, last = (_value(text, index + place) for place in range(3))
    long_first, long_last = length[index] == 4, length[index + 2] == 4
    short = (length[index] <= 2) & (length[index + 2] == 2)
    start, stop = runs.first[index], runs.stop[index + 2]
    year = np.where(long_first, first, np.where(long_last, last, 2000))
    day_last = long_first & (length[index + 2] <= 2) & date_holds(year, middle, last)
    day_first = (long_last & (length[index] <= 2)) | short
    day_first &= date_holds(year, middle, first) | date_holds(year, first, middle)
    plausible_year = (year >= 1600) & (year <= 2199)
    good = (day_last | day_first) & plausible_year & _date_ends(text, start, stop)
    level = np.where(short, PLAUSIBLE, CERTAIN)
    return make_matches(start[good], stop[good], level[good])


def _date_ends(text: Text, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Like standing alone, but the T of a time may follow."""
    after, then = text.data[stop], text.data[stop + 1]
    time = ((after == ord("T")) | (after == ord("t"))) & ((KIND[then] & DIGIT) != 0)
    return isolated(text, start, np.where(time, 0, stop))


def _value(text: Text, index: np.ndarray) -> np.ndarray:
    """Value of runs of at most four digits; of longer ones the first four."""
    runs = text.digits
    value = np.zeros(len(index), np.int64)
    for offset in range(4):
        inside = runs.length[index] > offset
        digit = text.data[runs.first[index] + offset].astype(np.int64) - 48
        value = np.where(inside, value * 10 + digit, value)
    return value


def _with_month_name(text: Text) -> Matches:
    """Day, month in words and year, in either order, the day or the year may lack."""
    words = text.words
    size = words.length
    index = np.flatnonzero((size >= 3) & (size <= 12))
    index = text.words_like(_MONTH_PAIRS, index)
    # "vägen 21": what looks like a word is the tail of one with a letter outside ASCII.
    around = KIND[text.data[words.first[index] - 1]] | KIND[text.data[words.stop[index]]]
    index = index[(around & WIDE) == 0]
    code = word_codes(text, words.first[index], words.stop[index], whole=False)
    place = np.minimum(np.searchsorted(_MONTH_CODES, code), len(_MONTH_CODES) - 1)
    index = index[_MONTH_CODES[place] == code]
    if not len(index):
        return make_matches(index, index, CERTAIN)
    n = len(words.first)
    before, after, second = index - 1, np.minimum(index + 1, n - 1), np.minimum(index + 2, n - 1)
    day_before = _is_day(text, np.maximum(before, 0)) & (before >= 0) & _glued(text, before, index)
    day_after = _is_day(text, after) & (index + 1 < n) & _glued(text, index, after)
    year_after = _is_year(text, after) & (index + 1 < n) & _glued(text, index, after)
    year_second = _is_year(text, second) & (index + 2 < n) & day_after
    year_second &= _glued(text, after, second)
    start = np.where(day_before, words.first[np.maximum(before, 0)], words.first[index])
    stop = np.where(
        year_second,
        words.stop[second],
        np.where(year_after | (day_after & ~day_before), words.stop[after], words.stop[index]),
    )
    good = year_after | year_second
    bare = (day_before | day_after) & ~good
    hyphen = text.data[words.stop[index]] == ord("-")
    hyphen |= day_before & (text.data[words.first[index] - 1] == ord("-"))
    level = np.where(good, CERTAIN, np.where(hyphen, PLAUSIBLE, FAINT))
    good |= bare
    return make_matches(start[good], stop[good], level[good])


def _glued(text: Text, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return where one or two bytes of space and punctuation lie between two words."""
    words = text.words
    gap = words.first[right] - words.stop[left]
    one, two = text.data[words.stop[left]], text.data[words.stop[left] + 1]
    return ((gap == 1) & _GLUE[one]) | ((gap == 2) & _GLUE[one] & _GLUE[two])


def _leading_digits(text: Text, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many digits a word starts with, up to four, and their value."""
    words = text.words
    value, count = np.zeros(len(index), np.int64), np.zeros(len(index), np.int64)
    going = np.ones(len(index), bool)
    for offset in range(4):
        byte = text.data[words.first[index] + offset]
        going &= ((KIND[byte] & DIGIT) != 0) & (words.first[index] + offset < words.stop[index])
        value = np.where(going, value * 10 + byte - 48, value)
        count += going
    return count, value


def _is_day(text: Text, index: np.ndarray) -> np.ndarray:
    """A number of 1 to 31, alone or with two letters after it (21st)."""
    count, value = _leading_digits(text, index)
    rest = text.words.length[index] - count
    return (count >= 1) & (count <= 2) & (value >= 1) & (value <= 31) & np.isin(rest, (0, 2))


def _is_year(text: Text, index: np.ndarray) -> np.ndarray:
    count, value = _leading_digits(text, index)
    return (count == 4) & (text.words.length[index] == 4) & (value >= 1600) & (value <= 2199)
