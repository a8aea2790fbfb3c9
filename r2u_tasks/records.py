"""From the classified table to training data: splits, slices and the scale of the features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.declaration import Declaration
from governance.errors import DataError
from r2u_tasks.data import FeatureScale, Records, encode_records, measure_scale
from r2u_tasks.training import STABLE, SegmentedRecords, assign_slices


@dataclass(frozen=True, slots=True)
class Splits:
    """Encoded records by use; ``training`` knows the segment of each record."""

    training: SegmentedRecords
    validation: Records
    holdout: Records
    scale: FeatureScale


def encode_splits(
    table: pa.Table,
    declaration: Declaration,
    *,
    scale: FeatureScale | None = None,
    segments: dict[str, int] | None = None,
) -> Splits:
    """Encode a classified table.

    Args:
        table: Classified records.
        declaration: Roles of the columns.
        scale: Feature scale of an existing model; measured on stable training records if absent
            (of an existing model: those of its first segment that are still in the table).
        segments: Segment of each record id in an existing model; records that it does not name
            were not trained on and are left out. Assigned from the risk order if absent.

    Raises:
        DataError: The training or the validation split is empty.
    """
    split = table["split"]
    training_rows = table.filter(pc.equal(split, "train"))
    validation_rows = table.filter(pc.equal(split, "validation"))
    for name, rows in (("training", training_rows), ("validation", validation_rows)):
        if rows.num_rows == 0:
            message = (
                f"{name} split: expected at least one record, got none; "
                "the table has too few subjects for the declared split fractions"
            )
            raise DataError(message)
    if scale is None:
        scale = measure_scale(_stable(training_rows, declaration, segments), declaration)
    training = _segmented(training_rows, declaration, scale, segments)
    return Splits(
        training=training,
        validation=encode_records(validation_rows, declaration, scale),
        holdout=encode_records(table.filter(pc.equal(split, "holdout")), declaration, scale),
        scale=scale,
    )


def _stable(rows: pa.Table, declaration: Declaration, segments: dict[str, int] | None) -> pa.Table:
    """Return the rows that the scale is measured on: stable ones, all where none are stable."""
    if segments is None:
        stable = rows.filter(pc.invert(rows["revocable"]))
        return stable if stable.num_rows else rows
    ids = rows[declaration.columns.record_id].to_pylist()
    stable = rows.filter(pa.array([segments.get(record_id) == STABLE for record_id in ids]))
    return stable if stable.num_rows else rows.filter(pa.array([i in segments for i in ids]))


def _segmented(
    rows: pa.Table,
    declaration: Declaration,
    scale: FeatureScale,
    segments: dict[str, int] | None,
) -> SegmentedRecords:
    n_segments = declaration.training.n_slices + 1
    records = encode_records(rows, declaration, scale)
    ids = np.asarray(rows[declaration.columns.record_id].to_pylist(), dtype=str)
    order = np.argsort(ids, kind="stable")
    if segments is None:
        revocable = np.asarray(rows["revocable"].to_pylist(), dtype=bool)[order]
        rank = np.asarray(rows["slice_order"].to_pylist(), dtype=np.int64)[order]
        segment = assign_slices(revocable, rank, declaration.training.n_slices)
        return SegmentedRecords(records, segment, n_segments)
    known = np.array([record_id in segments for record_id in records.ids])
    kept = records.select(known)
    segment = np.array([segments[record_id] for record_id in kept.ids], dtype=np.int8)
    return SegmentedRecords(kept, segment, n_segments)
