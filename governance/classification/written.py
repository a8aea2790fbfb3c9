"""Numbers and dates in columns of text: what does not have the form of one is unknown.

A CSV file says no types, and a type that is guessed from its cells loses what was written: tenant
``0012`` becomes 12, and one odd cell makes a column of numbers text. Governance columns of a CSV
therefore stay text, and a condition about a number or a date reads the cells here.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?$"
_FRACTION = r"^-?(0|[1-9][0-9]{0,14})\.[0-9]*$"
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
_DAY_ZERO = date(1970, 1, 1).toordinal()


def is_text(column: pa.ChunkedArray) -> bool:
    """Say whether a column holds text, also as a dictionary."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def read_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the decimal numbers of a column of text as float64, null where there is none.

    >>> read_numbers(pa.chunked_array([["7", " -1.5e3", "0x10", "1,5", None]])).to_pylist()
    [7.0, -1500.0, None, None, None]
    """
    return _parse(_bare(column), _NUMBER)


def read_fractions(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the numbers that are written with a point, as float64, null for all else.

    They have several spellings (``1.0``, ``1.``); a whole number has one, and ``01.0`` is none.
    """
    return _parse(_bare(column), _FRACTION)


def read_days(column: pa.ChunkedArray) -> pa.Array:
    """Return the ISO dates of a column of text as days since 1970, null where there is none.

    A time may follow; with a zone, it is the day in UTC.

    >>> days = read_days(pa.chunked_array([["1970-01-02 08:30", "1970-01-02T00:30+01:00"]]))
    >>> days.to_pylist(), read_days(pa.chunked_array([["02.01.1970", "2026-02-30"]])).to_pylist()
    ([1, 0], [None, None])
    """
    cells = _bare(column).combine_chunks().dictionary_encode()
    days = [None if cell is None else _day(cell) for cell in cells.dictionary.to_pylist()]
    return pc.take(pa.array(days, pa.int32()), cells.indices)


def _bare(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(column.cast(pa.string()))


def _parse(text: pa.ChunkedArray, form: str) -> pa.ChunkedArray:
    fits = pc.match_substring_regex(text, form)
    return pc.if_else(fits, text, pa.scalar(None, pa.string())).cast(pa.float64())


def _day(text: str) -> int | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.toordinal() - _DAY_ZERO
