"""California's DROP (Delete Act): names, hashes and files of the platform, both ways.

A download is a ZIP with one CSV (``ID,Hash``) for each list and, when consumers changed their
mind, one ``Removed`` CSV (``ID,Hash,ListType``). An answer is one CSV (``Id,Status``) for each
list, named like the downloaded one. An identifier is standardised, encoded as UTF-8, hashed with
SHA-256 and written as Base64 (44 characters); NDZ and NameVIN hash each field, join the Base64
texts and hash again.

Rules enforced here: an archive is read as a stream and never unpacked; its entries have plain names
of the published pattern, a bounded size and a bounded ratio; counts are exact.

Source: CalPrivacy, DROP technical specifications 1.2.0 (2 July 2026), "Working with the data" and
"Reference"; the published vectors are tests. Not done: transliteration of Greek and Cyrillic names,
whose table is not published; such a name gives no hash, and is counted.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import IO, Any

from governance.errors import DataError


class DropList(StrEnum):
    """A list of consumers, by the identifier that they gave."""

    EMAIL = "Email"
    PHONE = "Phone"
    MAID = "MAID"
    CTVID = "CTVID"
    NDZ = "NDZ"
    NAME_VIN = "NameVIN"


class DropStatus(IntEnum):
    """Answer to one work item; 0 and 1 are unused."""

    EXEMPTED = 2
    DELETED = 3
    OPTED_OUT = 4
    NOT_FOUND = 5


FIELDS: Mapping[DropList, tuple[str, ...]] = {
    DropList.EMAIL: ("email",),
    DropList.PHONE: ("phone",),
    DropList.MAID: ("maid",),
    DropList.CTVID: ("ctvid",),
    DropList.NDZ: ("first_name", "last_name", "date_of_birth", "zip"),
    DropList.NAME_VIN: ("first_name", "last_name", "vin"),
}
"""What each list hashes, in the order of the hash."""

REMOVED = "Removed"
MAX_ENTRIES = 64
MAX_ENTRY_BYTES = 2 << 30
MAX_RATIO = 200
"""A list of random hashes shrinks to about three quarters; a bomb shrinks a thousandfold."""

_NAME = re.compile(
    r"^(?P<day>[0-9]{8})_(?P<broker>[0-9]{4})_(?P<kind>NDZ|Email|Phone|MAID|NameVIN|CTVID|Removed)"
    r"(?:_(?P<suffix>[A-Za-z0-9]{1,10}))?\.csv$"
)
_ID = re.compile(r"^[A-Za-z0-9]{12}$")
_HASH = re.compile(r"^[A-Za-z0-9+/]{43}=$")
_MAX_LINE = 4096


@dataclass(frozen=True, slots=True)
class DropName:
    """Parts of ``<YYYYMMDD>_<DataBrokerId>_<DataType>[_<Suffix>].csv``."""

    day: str
    broker_id: str
    kind: str
    suffix: str | None = None

    def __str__(self) -> str:
        """Return the file name."""
        suffix = f"_{self.suffix}" if self.suffix else ""
        return f"{self.day}_{self.broker_id}_{self.kind}{suffix}.csv"


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One line of a list, or of a Removed file: then the consumer took the request back."""

    item_id: str
    identifier_hash: str
    list_type: str
    is_removed: bool = False


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no work item; the reason holds nothing of it."""

    file: str
    line: int
    reason: str


def parse_name(name: str) -> DropName:
    """Return the parts of a file name.

    Raises:
        DataError: It is not a plain name of the published pattern.

    >>> parse_name("20260312_4821_Email_part01.csv").suffix
    'part01'
    """
    found = _NAME.match(name)
    if found is None:
        message = (
            "DROP file name: expected <YYYYMMDD>_<4-digit broker id>_<list>[_<suffix>].csv with "
            f"one of {', '.join(DropList)} or {REMOVED}, got another name"
        )
        raise DataError(message)
    return DropName(found["day"], found["broker"], found["kind"], found["suffix"])


def standardize(field: str, value: object) -> str | None:
    """Return the standard form of one field, or None where the rules give no usable one.

    >>> standardize("phone", "+1(415)555-9317")
    '4155559317'
    >>> standardize("zip", "00712345")
    '71234'
    """
    text = _as_text(value)
    standard = _RULES[field](text)
    return standard or None


def identifier_hash(fields: tuple[str, ...], values: Iterable[object]) -> str | None:
    """Return the hash of one identifier as the platform makes it, or None if a field is unusable.

    Args:
        fields: Names of the fields in the order of the list, see ``FIELDS``.
        values: Their raw values.

    >>> identifier_hash(("phone",), ["+1(415)555-9317"])
    'vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E='
    """
    hashes = []
    for field, value in zip(fields, values, strict=True):
        standard = standardize(field, value)
        if standard is None:
            return None
        hashes.append(_hash(standard))
    return hashes[0] if len(hashes) == 1 else _hash("".join(hashes))


def read_download(path: Path, *, broker_id: str | None = None) -> Iterator[WorkItem | BadLine]:
    """Yield the work items and bad lines of a download, entry by entry, without unpacking it.

    Args:
        path: ZIP file.
        broker_id: Expected broker; a file for another one is refused.

    Raises:
        DataError: It is no ZIP, is encrypted, has too many or too large entries, a bomb's ratio, a
            name outside the pattern (a path, for example), a wrong header or another broker's data.
    """
    with _archive(path) as archive:
        for entry, name in _entries(archive, broker_id):
            with archive.open(entry) as stream:
                limited = io.BufferedReader(_Limited(stream, MAX_ENTRY_BYTES))
                yield from _lines(io.TextIOWrapper(limited, "utf-8-sig", "replace"), name)


def download_names(path: Path, *, broker_id: str | None = None) -> list[DropName]:
    """Return the names of the lists in a download, after all checks that need no reading."""
    with _archive(path) as archive:
        return [name for _, name in _entries(archive, broker_id)]


def write_statuses(path: Path, statuses: Iterable[tuple[str, DropStatus]]) -> int:
    """Write one answer file, complete or not at all, and return the number of answers."""
    temporary = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write("Id,Status\n")
            for item_id, status in statuses:
                file.write(f"{item_id},{int(status)}\n")
                count += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, date):  # also a datetime
        return f"{value:%Y%m%d}"
    return str(value)


def _email(text: str) -> str:
    return "".join(text.split()).lower()


def _phone(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)[-10:]


def _name(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text).lower()
    kept = "".join(sign for sign in decomposed if sign.isalnum())
    scripts = {unicodedata.name(sign, "").split(" ")[0] for sign in kept if sign.isalpha()}
    return "" if scripts & {"GREEK", "CYRILLIC"} else kept


def _alphanumeric(text: str) -> str:
    return re.sub(r"[^0-9a-z]", "", text.lower())


def _birth_date(text: str) -> str:
    digits = re.sub(r"[^0-9]", "", text[:10])
    return digits if len(digits) == 8 else ""


def _zip(text: str) -> str:
    without_plus_4 = re.sub(r"^\s*([0-9]{5})-[0-9]{4}\s*$", r"\1", text)
    return _alphanumeric(without_plus_4).lstrip("0")[:5]


_RULES = {
    "email": _email,
    "phone": _phone,
    "first_name": _name,
    "last_name": _name,
    "date_of_birth": _birth_date,
    "zip": _zip,
    "maid": _alphanumeric,
    "ctvid": _alphanumeric,
    "vin": _alphanumeric,
}


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        message = "DROP download: expected a ZIP archive, got a file that is none or is damaged"
        raise DataError(message) from error


def _entries(
    archive: zipfile.ZipFile, broker_id: str | None
) -> list[tuple[zipfile.ZipInfo, DropName]]:
    entries = archive.infolist()
    if not 0 < len(entries) <= MAX_ENTRIES:
        message = f"DROP download: expected 1 to {MAX_ENTRIES} files in it, got {len(entries)}"
        raise DataError(message)
    checked = []
    for entry in entries:
        name = parse_name(entry.filename)
        _require_harmless(entry)
        if broker_id is not None and name.broker_id != broker_id:
            message = f"DROP download: expected lists of broker {broker_id}, got another broker's"
            raise DataError(message)
        checked.append((entry, name))
    if len({str(name) for _, name in checked}) != len(checked):
        message = "DROP download: expected each list once, got one name twice"
        raise DataError(message)
    # Cancellations last: they may speak about items of the same download.
    return sorted(checked, key=lambda pair: (pair[1].kind == REMOVED, str(pair[1])))


def _require_harmless(entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & 0x1:
        message = "DROP download: expected files without a password, got an encrypted one"
        raise DataError(message)
    ratio = entry.file_size / max(1, entry.compress_size)
    if entry.file_size > MAX_ENTRY_BYTES or (entry.file_size > 1 << 20 and ratio > MAX_RATIO):
        message = (
            f"DROP download: expected files up to {MAX_ENTRY_BYTES} bytes that shrink at most "
            f"{MAX_RATIO}-fold, got one that looks like a decompression bomb"
        )
        raise DataError(message)


class _Limited(io.RawIOBase):
    """A stream that ends with an error at its limit, whatever the archive's directory said."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._left = stream, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            message = "DROP download: a file in it is larger than its directory says; refused"
            raise DataError(message)
        buffer[: len(data)] = data
        return len(data)


