"""Conditions of rules: what a policy may ask about a record.

A condition may be *unknown* for a record (the column is empty, the record was never scored, the
stratum was never observed). Unknown takes the stricter side: it counts as a match where the rule
raises the risk, and as none where the rule lowers it; ``if_missing: no_match`` says otherwise for
one rule.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = str | int | float | bool
Values = Scalar | Annotated[tuple[Scalar, ...], Field(min_length=1)]
Names = str | Annotated[tuple[str, ...], Field(min_length=1)]

ROLE_OF_KIND = {
    "lawful_basis": "lawful_basis",
    "consent_age_days_gt": "consent_at",
    "jurisdiction": "jurisdiction",
    "subject_type": "subject_type",
    "tenant": "tenant",
}
"""Kind of condition -> entry of the policy's ``roles`` that names its column."""

COLUMN_KINDS = frozenset({"equals", "in_", "greater_than", "less_than", "age_days_gt", "missing"})
"""Kinds that need ``column``; ``detects`` may have one."""

_EU = tuple(
    "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE".split()  # noqa: SIM905 - 27 codes in one line
)
JURISDICTION_GROUPS = {"EU": _EU, "EEA": (*_EU, "IS", "LI", "NO")}
"""Names that stand for several ISO 3166-1 alpha-2 country codes in ``jurisdiction``."""


class When(BaseModel):
    """Condition of a rule; exactly one kind.

    About a ``column``: ``equals``, ``in``: it has a value. ``greater_than``, ``less_than``: a
    number. ``age_days_gt``: a date lies further back. ``missing``: no value.
    ``detects``: a cell of the column holds personal data of these kinds; without a column, a cell
    of any column but the ids.
    ``category_under``: a column annotated with a category at or under a key has a value.
    ``lawful_basis``, ``subject_type``, ``tenant``: the column of that role has a value.
    ``jurisdiction``: country codes, ``EU`` and ``EEA``.
    ``consent_age_days_gt``: the consent lies further back.
    ``k_anonymity_lt``: fewer than k subjects share the values of the ``quasi`` columns.
    ``memorisation_pct_gt``: the last training memorised this record more than that percentile.
    ``request_rate_gt``: requests per subject and year in the record's stratum so far.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    column: str | None = None
    equals: Scalar | None = None
    in_: Annotated[tuple[Scalar, ...] | None, Field(alias="in", min_length=1)] = None
    greater_than: float | None = None
    less_than: float | None = None
    age_days_gt: Annotated[int, Field(ge=0)] | None = None
    missing: Literal[True] | None = None
    category_under: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    detects: Names | None = None
    lawful_basis: Values | None = None
    consent_age_days_gt: Annotated[int, Field(ge=0)] | None = None
    jurisdiction: Names | None = None
    subject_type: Values | None = None
    tenant: Values | None = None
    k_anonymity_lt: Annotated[int, Field(ge=2)] | None = None
    quasi: tuple[str, ...] = ()
    memorisation_pct_gt: Annotated[float, Field(ge=0.0, lt=100.0)] | None = None
    request_rate_gt: Annotated[float, Field(ge=0.0)] | None = None
    if_missing: Literal["stricter", "no_match"] = "stricter"

    @property
    def kind(self) -> str:
        """Name of the one condition that is set."""
        return self._kinds[0]

    @property
    def values(self) -> tuple[str, ...]:
        """Wanted values as text, of a condition that compares with values."""
        value = self.in_ if self.kind == "in_" else getattr(self, self.kind)
        several = value if isinstance(value, tuple) else (value,)
        return tuple(text for one in several for text in _texts(one))

    @property
    def numbers(self) -> tuple[float, ...]:
        """Wanted values that are numbers, not text that looks like one."""
        value = self.in_ if self.kind == "in_" else getattr(self, self.kind)
        several = value if isinstance(value, tuple) else (value,)
        return tuple(
            float(one)
            for one in several
            if isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 2.0**53
        )

    @property
    def _kinds(self) -> list[str]:
        aside = {"column", "quasi", "if_missing"}
        names = [name for name in type(self).model_fields if name not in aside]
        return [name for name in names if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _has_one_kind(self) -> When:
        if len(self._kinds) != 1:
            message = f"expected exactly one condition, got {len(self._kinds)}"
            raise ValueError(message)
        shown = self.kind.rstrip("_")
        if self.kind in COLUMN_KINDS and self.column is None:
            message = f"condition '{shown}' needs a 'column'"
            raise ValueError(message)
        if self.column is not None and self.kind not in COLUMN_KINDS | {"detects"}:
            message = f"condition '{shown}' takes no 'column'"
            raise ValueError(message)
        if bool(self.quasi) != (self.kind == "k_anonymity_lt"):
            message = "'quasi' and 'k_anonymity_lt' go together"
            raise ValueError(message)
        return self


def _texts(value: Scalar) -> tuple[str, ...]:
    """Return a scalar as Arrow prints it when it casts a column to text.

    Text that says true may say it in three spellings, so that a CSV is asked like a Parquet file.
    """
    if isinstance(value, bool):
        word = str(value)
        return (word.lower(), word, word.upper())
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**53:
        return (str(int(value)),)
    return (str(value),)
