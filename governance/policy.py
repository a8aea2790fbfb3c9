"""Risk policy: the YAML in which data owners say which records are likely to be erased.

Two quantities are kept apart: the probability that a record is erased (``add``) and what it costs
if it is (``add_cost``). ``set: high`` and ``set: low`` decide at once; ``set: high`` cannot be
outvoted. Every problem of a file is reported at once with its path.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from governance.declaration import Declaration, describe_problems
from governance.digests import digest_json
from governance.errors import PolicyError

Scalar = str | int | float | bool
Probability = Annotated[float, Field(ge=0.0, le=1.0)]

PATTERNS = ("email", "phone", "iban", "card", "ip")
"""Detectors of ``governance.scanner`` that a rule may ask for."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Part):
    """Condition of a rule; exactly one kind, with the column that it is about.

    ``equals``, ``in``: a column has a value. ``greater_than``, ``less_than``: a number.
    ``age_days_gt``: a date column lies further back. ``missing``: a column has no value.
    ``category_under``: the column is annotated with a data category at or under a key and has a
    value. ``detects``: a text column holds a pattern. ``k_anonymity_lt``: fewer than k subjects
    share the values of the ``quasi`` columns.
    """

    column: str | None = None
    equals: Scalar | None = None
    in_: Annotated[tuple[Scalar, ...] | None, Field(alias="in")] = None
    greater_than: float | None = None
    less_than: float | None = None
    age_days_gt: Annotated[int, Field(ge=0)] | None = None
    missing: Literal[True] | None = None
    category_under: tuple[str, ...] | None = None
    detects: Literal["email", "phone", "iban", "card", "ip"] | None = None
    k_anonymity_lt: Annotated[int, Field(ge=2)] | None = None
    quasi: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Name of the one condition that is set."""
        return self._kinds[0]

    @property
    def _kinds(self) -> list[str]:
        names = [name for name in type(self).model_fields if name not in {"column", "quasi"}]
        return [name for name in names if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _has_one_kind(self) -> When:
        if len(self._kinds) != 1:
            message = f"expected exactly one condition, got {len(self._kinds)}"
            raise ValueError(message)
        without_column = {"category_under", "k_anonymity_lt"}
        if (self.column is None) != (self.kind in without_column):
            verb = "takes no" if self.kind in without_column else "needs a"
            message = f"condition '{self.kind.rstrip('_')}' {verb} 'column'"
            raise ValueError(message)
        if bool(self.quasi) != (self.kind == "k_anonymity_lt"):
            message = "'quasi' and 'k_anonymity_lt' go together"
            raise ValueError(message)
        return self


class Rule(_Part):
    """One rule: a condition, its effects, and the legal or business ground."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    when: When
    set: Literal["high", "low"] | None = None
    add: Annotated[float, Field(ge=-1.0, le=1.0)] | None = None
    add_cost: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    ground: str | None = None

    @model_validator(mode="after")
    def _has_an_effect(self) -> Rule:
        if self.set is None and self.add is None and self.add_cost is None:
            message = "expected an effect: set, add or add_cost"
            raise ValueError(message)
        if self.set is not None and self.add is not None:
            message = "expected 'set' or 'add', got both"
            raise ValueError(message)
        return self


class Header(_Part):
    """Name and version; the version goes up with every accepted change."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    version: Annotated[int, Field(ge=1)]
    vocabulary: str = "fideslang"


class Budget(_Part):
    """Largest share of records that may be treated as revocable."""

    revocable_share_max: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.40


class Thresholds(_Part):
    """Probability from which a record is high risk, and the band that a person reviews."""

    high: Probability = 0.5
    review: tuple[Probability, Probability] = (0.4, 0.5)

    @model_validator(mode="after")
    def _band_ends_at_the_threshold(self) -> Thresholds:
        low, up = self.review
        if not low <= up <= self.high:
            message = f"review: expected low <= up <= high, got {low}, {up}, {self.high}"
            raise ValueError(message)
        return self


class Policy(_Part):
    """The whole policy."""

    policy: Header
    base_probability: Probability = 0.05
    base_cost: Annotated[float, Field(gt=0.0)] = 1.0
    budget: Budget = Budget()
    thresholds: Thresholds = Thresholds()
    categories: dict[str, str] = {}
    required: tuple[str, ...] = ()
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _rule_ids_are_unique(self) -> Policy:
        ids = [rule.id for rule in self.rules]
        repeated = sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1})
        if repeated:
            message = f"rules: expected unique ids, got {repeated} several times"
            raise ValueError(message)
        return self

    @property
    def name(self) -> str:
        """Name of the policy."""
        return self.policy.name

    @property
    def version(self) -> int:
        """Version of the policy."""
        return self.policy.version

    @cached_property
    def digest(self) -> str:
        """Digest of the content, in every decision."""
        return digest_json(self.model_dump(mode="json", by_alias=True))


def load_policy(path: Path, declaration: Declaration | None = None) -> Policy:
    """Read a policy and, with a declaration, check the columns that it names.

    Raises:
        PolicyError: The file is missing, is no YAML, or has problems; all are listed.
    """
    what = f"risk policy {path.name}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(what, [f"expected a readable file, got {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise PolicyError(what, [f"expected YAML, got {first}"]) from error
    try:
        policy = Policy.model_validate(content)
    except ValidationError as error:
        raise PolicyError(what, describe_problems(error)) from error
    if declaration is not None:
        problems = unknown_columns(policy, declaration)
        if problems:
            raise PolicyError(what, problems)
    return policy


def unknown_columns(policy: Policy, declaration: Declaration) -> list[str]:
    """Return a problem for each column that the policy names and the declaration does not."""
    known = set(declaration.columns.all_names)
    places = [(f"rules.{i}.when.column", rule.when.column) for i, rule in enumerate(policy.rules)]
    for index, rule in enumerate(policy.rules):
        places += [(f"rules.{index}.when.quasi", name) for name in rule.when.quasi]
    places += [(f"categories.{name}", name) for name in policy.categories]
    places += [("required", name) for name in policy.required]
    listing = ", ".join(sorted(known))
    return [
        f"{place}: expected a declared column ({listing}), got '{name}'"
        for place, name in places
        if name is not None and name not in known
    ]
