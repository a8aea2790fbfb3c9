"""Stage ``sentinel``: what nobody looks at until it is too late.

Deadlines at 50, 80 and 100 %, leases that ran out, the ledger's chain, a serving model that knows
an erased record, and rows of unfinished batches that lie around. Reads only; every warning says
what it means and what to do.
"""

from __future__ import annotations

from datetime import UTC, datetime

from governance.clock import share_used
from governance.deletion_queue import RequestRow, State
from governance.ledger import verify_chain
from governance.manifest import models_holding
from governance.signing import PUBLIC_NAME
from governance.suppression import read_tombstones
from r2u_tasks.models import read_champion
from r2u_tasks.stages.context import JSON, StageContext, open_context
from r2u_tasks.stages.mirror import owed

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
    requests = [row for row in context.queue.list_requests() if row.state != State.CLOSED]
    warnings = [warning for row in requests if (warning := _deadline(row, now)) is not None]
    warnings += _stuck_leases(context, now)
    warnings += _waiting_for_person(requests)
    warnings += _ledger(context)
    warnings += _tainted_champion(context)
    warnings += _leftovers(context)
    warnings += _owed_to_mlflow(context)
    return {
        "run_id": run_id,
        "warnings": warnings,
        "checked": {"open_requests": len(requests), "leases": len(context.queue.open_leases())},
    }


def _deadline(row: RequestRow, now: datetime) -> JSON | None:
    used = share_used(row.clock_start, row.due_at, now)
    for level, severity in _LEVELS:
        if used >= level:
            what = "is breached" if level >= 1 else f"is used up to {used:.0%}"
            message = (
                f"the period to answer {what}, due {row.due_at:%Y-%m-%d}, state {row.state}; "
                "run a batch, or extend the period and tell the person why"
            )
            return _warning("deadline", severity, message, row.request_id)
    return None


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
    path = context.workspace.ledger
    if not path.exists():
        return []
    result = verify_chain(path, context.workspace.keys / PUBLIC_NAME)
    if result.ok:
        return []
    return [
        _warning(
            "ledger",
            "critical",
            f"the ledger is not an unbroken chain ({result.problem}); keep a copy and find out "
            "who wrote to it",
        )
    ]


def _tainted_champion(context: StageContext) -> list[JSON]:
    if not context.workspace.champion.exists():
        return []
    erased = read_tombstones(context.workspace.tombstones)["record"]
    serving = {"the serving model": read_champion(context.workspace)}
    for alias, version in context.tracker.aliases(context.registered_model).items():
        params = context.tracker.version_params(context.registered_model, version)
        serving[f"MLflow's alias {alias!r}"] = params.get("model_key", "")
    holding = set(models_holding(context.workspace, erased)) if erased else set()
    return [
        _warning(
            "tainted_champion",
            "critical",
            f"{what} ({key}) was trained on erased records; promote its replacement",
        )
        for what, key in serving.items()
        if key in holding
    ]


def _leftovers(context: StageContext) -> list[JSON]:
    warnings = []
    for folder in sorted((context.workspace.root / "batches").glob("*/private")):
        if (folder.parent / "result.json").exists():
            message = f"batch {folder.parent.name} is closed but its rows are kept; delete private/"
            warnings.append(_warning("leftover_rows", "critical", message))
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
