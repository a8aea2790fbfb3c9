"""Heads of the ledger that were written down elsewhere: in reports, and in MLflow.

Lines cut off the end of a ledger leave a whole chain. Whoever cuts them would have to change every
place that repeats the head; MLflow refuses to change a param, and may be a server of its own.
Runs of batches that this workspace does not know are left out: two workspaces may share a server.
"""

from __future__ import annotations

from governance.digests import read_json
from governance.errors import TrackingUnavailableError
from r2u_tasks.stages.context import StageContext

_PARAM = "ledger_head"


def noted_heads(context: StageContext) -> tuple[dict[str, str], list[str]]:
    """Return the heads that were noted, by place, and the places that could not be asked."""
    heads = {}
    for path in sorted(context.workspace.reports.glob("*/ledger-head.json")):
        noted = read_json(path)
        heads[f"the report of {noted['made_at']}"] = str(noted["head"])
    try:
        for name, head in context.tracker.run_params(context.declaration.name, _PARAM).items():
            if context.workspace.batch(name.removeprefix("batch ")).is_dir():
                heads[f"MLflow's run {name!r}"] = head
    except TrackingUnavailableError:
        return heads, ["MLflow"]
    return heads, []
