"""What an erasure takes, under every key of the ring: while the rows are there, it can be said.

A request is under the key that it came with. A tombstone under that key alone would not be known to
models that were trained since a rotation, and would keep the old key needed for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from governance.deletion_queue import RequestRow
from governance.request_rows import selector_value
from governance.suppression import Erased, pseudonyms
from r2u_tasks.stages.context import StageContext
from r2u_tasks.stages.unlearn.steps import keys_under


def erased_under_all_keys(
    context: StageContext, rows: pa.Table, requests: Sequence[RequestRow]
) -> list[Erased]:
    """Return the tombstones of a batch, one set for each key of the ring.

    Args:
        context: Workspace, declaration and keys.
        rows: The rows that are about to be erased.
        requests: Requests of the batch, each of which asks for some of the rows.
    """
    persons = rows[context.declaration.columns.subject_id].unique().to_pylist()
    asked, selected = _asked_persons(context, persons, requests), _selected(context, rows, requests)
    found = []
    for key, key_id in zip(context.key_ring.keys, context.key_ring.ids, strict=True):
        named = [one for row in requests for one in row.pseudonyms]
        named = [one for one in named if context.key_ring.id_of(one.key_id) == key_id]
        subjects = {one.subject_key for one in named if one.subject_key is not None}
        values = {one.selector["value"] for one in named if one.selector is not None}
        found.append(
            Erased(
                key_id=key_id,
                record_keys=keys_under(context, rows, key),
                subject_keys=sorted(subjects.union(pseudonyms(key, "subject", asked))),
                touched_subject_keys=pseudonyms(key, "subject", persons),
                selector_keys=sorted(values.union(selector_value(key, *one) for one in selected)),
            )
        )
    return found


def subjects_by_request_key(
    context: StageContext, persons: Sequence[str], requests: Sequence[RequestRow]
) -> dict[str, dict[str, str]]:
    """Return name of a key -> pseudonym -> person, for each key that a request is under.

    Raises:
        PermanentError: A request is under a key that is not in the ring.
    """
    ring, found = context.key_ring, {}
    for row in requests:
        key_id = ring.id_of(row.key_id)
        if key_id not in found:
            names = pseudonyms(ring.named(key_id, f"request {row.request_id}"), "subject", persons)
            found[key_id] = dict(zip(names, persons, strict=True))
    return found


def _asked_persons(
    context: StageContext, persons: Sequence[str], requests: Sequence[RequestRow]
) -> list[str]:
    """Return the persons who asked for all of their data."""
    known = subjects_by_request_key(context, persons, requests)
    asked = (
        known[context.key_ring.id_of(row.key_id)].get(row.subject_key)
        for row in requests
        if row.subject_key is not None
    )
    return sorted({person for person in asked if person is not None})


def _selected(
    context: StageContext, rows: pa.Table, requests: Sequence[RequestRow]
) -> list[tuple[str, str]]:
    """Return column and value of each tenant or class that is asked for."""
    ring, found = context.key_ring, set()
    for row in requests:
        if row.selector is None:
            continue
        key = ring.named(row.key_id, f"request {row.request_id}")
        column, wanted = row.selector["column"], row.selector["value"]
        cells = np.unique([str(cell) for cell in rows[column].to_pylist()]).tolist()
        found |= {(column, c) for c in cells if selector_value(key, column, c) == wanted}
    return sorted(found)
