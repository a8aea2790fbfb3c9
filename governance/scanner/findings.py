"""What a scan says: counts and shares, never a value.

``Evidence`` of the parts of a column adds up, so that slices, buckets and machines can each do
theirs; ``ColumnFindings`` is the conclusion.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_MOSTLY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Counts of one entity in one column."""

    entity: str
    n_matches: int = 0
    """Matches that are plausible or certain."""
    n_cells: int = 0
    """Cells with at least one of them."""
    n_certain: int = 0
    """Cells with a certain one."""
    n_whole: int = 0
    """Cells that are one such match and nothing else."""
    n_whole_faint: int = 0
    """Cells that are one match of any level, which counts when the column's name speaks for it."""
    variants: dict[str, int] = field(default_factory=dict)
    """Matches by kind: country code of a phone, network of a card, version of an address."""

    def __add__(self, other: Evidence) -> Evidence:
        """Return the evidence of two parts of a column."""
        variants = dict(self.variants)
        for name, count in other.variants.items():
            variants[name] = variants.get(name, 0) + count
        return Evidence(
            entity=self.entity,
            n_matches=self.n_matches + other.n_matches,
            n_cells=self.n_cells + other.n_cells,
            n_certain=self.n_certain + other.n_certain,
            n_whole=self.n_whole + other.n_whole,
            n_whole_faint=self.n_whole_faint + other.n_whole_faint,
            variants=variants,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Counts about the cells of a column, whatever they hold."""

    n_cells: int = 0
    n_filled: int = 0
    """Cells that are neither null nor blank."""
    n_bytes: int = 0
    n_one_piece: int = 0
    """Filled cells of 3 to 128 bytes without a space inside."""
    n_name_like: int = 0
    """Filled cells of one to four words, in capitals at their start, without digits."""
    n_address_like: int = 0
    """Filled cells of two to ten words with a number and a word."""
    n_street_words: int = 0
    """Address-like cells with a word for street in one of the larger languages."""

    def __add__(self, other: Profile) -> Profile:
        """Return the profile of two parts of a column."""
        return Profile(**{k: v + getattr(other, k) for k, v in asdict(self).items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnCounts:
    """All counts of one column or a part of it; parts add up."""

    name: str
    profile: Profile = field(default_factory=Profile)
    evidence: dict[str, Evidence] = field(default_factory=dict)

    def __add__(self, other: ColumnCounts) -> ColumnCounts:
        """Return the counts of two parts of a column."""
        evidence = dict(self.evidence)
        for entity, counts in other.evidence.items():
            evidence[entity] = evidence[entity] + counts if entity in evidence else counts
        return ColumnCounts(name=self.name, profile=self.profile + other.profile, evidence=evidence)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ColumnCounts:
        """Return the counts of ``to_dict``."""
        return cls(
            name=content["name"],
            profile=Profile(**content["profile"]),
            evidence={name: Evidence(**counts) for name, counts in content["evidence"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One entity in one column: how much of it there is, and what speaks for it."""

    entity: str
    category: str
    n_matches: int
    n_cells: int
    share: float
    """Cells with a match among the filled cells."""
    low: float
    """Lower end of the 95 % interval of the share (Wilson)."""
    high: float
    by_name: bool
    """The column's name speaks for the entity."""
    variants: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFindings:
    """Conclusion about one column."""

    name: str
    n_cells: int
    n_filled: int
    n_bytes: int
    entity: str | None
    """What the column as a whole is; None where it is nothing of all this, or free text."""
    contains: tuple[str, ...]
    """Entities that cells hold for certain, somewhere in their text."""
    findings: tuple[Finding, ...]
    """All evidence, most frequent first."""

    @property
    def category(self) -> str | None:
        """Suggested data category of the whole column, None where nothing suggests one.

        A column of identifiers of several countries is no single entity, but has one category.
        """
        shares: dict[str, float] = {}
        for finding in self.findings:
            if finding.entity == self.entity:
                return finding.category or None
            if finding.entity in self.contains and finding.category:
                shares[finding.category] = shares.get(finding.category, 0.0) + finding.share
        mostly = [category for category, share in shares.items() if share >= _MOSTLY]
        return mostly[0] if mostly and self.entity is None else None

    @property
    def categories(self) -> tuple[str, ...]:
        """Suggested data categories: of the entity, then of what the text contains."""
        wanted = ([self.entity] if self.entity else []) + list(self.contains)
        found = {finding.entity: finding.category for finding in self.findings}
        return tuple(dict.fromkeys(found[name] for name in wanted if found.get(name)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        suggested = {"category": self.category, "categories": list(self.categories)}
        return {**asdict(self), **suggested}
