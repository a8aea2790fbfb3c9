"""Stage ``sentinel``: what nobody looks at until it is too late.

Deadlines at 50, 80 and 100 %, a queue that does not fit together, leases that ran out, the ledger's
chain, a model that serves or has an alias and knows an erased record, erased records that came
back, recipients that do not answer, strings of erased persons that are still readable, rows of
batches that lie around, models that were begun before an erasure and never finished, and pseudonym
keys that are missing or kept too long. Reads only; every warning says what it means and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from governance.deletion_queue import RequestRow, State
from governance.digests import read_json
from governance.errors import TrackingUnavailableError
from governance.key_ring import read_record
from governance.key_rotation import unfinished_rotation
from governance.ledger import verify_chain
from governance.signing import PUBLIC_NAME
from governance.storage import read_table, table_exists
from governance.suppression import read_tombstones, suppress
from r2u_tasks.models import read_champion
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.heads import noted_heads
from r2u_tasks.stages.key_needs import find_needs, in_words
from r2u_tasks.stages.mirror import owed
from r2u_tasks.stages.recipients import notices_of
from r2u_tasks.stages.taint import why_tainted, why_version_tainted
from r2u_tasks.stages.unfinished import find_behind
from r2u_tasks.stages.unlearn.steps import is_in_batch

_MAX_DEADLINES = 100
_LEVELS = ((1.0, "critical"), (0.8, "warning"), (0.5, "info"))


def check(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Look at everything and return the warnings.

    Args:
        run_id: Name of the run; the checks are made anew each time.
        dataset: Declaration.
        root_uri: Workspace.

    Returns:
        ``warnings`` (kind, severity, message, request_id) and ``checked`` with counts.
    """
    context = open_context(dataset, root_uri)
    now = datetime.now(UTC)
    requests = list(context.queue.iterate_open())
    warnings = _deadlines(requests, now)
    warnings += _unsound_queue(context)
    warnings += _stuck_leases(context, now)
    warnings += _waiting_for_person(requests)
    warnings += _ledger(context)
    warnings += _tainted_models(context)
    warnings += _returned_records(context)
    warnings += _recipients(context, now)
    warnings += _traces(context)
    warnings += _leftovers(context)
    warnings += _unfinished_models(context)
    warnings += _owed_to_mlflow(context)
    warnings += _pseudonym_keys(context)
    return {
        "run_id": run_id,
        "warnings": warnings,
        "checked": {"open_requests": len(requests), "leases": len(context.queue.open_leases())},
    }


def _deadlines(requests: Sequence[RequestRow], now: datetime) -> list[JSON]:
    """Warn of periods that are half over, nearly over or over; a pause stands still.

    Those that are worst off come first and one by one, the others as a number: a list that nobody
    can read warns nobody.
    """
    late = [(used, row) for row in requests if (used := row.share_used(now)) >= _LEVELS[-1][0]]
    late.sort(key=lambda pair: (-pair[0], pair[1].request_id))
    warnings = [_deadline(used, row) for used, row in late[:_MAX_DEADLINES]]
    rest = late[_MAX_DEADLINES:]
    for level, severity in _LEVELS:
        n = sum(used >= level for used, _ in rest)
        rest = [pair for pair in rest if pair[0] < level]
        if n:
            message = f"{n} more requests have used {level:.0%} of their period or more"
            warnings.append(_warning("deadline", severity, message))
    return warnings


def _deadline(used: float, row: RequestRow) -> JSON:
    what = "is breached" if used >= 1 else f"is used up to {used:.0%}"
    severity = next(name for level, name in _LEVELS if used >= level)
    do = "run a batch, or extend the period and tell the person why"
    if row.state in {State.REJECTED, State.EXEMPT}:
        do = "it is decided: tell the person, and answer it"
    elif row.state == State.UNVERIFIED:
        do = "ask for the proof of identity, or reject it with the reason"
    elif row.state == State.HELD:
        do = "decide about its hold, or extend the period and tell the person why"
    message = f"the period to answer {what}, due {row.due_at:%Y-%m-%d}, state {row.state}; {do}"
    return _warning("deadline", severity, message, row.request_id)


def _unsound_queue(context: StageContext) -> list[JSON]:
    return [
        _warning(
            "queue",
            "critical",
            f"the deletion queue does not fit together: {problem}; somebody wrote to its database "
            "around the software: keep a copy and find out who",
        )
        for problem in context.queue.find_problems()
    ]


def _stuck_leases(context: StageContext, now: datetime) -> list[JSON]:
    return [
        _warning(
            "stuck_lease",
            "warning",
            f"batch {lease.batch_id} holds {lease.n_requests} requests beyond its lease; "
            "run unlearn_batch again with the same run id",
        )
        for lease in context.queue.open_leases()
        if lease.expires_at < now
    ]


def _waiting_for_person(requests: list[RequestRow]) -> list[JSON]:
    return [
        _warning(
            "needs_person",
            "warning",
            "the gate refused every model; look at the evidence of its batch and decide",
            row.request_id,
        )
        for row in requests
        if row.state == State.NEEDS_PERSON
    ]


def _ledger(context: StageContext) -> list[JSON]:
    heads, silent = noted_heads(context)
    key = context.workspace.keys / PUBLIC_NAME
    result = verify_chain(context.workspace.ledger, key, noted_heads=heads)
    warnings = []
    if not result.ok:
        message = (
            f"the ledger is not what it was ({result.problem}); keep a copy and find out "
            "who wrote to it"
        )
        warnings.append(_warning("ledger", "critical", message))
    for place in silent:
        message = f"{place} does not answer: the heads of the ledger noted there are not compared"
        warnings.append(_warning("ledger_heads", "info", message))
    return warnings


