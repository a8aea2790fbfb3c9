"""Stage ``unlearn``: from leased requests to a tested model and a closed batch.

Steps, in order: ``lease_batch``, ``plan_batch``, ``erase_rows``, ``unlearn_model`` (approximate
lane), ``replay_model`` (exact lane, when the gate asks for it), ``promote_model``,
``purge_leftovers``, ``close_batch``; a module for each. Each step publishes its result under the
batch and returns it when it is run again, so a killed run goes on where it stopped. Before anything
is destroyed, the ledger says what is about to happen.
"""

from r2u_tasks.stages.unlearn.approximate import unlearn_model
from r2u_tasks.stages.unlearn.close import close_batch
from r2u_tasks.stages.unlearn.erase import erase_rows
from r2u_tasks.stages.unlearn.exact import replay_model
from r2u_tasks.stages.unlearn.lease import lease_batch, release_batch
from r2u_tasks.stages.unlearn.plan import plan_batch
from r2u_tasks.stages.unlearn.promote import promote_model
from r2u_tasks.stages.unlearn.purge import purge_leftovers
from r2u_tasks.stages.unlearn.run import run_batch

__all__ = [
    "close_batch",
    "erase_rows",
    "lease_batch",
    "plan_batch",
    "promote_model",
    "purge_leftovers",
    "release_batch",
    "replay_model",
    "run_batch",
    "unlearn_model",
]
