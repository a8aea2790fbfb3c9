"""Reject files: the rows of a request file that did not go in, each with its number and reason.

They are CSV, whatever the request file was, so that a person can open, correct and drop them again
(``governance.request_files`` reads them back). They hold personal data, as the request file did:
mode 600, and they are deleted by whoever corrected them. A cell that a spreadsheet would run as a
formula gets an apostrophe. A file appears complete or not at all.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from governance.request_files import FIELDS, FORMULA_SIGNS, OTHER, Row

COLUMNS = ("row", "reason", *FIELDS, OTHER)
_MAX_OTHER = 2000


class RejectWriter:
    """Rows on their way into a reject file; ``count`` of them so far."""

    def __init__(self, file: IO[str]) -> None:
        """Write the header."""
        self._writer = csv.writer(file)
        self._writer.writerow(COLUMNS)
        self.count = 0

    def add(self, row: Row, reason: str) -> None:
        """Write one row."""
        cells = [row.cells.get(name, "") for name in FIELDS]
        other = row.cells.get(OTHER, "")[:_MAX_OTHER]
        self._writer.writerow([row.number, *(harmless(c) for c in (reason, *cells, other))])
        self.count += 1


@contextmanager
def write_rejects(path: Path) -> Iterator[RejectWriter]:
    """Write a reject file; without rows, or when the block fails, nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # What was not UTF-8 is written as \udcXX: the file itself always is.
        with os.fdopen(
            handle, "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:
            writer = RejectWriter(file)
            yield writer
            file.flush()
            os.fsync(file.fileno())
        if writer.count:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def harmless(cell: str) -> str:
    """Return a cell that a spreadsheet shows and does not run.

    >>> harmless("=HYPERLINK(1)"), harmless("p-17")
    ("'=HYPERLINK(1)", 'p-17')
    """
    return f"'{cell}" if cell[:1] in FORMULA_SIGNS else cell