def _tainted_models(context: StageContext) -> list[JSON]:
    """Warn of models that serve and know an erased person, also where somebody else moved them."""
    warnings = []
    if context.workspace.champion.exists():
        key = read_champion(context.workspace)
        warnings += _taint("the serving model", key, why_tainted(context, key))
    try:
        aliases = context.tracker.aliases(context.registered_model)
        for alias, version in sorted(aliases.items()):
            params = context.tracker.version_params(context.registered_model, version)
            what = f"MLflow's alias {alias!r} (version {version})"
            why = why_version_tainted(context, params)
            warnings += _taint(what, params.get("model_key", ""), why)
    except TrackingUnavailableError:
        message = "MLflow does not answer, so nobody knows where its aliases point; start it"
        warnings.append(_warning("mlflow_silent", "warning", message))
    return warnings


def _taint(what: str, model_key: str, why: str | None) -> list[JSON]:
    if why is None:
        return []
    message = (
        f"{what} is {model_key or 'a model of unknown origin'}: {why}; promote its replacement "
        "(`r2u promote`) and find out who moved it"
    )
    return [_warning("tainted_champion", "critical", message)]


def _returned_records(context: StageContext) -> list[JSON]:
    """Warn of rows in the tables that have a tombstone: a load went around the suppression."""
    tombstones = read_tombstones(context.workspace.tombstones)
    columns = context.declaration.columns
    warnings = []
    for table in (context.workspace.raw, context.workspace.classified):
        if not (any(tombstones.values()) and table_exists(table)):
            continue
        ids = read_table(table, columns=[columns.record_id, columns.subject_id])
        _, n_back = suppress(
            ids,
            tombstones=tombstones,
            keys=context.key_ring.keys,
            record_id_column=columns.record_id,
            subject_id_column=columns.subject_id,
        )
        if n_back:
            message = (
                f"{n_back} erased records are in table {table.name} again; run the classification, "
                "which drops them, and find out what wrote to the table"
            )
            warnings.append(_warning("erased_record_is_back", "critical", message))
    return warnings


def _recipients(context: StageContext, now: datetime) -> list[JSON]:
    return [
        _warning(
            "recipient_overdue",
            "warning",
            f"recipient {notice['recipient']} has not answered the notice of batch "
            f"{notice['batch_id']}, due {notice['due_at'][:10]}; ask again, then "
            "`r2u recipients answer`",
        )
        for notice in notices_of(context, now=now)
        if notice["overdue"]
    ]


def _traces(context: StageContext) -> list[JSON]:
    warnings = []
    for path in sorted(context.workspace.root.glob("batches/*/remains.json")):
        found = [trace["path"] for trace in read_json(path)["found"]]
        still = [name for name in found if (context.workspace.root / name).exists()]
        if still:
            message = (
                f"after batch {path.parent.name}, strings of erased persons were readable in "
                f"{len(still)} files ({still[0]}); look at remains.json and delete them"
            )
            warnings.append(_warning("traces", "critical", message))
    return warnings


def _leftovers(context: StageContext) -> list[JSON]:
    """Warn of kept rows of a batch that no request waits for."""
    warnings = []
    for folder in sorted((context.workspace.root / "batches").glob("*/private")):
        rows = context.queue.batch_requests(folder.parent.name)
        if not any(is_in_batch(row) or row.state == State.NEEDS_PERSON for row in rows):
            message = (
                f"no request waits for batch {folder.parent.name} but its rows are kept; the next "
                "batch deletes private/, or do it by hand"
            )
            warnings.append(_warning("leftover_rows", "critical", message))
    return warnings


def _unfinished_models(context: StageContext) -> list[JSON]:
    """Warn of models that were begun before an erasure, or nobody knows when, and not finished."""
    return [
        _warning(
            "unfinished_model",
            "critical",
            f"models/{folder.name} is an unfinished model from before an erasure, so it may know "
            "erased persons; the next purge deletes it, and so does running its training again",
        )
        for folder in find_behind(context)
    ]


def _pseudonym_keys(context: StageContext) -> list[JSON]:
    """Warn of a rotation that was killed, of keys that are missing, and of those kept too long."""
    if read_record(context.workspace.keys) is None:
        return []
    warnings, needs = [], find_needs(context)
    if unfinished_rotation(context.workspace.keys):
        message = (
            "a rotation of the pseudonym key was begun and not finished; run "
            "`r2u keys rotate-pseudonyms` again"
        )
        warnings.append(_warning("key_rotation", "warning", message))
    for key_id in context.key_ring.ids[1:]:
        if not needs.get(key_id):
            message = (
                f"nothing needs the earlier pseudonym key {key_id} any more, and a kept key can "
                f"be stolen; `r2u keys drop {key_id}`"
            )
            warnings.append(_warning("key_not_needed", "info", message))
    for key_id in sorted(needs.keys() - set(context.key_ring.ids)):
        message = (
            f"the pseudonym key {key_id} is none of this machine's ring, and is needed by "
            f"{in_words(needs[key_id])}; restore it, or give this machine the ring of the others"
        )
        warnings.append(_warning("key_missing", "critical", message))
    return warnings


def _owed_to_mlflow(context: StageContext) -> list[JSON]:
    debts = owed(context)
    if not debts:
        return []
    message = f"MLflow does not hold {len(debts)} things yet ({debts[0]}); run `r2u mirror`"
    return [_warning("mirror_owed", "info", message)]


def _warning(kind: str, severity: str, message: str, request_id: str | None = None) -> JSON:
    warning = {"kind": kind, "severity": severity, "message": message}
    return warning if request_id is None else {**warning, "request_id": request_id}
