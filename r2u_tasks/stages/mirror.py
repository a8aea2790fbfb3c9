"""Stage ``mirror``: bring MLflow up to our own records.

Model records, ledger and batch folders are the truth; a run, a registry version, an alias and a
removed version in MLflow follow from them. Stages call ``mirror_model``, ``point_alias``
and ``catch_up`` as they go; when MLflow does not answer, nothing waits for it: the mirror is *owed*
and ``mirror`` catches up later (``r2u mirror``, hourly by the DAG ``sentinel``). Twice is safe:
runs are found by key, versions by run, and what MLflow holds already is not written again.

Hashes and ids go into params, which MLflow refuses to change, and are repeated as tags of the
version.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from governance.digests import digest_file, read_json, write_json
from governance.errors import DigestMismatchError, TrackingUnavailableError
from governance.ledger import read_entries
from r2u_tasks.model import example_input
from r2u_tasks.models import ModelRecord, load_model, load_record, update_record
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.taint import require_untainted, why_tainted

_log = logging.getLogger(__name__)

ALIAS = "champion"
"""The alias of the serving model."""

_BATCH_FILES = (
    "plan.json",
    "erasure.json",
    "evidence.json",
    "evidence-replay.json",
    "bundle.json",
    "evidence.html",
    "evidence-replay.html",
)


def mirror(*, dataset: str, root_uri: str, everything: bool = False) -> JSON:
    """Write to MLflow what it does not hold yet.

    Args:
        dataset: Declaration.
        root_uri: Workspace.
        everything: Ask MLflow about each model and batch, also those that were mirrored before:
            for a server that lost a part of its data. One that lost all is noticed without.

    Returns:
        ``models``, ``batches``, ``removed`` (keys and ids written now), ``alias`` (whether it was
        moved) and ``owed`` (what is still missing; empty unless a model is damaged).

    Raises:
        TrackingUnavailableError: MLflow does not answer; what was written stays.
    """
    context = open_context(dataset, root_uri)
    if everything:
        with _alone(context):
            _forget_marks(context)
    return catch_up(context)


def catch_up(context: StageContext) -> JSON:
    """Write to MLflow what it does not hold yet, models before the batches that name them.

    Returns:
        As ``mirror``.

    Raises:
        TrackingUnavailableError: MLflow does not answer; what was written stays.
    """
    with _alone(context):
        return _catch_up(context)


def _catch_up(context: StageContext) -> JSON:
    if _lost_its_data(context):
        _log.warning("MLflow does not know the model that serves; everything is mirrored again")
        _forget_marks(context)
    models = [key for key in _unmirrored_models(context) if _mirror_again(context, key)]
    removed = _remove_orphans(context)
    batches = [b for b in _unmirrored_batches(context) if mirror_batch(context, b)]
    return {
        "models": models,
        "removed": removed,
        "batches": batches,
        "alias": _point_to_champion(context),
        "owed": owed(context),
    }


def owed(context: StageContext) -> list[str]:
    """Return what MLflow does not hold yet as far as our own marks tell; MLflow is not asked."""
    return [
        *(f"model {key}" for key in _unmirrored_models(context)),
        *(f"removal of the weights of {key}" for key in _unmirrored_removals(context)),
        *(f"batch {batch_id}" for batch_id in _unmirrored_batches(context)),
        *(f"alias {ALIAS}" for _ in range(_alias_is_owed(context))),
    ]


def or_owe(what: str, work: Callable[[], Any]) -> bool:
    """Do something with MLflow; if it does not answer, say that it is owed and go on.

    Returns:
        Whether it was done.
    """
    try:
        work()
    except TrackingUnavailableError:
        _log.warning("%s: MLflow does not answer; owed, `r2u mirror` catches up", what)
        return False
    return True


def mirror_model(context: StageContext, record: ModelRecord, model: nn.Module | None) -> None:
    """Write a model to MLflow: a run with params and metrics, and a registry version.

    Args:
        context: Dataset and workspace.
        record: The model.
        model: With its weights; None when they are gone: then the version says so.

    Raises:
        TrackingUnavailableError: MLflow does not answer.
    """
    folder = context.workspace.model(record.model_key)
    names = ("manifest.json", "readiness.json")
    tags = _model_tags(folder, record)
    run_id = context.tracker.record_run(
        key=_run_key(record),
        name=record.model_key,
        dataset=context.declaration.name,
        params=_model_params(context, record),
        metrics=record.metrics,
        tags=tags,
        artifacts={name: folder / name for name in names if (folder / name).exists()},
    )
    _unmark_emptied(context, run_id)
    version = context.tracker.register_version(
        name=context.registered_model,
        run_id=run_id,
        model_object=None if model is None else model.eval(),
        input_example=example_input(context.declaration).numpy(),
        weights_path=folder / "weights.safetensors",
        tags=tags,
    )
    update_record(context.workspace, record.model_key, mlflow_run_id=run_id, model_version=version)
    if model is None:  # a killed run may have registered the weights
        context.tracker.remove_weights(context.registered_model, run_id)
        _mark(context, "emptied", run_id)
        _mark(context, "removed", _run_key(record))


def mirror_batch(context: StageContext, batch_id: str) -> bool:
    """Write a closed batch to MLflow: one run with its params, counts and evidence.

    Returns:
        False, and nothing is written, while its model has no version: a param is for ever.

    Raises:
        TrackingUnavailableError: MLflow does not answer.
    """
    folder = context.workspace.batch(batch_id)
    plan, result = read_json(folder / "plan.json"), read_json(folder / "result.json")
    if _version_of(context, result["model_key"]) == "none":
        return False
    model = load_record(context.workspace, result["model_key"])
    closing = _closing_entry(context, batch_id)
    context.tracker.record_run(
        key=f"batch:{batch_id}",
        name=f"batch {batch_id}",
        dataset=context.declaration.name,
        params={
            "batch_id": batch_id,
            "lane": result["lane"],
            "claim": result["claim"],
            "plan_digest": plan["plan_digest"],
            "policy_digest": plan["policy_digest"],
            "parent_model_key": plan["model_key"],
            "parent_version": _version_of(context, plan["model_key"]),
            "parent_manifest_root": plan["parent_manifest_root"],
            "model_key": model.model_key,
            "model_version": model.model_version or "none",
            "manifest_root": model.manifest_root,
            "evidence_digest": _evidence_digest(folder),
            "bundle_root": closing["body"]["bundle_root"] or "none",
            "ledger_head": closing["digest"],
            "ledger_seq": str(closing["seq"]),
        },
        metrics={
            "n_requests": float(plan["n_requests"]),
            "n_records": float(plan["n_records"]),
            **model.metrics,
            **_evidence_metrics(folder),
        },
        tags={"verdict": "accept", "claim": result["claim"]},
        artifacts={name: folder / name for name in _BATCH_FILES if (folder / name).exists()},
    )
    _mark(context, "batches", batch_id)
    return True


def point_alias(context: StageContext, record: ModelRecord) -> None:
    """Point the alias to a version.

    Raises:
        ReleaseBlockedError: The model knows an erased person.
        TrackingUnavailableError: MLflow does not answer, or knows no such version.
    """
    require_untainted(context, record.model_key)
    if record.model_version is not None:
        if not _is_its_version(context, record):
            message = (
                f"MLflow: expected version {record.model_version} to have the weights of "
                f"{record.model_key}, got others; `r2u mirror` registers the right ones"
            )
            raise TrackingUnavailableError(message)
        context.tracker.set_alias(context.registered_model, ALIAS, record.model_version)
        _set_mark(context, "alias", record.model_key)


def _model_params(context: StageContext, record: ModelRecord) -> dict[str, str]:
    evidence = "none"
    if record.batch_id is not None:
        evidence = _evidence_digest(context.workspace.batch(record.batch_id))
    return {
        "model_key": record.model_key,
        "kind": record.kind,
        "parent_model_key": record.parent or "none",
        "parent_version": _version_of(context, record.parent),
        "lane": record.lane or "none",
        "claim": record.claim or "none",
        "batch_id": record.batch_id or "none",
        "evidence_digest": evidence,
        "weights_digest": record.weights_digest,
        "manifest_root": record.manifest_root,
        "manifest_digest": record.manifest_digest,
        "policy_digest": record.policy_digest,
        "declaration_digest": record.declaration_digest,
    }


def _model_tags(folder: Path, record: ModelRecord) -> dict[str, str]:
    tags = {"kind": record.kind, "claim": record.claim or "none"}
    if (folder / "readiness.json").exists():
        tags["ready"] = str(read_json(folder / "readiness.json")["is_ready"]).lower()
    if record.verdict is not None:
        tags["verdict"] = record.verdict
    return tags


def _evidence_digest(folder: Path) -> str:
    """Return the digest of the evidence of the lane that was accepted, the last one tried."""
    path = _last_evidence(folder)
    return "none" if path is None else digest_file(path)


def _evidence_metrics(folder: Path) -> dict[str, float]:
    """Return the numbers of the suite, ``evidence/<metric>/<column>``; those that have a value."""
    path = _last_evidence(folder)
    suite = None if path is None else read_json(path).get("suite")
    return {
        f"evidence/{row['name']}/{column}": number["value"]
        for row in (suite or {"rows": []})["rows"]
        for column, number in row["columns"].items()
        if number["value"] is not None
    }


def _last_evidence(folder: Path) -> Path | None:
    names = ("evidence-replay.json", "evidence.json")
    return next((folder / name for name in names if (folder / name).exists()), None)


def _unmirrored_models(context: StageContext) -> list[str]:
    """Return the models that served and have no version, oldest first."""
    found = []
    for entry in read_entries(context.workspace.ledger):
        key = entry["body"].get("model_key")
        if entry["kind"] != "model_promoted" or key in found:
            continue
        if _is_kept(context, key) and load_record(context.workspace, key).model_version is None:
            found.append(key)
    return found


def _is_kept(context: StageContext, model_key: str) -> bool:
    """Return whether the record of a model is there; old ones may be deleted by hand."""
    return (context.workspace.model(model_key) / "model.json").exists()


def _version_of(context: StageContext, model_key: str | None) -> str:
    if model_key is None or not _is_kept(context, model_key):
        return "none"
    return load_record(context.workspace, model_key).model_version or "none"


def _unmirrored_removals(context: StageContext) -> list[str]:
    """Return the models whose weights are gone here and, as far as we know, not in MLflow."""
    done = _marks(context)["removed"]
    keys = [path.parent.name for path in sorted(context.workspace.models.glob("*/model.json"))]
    return [
        key
        for key in keys
        if _run_key(load_record(context.workspace, key)) not in done
        and not (context.workspace.model(key) / "weights.safetensors").exists()
    ]


def _unmirrored_batches(context: StageContext) -> list[str]:
    done = _marks(context)["batches"]
    entries = read_entries(context.workspace.ledger)
    closed = [e["body"]["batch_id"] for e in entries if e["kind"] == "batch_closed"]
    folder = context.workspace.batch
    return [b for b in closed if b not in done and (folder(b) / "result.json").exists()]


def _alias_is_owed(context: StageContext) -> bool:
    champion = _champion(context)
    return champion is not None and _marks(context)["alias"] != champion


def _mirror_again(context: StageContext, model_key: str) -> bool:
    """Mirror a model from disk; one whose weights are not its own is left owed, for a person."""
    record = load_record(context.workspace, model_key)
    there = (context.workspace.model(model_key) / "weights.safetensors").exists()
    try:
        model = load_model(context.workspace, context.declaration, record) if there else None
    except DigestMismatchError:
        _log.error("model %s: its weights are not those of its record; not mirrored", model_key)
        return False
    mirror_model(context, record, model)
    return True


def _remove_orphans(context: StageContext) -> list[str]:
    """Remove from MLflow what none of our records has weights for; return the model keys.

    MLflow is asked, as a run that was killed after it registered a model left no version in the
    record; the model may have been trained anew since, with other weights. Only what our ledger or
    records name is ours to remove: other workspaces may share the server.
    """
    owed_removals, removed = _unmirrored_removals(context), set()
    made, kept = _weights_of(context)
    for run_id, params in sorted(context.tracker.model_runs(context.declaration.name).items()):
        weights = (params["model_key"], params["weights_digest"])
        if run_id in _marks(context)["emptied"] or weights not in made or weights in kept:
            continue
        context.tracker.remove_weights(context.registered_model, run_id)
        _mark(context, "emptied", run_id)
        removed.add(params["model_key"])
    for key in owed_removals:
        _mark(context, "removed", _run_key(load_record(context.workspace, key)))
    return sorted(removed)


def _weights_of(context: StageContext) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return key and digest of all weights that were made here, and of those that are here."""
    bodies = [entry["body"] for entry in read_entries(context.workspace.ledger)]
    named = [b for b in bodies if {"model_key", "weights_digest"} <= b.keys()]
    made = {(b["model_key"], b["weights_digest"]) for b in named}
    kept = set()
    for path in context.workspace.models.glob("*/model.json"):
        record = load_record(context.workspace, path.parent.name)
        made.add((record.model_key, record.weights_digest))
        if path.with_name("weights.safetensors").exists():
            kept.add((record.model_key, record.weights_digest))
    return made, kept


