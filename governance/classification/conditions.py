"""From a condition of a rule to one boolean for each row: vectorised, three-valued.

Each condition says where it holds and where it is *unknown*; ``match_rule`` takes the stricter side
of what is unknown. Quantities of the whole table (k-anonymity, request rates) and of earlier runs
(memorisation) come in as ``Knowledge``, so that a bucket of rows can be judged alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance import scanner
from governance.classification.written import is_text, read_days, read_fractions, read_numbers
from governance.errors import DataError
from governance.policy import Policy, Rule
from governance.policy.when import JURISDICTION_GROUPS
from governance.storage import query
from governance.suppression import pseudonym_array, pseudonym_digests

Mask = np.ndarray
"""bool ``[n]``."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What rules need to know beyond the rows of one bucket.

    Attributes:
        as_of: Day on which ages are measured.
        subject_id: Column of the subject.
        record_id: Column of the record.
        pseudonym_keys: Keys that the pseudonyms below may be under, the newest first; no rule about
            memorisation works without one.
        rare_groups: Rule id -> table of ``code``, of groups that fewer than k subjects share.
        request_rates: Keyed digest of a stratum, hexadecimal -> requests per subject and year, of
            strata that were observed.
        looks: Column -> entity -> whether the whole column looks like it, None where its rows are
            too few to tell (``find_looks``). What is not here is unknown: a bucket never decides.
        memorisation: Table of ``record_key`` (hexadecimal) and ``percentile``, one row for each
            record that the last training scored; ``None`` before the first.
    """

    as_of: date
    subject_id: str
    record_id: str
    pseudonym_keys: tuple[bytes, ...] = field(default=(b"",), repr=False)
    rare_groups: dict[str, pa.Table] = field(default_factory=dict)
    request_rates: dict[str, float] = field(default_factory=dict)
    looks: dict[str, dict[str, bool | None]] = field(default_factory=dict)
    memorisation: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Where a condition holds, and where nobody knows."""

    holds: Mask
    unknown: Mask


def match_rule(rows: pa.Table, rule: Rule, policy: Policy, knowledge: Knowledge) -> Mask:
    """Return the rows on which a rule takes effect."""
    match = _CONDITIONS[rule.when.kind](rows, rule, policy, knowledge)
    counts = rule.raises_risk and rule.when.if_missing == "stricter"
    hit: Mask = match.holds | match.unknown if counts else match.holds & ~match.unknown
    return hit


def names_values(rule: Rule) -> bool:
    """Say whether a rule names values that the policy's author can misspell."""
    return rule.when.kind in {"equals", "in_", "tenant"}


def find_named(
    rows: pa.Table, rules: Sequence[Rule], policy: Policy, knowledge: Knowledge
) -> set[str]:
    """Return the ids of the rules of which a row has a value; a missing value is none."""
    return {rule.id for rule in rules if _has_value(rows, rule, policy, knowledge).holds.any()}


