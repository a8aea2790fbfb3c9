"""All steps in one process: the command line's way."""

from __future__ import annotations

from typing import Any

from r2u_tasks.pools import PoolProgress
from r2u_tasks.stages.context import JSON
from r2u_tasks.stages.unlearn.approximate import unlearn_model
from r2u_tasks.stages.unlearn.close import close_batch
from r2u_tasks.stages.unlearn.erase import erase_rows
from r2u_tasks.stages.unlearn.exact import replay_model
from r2u_tasks.stages.unlearn.lease import lease_batch
from r2u_tasks.stages.unlearn.plan import plan_batch
from r2u_tasks.stages.unlearn.promote import promote_model
from r2u_tasks.stages.unlearn.purge import purge_leftovers
from r2u_tasks.training import ProgressCallback


def run_batch(
    *,
    run_id: str,
    dataset: str,
    root_uri: str,
    method: str | None = None,
    pool_progress: PoolProgress | None = None,
    progress: ProgressCallback | None = None,
) -> JSON:
    """Run all steps in this process: the command line's way."""
    lease = lease_batch(run_id=run_id, dataset=dataset, root_uri=root_uri)
    if lease["n_requests"] == 0:
        return {**lease, "outcomes": {}}
    arguments: dict[str, Any] = {
        "batch_id": lease["batch_id"],
        "token": lease["token"],
        "dataset": dataset,
        "root_uri": root_uri,
    }
    plan_batch(**arguments)
    erase_rows(**arguments)
    unlearn_model(**arguments, method=method, progress=pool_progress)
    replay_model(**arguments, progress=progress)
    promote_model(**arguments)
    purge_leftovers(**arguments)
    return close_batch(**arguments)
