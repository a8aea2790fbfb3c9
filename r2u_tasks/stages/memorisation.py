"""How much the last training memorised single records: producer and eraser of that table.

Proxy: the margin of a record under the finished model minus its margin under the model of phase A,
which never saw a revocable record (logit margins of the forgetting test). It is a counterfactual
memorisation score with one reference model, after Feldman and Zhang (2020), who average over many.
Stable records have no such reference and no score; a rule that asks for the percentile counts them
as memorised, unless it says ``if_missing: no_match``. Rows are named by pseudonym.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from governance.storage import (
    BUCKET,
    erase_records,
    publish_table,
    purge_history,
    table_exists,
)
from governance.suppression import pseudonym_array
from r2u_tasks.metrics import margins
from r2u_tasks.records import Splits
from r2u_tasks.stages.context import StageContext
from r2u_tasks.training import STABLE


def write_memorisation(
    context: StageContext,
    model_key: str,
    *,
    table: pa.Table,
    splits: Splits,
    model: nn.Module,
    phase_a: nn.Module,
) -> int:
    """Publish the score of every revocable training record and return their number.

    Replaces the scores of the training before; a repeat for the model changes nothing.

    Args:
        context: Workspace and keys.
        model_key: Finished model.
        table: Classified table, for the buckets.
        splits: Encoded records and their segments.
        model: Finished model.
        phase_a: Model before the first revocable slice.
    """
    training = splits.training
    records = training.records.select(training.segment != STABLE)
    score = margins(model, records) - margins(phase_a, records)
    ids = pa.chunked_array([pa.array(records.ids.tolist(), pa.string())])
    known = table[context.declaration.columns.record_id].combine_chunks()
    at = pc.index_in(ids, value_set=known)
    content = pa.table(
        {
            "record_key": pseudonym_array(context.pseudonym_key, "record", ids),
            "key_id": pa.repeat(pa.scalar(context.key_ring.ids[0]), len(score)),
            "score": pa.array(score, pa.float64()),
            "percentile": pa.array(percentiles(score), pa.float64()),
            BUCKET: table[BUCKET].combine_chunks().take(at.combine_chunks()),
        }
    )
    path = context.workspace.memorisation
    publish_table(path, content, transaction=f"memorisation-{model_key}")
    purge_history(path)
    return int(content.num_rows)


def erase_memorisation(context: StageContext, batch_id: str, record_keys: list[str]) -> None:
    """Erase the scores of erased records; a repeat finds nothing."""
    path = context.workspace.memorisation
    if table_exists(path):
        keys = pa.array(record_keys, pa.string())
        erase_records(path, keys, batch_id=batch_id, record_id_column="record_key")
        purge_history(path)


def percentiles(score: np.ndarray) -> np.ndarray:
    """Return the share of records with a smaller score, in percent; equals share their middle.

    >>> percentiles(np.array([3.0, 1.0, 2.0, 2.0])).tolist()
    [87.5, 12.5, 50.0, 50.0]
    """
    ordered = np.sort(score)
    below = np.searchsorted(ordered, score, side="left")
    upto = np.searchsorted(ordered, score, side="right")
    middle: np.ndarray = 100.0 * (below + upto) / (2.0 * max(1, len(score)))
    return middle
