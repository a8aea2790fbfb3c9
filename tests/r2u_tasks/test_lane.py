"""Which exact lane serves a batch: from a checkpoint that exists and saw none of its records."""

import pytest

from r2u_tasks.batch import choose_lane


@pytest.mark.parametrize(
    ("segments", "trained", "checkpoints", "lane"),
    [
        ([2, 3], [0, 1, 2, 3], [1, 2, 3], ("replay", 2)),
        # An accepted approximate batch on slice 1 left checkpoint 1 only: more is trained again.
        ([3], [0, 1, 2, 3], [1], ("replay", 1)),
        # One on stable records left none.
        ([3], [0, 1, 2, 3], [], ("retrain", 0)),
        ([0, 3], [0, 1, 2, 3], [1, 2, 3], ("retrain", 0)),
        # Without stable records the feature scale was measured on revocable ones.
        ([2], [1, 2], [1, 2], ("retrain", 0)),
    ],
)
def test_the_lane_starts_where_nothing_knew_the_records(segments, trained, checkpoints, lane):
    """The last checkpoint at or before the first segment that is hit; else from the beginning."""
    assert lane == choose_lane(segments, trained, checkpoints)
