"""Risk policy: the YAML in which data owners say which records are likely to be erased.

Two quantities are kept apart: the probability that a record is erased within ``horizon_days``
(``base_probability`` plus ``add``) and what it costs if it is (``base_cost`` plus ``add_cost``).
``set: high`` and ``set: low`` decide at once; ``set: high`` cannot be outvoted. Every problem of a
file is reported at once with its path. The digest of the content stands in every decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from governance.declaration import Declaration, describe_problems
from governance.digests import digest_json
from governance.errors import PolicyError
from governance.policy.vocabulary import DEFAULT, category_problem, known_vocabularies
from governance.policy.when import ROLE_OF_KIND, When
from governance.scanner import NAMES
from governance.strict_yaml import read_yaml

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        problem = _effect_problem(self.set, self.add, self.add_cost)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def raises_risk(self) -> bool:
        """Whether a match makes the risk higher: then an unknown condition counts as a match."""
        return self.set != "low" and (self.add or 0.0) >= 0


class Header(_Part):
    """Name and version; the version goes up with every accepted change."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    version: Annotated[int, Field(ge=1)]
    vocabulary: str = DEFAULT

    @field_validator("vocabulary")
    @classmethod
    def _vocabulary_is_known(cls, value: str) -> str:
        if value not in known_vocabularies():
            message = f"expected one of {', '.join(known_vocabularies())}"
            raise ValueError(message)
        return value


class Budget(_Part):
    """Largest share of records that may be treated as revocable."""

    revocable_share_max: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.40


_REVIEW_WIDTH = 0.1
"""Width of the review band, in probability, of a policy that states none."""


