"""Stage ``lineage``: which models knew a person, until when, and what replaced them.

Reads tables, models, ledger and tombstones, compares with MLflow, and draws a picture under
``reports/lineage/``. An id in clear comes in and is turned into a pseudonym at once; what goes out
and what is written names the pseudonym's first characters only. Twice is safe: it only reads, and
a picture is written again.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from governance.digests import write_atomic
from governance.errors import DataError, TrackingUnavailableError
from governance.ledger import verify_chain
from governance.lineage import (
    LineageGraph,
    erased_records,
    erased_records_of,
    known_records,
    read_graph,
    to_json,
)
from governance.lineage_answer import (
    SHOWN_CHARACTERS,
    Answer,
    Question,
    about_model,
    who_knew,
)
from governance.lineage_picture import draw_lineage
from governance.signing import PUBLIC_NAME
from governance.storage import scan_table, table_exists
from governance.suppression import pseudonym, pseudonym_array, read_tombstones
from governance.tracking import compare_lineage
from r2u_tasks.stages.context import JSON, StageContext, open_context

KINDS = ("subject", "record", "model")
_PSEUDONYM = re.compile(r"^[0-9a-f]{64}$")

KEY_NOTE = (
    "Can be asked as long as keys/pseudonym.key, models/*/members.parquet and "
    "batches/*/erased.parquet are kept; without the key nobody can tell who was meant."
)


def trace(
    *,
    asked: str,
    dataset: str,
    root_uri: str,
    kind: str | None = None,
    picture: str | None = None,
    with_mlflow: bool = True,
) -> JSON:
    """Answer a question about a person, a record or a model.

    Args:
        asked: Record id, subject id, model key, or the pseudonym of a record or subject (64 hex
            characters).
        dataset: Declaration.
        root_uri: Workspace.
        kind: ``subject``, ``record`` or ``model``; found out if absent.
        picture: Where to write the picture (``.svg`` or ``.png``); both under
            ``reports/lineage/`` if absent.
        with_mlflow: Whether to compare with MLflow.

    Returns:
        The answer (schema ``r2u-lineage/1``) with ``pictures``, ``differences`` from MLflow (None:
        not compared) and the state of the ``ledger``.

    Raises:
        DataError: There is no model yet, or the id is one of a record and one of a subject.
    """
    context = open_context(dataset, root_uri)
    graph = read_graph(context.workspace, now=datetime.now(UTC))
    if not graph.models:
        message = "lineage: expected a workspace with models, got none; run `r2u train` first"
        raise DataError(message)
    answer = _answer(context, graph, asked, kind)
    chain = verify_chain(context.workspace.ledger, context.workspace.keys / PUBLIC_NAME)
    return {
        "schema": "r2u-lineage/1",
        **to_json(answer),
        "pictures": _draw(context, answer, picture),
        "differences": _differences(context, graph) if with_mlflow else None,
        "ledger": {"ok": chain.ok, "problem": chain.problem, "head": chain.head},
    }


def _answer(context: StageContext, graph: LineageGraph, asked: str, kind: str | None) -> Answer:
    if kind == "model" or (kind is None and any(m.model_key == asked for m in graph.models)):
        return about_model(graph, asked)
    questions = [
        question
        for name in ("record", "subject")
        if kind in (None, name) and (question := _question(context, graph, name, asked))
    ]
    if len(questions) > 1:
        message = "lineage: this is the id of a record and of a subject; say which by --kind"
        raise DataError(message)
    question = questions[0] if questions else _unknown(context, asked, kind or "record")
    counts = known_records(context.workspace, graph, question.record_keys)
    return who_knew(graph, question, counts, (KEY_NOTE,))


def _question(context: StageContext, graph: LineageGraph, kind: str, asked: str) -> Question | None:
    """Return the records of a person, or a record; None if nothing of ours names it."""
    key = _key(context, kind, asked)
    if kind == "subject":
        erased = erased_records_of(context.workspace, key)
        in_tables = _records_in_tables(context, "subject", key)
        is_erased = key in _erased_subjects(context)
        known = bool(erased or in_tables or is_erased)
        complete = bool(erased) or not is_erased
    else:
        batches = erased_records(context.workspace)
        erased = {batch_id: {key} for batch_id, keys in batches.items() if key in keys}
        in_tables = _records_in_tables(context, "record", key)
        known = bool(erased or in_tables) or _is_member(context, graph, key)
        complete = True
    if not known:
        return None
    own = {key} if kind == "record" else set()
    return Question(
        kind=kind,
        shown=key[:SHOWN_CHARACTERS],
        record_keys=frozenset(in_tables.union(own, *erased.values())),
        in_tables=frozenset(in_tables),
        erased={batch_id: frozenset(keys) for batch_id, keys in erased.items()},
        complete=complete,
    )


def _unknown(context: StageContext, asked: str, kind: str) -> Question:
    shown = _key(context, kind, asked)[:SHOWN_CHARACTERS]
    return Question(kind=kind, shown=shown, record_keys=frozenset(), erased={})


def _key(context: StageContext, kind: str, asked: str) -> str:
    return asked if _PSEUDONYM.match(asked) else pseudonym(context.pseudonym_key, kind, asked)


def _is_member(context: StageContext, graph: LineageGraph, key: str) -> bool:
    return any(known_records(context.workspace, graph, {key}).values())


def _records_in_tables(context: StageContext, kind: str, key: str) -> set[str]:
    """Return the pseudonyms of the records of a person, or of a record, in the training table."""
    if not table_exists(context.workspace.classified):
        return set()
    columns = context.declaration.columns
    names = [columns.record_id, columns.subject_id]
    asked = columns.record_id if kind == "record" else columns.subject_id
    found: set[str] = set()
    for batch in scan_table(context.workspace.classified, columns=names):
        rows = pa.Table.from_batches([batch])
        keys = pseudonym_array(context.pseudonym_key, kind, rows[asked])
        ids = rows.filter(pc.equal(keys, pa.scalar(key, keys.type)))[columns.record_id]
        found.update(pseudonym_array(context.pseudonym_key, "record", ids).to_pylist())
    return found


def _erased_subjects(context: StageContext) -> set[str]:
    tombstones = read_tombstones(context.workspace.tombstones)
    return tombstones["subject"] | tombstones["touched_subject"]


def _draw(context: StageContext, answer: Answer, picture: str | None) -> list[str]:
    if picture is not None:
        paths = [Path(picture)]
    else:
        stem = context.workspace.reports / "lineage" / f"{answer.kind}-{answer.shown}"
        paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("svg", "png")]
    for path in paths:
        ending = path.suffix.removeprefix(".")
        if ending not in ("svg", "png"):
            message = f"picture: expected a file name that ends in .svg or .png, got .{ending}"
            raise DataError(message)
        write_atomic(path, draw_lineage(answer, format_name=ending))
    return [str(path) for path in paths]


def _differences(context: StageContext, graph: LineageGraph) -> list[str] | None:
    try:
        return compare_lineage(context.tracker, context.registered_model, graph)
    except TrackingUnavailableError:
        return None
