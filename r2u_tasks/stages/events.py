"""OpenLineage events of the stages, where the declaration asks for them.

A stage calls ``observe`` around its work, or ``batch_*`` at the steps of a batch; with the events
off, which is the default, that is a call and nothing else. An event that cannot be written is
logged and never stops a stage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from governance.digests import read_json
from governance.errors import R2UError
from governance.ledger import read_entries
from governance.openlineage import Dataset, EventFile, EventType, RunEvent, erasure_facet
from governance.storage import table_exists
from r2u_tasks.models import load_record
from r2u_tasks.stages.context import JSON, StageContext

_log = logging.getLogger(__name__)

_BATCH_JOB = "unlearn_batch"


def observe(
    context: StageContext,
    job: str,
    run_key: str,
    work: Callable[[], JSON],
    *,
    inputs: tuple[Dataset, ...],
    outputs: Callable[[JSON], tuple[Dataset, ...]],
) -> JSON:
    """Do the work of a run and say that it started, and how it ended.

    Args:
        context: Dataset and workspace.
        job: Name of the stage.
        run_key: Run id.
        work: The work; an error of ours is reported by its class and raised again.
        inputs: What it reads.
        outputs: Says what it wrote, from its result.
    """
    if context.declaration.openlineage is None:
        return work()
    _emit(context, job, run_key, EventType.START, inputs=inputs)
    try:
        result = work()
    except R2UError as error:
        _emit(context, job, run_key, EventType.FAIL, inputs=inputs, error=type(error).__name__)
        raise
    _emit(context, job, run_key, EventType.COMPLETE, inputs=inputs, outputs=outputs(result))
    return result


def table(context: StageContext, name: str, **content: str | int) -> Dataset:
    """Return one of our Delta tables: ``raw``, ``classified`` or ``salts``."""
    return Dataset(name=f"{context.declaration.name}.{name}", **content)  # type: ignore[arg-type]


def source(context: StageContext) -> Dataset:
    """Return the declared source; its path is in no event, as it may name a place or a person."""
    return Dataset(name=f"{context.declaration.name}.source", kind="FILE")


def model(context: StageContext, model_key: str) -> Dataset:
    """Return a model, with the digest of its weights as version."""
    record = load_record(context.workspace, model_key)
    return Dataset(
        name=f"{context.declaration.name}.models.{model_key}",
        kind="MODEL",
        version=record.weights_digest,
    )


def batch_started(context: StageContext, plan: JSON) -> None:
    """Say that a batch was planned, with all that it is about to change."""
    if context.declaration.openlineage is None:
        return
    inputs = (*_tables(context), model(context, plan["model_key"]))
    _emit(context, _BATCH_JOB, plan["batch_id"], EventType.START, inputs=inputs)


def batch_failed(context: StageContext, batch_id: str, error: str) -> None:
    """Say that a batch did not come to its end; one that did is left as it is."""
    if context.declaration.openlineage is None:
        return
    if not (context.workspace.batch(batch_id) / "result.json").exists():
        _emit(context, _BATCH_JOB, batch_id, EventType.FAIL, error=error)


def batch_completed(context: StageContext, batch_id: str) -> None:
    """Say what a batch erased from each table, and which model took the place of which."""
    if context.declaration.openlineage is None:
        return
    folder = context.workspace.batch(batch_id)
    plan, result = read_json(folder / "plan.json"), read_json(folder / "result.json")
    entries = read_entries(context.workspace.ledger)
    closing = next(
        entry
        for entry in entries
        if entry["kind"] == "batch_closed" and entry["body"]["batch_id"] == batch_id
    )

    def facet(**more: object) -> JSON:
        return erasure_facet(
            batch_id=batch_id,
            n_requests=plan["n_requests"],
            n_records=plan["n_records"],
            claim=result["claim"],
            lane=result["lane"],
            bundle_root=closing["body"]["bundle_root"],
            ledger_entry=closing["digest"],
            **more,  # type: ignore[arg-type]
        )

    erased = read_json(folder / "erasure.json")["tables"]
    outputs = [
        Dataset(
            name=f"{context.declaration.name}.{name}",
            n_rows=counts["after"],
            overwritten=counts["erased"] > 0,
            erasure=facet(table=counts),
        )
        for name, counts in sorted(erased.items())
    ]
    parent, made = plan["model_key"], result["model_key"]
    if made is not None and made != parent:
        replaced = model(context, made)
        outputs.append(
            Dataset(
                name=replaced.name,
                kind=replaced.kind,
                version=replaced.version,
                erasure=facet(parent_model=parent),
            )
        )
    _emit(
        context,
        _BATCH_JOB,
        batch_id,
        EventType.COMPLETE,
        inputs=(*_tables(context), model(context, parent)),
        outputs=tuple(outputs),
    )


def _tables(context: StageContext) -> tuple[Dataset, ...]:
    workspace = context.workspace
    places = {"raw": workspace.raw, "classified": workspace.classified, "salts": workspace.salts}
    return tuple(table(context, name) for name, path in places.items() if table_exists(path))


def _emit(
    context: StageContext,
    job: str,
    run_key: str,
    kind: EventType,
    *,
    inputs: tuple[Dataset, ...] = (),
    outputs: tuple[Dataset, ...] = (),
    error: str | None = None,
) -> None:
    settings = context.declaration.openlineage
    if settings is None:
        return
    file = EventFile(context.workspace.events, settings.namespace)
    event = RunEvent(
        job=f"{context.declaration.name}.{job}",
        run_key=run_key,
        type=kind,
        at=datetime.now(UTC),
        inputs=inputs,
        outputs=outputs,
        error=error,
    )
    try:
        file.emit(event)
    except OSError as problem:
        _log.warning("OpenLineage event not written: %s", problem.strerror)
