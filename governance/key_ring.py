"""The ring of pseudonym keys: the one that new pseudonyms are made under, and those before it.

Tombstones, members of models and requests stay under the key that they were made with, as nobody
can make them anew: the ids are gone. So whatever is compared is compared under every key of the
ring, and what is written is written under the current one; what another part may have to compare
without the ids (tombstones, ``erased.parquet``) under all of them.

Where the keys lie is one decision (``docs/keys.md``), taken by environment variables alone:

``R2U_PSEUDONYM_KEYRING``  ``module:callable``; called without arguments, returns keys of 32 bytes.
``R2U_PSEUDONYM_KEYS``     the keys, 64 hexadecimal digits each, with commas between them.
neither                    ``<root>/keys/pseudonym.key``, made on first use, and, of earlier keys,
                           ``<root>/keys/pseudonym.<id>.key``; mode 600.

Whichever it is, ``<root>/keys/pseudonym.json`` says by their ids which key is the current one and
which are earlier. A machine that lacks one of them is refused: it would not know who was erased.
Keys that the file does not name are ignored, so that the next key can be handed to all machines
before ``r2u keys rotate-pseudonyms`` lets it count.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from governance.digests import write_atomic
from governance.errors import PermanentError, StoreBusyError
from governance.hooks import call_hook
from governance.key_files import KEY_BYTES, key_name, load_or_make_key, read_key

RECORD_NAME = "pseudonym.json"
CURRENT_NAME = "pseudonym.key"
NEXT_NAME = "pseudonym.next.key"
HOOK_VARIABLE = "R2U_PSEUDONYM_KEYRING"
KEYS_VARIABLE = "R2U_PSEUDONYM_KEYS"

_SCHEMA = "r2u-pseudonym-ring/1"


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Pseudonym keys, the current one first.

    Attributes:
        keys: 32 bytes each, from the newest to the oldest.
        unnamed: Id of the key of data that name none, from before keys had names.
    """

    keys: tuple[bytes, ...]
    unnamed: str

    @classmethod
    def of(cls, *keys: bytes) -> KeyRing:
        """Return the ring of some keys, from the newest to the oldest."""
        return cls(keys, key_name(keys[-1]))

    def __repr__(self) -> str:
        """Return the ids, as a log may hold this text."""
        return f"KeyRing({', '.join(self.ids)})"

    @property
    def current(self) -> bytes:
        """The key of new pseudonyms."""
        return self.keys[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the keys, in their order."""
        return tuple(key_name(key) for key in self.keys)

    def id_of(self, stored: str | None) -> str:
        """Return the id of the key that data were made under, by the name that they have."""
        return stored or self.unnamed

    def named(self, stored: str | None, what: str) -> bytes:
        """Return the key that data were made under.

        Args:
            stored: Name of the key in the data; empty: from before keys had names.
            what: The data, for the message.

        Raises:
            PermanentError: It is not in the ring, so nobody can tell whom the data are about.
        """
        wanted = self.id_of(stored)
        for key, name in zip(self.keys, self.ids, strict=True):
            if name == wanted:
                return key
        message = (
            f"{what}: expected its pseudonym key {wanted}, got a ring of {', '.join(self.ids)}; "
            "give this machine the ring that made it (docs/keys.md)"
        )
        raise PermanentError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class RingRecord:
    """What ``pseudonym.json`` says.

    Attributes:
        current: Id of the current key.
        earlier: Ids of the keys before it, newest first.
        unnamed: Id of the first key of the workspace, for data that name none.
        dropped: Ids of keys that were dropped; none of them comes back.
    """

    current: str
    earlier: tuple[str, ...] = ()
    unnamed: str
    dropped: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """All keys that must be there, the current one first."""
        return (self.current, *self.earlier)


def open_ring(folder: Path, environment: Mapping[str, str], *, in_use: bool = False) -> KeyRing:
    """Return the ring of a workspace; its first key is made on first use.

    Args:
        folder: ``<root>/keys``.
        environment: ``os.environ``, or what a test gives.
        in_use: Pseudonyms were made already: a missing key is then lost, and no new one is made.

    Raises:
        PermanentError: A key is missing, readable by others or no key; two sources are named, or
            the hook fails. The message names keys by their ids alone.
    """
    record = read_record(folder)
    if record is None:
        with ring_locked(folder):
            record = read_record(folder) or _first_record(folder, environment, in_use=in_use)
    return ring_of(record, folder, environment)


def ring_of(record: RingRecord, folder: Path, environment: Mapping[str, str]) -> KeyRing:
    """Return the keys that a record names.

    Raises:
        PermanentError: As ``open_ring``.
    """
    found = {key_name(key): key for key in key_material(folder, environment)}
    missing = [name for name in record.ids if name not in found]
    if missing:
        message = (
            f"pseudonym keys: expected {', '.join(record.ids)} as {RECORD_NAME} says, got no "
            f"{', '.join(missing)} from {source_name(environment)}; give this machine the ring of "
            "the others, or restore the key from its backup: without it nobody knows who was erased"
        )
        raise PermanentError(message)
    return KeyRing(tuple(found[name] for name in record.ids), record.unnamed)


def key_material(folder: Path, environment: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return all keys that the source has, in its order; files in the order of their names.

    Raises:
        PermanentError: As ``open_ring``.
    """
    hook, given = environment.get(HOOK_VARIABLE), environment.get(KEYS_VARIABLE)
    if hook and given:
        message = f"pseudonym keys: expected one of {HOOK_VARIABLE} and {KEYS_VARIABLE}, got both"
        raise PermanentError(message)
    if hook:
        return _from_hook(hook)
    if given:
        return parse_keys(given, KEYS_VARIABLE)
    return tuple(read_key(path) for path in sorted(folder.glob("pseudonym*.key")))


def is_in_files(environment: Mapping[str, str]) -> bool:
    """Say whether the keys are files of the workspace."""
    return not environment.get(HOOK_VARIABLE) and not environment.get(KEYS_VARIABLE)


def source_name(environment: Mapping[str, str]) -> str:
    """Return what the keys come from, in words."""
    if environment.get(HOOK_VARIABLE):
        return f"{HOOK_VARIABLE}={environment[HOOK_VARIABLE]}"
    return KEYS_VARIABLE if environment.get(KEYS_VARIABLE) else "the key files of the workspace"


def parse_keys(text: str, what: str) -> tuple[bytes, ...]:
    """Return the keys of a text: 64 hexadecimal digits each, with commas or spaces between them.

    Raises:
        PermanentError: It is another text; the message does not repeat it.
    """
    words = text.replace(",", " ").split()
    try:
        keys = tuple(bytes.fromhex(word) for word in words)
    except ValueError:
        keys = ()
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        message = (
            f"pseudonym keys of {what}: expected keys of {2 * KEY_BYTES} hexadecimal digits, with "
            f"commas between them, got {len(words)} words that are not all keys"
        )
        raise PermanentError(message)
    return keys


def read_record(folder: Path) -> RingRecord | None:
    """Return what ``pseudonym.json`` says, None where there is none.

    Raises:
        PermanentError: It is damaged.
    """
    path = folder / RECORD_NAME
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != _SCHEMA:
            raise ValueError
        return RingRecord(
            current=str(content["current"]),
            earlier=tuple(map(str, content["earlier"])),
            unnamed=str(content["unnamed"]),
            dropped=tuple(map(str, content["dropped"])),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        message = f"{RECORD_NAME}: expected the ids of the pseudonym keys ({_SCHEMA}), got another"
        raise PermanentError(message) from error


def write_record(folder: Path, record: RingRecord) -> None:
    """Let a record count from now on; a reader sees the former one or this one."""
    text = json.dumps({"schema": _SCHEMA, **asdict(record)}, sort_keys=True, indent=2)
    write_atomic(folder / RECORD_NAME, text.encode() + b"\n", mode=0o600)


@contextmanager
def ring_locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other processes from changing the ring.

    Raises:
        StoreBusyError: Another process is changing it, and ``wait`` is not set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with (folder / ".pseudonym.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            message = "pseudonym keys: another process is changing the ring; try again when it ends"
            raise StoreBusyError(message) from error
        yield


def _first_record(folder: Path, environment: Mapping[str, str], *, in_use: bool) -> RingRecord:
    """Write the record of a workspace that has none: its only key is the current one."""
    others = [p.name for p in folder.glob("pseudonym*.key") if p.name != CURRENT_NAME]
    if others:
        message = (
            f"pseudonym keys: expected {RECORD_NAME} beside {others[0]}, got none; restore it from "
            "the backup of the keys"
        )
        raise PermanentError(message)
    from_files = is_in_files(environment)
    made = (folder / CURRENT_NAME).exists()
    if in_use and from_files and not made:
        message = (
            f"pseudonym keys: expected {CURRENT_NAME} in the keys of a workspace that has "
            "pseudonyms, got none; restore it from the backup: without it nobody knows who was "
            "erased"
        )
        raise PermanentError(message)
    if made or from_files:
        current = key_name(load_or_make_key(folder, CURRENT_NAME))
    else:
        current = key_name(key_material(folder, environment)[0])
    record = RingRecord(current=current, unnamed=current)
    ring_of(record, folder, environment)  # a source without the key of the workspace is refused
    write_record(folder, record)
    return record


def _from_hook(name: str) -> tuple[bytes, ...]:
    given = call_hook(name, what="pseudonym keys of", returns="keys")
    keys = tuple(given) if isinstance(given, list | tuple) else ()
    if not keys or not all(isinstance(key, bytes) and len(key) == KEY_BYTES for key in keys):
        message = (
            f"pseudonym keys of {name}: expected a list of keys, {KEY_BYTES} bytes each, got "
            f"{len(keys)} that are not all keys"
        )
        raise PermanentError(message)
    return keys
