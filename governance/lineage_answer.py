"""Answers to *which models knew this person, until when, and what replaced them*. Pure functions.

An answer names no id: the question is a pseudonym, of which the first characters are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from governance.lineage import Erasure, LineageGraph, ModelNode

SHOWN_CHARACTERS = 12
"""Of a pseudonym; 48 bits tell the persons of one controller apart."""

_LOST = (
    "Records of this person were erased by a batch that did not keep whose they were: which models "
    "knew them is answered for each record by its id."
)


class Relation(StrEnum):
    """What a model has to do with the records that are asked about."""

    KNEW = "knew"
    MAY_HAVE_KNOWN = "may have known"
    UNLEARNED = "unlearned"
    MADE_WITHOUT = "made without"
    NEVER = "never knew"


class Status(StrEnum):
    """Where the records are now."""

    IN_TABLES = "in the tables"
    ERASED = "erased"
    PARTLY_ERASED = "partly erased"
    MODELS_ONLY = "in no table, not erased by a batch"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Who or what is asked about, by pseudonym.

    Attributes:
        kind: ``subject``, ``record``, ``model`` or ``dataset``.
        shown: The start of the pseudonym, the key of the model, or the name of the data set.
        record_keys: All records that are asked about.
        in_tables: Those that are in the training table now.
        erased: Those that were erased, by batch.
        complete: False: records were erased of which nobody kept whose they were.
    """

    kind: str
    shown: str
    record_keys: frozenset[str]
    in_tables: frozenset[str] = frozenset()
    erased: Mapping[str, frozenset[str]]
    complete: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """What one model has to do with the records.

    Attributes:
        model: The model.
        relation: What it has to do with them.
        n_records: How many of them it was trained on; None: nobody can tell.
        replaced_by: Model that served after it.
        because: The relation in words.
    """

    model: ModelNode
    relation: Relation
    n_records: int | None
    replaced_by: str | None
    because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Which models knew the records, until when, and what replaced them.

    Attributes:
        kind: As in the question.
        shown: As in the question.
        status: Where the records are; None for a question about a model.
        n_records: How many records are asked about; for a model, those of its records that were
            erased since.
        models: Every model, in the order in which they were made.
        erasures: Batches that erased some of the records.
        known_from: When the first model that knew them was made.
        served_until: When the last of them stopped to serve; None: none served, or one serves.
        known_until: When the last weights that knew them were removed; None: none did, or some are
            left.
        serving_now: Models that knew them and serve.
        left: Models that knew them and whose weights are in the workspace.
        summary: The answer in one sentence.
        notes: What limits the answer.
        as_of: When it was made.
        ledger_head: Last ledger entry that it rests on.
    """

    kind: str
    shown: str
    status: Status | None
    n_records: int
    models: tuple[Knowledge, ...]
    erasures: tuple[Erasure, ...]
    known_from: datetime | None
    served_until: datetime | None
    known_until: datetime | None
    serving_now: tuple[str, ...]
    left: tuple[str, ...]
    summary: str
    notes: tuple[str, ...]
    as_of: datetime
    ledger_head: str


def who_knew(
    graph: LineageGraph,
    question: Question,
    counts: Mapping[str, int | None],
    notes: tuple[str, ...] = (),
) -> Answer:
    """Return which models knew the records of a question.

    Args:
        graph: All models and erasures.
        question: Pseudonyms of the records.
        counts: How many of them each model was trained on (``lineage.known_records``).
        notes: What else limits the answer.
    """
    models = tuple(_knowledge(graph, node, counts) for node in graph.models)
    knew = [k.model for k in models if k.relation in (Relation.KNEW, Relation.MAY_HAVE_KNOWN)]
    left = tuple(node.model_key for node in knew if node.weights_present)
    ends = [interval.end for node in knew for interval in node.serving]
    serving_now = tuple(n.model_key for n in knew if n.serving and n.serving[-1].end is None)
    ended = [end for end in ends if end is not None]
    removed = [node.removed_at for node in knew]
    gone = [moment for moment in removed if moment is not None]
    status = _status(question, bool(knew))
    erasures = tuple(e for e in graph.erasures if e.batch_id in question.erased)
    facts = {
        "known_from": min((node.created_at for node in knew), default=None),
        "served_until": max(ended) if ended and not serving_now else None,
        "known_until": max(gone) if gone and not left and len(gone) == len(removed) else None,
    }
    summary = _summary(status, models, serving_now, left, facts) if question.complete else _LOST
    return Answer(
        kind=question.kind,
        shown=question.shown,
        status=status,
        n_records=len(question.record_keys),
        models=models,
        erasures=erasures,
        **facts,
        serving_now=serving_now,
        left=left,
        summary=summary,
        notes=(*notes, *_notes(models)),
        as_of=graph.as_of,
        ledger_head=graph.ledger_head,
    )


def about_model(graph: LineageGraph, model_key: str) -> Answer:
    """Return the place of a model in the lineage: its ancestors, its children, what it knew.

    *Knew* is said of records that were erased since, the only ones that must not be known.
    """
    node = graph.model(model_key)
    family = {model_key, *graph.ancestors(model_key), *_descendants(graph, model_key)}
    models = tuple(
        _own_knowledge(graph, member) for member in graph.models if member.model_key in family
    )
    holds = node.holds_erased
    erasures = tuple(e for e in graph.erasures if holds is None or e.batch_id in holds)
    serves = bool(node.serving) and node.serving[-1].end is None
    return Answer(
        kind="model",
        shown=model_key,
        status=None,
        n_records=sum(holds.values()) if holds else 0,
        models=models,
        erasures=erasures,
        known_from=node.created_at,
        served_until=node.serving[-1].end if node.serving else None,
        known_until=node.removed_at,
        serving_now=(model_key,) if serves else (),
        left=(model_key,) if node.weights_present else (),
        summary=_model_summary(graph, node),
        notes=_notes(models),
        as_of=graph.as_of,
        ledger_head=graph.ledger_head,
    )


def about_all(graph: LineageGraph, name: str) -> Answer:
    """Return the whole lineage: every model, and what it knew of records that were erased since."""
    models = tuple(_own_knowledge(graph, node) for node in graph.models)
    tainted = tuple(
        k.model.model_key
        for k in models
        if k.relation is not Relation.NEVER and k.model.weights_present
    )
    what = ", ".join(tainted) if tainted else "none"
    return Answer(
        kind="dataset",
        shown=name,
        status=None,
        n_records=sum(erasure.n_records for erasure in graph.erasures),
        models=models,
        erasures=graph.erasures,
        known_from=min((node.created_at for node in graph.models), default=None),
        served_until=None,
        known_until=None,
        serving_now=tuple(
            n.model_key for n in graph.models if n.serving and n.serving[-1].end is None
        ),
        left=tainted,
        summary=f"Of the models whose weights are left, {what} was trained on erased records.",
        notes=_notes(models),
        as_of=graph.as_of,
        ledger_head=graph.ledger_head,
    )


def _knowledge(graph: LineageGraph, node: ModelNode, counts: Mapping[str, int | None]) -> Knowledge:
    count = counts[node.model_key]
    relation, because = _relation(graph, node, counts)
    return Knowledge(
        model=node,
        relation=relation,
        n_records=count,
        replaced_by=graph.successor(node.model_key),
        because=because,
    )


def _relation(
    graph: LineageGraph, node: ModelNode, counts: Mapping[str, int | None]
) -> tuple[Relation, str]:
    count = counts[node.model_key]
    if count is None:
        return Relation.MAY_HAVE_KNOWN, "its members cannot be read: it may have known anything"
    if count:
        return Relation.KNEW, f"trained on {count} of the records"
    knew = [key for key in graph.ancestors(node.model_key) if counts.get(key) != 0]
    if not knew:
        return Relation.NEVER, "neither it nor a model that it was made from"
    return _after(graph, node, knew)


def _after(graph: LineageGraph, node: ModelNode, knew: list[str]) -> tuple[Relation, str]:
    """Say how a model without the records follows from the nearest one that knew them.

    One exact step on the way is enough: it starts from weights that never saw the records, also
    when an approximate step for them came before, which keeps no other checkpoints. Without one,
    the descent is a statistical claim, or none where the gate did not accept it.
    """
    keys = (node.model_key, *graph.ancestors(node.model_key))
    way = [graph.model(key) for key in keys[: keys.index(knew[0])]]
    exact = [step for step in way if step.lane in ("replay", "retrain")]
    if exact:
        step = exact[-1]
        return Relation.MADE_WITHOUT, f"{step.lane} without the records, in place of {step.parent}"
    if any(step.claim is None for step in way):
        return Relation.MAY_HAVE_KNOWN, f"made from {knew[0]}, and no gate accepted it"
    return Relation.UNLEARNED, f"changed from {knew[0]} by the approximate lane; statistical"


def _own_knowledge(graph: LineageGraph, node: ModelNode) -> Knowledge:
    holds = node.holds_erased
    count = None if holds is None else sum(holds.values())
    if count is None:
        relation, because = Relation.MAY_HAVE_KNOWN, "its members cannot be read"
    elif count:
        relation, because = Relation.KNEW, f"trained on {count} records that were erased since"
    else:
        relation, because = Relation.NEVER, "trained on no record that was erased since"
    return Knowledge(
        model=node,
        relation=relation,
        n_records=count,
        replaced_by=graph.successor(node.model_key),
        because=because,
    )


def _descendants(graph: LineageGraph, model_key: str) -> set[str]:
    return {node.model_key for node in graph.models if model_key in graph.ancestors(node.model_key)}


def _status(question: Question, knew: bool) -> Status:
    erased = any(question.erased.values()) or not question.complete
    if question.in_tables:
        return Status.PARTLY_ERASED if erased else Status.IN_TABLES
    if erased:
        return Status.ERASED
    return Status.MODELS_ONLY if knew else Status.UNKNOWN


def _summary(
    status: Status,
    models: tuple[Knowledge, ...],
    serving_now: tuple[str, ...],
    left: tuple[str, ...],
    facts: Mapping[str, datetime | None],
) -> str:
    knew = [k for k in models if k.relation in (Relation.KNEW, Relation.MAY_HAVE_KNOWN)]
    if status is Status.UNKNOWN:
        return "No table, model or tombstone knows this id; check how it is spelled."
    if not knew:
        return "No model was trained on the records."
    certain = sum(k.relation is Relation.KNEW for k in knew)
    noun = "model" if certain == 1 else "models"
    maybe = f" and {len(knew) - certain} may have known" if certain < len(knew) else ""
    said = f"{certain} {noun} knew{maybe} the records, from {_day(facts['known_from'])}"
    if serving_now:
        return f"{said}; {', '.join(serving_now)} knows them and serves."
    if left:
        return f"{said}; none serves, but the weights of {', '.join(left)} are still there."
    if facts["known_until"] is None:
        return f"{said}; their weights are gone, since when the ledger does not tell."
    after = next((k.replaced_by for k in reversed(knew) if k.replaced_by), None)
    tail = f" {after} took their place." if after else ""
    return f"{said} until {_day(facts['known_until'])}, when the last weights were removed.{tail}"


def _model_summary(graph: LineageGraph, node: ModelNode) -> str:
    made = f"made from {node.parent} by the lane {node.lane}" if node.parent else "trained on data"
    after = graph.successor(node.model_key)
    if node.serving and node.serving[-1].end is None:
        serves = "It serves."
    elif node.serving:
        serves = f"It served until {_day(node.serving[-1].end)}; {after or 'nothing'} followed."
    else:
        serves = "It never served."
    if node.weights_present:
        weights = ""
    else:
        when = _day(node.removed_at) if node.removed_at else "at an unknown time"
        weights = f" Its weights were removed {when}."
    return f"{node.model_key}, {made} {_day(node.created_at)}. {serves}{weights}"


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "an unknown time"


def _notes(models: tuple[Knowledge, ...]) -> tuple[str, ...]:
    blind = [k.model.model_key for k in models if k.n_records is None]
    if not blind:
        return ()
    return (f"The members of {', '.join(blind)} cannot be read; they count as having known.",)
