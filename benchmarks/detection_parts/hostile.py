"""Text that was written to stall a scanner, or that no scanner was written for.

Each kind is a unit that is repeated, or bytes from a seeded generator; the caller says how many.
"""

# ruff: noqa: RUF001 - confusable characters are the subject

from __future__ import annotations

import random
from collections.abc import Callable

_UNITS: dict[str, bytes | str] = {
    # What makes backtracking engines explode: repeats that almost match.
    "one letter": "a",
    "nested repeats": "(a+)+$ aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! ",
    "at signs": "@",
    "almost e-mail": "a@",
    "dotted without end": "a.",
    "mail without top level": "a.b-c_d@",
    "mail after mail": "a@b.cc",
    "schemes": "http://",
    "scheme marks": "://",
    "hosts": "a.com.",
    "colons": ":",
    "almost IPv6": "f:",
    "double colons": "::a",
    "octets": "255.",
    "digits": "1",
    "digit, space": "1 ",
    "digit, hyphen": "12-",
    "brackets": "(12) ",
    "plus signs": "+1",
    "groups of four": "4111 1111 ",
    "almost IBAN": "DE89 3704 0044 ",
    "IBAN heads": "DE89",
    "dates": "1/1/",
    "months": "may 1 ",
    "passwords": "password:",
    "tokens": "ghp_aB1",
    "web tokens": "eyJhbGciOi.eyJ",
    "PEM heads": "-----BEGIN PRIVATE ",
    "base64": "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7",
    "context words": "ssn phone born order ",
    # What breaks decoders.
    "NUL bytes": b"\x00",
    "NUL between digits": b"4111\x001111\x00",
    "break bytes": b"\xff1\xffa@b.cc",
    "latin-1": "Müller Straße 5, +49 30 1234é ".encode("latin-1"),
    "half characters": b"\xc3\xe2\x80\xf0\x9f",
    "surrogates": b"\xed\xa0\x80\xed\xbf\xbf 1",
    "UTF-16": "a@b.cc 4111 ".encode("utf-16-le"),
    "overlong": b"\xc0\xaf\xe0\x80\xaf",
    # What looks like something else.
    "emoji": "👩🏽‍🚀🦄1️⃣2️⃣",
    "right to left": "\u202eשלום עולם ٠١٢٣٤٥٦٧٨٩ \u202c",
    "zero width": "4\u200b1\u200d1\u2060",
    "full-width": "４１１１ａ＠ｂ．ｃｃ ",
    "mathematical": "𝟒𝟏𝟏𝟏𝐚",
    "stacked marks": "a" + "\u0301" * 40,
    "long expansion": "\ufdfa",
    "quotes and tags": "<a href=\"'`>${{}}\\",
    "white space": " \t\r\n",
}  # fmt: skip


def _random(make: Callable[[random.Random], int]) -> Callable[[int], bytes]:
    def fill(n_bytes: int) -> bytes:
        rng = random.Random(17)  # noqa: S311 - not for keys
        block = bytes(make(rng) for _ in range(min(n_bytes, 65_536)))
        return (block * (n_bytes // max(len(block), 1) + 1))[:n_bytes]

    return fill


def _repeated(unit: bytes) -> Callable[[int], bytes]:
    return lambda n_bytes: (unit * (n_bytes // len(unit) + 1))[:n_bytes]


KINDS: dict[str, Callable[[int], bytes]] = {
    name: _repeated(unit.encode() if isinstance(unit, str) else unit)
    for name, unit in _UNITS.items()
} | {
    "random bytes": _random(lambda rng: rng.randrange(256)),
    "random ASCII": _random(lambda rng: rng.randrange(32, 127)),
    "random digits and marks": _random(lambda rng: rng.choice(b"0123456789 .-/+():@")),
    "random letters of keys": _random(lambda rng: rng.choice(b"aZ09+/=_-")),
}
"""Kind -> bytes of the asked length; the last character may be cut."""