def is_missing(column: pa.ChunkedArray | pa.Array) -> Mask:
    """Return where a column has no value: null, NaN, or only white space."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    missing = pc.is_null(column, nan_is_null=True)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        blank = pc.equal(pc.utf8_trim_whitespace(column), "")
        missing = pc.or_(missing, pc.fill_null(blank, False))
    return _mask(missing)


def stratum_keys(
    rows: pa.Table, strata: tuple[str, ...], key: bytes
) -> tuple[np.ndarray, list[bytes]]:
    """Return for each row the number of its stratum, and the keyed digest of each stratum.

    A stratum is named by an HMAC of its values, so that counts by stratum hold no values.
    """
    joined = pa.chunked_array([pa.repeat(pa.scalar("", pa.large_string()), rows.num_rows)])
    for name in strata:
        value = pc.fill_null(rows[name].cast(pa.large_string()), "\x00")
        joined = pc.binary_join_element_wise(
            joined, value, pa.scalar(f"\x1f{name}=", pa.large_string())
        )
    encoded = joined.combine_chunks().dictionary_encode()
    if not rows.num_rows:
        return np.zeros(0, np.int64), []
    digests = pseudonym_digests(key, "stratum", pa.chunked_array([encoded.dictionary]))
    number = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return number, [digest.tobytes() for digest in digests]


def group_codes(quasi: Sequence[str]) -> str:
    """Return the SQL expression of a 64-bit code of the values of some columns, nulls included.

    Two of G groups share a code with a probability below G^2 / 2^65: 3e-4 for 10^8 groups.
    """
    names = ", ".join(f'"{name}"' for name in quasi)
    return f"hash({names})"


def count_strata(rows: pa.Table, policy: Policy, knowledge: Knowledge) -> dict[str, int]:
    """Return the number of subjects in each stratum, by hexadecimal keyed digest.

    Counted under every key, so that a stratum keeps its history through a rotation.
    """
    found: dict[str, int] = {}
    person = rows[knowledge.subject_id].combine_chunks().dictionary_encode().indices
    persons = person.to_numpy().astype(np.int64)
    for key in knowledge.pseudonym_keys if policy.strata else ():
        number, keys = stratum_keys(rows, policy.strata, key)
        pairs = np.unique(persons * len(keys) + number)
        counts = np.bincount(pairs % max(1, len(keys)), minlength=len(keys))
        found |= {name.hex(): int(count) for name, count in zip(keys, counts, strict=True)}
    return found


def _has_value(rows: pa.Table, rule: Rule, policy: Policy, _knowledge: Knowledge) -> Match:
    column = rows[policy.column_of(rule.when) or ""]
    wanted = set(rule.when.values)
    if rule.when.kind == "jurisdiction":
        for group in wanted & set(JURISDICTION_GROUPS):
            wanted |= set(JURISDICTION_GROUPS[group])
    found = pc.is_in(column.cast(pa.string()), value_set=pa.array(sorted(wanted), pa.string()))
    if rule.when.numbers and is_text(column):  # 1 is also asked of 1.0, as it is of a number
        numbers = pa.array(rule.when.numbers, pa.float64())
        found = pc.or_(found, pc.is_in(read_fractions(column), value_set=numbers))
    missing = is_missing(column)
    if "" in wanted:  # the rule asks for the empty value itself
        return Match(_mask(found) | missing, np.zeros(len(missing), dtype=bool))
    return Match(_mask(found), missing)


def _compare(rows: pa.Table, rule: Rule, _policy: Policy, _knowledge: Knowledge) -> Match:
    column = rows[rule.when.column or ""]
    try:
        numbers = read_numbers(column) if is_text(column) else column.cast(pa.float64())
    except pa.ArrowException:
        message = f"policy column {rule.when.column}: expected numbers, got {column.type}"
        raise DataError(message) from None  # the cause quotes the cell, and logs print causes
    if rule.when.greater_than is not None:
        return Match(_mask(pc.greater(numbers, rule.when.greater_than)), is_missing(numbers))
    return Match(_mask(pc.less(numbers, rule.when.less_than)), is_missing(numbers))


def _older(rows: pa.Table, rule: Rule, policy: Policy, knowledge: Knowledge) -> Match:
    name = policy.column_of(rule.when) or ""
    column = rows[name]
    try:
        days = read_days(column) if is_text(column) else column.cast(pa.date32()).cast(pa.int32())
    except pa.ArrowException:
        message = f"policy column {name}: expected dates, got {column.type}"
        raise DataError(message) from None  # the cause quotes the cell, and logs print causes
    age = rule.when.age_days_gt if rule.when.kind == "age_days_gt" else None
    limit = (knowledge.as_of - date(1970, 1, 1)).days - (
        age if age is not None else rule.when.consent_age_days_gt or 0
    )
    return Match(_mask(pc.less(days, limit)), is_missing(days))


def _missing(rows: pa.Table, rule: Rule, _policy: Policy, _knowledge: Knowledge) -> Match:
    return _known(is_missing(rows[rule.when.column or ""]))


def _has_category(rows: pa.Table, rule: Rule, policy: Policy, _knowledge: Knowledge) -> Match:
    hit = np.zeros(rows.num_rows, dtype=bool)
    for name, category in policy.categories.items():
        keys = rule.when.category_under or ()
        if any(category == key or category.startswith(f"{key}.") for key in keys):
            hit |= ~is_missing(rows[name])
    return _known(hit)


def _detects(rows: pa.Table, rule: Rule, _policy: Policy, knowledge: Knowledge) -> Match:
    ids = {knowledge.record_id, knowledge.subject_id}
    names = [rule.when.column] if rule.when.column else _columns_with_text(rows, besides=ids)
    holds, unknown = np.zeros(rows.num_rows, dtype=bool), np.zeros(rows.num_rows, dtype=bool)
    for name in names:
        looks = knowledge.looks.get(name, {})
        for entity in rule.when.values:
            found = scanner.detect_cells(rows[name], entity, name=name, looks=looks)
            holds |= found.holds
            unknown |= found.unknown
    return Match(holds, unknown & ~holds)


def _columns_with_text(rows: pa.Table, *, besides: set[str]) -> list[str]:
    """Return the columns that can hold text, whether the scanner can read it or not."""
    return [
        column.name
        for column in rows.schema
        if column.name not in besides
        and (scanner.is_readable(column.type) or scanner.holds_unread_text(column.type))
    ]


def _is_rare(rows: pa.Table, rule: Rule, _policy: Policy, knowledge: Knowledge) -> Match:
    rare = knowledge.rare_groups.get(rule.id)
    hit = np.zeros(rows.num_rows, dtype=bool)
    if rare is None:
        return Match(hit, ~hit)
    if rare.num_rows == 0:
        return _known(hit)
    statement = f"SELECT {group_codes(rule.when.quasi)} AS code FROM r"  # noqa: S608
    codes = query(statement, r=rows.select(list(dict.fromkeys(rule.when.quasi))))
    return _known(_mask(pc.is_in(codes["code"], value_set=rare["code"].combine_chunks())))


def _is_memorised(rows: pa.Table, rule: Rule, _policy: Policy, knowledge: Knowledge) -> Match:
    n = rows.num_rows
    scores = knowledge.memorisation
    if scores is None:
        return Match(np.zeros(n, dtype=bool), np.ones(n, dtype=bool))
    scored = scores["record_key"].combine_chunks()
    at = pa.nulls(n, pa.int32())
    for key in knowledge.pseudonym_keys:  # the table is under the one of its training
        ours = pseudonym_array(key, "record", rows[knowledge.record_id])
        at = pc.coalesce(at, pc.index_in(ours, value_set=scored))
    percentile = pc.take(scores["percentile"].combine_chunks(), at)
    known = ~_mask(pc.is_null(percentile))
    return Match(_mask(pc.greater(percentile, rule.when.memorisation_pct_gt)), ~known)


def _is_asked_often(rows: pa.Table, rule: Rule, policy: Policy, knowledge: Knowledge) -> Match:
    rate = np.full(rows.num_rows, np.nan)
    for key in reversed(knowledge.pseudonym_keys):  # the oldest key has the longest history
        number, keys = stratum_keys(rows, policy.strata, key)
        rates = np.array([knowledge.request_rates.get(name.hex(), np.nan) for name in keys])
        if len(keys):
            rate = np.where(np.isnan(rate), rates[number], rate)
    return Match(np.nan_to_num(rate) > (rule.when.request_rate_gt or 0.0), np.isnan(rate))


_Condition = Callable[[pa.Table, Rule, Policy, Knowledge], Match]
_CONDITIONS: dict[str, _Condition] = {
    "equals": _has_value,
    "in_": _has_value,
    "lawful_basis": _has_value,
    "jurisdiction": _has_value,
    "subject_type": _has_value,
    "tenant": _has_value,
    "greater_than": _compare,
    "less_than": _compare,
    "age_days_gt": _older,
    "consent_age_days_gt": _older,
    "missing": _missing,
    "category_under": _has_category,
    "detects": _detects,
    "k_anonymity_lt": _is_rare,
    "memorisation_pct_gt": _is_memorised,
    "request_rate_gt": _is_asked_often,
}


def _known(holds: Mask) -> Match:
    return Match(holds, np.zeros(len(holds), dtype=bool))


def _mask(values: pa.ChunkedArray) -> Mask:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return np.array(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)
