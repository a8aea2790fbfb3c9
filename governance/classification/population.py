"""What concerns all rows together, computed in streams of buckets with bounded memory.

Before the decisions: groups of quasi-identifiers that too few subjects share, and whether columns
as a whole look like names, addresses, user names or passwords. After them: the
prefix of the high-risk records, by expected cost, that fits into the budget, and the order of the
training slices. Ties are broken by the hash of the record id, so that no order of rows matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance import scanner
from governance.classification import TIE, RiskGroup
from governance.classification.conditions import group_codes
from governance.classification.decisions import HIGH
from governance.policy import Policy, Rule
from governance.storage import query

RANKED = ("risk_level", "expected_cost")
"""Decision columns that a ranking needs."""

_MERGE_ROWS = 4_000_000
_BIN_BITS = 16
_TIE_BITS = 40


def find_rare_groups(
    buckets: Callable[[tuple[str, ...]], Iterable[pa.Table]], policy: Policy, *, subject_id: str
) -> dict[str, pa.Table]:
    """Return, by rule about k-anonymity, the codes of groups that fewer than k subjects share.

    Args:
        buckets: Called with the needed columns; yields the rows of each bucket. All rows of a
            subject lie in one bucket, so the subjects of a group add up over buckets.
        policy: Risk policy.
        subject_id: Column of the subject.
    """
    rules = [rule for rule in policy.rules if rule.when.kind == "k_anonymity_lt"]
    if not rules:
        return {}
    columns = tuple(dict.fromkeys([subject_id, *(n for rule in rules for n in rule.when.quasi)]))
    parts: dict[str, list[pa.Table]] = {rule.id: [] for rule in rules}
    for rows in buckets(columns):
        for rule in rules:
            parts[rule.id].append(_count_subjects(rows, rule, subject_id))
            if sum(part.num_rows for part in parts[rule.id]) > _MERGE_ROWS:
                parts[rule.id] = [_add_up(parts[rule.id])]
    return {
        rule.id: _add_up(parts[rule.id], below=rule.when.k_anonymity_lt or 0)
        for rule in rules
        if parts[rule.id]
    }


def find_looks(
    buckets: Callable[[tuple[str, ...]], Iterable[pa.Table]],
    policy: Policy,
    *,
    columns: Sequence[str],
) -> dict[str, dict[str, bool | None]]:
    """Return, by column, which entities the column as a whole looks like; None: nobody knows.

    Args:
        buckets: Called with the needed columns; yields the rows of each bucket.
        policy: Risk policy; only columns of which its rules need the look are read.
        columns: Columns that a rule without a column looks at.
    """
    wanted: set[str] = set()
    for when in (rule.when for rule in policy.rules if rule.when.kind == "detects"):
        for name in [when.column] if when.column else columns:
            if any(scanner.needs_looks(name, entity) for entity in when.values):
                wanted.add(name)
    if not wanted:
        return {}
    total: dict[str, scanner.ColumnCounts] = {}
    for rows in buckets(tuple(sorted(wanted))):
        for name in rows.column_names:
            counts = scanner.count_column(rows[name], name=name, entities=())
            total[name] = total[name] + counts if name in total else counts
    return {name: scanner.judge_looks(counts) for name, counts in total.items()}


@dataclass(frozen=True, slots=True)
class Ranking:
    """How expected costs order the records, and which of them are revocable.

    Attributes:
        values: float64, distinct expected costs, ascending.
        cut: Records above it are revocable if they are high.
        tie_limit: Records *at* the cut are revocable if their hash is at most this; -1 for none.
    """

    values: np.ndarray
    cut: float
    tie_limit: int

    def revocable(self, decisions: pa.Table) -> np.ndarray:
        """Return bool ``[n]``: high, and within the budget."""
        high = _is_high(decisions)
        expected = decisions["expected_cost"].to_numpy()
        at_cut = (expected == self.cut) & (_ties(decisions) <= self.tie_limit)
        inside: np.ndarray = high & ((expected > self.cut) | at_cut)
        return inside

    def apply(self, decisions: pa.Table) -> pa.Table:
        """Return the decisions with ``revocable`` and ``slice_order``."""
        decisions = decisions.append_column("revocable", pa.array(self.revocable(decisions)))
        return decisions.append_column("slice_order", pa.array(self.slice_order(decisions)))

    def slice_order(self, decisions: pa.Table) -> np.ndarray:
        """Return int64 ``[n]``: ascends with the expected cost, then with the hash of the id."""
        place = np.searchsorted(self.values, decisions["expected_cost"].to_numpy())
        order: np.ndarray = (place.astype(np.int64) << _TIE_BITS) | (
            _ties(decisions) >> (63 - _TIE_BITS)
        )
        return order


def rank_records(
    groups: Iterable[RiskGroup],
    decisions: Callable[[], Iterable[pa.Table]],
    *,
    n_records: int,
    share_max: float,
) -> Ranking:
    """Find the order of the records and the cut of the budget.

    Args:
        groups: Risk groups of all buckets.
        decisions: Yields ``risk_level``, ``expected_cost`` and ``tie`` of each bucket; called only
            if the cut goes through records of equal expected cost, and then twice.
        n_records: Number of records.
        share_max: Largest share of them that may be revocable.
    """
    high: Counter[float] = Counter()
    values: set[float] = set()
    for group in groups:
        values.add(group.decision.expected_cost)
        if group.decision.level == HIGH:
            high[group.decision.expected_cost] += group.n_records
    ordered = np.array(sorted(values), dtype=np.float64)
    left = int(share_max * n_records)
    for value in sorted(high, reverse=True):
        if high[value] > left:
            limit = _tie_limit(decisions, value, left) if left else -1
            return Ranking(ordered, value, limit)
        left -= high[value]
    return Ranking(ordered, -1.0, -1)


def _tie_limit(decisions: Callable[[], Iterable[pa.Table]], value: float, wanted: int) -> int:
    """Return the hash of the last of ``wanted`` records at the cut, in two passes."""
    shift = 63 - _BIN_BITS
    counts = np.zeros(1 << _BIN_BITS, dtype=np.int64)
    for table in decisions():
        counts += np.bincount(_ties_at(table, value) >> shift, minlength=len(counts))
    reached = np.cumsum(counts)
    edge = int(np.searchsorted(reached, wanted))
    inside = wanted - int(reached[edge] - counts[edge])
    last = []
    for table in decisions():
        ties = _ties_at(table, value)
        last.append(ties[ties >> shift == edge])
    return int(np.sort(np.concatenate(last))[inside - 1])


def _ties_at(table: pa.Table, value: float) -> np.ndarray:
    ties: np.ndarray = _ties(table)[_is_high(table) & (table["expected_cost"].to_numpy() == value)]
    return ties


def _is_high(table: pa.Table) -> np.ndarray:
    return np.array(pc.equal(table["risk_level"], HIGH).to_numpy(), dtype=bool)


def _ties(table: pa.Table) -> np.ndarray:
    """Return the hashes as non-negative int64."""
    ties: np.ndarray = (table[TIE].to_numpy() >> np.uint64(1)).astype(np.int64)
    return ties


def _count_subjects(rows: pa.Table, rule: Rule, subject_id: str) -> pa.Table:
    statement = (
        f"SELECT {group_codes(rule.when.quasi)} AS code, "  # noqa: S608
        f'count(DISTINCT hash("{subject_id}"))::BIGINT AS n FROM r GROUP BY code'
    )
    return query(statement, r=rows)


def _add_up(parts: list[pa.Table], *, below: int | None = None) -> pa.Table:
    having = "" if below is None else f"HAVING sum(n) < {below}"
    statement = f"SELECT code, sum(n)::BIGINT AS n FROM r GROUP BY code {having}"  # noqa: S608
    return query(statement, r=pa.concat_tables(parts))
