"""Stage ``lineage``: which models knew a person, until when, and what replaced them.

Reads tables, models, ledger and tombstones, compares with MLflow, and draws a picture under
``reports/lineage/``. An id in clear comes in and is turned into a pseudonym at once; what goes out
and what is written names the pseudonym's first characters only. Twice is safe: it only reads, and
a picture is written again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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
    found = [
        (question, records)
        for name in ("record", "subject")
        if kind in (None, name)
        for question, records in _questions(context, graph, name, asked)
    ]
    if len(found) > 1:
        message = "lineage: this is the id of a record and of a subject; say which by --kind"
        raise DataError(message)
    question, records = found[0] if found else (_unknown(context, asked, kind or "record"), set())
    counts = known_records(context.workspace, graph, records)
    return who_knew(graph, question, counts, (KEY_NOTE,))


def _questions(
    context: StageContext, graph: LineageGraph, kind: str, asked: str
) -> Iterator[tuple[Question, set[str]]]:
    """Yield the question about a person or a record, and the pseudonyms of its records.

    Nothing, if nothing of ours names it. What is written is under all keys of its time, so one of
    them, mostly the oldest, names all of the records, and counts each once; a model is asked under
    every key, as it knows its own alone.
    """
    parts = [_part(context, graph, kind, one) for one in _asked_under(context, kind, asked)]
    known = [part for part in parts if part.is_known]
    if known:
        fullest = max(reversed(known), key=lambda part: len(part.records))
        question = Question(
            kind=kind,
            shown=parts[0].shown,
            record_keys=frozenset(fullest.records),
            in_tables=frozenset(fullest.in_tables),
            erased={batch_id: frozenset(keys) for batch_id, keys in fullest.erased.items()},
            complete=fullest.complete,
        )
        yield question, set().union(*(part.records for part in parts))


@dataclass(frozen=True, slots=True)
class _Part:
    """What is known of a person or a record under one key."""

    shown: str
    in_tables: set[str]
    erased: dict[str, set[str]]
    records: set[str]
    is_known: bool
    complete: bool


def _part(context: StageContext, graph: LineageGraph, kind: str, asked: _Asked) -> _Part:
    in_tables = _records_in_tables(context, kind, asked)
    if kind == "subject":
        erased = erased_records_of(context.workspace, asked.name)
        is_erased = asked.name in _erased_subjects(context)
        known = bool(erased or in_tables or is_erased)
        complete, own = bool(erased) or not is_erased, set()
    else:
        batches = erased_records(context.workspace)
        erased = {name: {asked.name} for name, keys in batches.items() if asked.name in keys}
        known = bool(erased or in_tables) or _is_member(context, graph, asked.name)
        complete, own = True, {asked.name}
    records = in_tables.union(own, *erased.values())
    return _Part(asked.name[:SHOWN_CHARACTERS], in_tables, erased, records, known, complete)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who is asked about, by pseudonym, and the key that it is under."""

    name: str
    key: bytes


def _asked_under(context: StageContext, kind: str, asked: str) -> list[_Asked]:
    """Return who is asked about under each key, newest first; a pseudonym is under its own only."""
    ring = context.key_ring
    if _PSEUDONYM.match(asked):
        return [_Asked(asked, key) for key in ring.keys]
    return [_Asked(pseudonym(key, kind, asked), key) for key in ring.keys]


def _unknown(context: StageContext, asked: str, kind: str) -> Question:
    shown = _asked_under(context, kind, asked)[0].name[:SHOWN_CHARACTERS]
    return Question(kind=kind, shown=shown, record_keys=frozenset(), erased={})


def _is_member(context: StageContext, graph: LineageGraph, key: str) -> bool:
    return any(known_records(context.workspace, graph, {key}).values())


def _records_in_tables(context: StageContext, kind: str, asked: _Asked) -> set[str]:
    """Return the pseudonyms of the records of a person, or of a record, in the training table."""
    if not table_exists(context.workspace.classified):
        return set()
    columns = context.declaration.columns
    names = [columns.record_id, columns.subject_id]
    column = columns.record_id if kind == "record" else columns.subject_id
    found: set[str] = set()
    for batch in scan_table(context.workspace.classified, columns=names):
        rows = pa.Table.from_batches([batch])
        keys = pseudonym_array(asked.key, kind, rows[column])
        ids = rows.filter(pc.equal(keys, pa.scalar(asked.name, keys.type)))[columns.record_id]
        found.update(pseudonym_array(asked.key, "record", ids).to_pylist())
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
