"""Stage ``pseudonym_keys``: which keys there are, a new one, and the end of an earlier one.

Reads and writes ``keys/pseudonym.json``, and the key files where the keys are files. The ledger is
told first, by ids alone. Whatever is killed is completed by the same call. A change waits for
loads, promotions and the begin of an erasure, which asks for the ring again under the same locks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from governance.errors import PermanentError
from governance.key_ring import read_record, ring_locked, source_name
from governance.key_rotation import (
    Rotation,
    begin_rotation,
    commit_drop,
    commit_rotation,
    require_record,
    tidy_files,
    unfinished_rotation,
)
from governance.storage import exclusive
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.key_needs import find_needs, in_words
from r2u_tasks.stages.noting import note_once


def list_pseudonym_keys(*, dataset: str, root_uri: str) -> JSON:
    """Return the keys of pseudonyms by their ids, newest first, and what needs each of them.

    Raises:
        PermanentError: No stage ran yet.
    """
    context = open_context(dataset, root_uri)
    record = require_record(context.workspace.keys)
    needs = find_needs(context)
    roles = {record.current: "current", **dict.fromkeys(record.earlier, "earlier")}
    for key_id in needs:
        roles.setdefault(key_id, "dropped" if key_id in record.dropped else "missing")
    return {
        "source": source_name(os.environ),
        "rotation_unfinished": unfinished_rotation(context.workspace.keys),
        "keys": [
            {
                "key": key_id,
                "role": role,
                "needed_by": dict(sorted(needs.get(key_id, Counter()).items())),
                "can_be_dropped": role == "earlier" and not needs.get(key_id),
            }
            for key_id, role in roles.items()
        ],
    }


def rotate_pseudonyms(*, dataset: str, root_uri: str, only_from: str | None = None) -> JSON:
    """Let a new key make the pseudonyms from now on; the former one stays to compare with.

    Args:
        dataset: Declaration.
        root_uri: Workspace.
        only_from: Id of the key that is to go: if it went already, nothing is done. With it, a
            scheduler may call as often as it likes.

    Returns:
        ``rotated``, ``key``, ``earlier`` (newest first), ``former``.

    Raises:
        PermanentError: There is no new key to change to, or ``only_from`` is another key.
        StoreBusyError: Another process is changing the ring.
    """
    context = open_context(dataset, root_uri)
    _require_ring(context)
    with _changing(context):
        folder = context.workspace.keys
        record = require_record(folder)
        if only_from is not None and only_from in (*record.earlier, *record.dropped):
            tidy_files(folder, os.environ)
            return _result(context, rotated=False, former=only_from)
        if only_from not in {None, record.current}:
            message = (
                f"keys rotate-pseudonyms: expected the current key {record.current} to go, got "
                f"{only_from}"
            )
            raise PermanentError(message)
        rotation = begin_rotation(folder, os.environ)
        note_once(context, "pseudonym_key_rotated", _body(rotation))
        _commit(context, rotation)
        tidy_files(folder, os.environ)
        return _result(context, rotated=True, former=rotation.old)


def drop_pseudonym_key(*, key_id: str, dataset: str, root_uri: str) -> JSON:
    """Take an earlier key out of the ring, and delete its file; twice is safe.

    Raises:
        PermanentError: Something still needs it, or it is no earlier key.
        StoreBusyError: Another process is changing the ring.
    """
    context = open_context(dataset, root_uri)
    _require_ring(context)
    with _changing(context):
        folder = context.workspace.keys
        record = require_record(folder)
        if key_id in record.dropped:
            tidy_files(folder, os.environ)
            return {"dropped": False, "key": key_id, "current": record.current}
        if key_id not in record.earlier:
            message = (
                f"keys drop: expected an earlier key ({', '.join(record.earlier) or 'none'}), got "
                f"{'the current one' if key_id == record.current else 'another id'}"
            )
            raise PermanentError(message)
        with _nothing_begins(context):
            _require_unneeded(context, key_id)
            note_once(context, "pseudonym_key_dropped", {"key": key_id})
            commit_drop(folder, key_id)
        tidy_files(folder, os.environ)
        return {"dropped": True, "key": key_id, "current": record.current}


def _require_unneeded(context: StageContext, key_id: str) -> None:
    needs = find_needs(context).get(key_id)
    if needs:
        message = (
            f"keys drop: expected a key that nothing needs, got {key_id}, which is needed by "
            f"{in_words(needs)}; docs/keys.md says how each of them ends"
        )
        raise PermanentError(message)


def _commit(context: StageContext, rotation: Rotation) -> None:
    if not rotation.is_committed:
        with _nothing_begins(context):
            commit_rotation(context.workspace.keys, rotation, os.environ)


@contextmanager
def _nothing_begins(context: StageContext) -> Iterator[None]:
    """Keep loads, promotions and erasures from beginning, in the order of ``bind_plan``."""
    workspace = context.workspace
    with ExitStack() as locks:
        for path in (workspace.raw, workspace.classified, workspace.champion):
            locks.enter_context(exclusive(path))
        yield


@contextmanager
def _changing(context: StageContext) -> Iterator[None]:
    with ring_locked(context.workspace.keys, wait=False):
        yield


def _require_ring(context: StageContext) -> None:
    """Let the ring be there, and be whole, before anything is changed."""
    if read_record(context.workspace.keys) is None and not context.workspace.ledger.exists():
        message = "keys: expected a workspace in use, got none; no stage ran yet"
        raise PermanentError(message)
    context.key_ring  # noqa: B018


def _body(rotation: Rotation) -> JSON:
    return {"old_key": rotation.old, "new_key": rotation.new}


def _result(context: StageContext, *, rotated: bool, former: str) -> JSON:
    record = require_record(context.workspace.keys)
    return {
        "rotated": rotated,
        "key": record.current,
        "former": former,
        "earlier": list(record.earlier),
    }
