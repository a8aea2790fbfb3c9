"""E-mail addresses and URLs. Sources: RFC 5321 and 5322 (everyday subset), RFC 6531, RFC 3986."""

from __future__ import annotations

import numpy as np

from governance.scanner.matches import (
    CERTAIN,
    PLAUSIBLE,
    Matches,
    is_word_byte,
    make_matches,
    merge,
)
from governance.scanner.templates import byte_set
from governance.scanner.text import Text, code_of, word_codes

_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_WIDE = bytes(range(0x80, 0xFF))
_LETTER = byte_set(_LETTERS[:52] + _WIDE)
_LOCAL = byte_set(_LETTERS + _WIDE + b"._%+-!#$&'*/=?^`{|}~")
_HOST = byte_set(_LETTERS + _WIDE + b".-")
_URL = ~byte_set(bytes(range(0x21)) + b'<>"{}|\\^`\x7f\xff')
_CLOSERS = byte_set(b".,;:!?)]}'\"*_")
_LOCAL_MAX = 64
_HOST_MAX = 253
_URL_MAX = 2048

_FILE_ENDINGS = (
    "png jpg jpeg gif svg webp bmp ico pdf css scss js jsx ts tsx json xml html htm php txt csv "
    "xls xlsx doc docx ppt pptx exe dll log yml yaml toml ini cfg conf bak tmp dat bin gz tar "
    "rar"
)
"""Last labels that name a file and no top-level domain (icon@2x.png)."""

