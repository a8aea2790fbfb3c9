"""Cut a column into slices of bounded size, so that memory does not grow with it.

Cells are packed until ``SLICE_BYTES``; a cell that is longer is cut into windows that share
``MARGIN`` bytes on each side. A match belongs to the window in whose core it starts, and no
detector looks further than the margin, so that nothing is lost or counted twice at a border.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.scanner.folding import fold
from governance.scanner.text import BREAK, PAD, Text

SLICE_BYTES = 1 << 20
"""Bytes of a slice: some MiB of temporary arrays, and most passes stay in the cache."""

MARGIN = 8192
"""Bytes of context on each side of a window; the longest match is shorter."""

_BREAKS = np.full(PAD, BREAK, np.uint8)


def slices(
    column: pa.ChunkedArray | pa.Array, *, size: int = SLICE_BYTES, margin: int = MARGIN
) -> Iterator[Text]:
    """Yield the column as slices of about ``size`` bytes; null counts as empty.

    Args:
        column: Strings or binary, in whatever encoding.
        size: Bytes of a slice before its margins.
        margin: Bytes of context around a window of a long cell.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    number = 0
    for chunk in chunks:
        cells = pc.fill_null(chunk.cast(pa.large_binary()), b"")
        offsets = np.frombuffer(cells.buffers()[1], np.int64)[cells.offset :][: len(cells) + 1]
        start = 0
        while start < len(cells):
            stop = int(np.searchsorted(offsets, offsets[start] + size, "right")) - 1
            if stop > start:
                stop = min(stop, len(cells))
                yield _packed(cells.slice(start, stop - start), offsets[start : stop + 1], number)
            else:
                stop = start + 1
                value = np.frombuffer(cells[start].as_buffer(), np.uint8)
                yield from _windows(value, number, size=size, margin=margin)
            number += stop - start
            start = stop


def _packed(cells: pa.Array, offsets: np.ndarray, number: int) -> Text:
    """Join whole cells with a break byte between them."""
    ends = pa.array([0, len(cells)], pa.int32())
    joined = pc.binary_join(
        pa.ListArray.from_arrays(ends, cells), pa.scalar(bytes([BREAK]), pa.large_binary())
    )
    n_bytes = int(offsets[-1] - offsets[0]) + len(cells) - 1
    data = np.frombuffer(joined.buffers()[2], np.uint8)[:n_bytes] if n_bytes else _BREAKS[:0]
    shift = np.arange(len(cells)) + (PAD - offsets[0])
    return fold(
        Text(
            data=np.concatenate([_BREAKS, data, _BREAKS]),
            cell_first=offsets[:-1] + shift,
            cell_stop=offsets[1:] + shift,
            cell=np.arange(number, number + len(cells)),
            core=(0, PAD + len(data) + 1),
            origin=np.zeros(len(cells), np.int64),
        )
    )


def _windows(value: np.ndarray, number: int, *, size: int, margin: int) -> Iterator[Text]:
    """Cut one long cell into windows."""
    for core in range(0, len(value), size):
        first, stop = max(core - margin, 0), min(core + size + margin, len(value))
        yield fold(
            Text(
                data=np.concatenate([_BREAKS, value[first:stop], _BREAKS]),
                cell_first=np.array([PAD]),
                cell_stop=np.array([PAD + stop - first]),
                cell=np.array([number]),
                core=(PAD + core - first, PAD + min(core + size, len(value)) - first),
                origin=np.array([first]),
                is_window=True,
            )
        )
