"""Changing the ring of pseudonym keys: a new current key, and the end of an earlier one.

``pseudonym.json`` is replaced at once, and that is the moment at which a change counts. Whatever
was killed before or after is completed by the same call: files are found by the id of their key,
not by their name, so that every state in between is a ring that can be read.

    begin      the next key is there (a file that is made, or the first new key of the source)
    (ledger)   the caller writes both ids into the ledger
    commit     pseudonym.json names the next key as current, and the former one as earlier
    tidy       files get the names of their keys; files of dropped keys go
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from governance.errors import PermanentError
from governance.key_files import key_name, load_or_make_key, read_key, sync_folder
from governance.key_ring import (
    CURRENT_NAME,
    NEXT_NAME,
    RingRecord,
    is_in_files,
    key_material,
    read_record,
    ring_of,
    source_name,
    write_record,
)
from governance.removal import remove_file


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation under way, by the ids of its keys.

    Attributes:
        old: The key that goes.
        new: The key that comes.
        is_committed: A killed call let the new key count already.
    """

    old: str
    new: str
    is_committed: bool


def begin_rotation(folder: Path, environment: Mapping[str, str]) -> Rotation:
    """Return the rotation that was begun and not finished, or begin one; the ring is locked.

    Raises:
        PermanentError: The keys come from elsewhere, and no new one is there; or the new one is an
            earlier or a dropped one.
    """
    record = require_record(folder)
    ring_of(record, folder, environment)
    if not is_in_files(environment):
        return Rotation(record.current, _next_of_source(record, folder, environment), False)
    following = folder / NEXT_NAME
    new = key_name(load_or_make_key(folder, NEXT_NAME))
    if new == record.current and record.earlier:
        return Rotation(record.earlier[0], new, True)
    _require_new(record, new, following.name)
    _name_files(folder, record.ids)
    return Rotation(record.current, new, False)


def commit_rotation(folder: Path, rotation: Rotation, environment: Mapping[str, str]) -> None:
    """Let the new key count; twice is safe."""
    record = require_record(folder)
    if record.current == rotation.new:
        return
    changed = replace(record, current=rotation.new, earlier=record.ids)
    ring_of(changed, folder, environment)
    write_record(folder, changed)


def commit_drop(folder: Path, key_id: str) -> None:
    """Let an earlier key be none of the ring any more; twice is safe."""
    record = require_record(folder)
    if key_id not in record.dropped:
        earlier = tuple(name for name in record.earlier if name != key_id)
        changed = replace(record, earlier=earlier, dropped=(*record.dropped, key_id))
        write_record(folder, changed)


def tidy_files(folder: Path, environment: Mapping[str, str]) -> None:
    """Give every key file the name of its key, and delete those of dropped keys; twice is safe.

    Raises:
        StoreBusyError: The file of a dropped key is still there.
    """
    if not is_in_files(environment):
        return
    record = require_record(folder)
    _name_files(folder, record.earlier)
    following = folder / NEXT_NAME
    if following.exists() and key_name(read_key(following)) == record.current:
        os.replace(following, folder / CURRENT_NAME)
    for path in sorted(folder.glob("pseudonym*.key")):
        if key_name(read_key(path)) in record.dropped:
            remove_file(path)
    sync_folder(folder)


def unfinished_rotation(folder: Path) -> bool:
    """Say whether a rotation of files was begun and not finished."""
    return (folder / NEXT_NAME).exists()


def require_record(folder: Path) -> RingRecord:
    """Return what ``pseudonym.json`` says.

    Raises:
        PermanentError: There is none.
    """
    record = read_record(folder)
    if record is None:
        message = "pseudonym keys: expected a workspace with a ring, got none; no stage ran yet"
        raise PermanentError(message)
    return record


def _next_of_source(record: RingRecord, folder: Path, environment: Mapping[str, str]) -> str:
    """Return the first key of a source if it is a new one."""
    new = key_name(key_material(folder, environment)[0])
    what = source_name(environment)
    if new == record.current:
        message = (
            f"keys rotate-pseudonyms: expected a new key as the first one of {what}, got the "
            f"current key {new}; put the new key before it on every machine, then rotate"
        )
        raise PermanentError(message)
    _require_new(record, new, what)
    return new


def _require_new(record: RingRecord, new: str, what: str) -> None:
    if new in (*record.ids, *record.dropped):
        message = (
            f"keys rotate-pseudonyms: expected a key in {what} that was never used, got {new}; "
            "make one with `openssl rand -hex 32`, or delete the file"
        )
        raise PermanentError(message)


def _name_files(folder: Path, ids: tuple[str, ...]) -> None:
    """Let each of these keys have a file with its id in the name."""
    for path in sorted(folder.glob("pseudonym*.key")):
        name = key_name(read_key(path))
        own = folder / f"pseudonym.{name}.key"
        if name in ids and path.name != NEXT_NAME and not own.exists():
            os.link(path, own)
    sync_folder(folder)
