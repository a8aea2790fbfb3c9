"""Deleting what still remembers the erased records, looking for what is left, and saying so.

Weights and checkpoints of every model that was trained on them, here and in the registry, children
included; work that was not finished; pools; aliases that pointed to them; history of the tables;
rows of a source that is ours; lines of logs and of refused request files that name them; the
queue's write-ahead log; at last the rows that the batch kept. Optimiser states are never stored.
Then every file that is text or a database is searched for strings that only the erased persons
had, and ``remains.json`` says what remains, where, and until when.

The ledger says which models go before the first file goes.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from governance.deletion_queue import State
from governance.digests import digest_file, write_json
from governance.removal import remove_file, remove_folder
from governance.source_erasure import erase_from_source, is_ours
from governance.storage import purge_history, read_table, table_exists
from governance.suppression import read_tombstones
from governance.traces import Needles, find_traces, remove_lines, telling_values
from r2u_tasks.batch import drop_forgotten, read_rows
from r2u_tasks.evidence import pools_to_keep
from r2u_tasks.models import CHILD, ModelRecord, load_record, update_record
from r2u_tasks.pools import drop_pools
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.mirror import catch_up, or_owe, owed
from r2u_tasks.stages.noting import note_once
from r2u_tasks.stages.recipients import tell_recipients
from r2u_tasks.stages.taint import why_tainted
from r2u_tasks.stages.unfinished import find_behind
from r2u_tasks.stages.unlearn.candidate import batch_data
from r2u_tasks.stages.unlearn.remains import list_remains
from r2u_tasks.stages.unlearn.steps import (
    approved_plan,
    is_in_batch,
    leased_requests,
    move_all,
    once,
    result_of,
    step_path,
)

_LINES = {".csv", ".jsonl"}


def purge_leftovers(*, batch_id: str, token: int, dataset: str, root_uri: str) -> JSON:
    """Delete what still remembers the erased records, and list what remains and until when.

    Twice is safe: what is gone stays gone, and the published counts are those of the first time.

    Returns:
        ``models_removed``, ``children_retired``, ``aliases_removed``, ``pools_removed``,
        ``lines_removed``, ``source_rows_erased``, ``recipients_told``, ``traces`` (files in which
        a string of an erased person is still readable).
    """
    context = open_context(dataset, root_uri)
    result = once(context, batch_id, "purge", lambda: _purge(context, batch_id))
    folder = context.workspace.batch(batch_id)
    drop_forgotten(folder)
    context.queue.truncate_log()
    _note(context, batch_id, result)
    plan = approved_plan(context, batch_id)
    move_all(context, plan["requests"], "propagated", token=token)
    return result


def _purge(context: StageContext, batch_id: str) -> JSON:
    workspace = context.workspace
    plan, promotion = approved_plan(context, batch_id), result_of(context, batch_id, "promotion")
    scope = once(context, batch_id, "purge-scope", lambda: _scope(context, batch_id, promotion))
    started = {name: scope[name] for name in ("models", "unfinished")}
    note_once(context, "purge_started", {"batch_id": batch_id, **started})
    rows = read_rows(workspace.batch(batch_id))
    for key in scope["models"]:
        _remove_weights(context, key)
    for name in scope["unfinished"]:
        remove_folder(workspace.root / name)
    asked = or_owe(f"weights of {len(scope['models'])} models", lambda: catch_up(context))
    debts = [] if asked else ["removal of weights that no record has, if there are any"]
    aliases = _remove_aliases(context, scope["models"])
    parent = load_record(workspace, plan["model_key"])
    _, data = batch_data(context, batch_id, parent, lane=promotion["lane"])
    pools = drop_pools(workspace.pools, keep=pools_to_keep(context.declaration, data))
    for table in (workspace.raw, workspace.classified, workspace.salts):
        if table_exists(table):
            purge_history(table)
    needles = _needles(context, rows)
    n_lines = _remove_lines(context, needles)
    n_source = _erase_source(context, batch_id)
    told = tell_recipients(context, batch_id, rows)
    context.queue.truncate_log()
    traces = _traces(context, needles)
    remains = {
        "schema": "r2u-remains/1",
        "batch_id": batch_id,
        "searched_values": len(needles.values),
        "found": traces,
        "remains": list_remains(context, batch_id, told, [*owed(context), *debts]),
    }
    write_json(workspace.batch(batch_id) / "remains.json", remains)
    return {
        "batch_id": batch_id,
        "models_removed": len(scope["models"]),
        "children_retired": scope["children"],
        "aliases_removed": aliases,
        "pools_removed": pools,
        "lines_removed": n_lines,
        "source_rows_erased": n_source,
        "recipients_told": [notice["recipient"] for notice in told],
        "traces": len(traces),
    }


def _scope(context: StageContext, batch_id: str, promotion: JSON) -> JSON:
    """Return the models whose weights must go: tainted ones, and the batch's rejected candidate.

    The candidate was changed from weights that knew the records, so its own manifest is not asked.
    Rejected candidates of other, unfinished batches wait for a person.
    """
    workspace = context.workspace
    models, children = [], []
    for path in sorted(workspace.models.glob("*/model.json")):
        key = path.parent.name
        record = load_record(workspace, key)
        if key == promotion["model_key"] or not _has_weights(path.parent):
            continue
        waiting = record.batch_id != batch_id and _waits_for_a_person(context, record)
        if record.batch_id != batch_id and (waiting or why_tainted(context, key) is None):
            continue
        models.append(key)
        if record.kind == CHILD:
            children.append(key)
    return {"models": models, "children": children, "unfinished": _unfinished(context, batch_id)}


def _unfinished(context: StageContext, batch_id: str) -> list[str]:
    """Return folders of trainings and classifications that began before an erasure.

    A killed one keeps rows, or checkpoints that saw them. A training that still runs is thrown away
    when it sees the tombstones, and does its work again; a classification finds that its rows are
    not all there, publishes no table of them, and must be started anew.
    """
    root = context.workspace.root
    erased_at = step_path(context, batch_id, "erasure").stat().st_mtime
    staging = [f for f in sorted((root / "staging").glob("*")) if f.is_dir()]
    behind = [*find_behind(context), *(f for f in staging if _began(f) < erased_at)]
    return [folder.relative_to(root).as_posix() for folder in behind]


def _began(folder: Path) -> float:
    """Return when the oldest file below a folder was written."""
    times = [path.stat().st_mtime for path in folder.rglob("*") if path.is_file()]
    return min(times, default=folder.stat().st_mtime)


def _waits_for_a_person(context: StageContext, record: ModelRecord) -> bool:
    """Say whether a candidate that the gate refused may still be looked at."""
    if record.verdict in (None, "accept") or record.batch_id is None:
        return False
    rows = leased_requests(context, record.batch_id)
    return any(is_in_batch(row) or row.state == State.NEEDS_PERSON for row in rows)


def _has_weights(folder: Path) -> bool:
    return (folder / "weights.safetensors").exists() or (folder / "checkpoints").exists()


def _remove_weights(context: StageContext, model_key: str) -> None:
    folder = context.workspace.model(model_key)
    remove_file(folder / "weights.safetensors")
    remove_folder(folder / "checkpoints")
    record = update_record(context.workspace, model_key, checkpoints={})
    if record.kind == CHILD:
        note_once(context, "model_retired", {"model_key": model_key, "parent": record.parent})


def _remove_aliases(context: StageContext, models: list[str]) -> list[str]:
    """Let no alias point to a model whose weights are gone; return the aliases."""
    removed: list[str] = []

    def remove() -> None:
        name = context.registered_model
        for alias, version in sorted(context.tracker.aliases(name).items()):
            if context.tracker.version_params(name, version).get("model_key") in models:
                context.tracker.remove_alias(name, alias)
                removed.append(alias)

    or_owe("aliases of tainted versions", remove)
    return removed


def _needles(context: StageContext, rows: pa.Table) -> Needles:
    """Return the strings that only the erased persons had."""
    columns = context.declaration.columns
    names = [
        *columns.governance,
        *(feature.name for feature in columns.features if feature.kind == "text"),
    ]
    text = [name for name in names if pa.types.is_string(rows.schema.field(name).type)]
    ids = [columns.record_id, columns.subject_id]
    remaining = read_table(context.workspace.classified, columns=[*ids, *text])
    return Needles(telling_values(rows, remaining, id_columns=ids, text_columns=text))


def _remove_lines(context: StageContext, needles: Needles) -> int:
    """Remove lines that name an erased person from logs and from refused request files."""
    workspace = context.workspace
    removed = 0
    for path in sorted(workspace.root.glob("runs/**/*.txt")):
        removed += remove_lines(path, needles, keep_place=True)
    for path in sorted(workspace.rejects.glob("*")) if workspace.rejects.exists() else []:
        if path.suffix in _LINES:
            removed += remove_lines(path, needles, keep_place=False)
        elif needles.find(path.read_bytes()):  # a refused file without lines
            path.unlink()
            removed += 1
    return removed


def _erase_source(context: StageContext, batch_id: str) -> int:
    if not is_ours(context.declaration, context.workspace):
        return 0
    return erase_from_source(
        context.declaration,
        tombstones=read_tombstones(context.workspace.tombstones),
        keys=context.key_ring.keys,
        batch_id=batch_id,
    )


def _traces(context: StageContext, needles: Needles) -> list[JSON]:
    """Search everything but tables (counted by id), requests not yet read, and rows of batches."""
    workspace = context.workspace
    skip = [
        workspace.root / "tables",
        workspace.inbox,
        *workspace.root.glob("batches/*/private"),
    ]
    return [
        {"path": trace.path, "n_values": trace.n_values}
        for trace in find_traces(workspace.root, needles, skip=skip)
    ]


def _note(context: StageContext, batch_id: str, result: JSON) -> None:
    remains = context.workspace.batch(batch_id) / "remains.json"
    names = ("models_removed", "pools_removed", "lines_removed", "source_rows_erased", "traces")
    note_once(
        context,
        "leftovers_purged",
        {
            "batch_id": batch_id,
            **{name: result[name] for name in names},
            "children_retired": len(result["children_retired"]),
            "aliases_removed": len(result["aliases_removed"]),
            "remains_digest": digest_file(remains),
        },
    )
