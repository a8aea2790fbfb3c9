"""Stage ``calibrate``: what deletion requests say about the risk policy, and a proposal.

``observe_requests`` counts a batch before its rows are erased. ``calibrate`` holds all observations
against the classifications and writes ``calibration/<run>/``: ``report.json``, ``reliability.png``,
and, where the requests ask for it, ``proposal.yaml`` with its difference to the present policy;
``calibration/report.json`` is the newest, for the governance report. Nothing changes until a person
calls ``accept_proposal``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from governance.calibration.drift import watch_drift
from governance.calibration.measures import measure
from governance.calibration.observations import (
    load_observations,
    observe_batch,
    save_observation,
)
from governance.calibration.picture import draw_reliability
from governance.calibration.proposal import propose_policy
from governance.calibration.rates import group_rates
from governance.classification import GROUP
from governance.classification.decisions import decide
from governance.classification.runs import RunRecord, load_runs
from governance.deletion_queue import State
from governance.digests import digest_bytes, read_json, write_atomic, write_json
from governance.errors import DataError, PolicyError, RequestError
from governance.policy import Policy, load_policy, parse_policy, write_policy
from governance.policy.changes import policy_changes
from governance.workspace import safe_key
from r2u_tasks.stages.context import JSON, StageContext, open_context

_WAITING = frozenset(
    {
        State.RECEIVED,
        State.UNVERIFIED,
        State.VERIFIED,
        State.QUEUED,
        State.LEASED,
        State.PLANNED,
        State.APPROVED,
        State.RETRY_WAIT,
    }
)
_log = logging.getLogger(__name__)


def observe_requests(
    context: StageContext, *, batch_id: str, rows: pa.Table, received: Mapping[str, datetime]
) -> None:
    """Count what a batch asks for, while its rows exist; a repeat writes the same place.

    Args:
        context: Workspace and declaration.
        batch_id: Batch.
        rows: The rows that are about to be erased, with their decision columns.
        received: When those who asked for all of their data did so, by id.
    """
    if GROUP not in rows.column_names or not rows.num_rows:
        return
    columns = context.declaration.columns
    try:
        strata = load_policy(context.declaration.policy_path, context.declaration).strata
    except PolicyError:
        _log.warning("calibration: the policy is wrong now; a batch is counted without strata")
        strata = ()  # an erasure never waits for a policy
    day = {key: np.datetime64(at.astimezone(UTC).date(), "D") for key, at in received.items()}
    never = np.datetime64("NaT", "D")
    days = np.array(
        [day.get(key, never) for key in rows[columns.subject_id].to_pylist()], dtype="datetime64[D]"
    )
    observation = observe_batch(
        rows,
        batch_id=batch_id,
        at=datetime.now(UTC),
        subject_id=columns.subject_id,
        received=days,
        strata=strata,
        pseudonym_keys=context.key_ring.keys,
    )
    save_observation(context.workspace.calibration, observation)


def calibrate(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Compare the classification with the requests so far.

    Args:
        run_id: Names the report; the same id returns the same report.
        dataset: Declaration.
        root_uri: Workspace.

    Returns:
        Measures, drift alarm, and ``proposal``: changes, their effect on the risk groups, path.

    Raises:
        DataError: Nothing was classified yet.
    """
    context = open_context(dataset, root_uri)
    result: JSON = context.workspace.once(
        "calibrate", run_id, lambda: _calibrate(context, safe_key(run_id))
    )
    return result


