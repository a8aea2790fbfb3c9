"""Classification: every record gets a risk level, its score parts, and the rules that decided.

Made for tables of any size: ``classify_rows`` judges one bucket with the ``Knowledge`` of the whole
(k-anonymity, request rates, memorisation), and gives back the columns that a decision consists of;
``population`` has what must be known or done about all rows together. Neither the order of rows nor
that of buckets or rules matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.classification.conditions import Knowledge, is_missing, match_rule
from governance.classification.decisions import HIGH, UNKNOWN, Decision, decide
from governance.classification.overrides import Overrides, match_overrides
from governance.classification.patterns import find_patterns, take_by_pattern
from governance.declaration import Declaration
from governance.digests import digest_json
from governance.hashing import hash64_array, sha256_array
from governance.policy import Policy

GROUP = "risk_group"
"""Column with the short digest of a record's pattern: those of one group are decided alike."""

TIE = "tie"
"""Column with the hash of the record id, which breaks ties; only between stages."""


@dataclass(frozen=True, slots=True)
class RiskGroup:
    """All records of one pattern in some rows.

    Attributes:
        group: Short digest of the names.
        pattern: Names that matched.
        decision: What was decided about them.
        n_records: How many records.
        n_subjects: How many subjects have such a record.
    """

    group: str
    pattern: tuple[str, ...]
    decision: Decision
    n_records: int
    n_subjects: int


@dataclass(frozen=True, slots=True)
class ClassifiedRows:
    """The decisions about some rows.

    Attributes:
        number: int64 ``[n]``: for each row, its place in ``groups``.
        groups: The risk groups that occur.
        tie: uint64 ``[n]``, hash of the record id.
    """

    number: np.ndarray
    groups: tuple[RiskGroup, ...]
    tie: np.ndarray

    def table(self) -> pa.Table:
        """Return the decision columns, in the order of the rows."""
        return decision_columns(self.number, self.groups, self.tie)


def classify_rows(
    rows: pa.Table, policy: Policy, *, knowledge: Knowledge, overrides: Overrides
) -> ClassifiedRows:
    """Decide about the rows of a bucket; a subject's rows lie in one bucket.

    Args:
        rows: The columns of ``needed_columns``, or more.
        policy: Risk policy.
        knowledge: What rules need to know beyond these rows.
        overrides: What persons decided, where it is in force.
    """
    hits = {rule.id: match_rule(rows, rule, policy, knowledge) for rule in policy.rules}
    hits |= {f"{UNKNOWN}{name}": is_missing(rows[name]) for name in policy.required}
    hits |= match_overrides(rows, overrides, knowledge)
    found = find_patterns(hits, rows.num_rows)
    known = _known_decisions(policy.digest)
    patterns = [overrides.with_review_answers(pattern) for pattern in found.members]
    for pattern in patterns:
        if pattern not in known:
            known[pattern] = (group_name(pattern), decide(pattern, policy))
    n_records = np.bincount(found.number, minlength=len(patterns))
    n_subjects = _subjects_by_pattern(rows[knowledge.subject_id], found.number, len(patterns))
    groups = tuple(
        RiskGroup(known[pattern][0], pattern, known[pattern][1], int(records), int(subjects))
        for pattern, records, subjects in zip(patterns, n_records, n_subjects, strict=True)
    )
    return ClassifiedRows(found.number, groups, hash64_array(rows[knowledge.record_id]))


def needed_columns(policy: Policy, declaration: Declaration, overrides: Overrides) -> list[str]:
    """Return the columns that ``classify_rows`` reads, in the order of the declaration."""
    whens = [rule.when for rule in policy.rules]
    if any(when.kind == "detects" and when.column is None for when in whens):
        return list(declaration.columns.all_names)
    names = {declaration.columns.record_id, declaration.columns.subject_id}
    names |= {policy.column_of(when) or "" for when in whens}
    names |= {name for when in whens for name in when.quasi}
    names |= {*policy.required, *policy.strata, *policy.categories}
    names |= {name for override in overrides.active for name in override.values or {}}
    return [name for name in declaration.columns.all_names if name in names]


def decision_columns(
    number: np.ndarray,
    groups: Sequence[RiskGroup],
    tie: np.ndarray,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return what was decided about each row.

    Args:
        number: int64 ``[n]``, places in ``groups``.
        groups: Risk groups.
        tie: uint64 ``[n]``.
        columns: Only these; all of them if absent.
    """
    kinds: dict[str, tuple[pa.DataType, Callable[[RiskGroup], Any]]] = {
        "risk_level": (pa.string(), lambda group: group.decision.level),
        "erasure_probability": (pa.float64(), lambda group: group.decision.probability),
        "erasure_cost": (pa.float64(), lambda group: group.decision.cost),
        "expected_cost": (pa.float64(), lambda group: group.decision.expected_cost),
        "needs_review": (pa.bool_(), lambda group: group.decision.needs_review),
        GROUP: (pa.string(), lambda group: group.group),
        "deciding_rules": (pa.list_(pa.string()), lambda group: group.decision.deciding),
        "score_parts": (pa.string(), lambda group: group.decision.parts),
        "policy_digest": (pa.string(), lambda group: group.decision.policy_digest),
    }
    made = {
        name: take_by_pattern([value(group) for group in groups], number, kind)
        for name, (kind, value) in kinds.items()
        if columns is None or name in columns
    }
    return pa.table({**made, TIE: pa.array(tie)})


def group_name(pattern: tuple[str, ...]) -> str:
    """Return the short digest of a pattern, the same in every run."""
    return digest_json(sorted(pattern))[7:19]


def assign_split(rows: pa.Table, declaration: Declaration) -> pa.Array:
    """Return ``holdout``, ``validation`` or ``train`` for each row, the same for one subject."""
    settings = declaration.split
    encoded = rows[declaration.columns.subject_id].cast(pa.string()).combine_chunks()
    encoded = encoded.dictionary_encode()
    salted = pc.binary_join_element_wise(
        pa.scalar(str(settings.seed), pa.large_string()),
        encoded.dictionary.cast(pa.large_string()),
        pa.scalar("\x00", pa.large_string()),
    ).cast(pa.large_binary())
    share = sha256_array(salted)[:, :8].copy().view(">u8")[:, 0].astype(np.float64) / 2.0**64
    kept_out = settings.holdout_fraction + settings.validation_fraction
    use = np.where(share < kept_out, "validation", "train")
    use = np.where(share < settings.holdout_fraction, "holdout", use)
    return pa.array(use, pa.string()).take(encoded.indices)


def count_levels(groups: tuple[RiskGroup, ...]) -> dict[str, int]:
    """Return the number of records by level."""
    high = sum(group.n_records for group in groups if group.decision.level == HIGH)
    return {"high": high, "low": sum(group.n_records for group in groups) - high}


@lru_cache(maxsize=4)
def _known_decisions(_policy_digest: str) -> dict[tuple[str, ...], tuple[str, Decision]]:
    """Return the decisions about patterns that other buckets had; they follow from the policy."""
    return {}


def _subjects_by_pattern(
    subjects: pa.ChunkedArray, number: np.ndarray, n_patterns: int
) -> np.ndarray:
    encoded = subjects.cast(pa.string()).combine_chunks().dictionary_encode()
    person = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    pairs = pa.array(person * max(1, n_patterns) + number).unique().to_numpy()
    return np.bincount(pairs % max(1, n_patterns), minlength=n_patterns)
