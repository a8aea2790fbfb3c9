"""Patterns of personal data in text columns: vectorised, checksums where the format has one.

The evidence is a boolean per cell and counts per column, never a value. Sources of the formats:
RFC 5322 (the everyday subset), E.164, ISO 13616 (IBAN, modulo 97), ISO/IEC 7812 (Luhn).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_PATTERNS = {
    "email": r"[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(\.[A-Za-z0-9\-]+)+",
    "phone": r"(^|[^\d+])\+\d{1,3}[ ().\-]?(\d[ ().\-]?){6,13}\d($|\D)",
    "iban": r"\b[A-Z]{2}\d{2} ?([A-Z0-9]{4} ?){2,7}[A-Z0-9]{1,4}\b",
    "card": r"\b(\d[ \-]?){12,18}\d\b",
    "ip": r"\b(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}\b",
}
_MAX_CHECKED = 4096


def detect(column: pa.ChunkedArray, pattern: str) -> np.ndarray:
    """Return bool ``[n]``: the cell holds the pattern (and its checksum holds).

    Args:
        column: Strings; null counts as no.
        pattern: ``email``, ``phone``, ``iban``, ``card`` or ``ip``.
    """
    text = column.cast(pa.string())
    found = pc.fill_null(pc.match_substring_regex(text, _PATTERNS[pattern]), False)
    hits = np.array(found.to_numpy(zero_copy_only=False), dtype=bool)
    check = _CHECKS.get(pattern)
    if check is not None:
        compiled = re.compile(_PATTERNS[pattern])
        for index in np.flatnonzero(hits):
            cell = text[int(index)].as_py()[:_MAX_CHECKED]
            hits[index] = any(check(match.group()) for match in compiled.finditer(cell))
    return hits


def luhn_holds(text: str) -> bool:
    """Return whether the digits satisfy the Luhn checksum.

    >>> luhn_holds("4111 1111 1111 1111"), luhn_holds("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban_holds(text: str) -> bool:
    """Return whether the characters satisfy the IBAN checksum.

    >>> iban_holds("DE89 3704 0044 0532 0130 00"), iban_holds("DE88 3704 0044 0532 0130 00")
    (True, False)
    """
    compact = text.replace(" ", "")
    moved = compact[4:] + compact[:4]
    number = "".join(str(int(character, 36)) for character in moved)
    return int(number) % 97 == 1


_CHECKS: dict[str, Callable[[str], bool]] = {"card": luhn_holds, "iban": iban_holds}