def accept_proposal(*, run_id: str, who: str, dataset: str, root_uri: str) -> JSON:
    """Put a proposed policy in the place of the present one; the former stays beside it.

    Args:
        run_id: Run of the calibration that proposed it.
        who: Who accepts.
        dataset: Declaration.
        root_uri: Workspace.

    Raises:
        RequestError: There is no proposal, nobody accepts, or the policy has changed since.
    """
    context = open_context(dataset, root_uri)
    folder = context.workspace.calibration / safe_key(run_id)
    path = context.declaration.policy_path
    present = load_policy(path, context.declaration)
    if not who.strip() or not (folder / "proposal.yaml").exists():
        message = "calibrate: expected a run with a proposal and the name of who accepts it"
        raise RequestError(message)
    report = read_json(folder / "report.json")
    if report["policy"]["digest"] != present.digest:
        message = "calibrate: expected the policy that was calibrated; it has changed, run it again"
        raise RequestError(message)
    text = (folder / "proposal.yaml").read_text(encoding="utf-8")
    proposed = parse_policy(text, what="proposal.yaml", declaration=context.declaration)
    former = path.with_name(f"{path.stem}.v{present.version}{path.suffix}")
    write_atomic(former, path.read_bytes())
    write_atomic(path, text.encode("utf-8"))
    body = {"from_digest": present.digest, "to_digest": proposed.digest}
    context.ledger.append("policy_accepted", {**body, "version": proposed.version})
    note = {**body, "who": who, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(folder / "accepted.json", note)
    return {"policy": str(path), "former": str(former), "version": proposed.version, **body}


def _calibrate(context: StageContext, key: str) -> JSON:
    runs = load_runs(context.workspace.classifications)
    if not runs:
        message = "calibrate: expected a classification, got none; run `r2u classify` first"
        raise DataError(message)
    report, proposed = _measures(context, runs)
    folder = context.workspace.calibration / key
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "reliability.png", draw_reliability(report["reliability"]))
    report["reliability_plot"] = str(folder / "reliability.png")
    if proposed is not None:
        text = write_policy(proposed)
        write_atomic(folder / "proposal.yaml", text.encode("utf-8"))
        report["proposal"] |= {
            "path": str(folder / "proposal.yaml"),
            "digest": digest_bytes(text.encode("utf-8")),
        }
    write_json(folder / "report.json", report)
    write_json(context.workspace.calibration / "report.json", _headline(report))
    return report


def _headline(report: JSON) -> JSON:
    """Return the newest report with the figures that the governance report shows as they are."""
    drift, proposal = report["drift"], report["proposal"]
    figures = {
        "observed_days": report["observed_days"],
        "batches": report["n_batches"],
        "asked_subjects_in_the_revocable_set": report["recall_subjects"]["value"],
        "revocable_records_asked_for": report["precision_records"]["value"],
        "records_missed": report["misses"]["n_records"],
        "cost_of_the_misses": report["misses"]["cost"],
        "brier_score": report["brier"],
        "brier_score_of_one_rate_for_all": report["brier_constant"],
        "drift": "alarm" if drift["alarm"] else "none",
        "proposed_policy_version": None if proposal is None else proposal["version"],
    }
    return {**figures, "details": report}


def _measures(context: StageContext, runs: list[RunRecord]) -> tuple[JSON, Policy | None]:
    observations = load_observations(context.workspace.calibration)
    now = datetime.now(UTC)
    until = _complete_until(context, now)
    rates = group_rates(runs, observations, until=until)
    policy = load_policy(context.declaration.policy_path, context.declaration)
    proposed = None
    if policy.digest == runs[-1].policy_digest:
        proposed = propose_policy(policy, rates, horizon_days=policy.horizon_days)
    report: JSON = {
        "schema": "r2u-calibration/1",
        "at": now.isoformat(timespec="seconds"),
        "complete_until": until.isoformat(timespec="seconds"),
        "policy": {"version": runs[-1].policy_version, "digest": runs[-1].policy_digest},
        "horizon_days": runs[-1].horizon_days,
        **measure(runs, observations, rates, until=until),
        "drift": watch_drift(runs, observations, until=until).to_dict(),
        "proposal": None,
    }
    if proposed is not None:
        report["proposal"] = {
            "version": proposed.version,
            "changes": policy_changes(policy, proposed),
            "moves": _moves(runs[-1], proposed),
        }
    return report, proposed


def _complete_until(context: StageContext, now: datetime) -> datetime:
    """Return the oldest receipt that no batch has counted yet: later days are not complete.

    Held and exempt requests may wait for years and do not stop the time.
    """
    rows = context.queue.iterate_open()
    return min((row.received_at for row in rows if row.state in _WAITING), default=now)


def _moves(run: RunRecord, proposed: Policy) -> JSON:
    """Return how many records of the last classification would change their level."""
    moves = {"low_to_high": 0, "high_to_low": 0}
    for group in run.groups:
        level = decide(group.pattern, proposed).level
        if level != group.decision.level:
            moves[f"{group.decision.level}_to_{level}"] += group.n_records
    return moves
