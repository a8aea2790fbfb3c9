"""Secrets: keys, tokens, private keys, passwords that are written down, random-looking strings.

Sources: the vendors' documented prefixes (AWS IAM identifiers, GitHub token formats, Slack,
Stripe, Google, GitLab, npm, Hugging Face), RFC 7519 (JWT), RFC 7468 (PEM); Shannon entropy.
"""

from __future__ import annotations

import numpy as np

from governance.scanner.matches import (
    CERTAIN,
    PLAUSIBLE,
    Matches,
    isolated,
    make_matches,
    merge,
)
from governance.scanner.templates import byte_set
from governance.scanner.text import (
    DIGIT,
    KIND,
    LETTER,
    UNDERSCORE,
    Runs,
    Text,
    code_of,
    pairs_of,
    runs_of,
    word_codes,
)

_SECRET_MAX = 4096
_AWS = ("AKIA", "ASIA", "ABIA", "ACCA")
_GITHUB = (("ghp_", 36), ("gho_", 36), ("ghu_", 36), ("ghs_", 36), ("ghr_", 36))
_GITHUB_FINE = (("github_pat_", 60),)
_VENDORS = (
    *(("glpat-", 20), ("xoxb-", 20), ("xoxp-", 20), ("xoxa-", 20), ("xoxs-", 20), ("xapp-", 20)),
    *(("sk_live_", 16), ("rk_live_", 16), ("sk_test_", 16), ("sk-", 32), ("AIza", 35)),
    *(("npm_", 36), ("pypi-", 50), ("hf_", 30), ("dop_v1_", 64), ("shpat_", 32), ("ya29.", 30)),
)


def find_aws_key(text: Text) -> Matches:
    """AWS access key ids: a known prefix and sixteen capital letters or digits."""
    words = text.words
    start = words.first[words.length == 20]
    start = start[isolated(text, start, start + 20)]
    seen = text.data[start[:, None] + np.arange(20)]
    capital = (((seen - 65) < 26) | ((seen - 48) < 10)).all(axis=1)
    known = np.zeros(len(start), bool)
    for prefix in _AWS:
        known |= (seen[:, :4] == np.frombuffer(prefix.encode(), np.uint8)).all(axis=1)
    start = start[capital & known]
    return make_matches(start, start + 20, CERTAIN)


def find_github_token(text: Text) -> Matches:
    """GitHub tokens, classic and fine-grained."""
    return _by_prefix(text, (*_GITHUB, *_GITHUB_FINE))


def find_api_token(text: Text) -> Matches:
    """Tokens of other vendors, by their prefix."""
    return _by_prefix(text, _VENDORS)


def _key_runs(text: Text) -> Runs:
    """Runs of letters, digits, ``_``, ``-`` and ``.``."""
    mask = (text.kind & (DIGIT | LETTER | UNDERSCORE)) != 0
    mask |= (text.data == ord("-")) | (text.data == ord("."))
    return runs_of(mask, text.data)


def _by_prefix(text: Text, prefixes: tuple[tuple[str, int], ...]) -> Matches:
    parts = []
    runs: Runs | None = None
    for prefix, shortest in prefixes:
        start = _find_exact(text, prefix.encode())
        start = start[(KIND[text.data[start - 1]] & (DIGIT | LETTER)) == 0]
        if not len(start):
            continue
        runs = runs or _key_runs(text)
        stop = np.minimum(runs.stop[runs.at(start)], start + _SECRET_MAX)
        long = stop - start >= len(prefix) + shortest
        start, stop = start[long], stop[long]
        mixed = _has_digit(text, start, stop)
        parts.append(make_matches(start[mixed], stop[mixed], CERTAIN))
    return merge(parts)


def _find_exact(text: Text, literal: bytes) -> np.ndarray:
    """Return the positions of a literal in its own case, from its rarest byte on."""
    at = np.flatnonzero(text.data == literal[-1]) - (len(literal) - 1)
    at = at[at >= 0]
    for offset, byte in enumerate(literal[:-1]):
        at = at[text.data[at + offset] == byte]
    return at