def _lines(text: io.TextIOWrapper, name: DropName) -> Iterator[WorkItem | BadLine]:
    removed = name.kind == REMOVED
    header = ["ID", "Hash", "ListType"] if removed else ["ID", "Hash"]
    if _cells(text.readline(_MAX_LINE)) != header:
        message = f"DROP list {name}: expected the header {','.join(header)}, got another one"
        raise DataError(message)
    number = 1
    while line := text.readline(_MAX_LINE):
        number += 1
        if not line.strip():
            continue
        while not line.endswith("\n") and (rest := text.readline(_MAX_LINE)):
            line = rest  # an overlong line is one bad line, whatever its end says
            if rest.endswith("\n"):
                line = "\n"
        cells = _cells(line)
        problem = _problem(cells, removed=removed)
        if problem is not None:
            yield BadLine(str(name), number, problem)
        else:
            yield WorkItem(cells[0], cells[1], cells[2] if removed else name.kind, removed)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")]), [])]


def _problem(cells: list[str], *, removed: bool) -> str | None:
    if len(cells) != (3 if removed else 2):
        return f"expected {3 if removed else 2} cells, got {len(cells)}"
    if not _ID.match(cells[0]):
        return "ID: expected 12 letters and digits"
    if not _HASH.match(cells[1]):
        return "Hash: expected 44 characters of Base64"
    if removed and cells[2] not in set(DropList):
        return "ListType: expected a known list"
    return None
