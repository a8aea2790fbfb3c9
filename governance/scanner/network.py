"""Addresses of devices: IPv4, IPv6, MAC. Sources: RFC 791, RFC 4291, IEEE 802."""

from __future__ import annotations

import numpy as np

from governance.scanner.matches import CERTAIN, Matches, isolated, make_matches, merge
from governance.scanner.templates import byte_set, shaped
from governance.scanner.text import Text

_HEX = byte_set(b"0123456789abcdefABCDEF")
_HEX_COLON = byte_set(b"0123456789abcdefABCDEF:")


def find_ip(text: Text) -> Matches:
    """IPv4 in dotted decimals and IPv6 in all its spellings."""
    return merge([_find_v4(text), _find_v6(text)])


def _find_v4(text: Text) -> Matches:
    runs = text.digits
    dotted = np.zeros(len(runs.first) + 1, bool)
    dotted[1:-1] = (runs.first[1:] == runs.stop[:-1] + 1) & (text.data[runs.stop[:-1]] == ord("."))
    index = np.flatnonzero(dotted[1:-3] & dotted[2:-2] & dotted[3:-1]) if len(dotted) > 4 else _NONE
    short = runs.length <= 3
    for offset in range(4):
        index = index[short[index + offset]]
    for offset in range(4):
        index = index[_octet(text, index + offset) <= 255]
    index = index[~dotted[index] & ~dotted[index + 4]]
    start, stop = runs.first[index], runs.stop[index + 3]
    # A version (v1.2.3.4) touches a letter; a mask (10.0.0.0/8) may follow.
    alone = isolated(text, start, stop) | ((text.data[stop] == ord("/")) & _free(text, start))
    return make_matches(start[alone], stop[alone], CERTAIN, "v4")


_NONE = np.zeros(0, np.int64)


def _free(text: Text, start: np.ndarray) -> np.ndarray:
    """Return where nothing touches the start; the stop is as if it were the start."""
    return isolated(text, start, np.zeros(len(start), np.int64))


def _octet(text: Text, index: np.ndarray) -> np.ndarray:
    """Value of runs of at most three digits."""
    runs = text.digits
    value = np.zeros(len(index), np.int64)
    for offset in range(3):
        inside = runs.length[index] > offset
        digit = text.data[runs.first[index] + offset].astype(np.int64) - 48
        value = np.where(inside, value * 10 + digit, value)
    return value


def _find_v6(text: Text) -> Matches:
    colon = text.find(b":")
    colon = colon[_HEX_COLON[text.data[colon - 1]] | _HEX_COLON[text.data[colon + 1]]]
    if len(colon) < 2:
        return make_matches(_NONE, _NONE, CERTAIN, "v6")
    breaks = text.breaks(_HEX_COLON)
    place = np.searchsorted(breaks, colon)
    fresh = np.r_[True, place[1:] != place[:-1]]
    run = np.cumsum(fresh) - 1
    start, stop = breaks[place[fresh] - 1] + 1, breaks[place[fresh]]
    return _valid_v6(text, colon, run, start, stop)


def _valid_v6(
    text: Text, colon: np.ndarray, run: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> Matches:
    """Keep the runs of hexadecimal digits and colons that are an address."""
    data = text.data
    # "addr:2001:db8::1" and "2001:db8::1:" have a colon that belongs to the sentence.
    lead = (data[start] == ord(":")) & (data[start + 1] != ord(":"))
    trail = (data[stop - 1] == ord(":")) & (data[stop - 2] != ord(":"))
    start, stop = start + lead, stop - trail
    inside = (colon >= start[run]) & (colon < stop[run])
    colon, run = colon[inside], run[inside]
    n = len(start)
    n_colons = np.bincount(run, minlength=n)
    double = data[colon + 1] == ord(":")
    double &= colon + 1 < stop[run]
    n_doubles = np.bincount(run, weights=double, minlength=n)
    previous = np.r_[-1, colon[:-1]]
    same_run = np.r_[False, run[1:] == run[:-1]]
    group = colon - np.where(same_run, previous + 1, start[run])
    tail_of = np.full(n, 0, np.int64)
    np.maximum.at(tail_of, run, colon)
    longest = np.zeros(n, np.int64)
    np.maximum.at(longest, run, group)
    longest = np.maximum(longest, stop - 1 - np.where(n_colons > 0, tail_of, stop - 1))
    n_digits = stop - start - n_colons
    full = (n_colons == 7) & (n_doubles == 0)
    short = (n_doubles == 1) & (n_colons <= 8) & (n_digits > 0)
    # "::" with eight colons only stands for one group at an end.
    short &= (n_colons <= 7) | (_double_at_end(data, start, stop))
    good = (full | short) & (longest <= 4) & isolated(text, start, stop)
    return make_matches(start[good], stop[good], CERTAIN, "v6")


def _double_at_end(data: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    first = (data[start] == ord(":")) & (data[start + 1] == ord(":"))
    return first | ((data[stop - 1] == ord(":")) & (data[stop - 2] == ord(":")))


_MAC_TEMPLATES = ("XX:XX:XX:XX:XX:XX", "XX-XX-XX-XX-XX-XX", "XXXX.XXXX.XXXX")


def find_mac(text: Text) -> Matches:
    """MAC addresses with colons, hyphens or Cisco's dots; not all zeros or ones."""
    parts = []
    for template in _MAC_TEMPLATES:
        start = shaped(text, template)
        places = np.array([i for i, character in enumerate(template) if character == "X"])
        seen = text.lower[start[:, None] + places]
        good = _HEX[seen].all(axis=1) & (seen != seen[:, :1]).any(axis=1)
        good &= text.data[start - 1] != ord(template[2] if len(template) > 14 else ".")
        parts.append(make_matches(start[good], start[good] + len(template), CERTAIN))
    return merge(parts)