_TOP_LEVEL = (
    "com org net edu gov mil int info biz name pro aero coop museum jobs mobi travel tel cat "
    "asia app dev io ai co me tv cc xyz online site website store shop blog tech cloud club "
    "live life news email agency group systems solutions services company world digital media "
    "studio design global network today space fun icu top vip work link click page eu uk us ac "
    "ad ae af ag al am ao ar at au aw az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz "
    "ca cd cf cg ch ci ck cl cm cn cr cu cv cw cy cz de dj dk dm do dz ec ee eg er es et fi fj "
    "fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr gt gu gw gy hk hm hn hr ht hu id ie il "
    "im in iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu "
    "lv ly ma mc mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no "
    "np nr nu nz om pa pe pf pg ph pk pl pm pn pr pt pw py qa re ro ru rw sa sb sc sd se sg si "
    "sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tw tz ua ug "
    "uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
"""Top-level domains that make a bare host name a URL; endings of source files are left out."""


def _codes(words: str) -> np.ndarray:
    """Return the sorted numbers of words of at most eight bytes."""
    return np.array(sorted(code_of(word) for word in words.split()), np.int64)


_FILE_CODES = _codes(_FILE_ENDINGS)
_TOP_CODES = _codes(_TOP_LEVEL)


def find_email(text: Text) -> Matches:
    """E-mail addresses: local part, ``@``, host name with a top-level domain of letters."""
    at = text.find(b"@")
    if not len(at):
        return make_matches(at, at, CERTAIN)
    start = _run_start(text, at, _LOCAL)
    start = _strip_front(text, start, at, byte_set(b".'-/=`*?^{|}~&!#$%"))
    stop = _run_stop(text, at + 1, _HOST)
    stop = _strip_back(text, stop, at + 1, byte_set(b".-"))
    dot = _last_dot(text, stop)
    size, host = at - start, stop - at - 1
    good = (size >= 1) & (size <= _LOCAL_MAX) & (host <= _HOST_MAX) & (dot > at + 1)
    good &= text.data[at - 1] != ord(".")
    good &= is_word_byte(text.data[at + 1]) & (text.data[dot - 1] != ord("."))
    good &= text.data[stop] != ord("@")
    good &= _top_level_holds(text, dot + 1, stop)
    return make_matches(start[good], stop[good], CERTAIN)


def _top_level_holds(text: Text, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return whether a last label may be a top-level domain: letters, or punycode; no file."""
    length = stop - start
    punycode = (text.lower[start] == ord("x")) & (text.lower[start + 1] == ord("n"))
    punycode &= (text.data[start + 2] == ord("-")) & (length >= 6)
    letters = _run_stop(text, start, _LETTER) >= stop
    is_file = np.isin(word_codes(text, start, stop), _FILE_CODES)
    return (length >= 2) & (length <= 63) & (letters | punycode) & ~is_file


def find_url(text: Text) -> Matches:
    """URLs with a scheme of the web, and bare host names with a known top-level domain."""
    return merge([_with_scheme(text), _bare_hosts(text)])


_SCHEMES = ("https", "http", "ftps", "ftp", "wss", "ws")


def _with_scheme(text: Text) -> Matches:
    slash = text.find(b"/")
    colon = slash[(text.data[slash - 1] == ord(":")) & (text.data[slash + 1] == ord("/"))] - 1
    start = np.full(len(colon), -1)
    for scheme in _SCHEMES:
        fits = text.lower[np.maximum(colon - len(scheme) - 1, 0)] - 97 >= 26
        for offset, byte in enumerate(scheme.encode()):
            fits &= text.lower[colon - len(scheme) + offset] == byte
        start = np.where(fits & (start < 0), colon - len(scheme), start)
    known = start >= 0
    start, colon = start[known], colon[known]
    stop = _url_stop(text, colon + 3)
    good = (stop > colon + 3) & is_word_byte(text.data[colon + 3])
    good |= (text.data[colon + 3] == ord("[")) & (stop > colon + 5)
    return make_matches(start[good], stop[good], CERTAIN)


def _bare_hosts(text: Text) -> Matches:
    """Find host names such as ``www.example.org/path``, also without ``www``."""
    dots = text.find(b".")
    dots = dots[is_word_byte(text.data[dots - 1]) & is_word_byte(text.data[dots + 1])]
    if not len(dots):
        return make_matches(dots, dots, CERTAIN)
    start = np.unique(_run_start(text, dots, _HOST))
    start = _strip_front(text, start, start + 8, byte_set(b".-"))
    stop = _run_stop(text, start, _HOST)
    stop = _strip_back(text, stop, start, byte_set(b".-"))
    dot = _last_dot(text, stop)
    # Few runs end in a top-level domain; the rest of the questions is for them.
    known = (dot > start + 1) & (stop - start <= _HOST_MAX)
    start, stop, dot = start[known], stop[known], dot[known]
    known = np.isin(word_codes(text, dot + 1, stop), _TOP_CODES)
    start, stop, dot = start[known], stop[known], dot[known]
    before, after = text.data[start - 1], text.data[stop]
    good = ~np.isin(before, list(b"@_/")) & ~np.isin(after, list(b"@_"))
    # "end.It" is two sentences: in a host name written in mixed case the last label is lower case.
    upper = text.data[dot + 1] - 65 < 26
    shout = text.data[stop - 1] - 65 < 26
    good &= ~upper | (shout & (text.data[start] - 65 < 26))
    start, stop, after = start[good], stop[good], after[good]
    path = np.isin(after, list(b"/:?#")) & is_word_byte(text.data[stop + 1])
    path |= after == ord("/")
    stop = np.where(path, _url_stop(text, stop), stop)
    www = word_codes(text, start, start + 4) == code_of("www.")
    return make_matches(start, stop, np.where(www | path, CERTAIN, PLAUSIBLE))


def _url_stop(text: Text, position: np.ndarray) -> np.ndarray:
    stop = _run_stop(text, position, _URL)
    stop = np.minimum(stop, position + _URL_MAX)
    return _strip_back(text, stop, position, _CLOSERS)


def _run_start(text: Text, position: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return where the run of allowed bytes that ends before each position starts."""
    breaks = text.breaks(inside)
    return breaks[np.searchsorted(breaks, position, "left") - 1] + 1


def _run_stop(text: Text, position: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return where the run of allowed bytes from each position on stops."""
    breaks = text.breaks(inside)
    return breaks[np.searchsorted(breaks, position, "left")]


def _strip_front(
    text: Text, start: np.ndarray, limit: np.ndarray, bytes_off: np.ndarray
) -> np.ndarray:
    for _ in range(4):
        start = start + ((start < limit) & bytes_off[text.data[start]])
    return start


def _strip_back(
    text: Text, stop: np.ndarray, limit: np.ndarray, bytes_off: np.ndarray
) -> np.ndarray:
    for _ in range(4):
        stop = stop - ((stop > limit) & bytes_off[text.data[stop - 1]])
    return stop


def _last_dot(text: Text, stop: np.ndarray) -> np.ndarray:
    """Return the last dot before each position; 1 where there is none."""
    dots = text.find(b".")
    place = np.searchsorted(dots, stop, "left") - 1
    return np.where(place >= 0, dots[np.maximum(place, 0)], 1) if len(dots) else np.ones_like(stop)
