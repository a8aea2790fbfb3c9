"""What the steps of a run share: where it is staged, its policy, its overrides, who was erased."""

from __future__ import annotations

import logging
from datetime import datetime

import pyarrow as pa

from governance.classification.overrides import Overrides, load_overrides
from governance.classification.staging import Staging
from governance.errors import DataError
from governance.policy import Policy, load_policy
from governance.suppression import suppress
from governance.workspace import safe_key
from r2u_tasks.stages.context import JSON, StageContext, open_context

_log = logging.getLogger(__name__)


def open_run(run_id: str, dataset: str, root_uri: str) -> tuple[StageContext, Staging]:
    """Return the context and the staging folder of a run."""
    context = open_context(dataset, root_uri)
    return context, Staging(context.workspace.staging / f"classify-{safe_key(run_id)}")


def policy_of_run(context: StageContext, staging: Staging) -> tuple[Policy, JSON]:
    """Return the policy with which the run began.

    Raises:
        DataError: The first step was not done, or the policy was changed between the steps.
    """
    noted = staging.noted("ingest")
    policy = load_policy(context.declaration.policy_path, context.declaration)
    if noted is None or noted["policy_digest"] != policy.digest:
        what = "no rows in staging" if noted is None else "another policy than at its begin"
        message = f"classify: expected to go on with a run, got {what}; start a new run"
        raise DataError(message)
    return policy, noted


def overrides_of_run(
    context: StageContext, staging: Staging, policy: Policy, noted: JSON
) -> Overrides:
    """Return what is in force at the ingest, for every bucket of the run alike."""
    overrides = load_overrides(
        context.workspace.overrides,
        now=datetime.fromisoformat(noted["overrides_at"]),
        policy_digest=policy.digest,
        copy=staging.overrides,
    )
    if overrides.expired:
        _log.warning("classify: %d overrides have expired", len(overrides.expired))
    return overrides


def drop_erased(
    context: StageContext, rows: pa.Table, tombstones: dict[str, set[str]]
) -> tuple[pa.Table, int]:
    """Return the rows without those of erased records and subjects, and how many went."""
    columns = context.declaration.columns
    return suppress(
        rows,
        tombstones=tombstones,
        keys=context.key_ring.keys,
        record_id_column=columns.record_id,
        subject_id_column=columns.subject_id,
    )