class Thresholds(_Part):
    """Probability from which a record is high risk, and the band below it that a person reviews.

    Records in the band [low, high) count as high until a person answers. The band ends where high
    begins: between the two a record would be low though it is more likely erased than those that
    are reviewed. Without a band of its own, a policy reviews the 0.1 below ``high``.
    """

    high: Probability = 0.5
    review: tuple[Probability, Probability] = (0.4, 0.5)

    @model_validator(mode="before")
    @classmethod
    def _band_follows_the_threshold(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "review" in content:
            return content
        high = content.get("high")
        if isinstance(high, bool) or not isinstance(high, int | float) or not 0 <= high <= 1:
            return content
        return {**content, "review": (max(0.0, round(high - _REVIEW_WIDTH, 12)), float(high))}

    @model_validator(mode="after")
    def _band_ends_at_the_threshold(self) -> Thresholds:
        low, up = self.review
        if not low <= up == self.high:
            message = (
                f"review: expected a band [low, up] with low <= up = high, "
                f"got [{low}, {up}] and high {self.high}"
            )
            raise ValueError(message)
        return self


class Gates(_Part):
    """Limits of the validation gates, as fractions; (warning, critical) where there are two.

    ``missing_max``: of a governance column without a value. ``high_max``: of high-risk records.
    ``high_change``, ``rule_change``: change since the previous run, of the share of high-risk
    records, and of the largest share that a rule decides. ``rows_drop``: rows lost since then.
    ``shift_max``: population stability index of the probabilities.
    """

    missing_max: Probability = 0.05
    high_max: Probability = 0.60
    high_change: tuple[Probability, Probability] = (0.10, 0.40)
    rule_change: Probability = 0.20
    rows_drop: tuple[Probability, Probability] = (0.30, 0.90)
    shift_max: Annotated[float, Field(gt=0.0)] = 0.25


class Roles(_Part):
    """Columns that the conditions about law ask, so that rules read alike for every table."""

    lawful_basis: str | None = None
    consent_at: str | None = None
    jurisdiction: str | None = None
    subject_type: str | None = None
    tenant: str | None = None


class Policy(_Part):
    """The whole policy. ``strata`` are the columns by which requests are counted."""

    policy: Header
    horizon_days: Annotated[int, Field(ge=1, le=36500)] = 365
    base_probability: Probability = 0.05
    base_cost: Annotated[float, Field(gt=0.0)] = 1.0
    budget: Budget = Budget()
    thresholds: Thresholds = Thresholds()
    gates: Gates = Gates()
    roles: Roles = Roles()
    strata: tuple[str, ...] = ()
    categories: dict[str, str] = {}
    required: tuple[str, ...] = ()
    rules: tuple[Rule, ...]

    @field_validator("rules")
    @classmethod
    def _rule_ids_are_unique(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        problem = _ids_problem([rule.id for rule in rules])
        if problem:
            raise ValueError(problem)
        return rules

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

    def column_of(self, when: When) -> str | None:
        """Return the column that a condition is about: its own, or that of its role."""
        role = ROLE_OF_KIND.get(when.kind)
        return when.column if role is None else getattr(self.roles, role)


def load_policy(path: Path, declaration: Declaration | None = None) -> Policy:
    """Read a policy and, with a declaration, check the columns that it names.

    Raises:
        PolicyError: The file is missing, is no YAML, or has problems; all are listed.
    """
    what = f"risk policy {path.name}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(what, [f"expected a readable file, got {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise PolicyError(what, ["expected UTF-8 text"]) from error
    return parse_policy(text, what=what, declaration=declaration)


def parse_policy(text: str, *, what: str, declaration: Declaration | None = None) -> Policy:
    """Read a policy from YAML text; otherwise like ``load_policy``."""
    try:
        content, problems = read_yaml(text)
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise PolicyError(what, [f"expected YAML, got {first}"]) from error
    if not isinstance(content, dict):
        raise PolicyError(what, [f"expected a mapping with 'rules', got {type(content).__name__}"])
    try:
        policy = Policy.model_validate(content)
    except ValidationError as error:
        problems += describe_problems(error)
    problems += list(_problems_of_meaning(content, declaration))
    if problems:
        raise PolicyError(what, list(dict.fromkeys(problems)))
    return policy


def write_policy(policy: Policy) -> str:
    """Return a policy as YAML that reads back to the same digest; defaults are left out."""
    content = policy.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _problems_of_meaning(content: dict[str, Any], declaration: Declaration | None) -> Iterator[str]:
    """Check what a schema cannot: names that must exist elsewhere.

    Works on the parts that are well formed, so that a mistake in one rule does not hide another.
    What the schema checks only of a part without mistakes (effects of a rule, ids of all rules) is
    checked here too, in the same words.
    """
    roles = _valid(Roles, content.get("roles") or {}) or Roles()
    header = content.get("policy")
    named = header.get("vocabulary") if isinstance(header, dict) else None
    vocabulary = named if named in known_vocabularies() else DEFAULT
    columns: list[tuple[str, str]] = [
        (f"roles.{role}", name) for role, name in roles.model_dump().items() if name is not None
    ]
    categories = content.get("categories")
    for name, key in (categories if isinstance(categories, dict) else {}).items():
        columns.append((f"categories.{name}", str(name)))
        problem = category_problem(str(key), vocabulary)
        if problem:
            yield f"categories.{name}: {problem}"
    for part in ("required", "strata"):
        names = content.get(part)
        columns += [(part, str(name)) for name in (names if isinstance(names, list) else [])]
    rules = content.get("rules")
    if isinstance(rules, list):
        yield from _rule_list_problems(rules)
    for index, entry in enumerate(rules if isinstance(rules, list) else []):
        when = _valid(When, entry.get("when") if isinstance(entry, dict) else None)
        if isinstance(when, When):
            place = f"rules.{index}.when"
            columns += [(f"{place}.column", when.column)] if when.column else []
            columns += [(f"{place}.quasi", name) for name in when.quasi]
            yield from _rule_problems(place, when, roles, vocabulary, bool(content.get("strata")))
    if declaration is not None:
        known = declaration.columns.all_names
        listing = ", ".join(sorted(known))
        for place, name in columns:
            if name not in known:
                yield f"{place}: expected a declared column ({listing}), got '{name}'"


def _rule_list_problems(rules: list[Any]) -> Iterator[str]:
    problem = _ids_problem([rule.get("id") for rule in rules if isinstance(rule, dict)] or rules)
    if problem:
        yield f"rules: {problem}"
    for index, rule in enumerate(rules):
        if isinstance(rule, dict):
            problem = _effect_problem(rule.get("set"), rule.get("add"), rule.get("add_cost"))
            if problem:
                yield f"rules.{index}: {problem}"


def _ids_problem(ids: list[Any]) -> str | None:
    if not ids:
        return "expected at least one rule, got none"
    texts = [rule_id for rule_id in ids if isinstance(rule_id, str)]
    repeated = sorted({rule_id for rule_id in texts if texts.count(rule_id) > 1})
    return f"expected unique ids, got {repeated} several times" if repeated else None


def _effect_problem(level: Any, add: Any, add_cost: Any) -> str | None:
    """Say what is wrong with the effects of a rule, as far as they are well formed."""
    if level is None and add is None and add_cost is None:
        return "expected an effect: set, add or add_cost"
    if level is not None and add is not None:
        return "expected 'set' or 'add', got both"
    if (level == "low" or (isinstance(add, int | float) and add < 0)) and add_cost:
        return "expected two rules, got one that lowers the probability and adds cost"
    return None


def _rule_problems(
    place: str, when: When, roles: Roles, vocabulary: str, has_strata: bool
) -> Iterator[str]:
    role = ROLE_OF_KIND.get(when.kind)
    if role is not None and getattr(roles, role) is None:
        yield f"{place}.{when.kind}: expected roles.{role} to name the column, got no such entry"
    for key in when.category_under or ():
        problem = category_problem(key, vocabulary)
        if problem:
            yield f"{place}.category_under: {problem}"
    wanted = when.values if when.kind == "detects" else ()
    for entity in wanted:
        if entity not in NAMES:
            listing = ", ".join(sorted(NAMES))
            yield f"{place}.detects: expected one of {listing}, got '{entity}'"
    if when.kind == "request_rate_gt" and not has_strata:
        yield f"{place}.request_rate_gt: expected 'strata' to name columns, got none"


def _valid(model: type[BaseModel], content: object) -> Any:
    """Return a part of the policy if it is well formed, else None: its mistakes are listed."""
    try:
        return model.model_validate(content)
    except ValidationError:
        return None