def _has_digit(text: Text, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    first = text.digits.first
    if not len(first):
        return np.zeros(len(start), bool)
    after = np.searchsorted(text.digits.stop, start, "right")
    return (after < len(first)) & (first[np.minimum(after, len(first) - 1)] < stop)


def find_jwt(text: Text) -> Matches:
    """JSON Web Tokens: three parts in base64url, of which two start as ``{"`` does."""
    start = _find_exact(text, b"eyJ")
    start = start[(KIND[text.data[start - 1]] & (DIGIT | LETTER)) == 0]
    if not len(start):
        return make_matches(start, start, CERTAIN)
    inner = _find_exact(text, b".eyJ")
    place = np.searchsorted(inner, start)
    runs = _key_runs(text)
    stop = np.minimum(runs.stop[runs.at(start)], start + _SECRET_MAX)
    good = place < len(inner)
    second = inner[np.minimum(place, max(len(inner) - 1, 0))] if len(inner) else start
    good &= (second < stop) & (second - start >= 10) & (stop - second >= 10)
    return make_matches(start[good], stop[good], CERTAIN)


def find_private_key(text: Text) -> Matches:
    """Private keys in PEM; the match is the header line."""
    start = _find_exact(text, b"-----BEGIN ")
    end = _find_exact(text, b"PRIVATE KEY")
    if not len(start) or not len(end):
        return make_matches(start[:0], start[:0], CERTAIN)
    place = np.searchsorted(end, start)
    near = place < len(end)
    stop = end[np.minimum(place, len(end) - 1)] + 11
    near &= stop - start <= 48
    return make_matches(start[near], stop[near], CERTAIN)


_SAID = ("password", "passwd", "pwd", "passwort", "secret", "token", "apikey")
_SAID_BEFORE_KEY = ("api", "access", "secret", "private", "auth", "account")
_SAID_PAIRS = pairs_of((*_SAID, "key"))
_ASSIGN = byte_set(b":=")
_QUOTE = byte_set(b" \"'`>")
_VALUE = ~byte_set(bytes(range(0x21)) + b"\"'`,;<>(){}[]\x7f\xff")
_DULL = byte_set(b"*xX.-_")


def find_password(text: Text) -> Matches:
    """Passwords and keys that are assigned in text: ``password: ...``, ``api_key=...``."""
    words = text.words
    index = np.flatnonzero((words.length >= 3) & (words.length <= 8))
    index = text.words_like(_SAID_PAIRS, index)
    code = word_codes(text, words.first[index], words.stop[index])
    said = np.isin(code, [code_of(word) for word in _SAID])
    key = (code == code_of("key")) & (index > 0)
    before = np.maximum(index - 1, 0)
    joint = words.first[index] - words.stop[before] == 1
    keyed = np.isin(
        word_codes(text, words.first[before], words.stop[before]),
        [code_of(word) for word in _SAID_BEFORE_KEY],
    )
    index = index[said | (key & joint & keyed)]
    at = words.stop[index]
    for _ in range(2):
        at = at + _QUOTE[text.data[at]]
    assigned = _ASSIGN[text.data[at]]
    at = at[assigned] + 1
    for _ in range(3):
        at = at + (_QUOTE | _ASSIGN)[text.data[at]]
    breaks = text.breaks(_VALUE)
    stop = np.minimum(breaks[np.searchsorted(breaks, at)], at + _SECRET_MAX)
    good = (stop - at >= 6) & (stop - at <= 512)
    dull = _DULL[text.data[at]] & _DULL[text.data[at + 1]] & _DULL[text.data[at + 2]]
    good &= ~dull & (text.data[at] != ord("$"))
    at, stop = at[good], stop[good]
    mixed = _has_digit(text, at, stop)
    return make_matches(at, stop, np.where(mixed, CERTAIN, PLAUSIBLE))


_SAMPLE = 64
_MIN_TOKEN = 24
_MIN_BITS = 3.9
"""Bits per character in the first 64: English words joined together stay below."""


def find_random_token(text: Text) -> Matches:
    """Long strings that look random: letters of both cases and digits, in no order.

    Hexadecimal strings and UUIDs are left out: they are mostly digests and ids. Addresses of web
    pages are left to their own detector.
    """
    runs = text.tokens
    index = np.flatnonzero((runs.length >= _MIN_TOKEN) & (runs.length <= _SECRET_MAX))
    start, stop = runs.first[index], runs.stop[index]
    parts = [
        _random_of(text, start[at : at + 1024], stop[at : at + 1024])
        for at in range(0, len(start), 1024)
    ]
    return merge(parts)


def _random_of(text: Text, start: np.ndarray, stop: np.ndarray) -> Matches:
    width = np.minimum(stop - start, _SAMPLE)
    at = start[:, None] + np.arange(_SAMPLE)
    seen = text.data[np.minimum(at, len(text.data) - 1)]
    inside = np.arange(_SAMPLE) < width[:, None]
    upper, lower = ((seen - 65) < 26) & inside, ((seen - 97) < 26) & inside
    digit = ((seen - 48) < 10) & inside
    kinds = upper * 1 + lower * 2 + digit * 4
    changes = ((kinds[:, 1:] != kinds[:, :-1]) & inside[:, 1:]).sum(axis=1)
    mixed = (upper.sum(axis=1) >= 3) & (lower.sum(axis=1) >= 3) & (digit.sum(axis=1) >= 1)
    slashes = ((seen == ord("/")) & inside).sum(axis=1)
    mixed &= (changes * 5 >= width * 2) & (slashes * 12 <= width)
    mixed[mixed] = _bits(seen[mixed], inside[mixed]) >= _MIN_BITS
    return make_matches(start[mixed], stop[mixed], PLAUSIBLE)


def _bits(seen: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the Shannon entropy of each row in bits per character."""
    n = len(seen)
    counts = np.zeros((n, 256), np.float64)
    rows = np.broadcast_to(np.arange(n)[:, None], seen.shape)
    np.add.at(counts, (rows[inside], seen[inside]), 1.0)
    share = counts / np.maximum(inside.sum(axis=1), 1)[:, None]
    return -(share * np.log2(np.where(share > 0, share, 1.0))).sum(axis=1)