def _run_key(record: ModelRecord) -> str:
    """Return what a run is found by; a model that is made anew under its key is another run."""
    return f"model:{record.model_key}:{record.weights_digest}"


def _is_its_version(context: StageContext, record: ModelRecord) -> bool:
    """Return whether the version of a record has the weights of the record, as MLflow says."""
    version = record.model_version or ""
    params = context.tracker.version_params(context.registered_model, version)
    named = (params.get("model_key"), params.get("weights_digest"))
    return named == (record.model_key, record.weights_digest)


def _point_to_champion(context: StageContext) -> bool:
    """Point the alias to the serving model, also when somebody moved it; tell if it was moved."""
    champion = _champion(context)
    if champion is None:
        return False
    record = load_record(context.workspace, champion)
    pointed = context.tracker.aliases(context.registered_model).get(ALIAS)
    if record.model_version is None:
        return False
    if pointed == record.model_version:
        _set_mark(context, "alias", champion)
        return False
    if why_tainted(context, champion) is not None:  # ``sentinel`` says so; nothing moves to it
        return False
    point_alias(context, record)
    return True


@contextmanager
def _alone(context: StageContext) -> Iterator[None]:
    """Let one process mirror at a time: two would make two versions of a model."""
    with (context.workspace.root / "mirror.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lost_its_data(context: StageContext) -> bool:
    """Return whether MLflow does not know the version of the serving model."""
    champion = _champion(context)
    if champion is None:
        return False
    record = load_record(context.workspace, champion)
    return record.model_version is not None and not _is_its_version(context, record)


def _champion(context: StageContext) -> str | None:
    path = context.workspace.champion
    key: str | None = read_json(path)["model_key"] if path.exists() else None
    return key


def _closing_entry(context: StageContext, batch_id: str) -> dict[str, Any]:
    entries = read_entries(context.workspace.ledger)
    closed = [e for e in entries if e["kind"] == "batch_closed"]
    found: dict[str, Any] = next(e for e in closed if e["body"]["batch_id"] == batch_id)
    return found


def _marks(context: StageContext) -> JSON:
    """Return what was mirrored, in ``mirror.json``: a memory that may be lost at no harm."""
    path = context.workspace.root / "mirror.json"
    empty: JSON = {"removed": [], "emptied": [], "batches": [], "alias": None}
    return {**empty, **(read_json(path) if path.exists() else {})}


def _mark(context: StageContext, kind: str, key: str) -> None:
    _set_mark(context, kind, sorted({*_marks(context)[kind], key}))


def _unmark_emptied(context: StageContext, run_id: str) -> None:
    emptied = _marks(context)["emptied"]
    _set_mark(context, "emptied", [run for run in emptied if run != run_id])


def _set_mark(context: StageContext, kind: str, value: object) -> None:
    marks = _marks(context)
    if marks[kind] != value:
        write_json(context.workspace.root / "mirror.json", {**marks, kind: value})


def _forget_marks(context: StageContext) -> None:
    """Forget what was mirrored, and versions that MLflow does not know any more.

    Raises:
        TrackingUnavailableError: MLflow does not answer.
    """
    for path in sorted(context.workspace.models.glob("*/model.json")):
        record = load_record(context.workspace, path.parent.name)
        if record.model_version is None:
            continue
        if not _is_its_version(context, record):
            update_record(
                context.workspace, record.model_key, mlflow_run_id=None, model_version=None
            )
    write_json(context.workspace.root / "mirror.json", {})
