"""Models in the making: what they saw is known by the erasures that they knew of when they began.

``started.json`` holds the number of tombstones, written before the table is read; the rows of those
are left out. So a folder without ``model.json`` whose number is behind may hold weights that saw
an erased record, and one without a number counts as behind: the purge deletes both, ``sentinel``
reports them. A training that still runs asks around each checkpoint and before it publishes, and
is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from governance.digests import read_json, write_json
from governance.errors import StoreBusyError
from governance.removal import remove_file, remove_folder
from governance.storage import erase_records, purge_history, table_exists
from governance.suppression import count_erased, pseudonyms, read_tombstones
from r2u_tasks.stages.context import StageContext
from r2u_tasks.stages.memorisation import erase_memorisation

_STARTED = "started.json"
_RECORD = "model.json"
_WEIGHTS = "weights.safetensors"


def begin_model(context: StageContext, model_key: str) -> dict[str, set[str]]:
    """Note that a model is being made; return the tombstones whose rows it must leave out.

    What a killed run left is deleted where it may know erased records; else it is continued.
    """
    folder = context.workspace.model(model_key)
    n_erased = count_erased(context.workspace.tombstones)  # first: a later erasure is not known
    tombstones = read_tombstones(context.workspace.tombstones)
    if not (folder / _RECORD).exists():
        if folder.exists() and _is_behind(folder, n_erased):
            remove_folder(folder)
        remove_file(folder / _WEIGHTS)  # of a run on other rows, perhaps
    if _known(folder) is None:
        _note(folder, n_erased)
    return tombstones


def drop_untouched(context: StageContext, model_key: str) -> None:
    """Delete the folder of a run that failed before it wrote anything but its number."""
    folder = context.workspace.model(model_key)
    if [path.name for path in folder.glob("*")] == [_STARTED]:
        remove_folder(folder)


def require_not_erased(context: StageContext, model_key: str, record_ids: Sequence[str]) -> None:
    """Throw away a model of which a batch erased records while it was trained.

    Raises:
        StoreBusyError: It was, or a purge deleted its folder; the same run trains again, without
            them.
    """
    folder = context.workspace.model(model_key)
    n_erased = count_erased(context.workspace.tombstones)
    known = _known(folder)
    if known == n_erased:
        return
    erased = read_tombstones(context.workspace.tombstones)["record"]
    gone = {
        name
        for key in context.key_ring.keys
        for name, own in zip(record_ids, pseudonyms(key, "record", record_ids), strict=True)
        if own in erased
    }
    if not gone and known is not None:
        _note(folder, n_erased)  # others were erased: what is here knows none of them
        return
    _throw_away(context, model_key, sorted(gone), f"{model_key}-{n_erased}")
    why = f"{len(gone)} of its records were erased" if gone else "a purge deleted its folder"
    message = f"model {model_key}: {why} while it was trained; run it again"
    raise StoreBusyError(message)


def _throw_away(
    context: StageContext, model_key: str, gone: Sequence[str], transaction: str
) -> None:
    """Delete what was written of erased records after their batch erased it, then the folder.

    A folder with a record is a model, perhaps the serving one: it is the purge's to empty.
    """
    if gone and table_exists(context.workspace.salts):
        erase_records(context.workspace.salts, pa.array(gone), batch_id=transaction)
        purge_history(context.workspace.salts)
    if gone:
        keys = [name for key in context.key_ring.keys for name in pseudonyms(key, "record", gone)]
        erase_memorisation(context, transaction, keys)
    folder = context.workspace.model(model_key)
    if not (folder / _RECORD).exists():
        remove_folder(folder)


def find_behind(context: StageContext) -> list[Path]:
    """Return the folders that never became a model and may know erased records."""
    n_erased = count_erased(context.workspace.tombstones)
    return [
        folder
        for folder in sorted(context.workspace.models.glob("*"))
        if folder.is_dir() and not (folder / _RECORD).exists() and _is_behind(folder, n_erased)
    ]


def _is_behind(folder: Path, n_erased: int) -> bool:
    """Say whether an erasure came after the number; without one, whether there was any erasure."""
    return (_known(folder) or 0) < n_erased


def _known(folder: Path) -> int | None:
    path = folder / _STARTED
    return int(read_json(path)["n_tombstones"]) if path.exists() else None


def _note(folder: Path, n_tombstones: int) -> None:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / _STARTED, {"n_tombstones": n_tombstones, "noted_at": at})
