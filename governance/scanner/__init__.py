"""Personal data in columns: what they are, which cells hold it, without ever keeping a value.

    detect(column, "email")            bool for each cell, for a policy's condition
    scan_column(column, name="phone")  what the column is and contains, as counts and shares
    scan_table(table)                  the same for every column; batches of any number
    count_table(part), conclude(sum)   the same in parts that add up (buckets, machines)
    detect_cells(part, ..., looks)     the mask of a part, once the whole column was counted

How it works. ``slices`` packs cells into one array of bytes, ``folding`` folds characters that hide
digits, ``text`` finds lexemes, the finders (``contact``, ``payment``, ``network``, ``phones``,
``national``, ``dates``, ``secrets``) compare positions and compute checksums (``checksums``) on
whole arrays, ``context`` weighs the words around, ``decision`` concludes. No step is a loop over
cells, and none backtracks: the time is linear in the bytes (docs/adr/0020).
"""

from governance.scanner.decision import BY_LOOKS, conclude, judge_looks
from governance.scanner.entities import ENTITIES, NAMES
from governance.scanner.findings import ColumnCounts, ColumnFindings, Finding
from governance.scanner.kinds import holds_unread_text, is_readable
from governance.scanner.scan import (
    CellMatch,
    count_column,
    count_table,
    detect,
    detect_cells,
    needs_looks,
    scan_column,
    scan_table,
)

__all__ = [
    "BY_LOOKS",
    "ENTITIES",
    "NAMES",
    "CellMatch",
    "ColumnCounts",
    "ColumnFindings",
    "Finding",
    "conclude",
    "count_column",
    "count_table",
    "detect",
    "detect_cells",
    "holds_unread_text",
    "is_readable",
    "judge_looks",
    "needs_looks",
    "scan_column",
    "scan_table",
]
