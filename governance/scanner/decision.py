"""From counts to a conclusion about a column.

A column *is* an entity when its cells are matches and nothing else, in a share whose 95 % interval
lies above a bound: ``OWN`` by itself, or ``NAMED`` when the column's name says so. The bound is
never below three times what chance would give. Candidates do not vote: one whose name is on the
column comes first, then the larger share, then the more specific entity (the order of
``ENTITIES``). A column *contains* an entity when one cell holds it for certain.
"""

from __future__ import annotations

import re
import unicodedata

from governance.scanner.entities import ENTITIES, NAMES
from governance.scanner.findings import ColumnCounts, ColumnFindings, Evidence, Finding

OWN, NAMED = 0.5, 0.2
"""Lower end of the interval of the share that makes a column the entity."""

BY_LOOKS = ("street_address", "password", "username", "person_name")
"""Entities that the look of whole cells can tell, the most telling first."""

_LOOKS = 0.7
"""Share of cells that look like the entity, beside a column name that says so."""

_STREETS = 0.3
"""Share of cells with a word for street that needs no column name."""

_CHANCE_FACTOR = 3.0
_Z = 1.959964
"""Normal quantile of a 95 % interval."""


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927).

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * ((share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5) / (1 + z2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def words_of(name: str) -> str:
    """Return the words of a column's name, lower case, with single spaces.

    >>> words_of("homeEmailAddress"), words_of("TELEPHONE_NR."), words_of("Straße")
    ('home email address', 'telephone nr', 'strasse')
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    plain = unicodedata.normalize("NFKD", parted.casefold()).replace("ø", "o")
    kept = "".join(c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))
    return " ".join(kept.split())


def is_named(name: str, entity: str) -> bool:
    """Return whether a column's name speaks for an entity."""
    words, rules = words_of(name), ENTITIES[entity]
    if rules.column_against and re.search(rules.column_against, words):
        return False
    return re.search(rules.column_words, words) is not None


def conclude(counts: ColumnCounts) -> ColumnFindings:
    """Return the conclusion about a column from all of its counts."""
    profile = counts.profile
    named = {entity for entity in NAMES if is_named(counts.name, entity)}
    findings = [
        _finding(evidence, profile.n_filled, by_name=evidence.entity in named)
        for evidence in counts.evidence.values()
        if evidence.n_cells or (evidence.entity in named and evidence.n_whole_faint)
    ]
    findings += _looks(counts, named)
    entity = _decide(counts, named, {finding.entity for finding in findings})
    certain = [e.entity for e in counts.evidence.values() if e.n_certain and e.entity != entity]
    return ColumnFindings(
        name=counts.name,
        n_cells=profile.n_cells,
        n_filled=profile.n_filled,
        n_bytes=profile.n_bytes,
        entity=entity,
        contains=tuple(name for name in NAMES if name in certain and not _same(name, entity)),
        findings=tuple(sorted(findings, key=lambda f: (-f.n_cells, NAMES.index(f.entity)))),
    )


def _same(name: str, entity: str | None) -> bool:
    """Return whether a contained entity only repeats what the column is."""
    return (name, entity) in {("date", "date_of_birth"), ("url", "email")}


def _finding(evidence: Evidence, n_filled: int, *, by_name: bool) -> Finding:
    n_cells = max(evidence.n_cells, evidence.n_whole_faint) if by_name else evidence.n_cells
    low, high = wilson(n_cells, n_filled)
    return Finding(
        entity=evidence.entity,
        category=ENTITIES[evidence.entity].category,
        n_matches=max(evidence.n_matches, n_cells),
        n_cells=n_cells,
        share=n_cells / n_filled if n_filled else 0.0,
        low=low,
        high=high,
        by_name=by_name,
        variants=dict(sorted(evidence.variants.items())),
    )


def look_bound(name: str, entity: str) -> float | None:
    """Return the share of cells that must look like an entity; None where no share is enough.

    >>> look_bound("surname", "person_name"), look_bound("x1", "person_name")
    (0.7, None)
    """
    if is_named(name, entity):
        return _LOOKS
    return _STREETS if entity == "street_address" else None


def judge_looks(counts: ColumnCounts) -> dict[str, bool | None]:
    """Return for each entity of ``BY_LOOKS`` whether the column as a whole looks like it.

    ``None`` says that nobody knows: the 95 % interval of the share holds the bound, as it does
    where the rows are few.

    Args:
        counts: Of the whole column: those of a part of it may say something else.
    """
    verdicts: dict[str, bool | None] = {}
    for entity in BY_LOOKS:
        bound = look_bound(counts.name, entity)
        low, high = wilson(_n_looking(counts, entity), counts.profile.n_filled)
        if bound is None or high < bound:
            verdicts[entity] = False
        else:
            verdicts[entity] = True if low >= bound else None
    return verdicts


def _n_looking(counts: ColumnCounts, entity: str) -> int:
    """Return how many cells look like an entity, at most as many as are filled."""
    profile = counts.profile
    n_cells = profile.n_one_piece
    if entity == "person_name":
        n_cells = profile.n_name_like
    elif entity == "street_address":
        named = is_named(counts.name, entity)
        n_cells = profile.n_address_like if named else profile.n_street_words
    return min(n_cells, profile.n_filled)


def _looks(counts: ColumnCounts, named: set[str]) -> list[Finding]:
    """Return what whole cells look like, where the column's name says so, too."""
    found = []
    for entity, verdict in judge_looks(counts).items():
        if verdict:
            n_cells = _n_looking(counts, entity)
            evidence = Evidence(entity=entity, n_matches=n_cells, n_cells=n_cells)
            found.append(_finding(evidence, counts.profile.n_filled, by_name=entity in named))
    return found


def _decide(counts: ColumnCounts, named: set[str], found: set[str]) -> str | None:
    """Return what the column is."""
    n = counts.profile.n_filled
    candidates: list[tuple[bool, float, int, str]] = []
    for place, entity in enumerate(NAMES):
        evidence = counts.evidence.get(entity)
        if evidence is None:
            continue
        by_name = entity in named
        n_whole = evidence.n_whole_faint if by_name else evidence.n_whole
        low, _ = wilson(n_whole, n)
        chance = ENTITIES[entity].chance
        bound = NAMED if by_name else max(OWN, min(_CHANCE_FACTOR * chance, 0.95))
        if n and low >= bound:
            candidates.append((not by_name, -n_whole / n, place, entity))
    if candidates:
        return min(candidates)[3]
    return next((name for name in BY_LOOKS if name in found), None)
