"""Stage ``classify``: ingest the source, gate it, give every record a risk level, gate the result.

Three steps, so that the middle one can be mapped over buckets: ``ingest_rows`` streams the source
into a staging folder, ``classify_part`` decides about some buckets, ``publish_classified`` applies
the budget and publishes the tables ``raw`` and ``classified``, each in one commit.
``classify_data`` does all three. Memory is bounded by a bucket. Twice is safe: the run id names
staging and both writes. A failing gate raises before anything is published. Erased records and
subjects are dropped at the door.
"""

from r2u_tasks.stages.classify.explaining import explain
from r2u_tasks.stages.classify.ingest import ingest_rows
from r2u_tasks.stages.classify.part import classify_part
from r2u_tasks.stages.classify.publish import publish_classified
from r2u_tasks.stages.context import JSON

__all__ = ["classify_data", "classify_part", "explain", "ingest_rows", "publish_classified"]


def classify_data(*, run_id: str, dataset: str, root_uri: str, as_of: str | None = None) -> JSON:
    """Classify the records of a dataset: all steps, one after the other.

    Args:
        run_id: Names the run; the same id returns the same result.
        dataset: Declaration.
        root_uri: Workspace.
        as_of: Day (ISO) on which ages are measured; today if absent, then fixed by the run id.

    Returns:
        Tables with versions and row counts, policy, counts by level, results of the gates, records
        to review, overrides, rules and strata that name a value which no row has, and what moved
        since the previous run.

    Raises:
        DataError: The source is not what was declared.
        PolicyError: The policy is wrong.
        ValidationFailedError: A critical expectation failed; former tables are untouched.
    """
    place = {"run_id": run_id, "dataset": dataset, "root_uri": root_uri}
    for part in ingest_rows(**place, as_of=as_of)["parts"]:
        classify_part(**place, part=part)
    return publish_classified(**place)
