"""Dataset declaration: the one YAML file by which a user's own table and model work.

Unknown and repeated keys are refused, values are what is written (``strict_yaml``), every problem
is reported at once with its place, and the parsed file has a digest that travels into manifests and
evidence. Relative paths are relative to the file.
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from importlib.metadata import entry_points
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

from governance.digests import digest_json
from governance.drop import FIELDS, DropList
from governance.errors import DeclarationError
from governance.strict_yaml import read_yaml

EMBEDDED_DIGITS = "embedded:digits"
"""Name of the declaration that ships with the package."""

UNLEARNING_METHODS = (
    "neg_grad_plus",
    "gradient_ascent",
    "gradient_ascent_clipped",
    "npo",
    "random_labels",
    "salun",
    "scrub",
    "ssd",
    "finetune",
    "l1_sparse",
    "level_matching",
    "auto",
    "no_op",
)
"""Names that ship with the package; docs/unlearning.md says what each does."""

UNLEARNERS = "r2u.unlearners"
"""Entry point group of a user's own methods."""

_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Source(_Part):
    """Where the raw table comes from; ``path`` is a file, or a folder for Delta.

    ``erase``: erased rows are taken out of it too. A source that lies in the workspace is ours, and
    is treated so anyway.
    """

    path: str
    format: Literal["csv", "parquet", "delta"]
    erase: bool = False


class Feature(_Part):
    """One input column.

    ``numeric``: a number. ``categorical``: a string or integer, one of ``categories``.
    ``image``: a list or fixed-size list of numbers, ``shape`` = (channels, height, width), divided
    by ``scale``. ``text``: a string, read as UTF-8 bytes, cut at ``max_length``.
    """

    name: str
    kind: Literal["numeric", "categorical", "image", "text"]
    categories: tuple[str, ...] | None = None
    shape: tuple[Count, Count, Count] | None = None
    scale: Positive = 1.0
    max_length: Count | None = None

    @model_validator(mode="after")
    def _needs_its_own_keys(self) -> Feature:
        needed = {"categorical": "categories", "image": "shape", "text": "max_length"}
        for kind, key in needed.items():
            if (self.kind == kind) != (getattr(self, key) is not None):
                verb = "needs" if self.kind == kind else "does not take"
                message = f"a {self.kind} feature {verb} '{key}'"
                raise ValueError(message)
        return self


class Label(_Part):
    """The column to predict and every value it may take, in the order of the model's outputs."""

    name: str
    classes: Annotated[tuple[str | int, ...], Field(min_length=2)]


class Columns(_Part):
    """Roles of the columns. ``governance`` columns feed the risk policy and never the model."""

    record_id: str
    subject_id: str
    label: Label
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    governance: tuple[str, ...] = ()

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every declared column, in a fixed order."""
        features = tuple(feature.name for feature in self.features)
        return (self.record_id, self.subject_id, self.label.name, *features, *self.governance)


class Recipient(_Part):
    """Whom data or models were passed on to, and who is told of an erasure (GDPR Art. 19).

    ``contact`` is a kind, not an address: this file holds no personal data. A name alone is short
    for a recipient of records who is told by e-mail.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,60}$")]
    contact: Literal["email", "api", "ticket", "letter"] = "email"
    gets: Literal["records", "model", "predictions"] = "records"
    answer_days: Count = 30


class Deletion(_Part):
    """How this data is erased (ISO/IEC 27555 deletion class); without it a dataset is refused."""

    deletion_class: str
    backups_expire_days: Annotated[int, Field(ge=0)] | None = None
    recipients: tuple[Recipient, ...] = ()

    @field_validator("recipients", mode="before")
    @classmethod
    def _names_are_recipients(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"name": entry} if isinstance(entry, str) else entry for entry in value]

    @model_validator(mode="after")
    def _each_recipient_once(self) -> Deletion:
        names = [re.sub(r"[^a-z0-9]+", "-", r.name.lower()).strip("-") for r in self.recipients]
        if len(set(names)) < len(names):
            message = "recipients: expected each name once"
            raise ValueError(message)
        return self


class Controller(_Part):
    """Who answers a person: stands in letters. It decides no training and is in no digest."""

    name: str
    contact: str
    authority: str
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = "en"


class OpenLineage(_Part):
    """Write OpenLineage events to ``openlineage/events.jsonl``; in no digest, like a log."""

    namespace: Annotated[str, Field(min_length=1)] = "ready2unlearn"


class Split(_Part):
    """Shares of the *subjects* whose records are kept out of training."""

    holdout_fraction: Fraction = 0.20
    validation_fraction: Fraction = 0.10
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Split:
        if self.holdout_fraction + self.validation_fraction > 0.8:
            message = "holdout_fraction + validation_fraction: expected at most 0.8"
            raise ValueError(message)
        return self


class Model(_Part):
    """``factory`` is called as ``factory(input_shape=..., n_classes=..., **parameters)``."""

    factory: str
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _is_module_and_callable(self) -> Model:
        if not _FACTORY.match(self.factory):
            message = f"factory: expected 'module:callable', got '{self.factory}'"
            raise ValueError(message)
        return self


class Training(_Part):
    """Phase A sees stable data only; phase B adds the revocable slices one after another."""

    seed: int = 0
    batch_size: Count = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    stable_epochs: Count = 20
    revocable_epochs: Count = 6
    n_slices: Count = 3
    device: Annotated[str, Field(pattern=r"^(auto|cpu|(cuda|mps|xpu)(:\d+)?)$")] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"


class Readiness(_Part):
    """The Ready2Unlearn objective; weights 0 is ordinary training, bit for bit.

    ``readiness: auto`` lets the first training choose the weights by rule
    (``r2u_tasks.readiness_choice``), within ``choice_budget`` times the gradients of ordinary
    training. ``parameters`` are shell-style patterns of parameter names (a head, adapters) that
    simulated unlearning moves. Each key is described where it acts, in ``r2u_tasks.config``.
    """

    form: Literal["difference", "absolute"] = "difference"
    efficiency_weight: Annotated[float, Field(ge=0.0)] = 1.0
    retention_weight: Annotated[float, Field(ge=0.0)] = 1.0
    resistance_weight: Annotated[float, Field(ge=0.0)] = 0.1
    revocable_weight: Annotated[float, Field(ge=0.0)] = 0.0
    resistance_reading: Literal["H1", "H2"] = "H1"
    order: Literal["second", "first", "finite-difference"] = "second"
    inner_steps: Count = 1
    inner_lr: Positive = 0.5
    relearn_lr: Positive = 0.5
    normalized_step: bool = False
    inner_clip_norm: Positive | None = None
    efficiency_cap_nats: Positive = 0.5
    every: Count = 1
    last_fraction: Share = 1.0
    max_gradient_norm: Positive = 1.0
    parameters: Patterns = ("*",)
    batch_size: Count | None = None
    episodes: Literal["fixed", "records", "classes"] = "fixed"
    episode_fraction: Share = 0.1
    episode_steps: Count = 1
    max_accuracy_drop: Fraction = 0.05
    max_loss_rise: Annotated[float, Field(ge=0.0)] = 0.1
    choose: Literal["declared", "auto"] = "declared"
    choice_budget: Positive = 12.0

    @model_validator(mode="before")
    @classmethod
    def _reads_the_short_form(cls, content: Any) -> Any:
        return {"choose": "auto"} if content == "auto" else content

    def chosen(self, settings: dict[str, Any]) -> Readiness:
        """Return these settings with those that were chosen for ``choose: auto``."""
        content = {**self.model_dump(), **settings, "choose": "declared"}
        return Readiness.model_validate(content)

    @model_validator(mode="after")
    def _has_one_step_rule(self) -> Readiness:
        if self.normalized_step and self.inner_clip_norm is not None:
            message = "inner_clip_norm: expected none beside normalized_step: true"
            raise ValueError(message)
        return self


class Unlearning(_Part):
    """The approximate lane. Steps, and their length where absent, are chosen by rule."""

    method: str = "neg_grad_plus"
    step_size: Positive | None = None
    max_steps: Count = 60
    retain_weight: Annotated[float, Field(ge=0.0)] = 1.0
    parameters: Patterns = ("*",)

    @field_validator("method")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name in UNLEARNING_METHODS:
            return name
        added = entry_points(group=UNLEARNERS).names
        if name not in added:
            known = ", ".join([*UNLEARNING_METHODS, *sorted(added)])
            message = f"expected one of {known}, got '{name}'"
            raise ValueError(message)
        return name


class Evidence(_Part):
    """Size of the reference pools and the joint error level of the gate."""

    pool_size: Annotated[int, Field(ge=4)] = 12
    error_level: Annotated[float, Field(gt=0.0, le=0.2)] = 0.05
    max_accuracy_drop: Fraction = 0.02


class Drop(_Part):
    """California's DROP: who we are there, and where the persons' identifiers stand.

    ``lists`` names, for each list that is processed, the column of each of its fields; ``source``
    and ``subject_id`` default to the declared table.
    """

    broker_id: Annotated[str, Field(pattern=r"^[0-9]{4}$")]
    lists: Annotated[dict[DropList, dict[str, str]], Field(min_length=1)]
    source: Source | None = None
    subject_id: str | None = None

    @model_validator(mode="after")
    def _names_every_field(self) -> Drop:
        for name, columns in self.lists.items():
            if set(columns) != set(FIELDS[name]):
                message = f"lists.{name}: expected a column for each of {', '.join(FIELDS[name])}"
                raise ValueError(message)
        return self


class Queue(_Part):
    """Legal clock and lease of the deletion queue; ``url`` for PostgreSQL.

    ``time_zone`` is where you count days, if not in the zone of the regime.
    """

    regime: str = "gdpr"
    time_zone: str | None = None
    lease_s: Count = 3600
    max_batch: Count = 10_000
    url: str | None = None


class Declaration(_Part):
    """Everything that the pipeline must know about one dataset."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
    task: Literal["image", "tabular", "text"]
    synthetic_subjects: bool = False
    source: Source
    columns: Columns
    deletion: Deletion
    policy: str
    model: Model
    buckets: Annotated[int, Field(ge=1, le=4096)] = 8
    split: Split = Split()
    training: Training = Training()
    readiness: Readiness = Readiness()
    unlearning: Unlearning = Unlearning()
    evidence: Evidence = Evidence()
    queue: Queue = Queue()
    drop: Drop | None = None
    controller: Controller | None = None
    openlineage: OpenLineage | None = None
    folder: Annotated[Path, Field(exclude=True)] = Path()

    @model_validator(mode="after")
    def _columns_fit_the_task(self) -> Declaration:
        names = self.columns.all_names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            message = f"columns: expected one role for each column, got several for {repeated}"
            raise ValueError(message)
        kinds = [feature.kind for feature in self.columns.features]
        allowed = {"image": {"image"}, "text": {"text"}, "tabular": {"numeric", "categorical"}}
        if not set(kinds) <= allowed[self.task] or (self.task != "tabular" and len(kinds) > 1):
            message = f"columns.features: expected features of a {self.task} task, got {kinds}"
            raise ValueError(message)
        return self

    @cached_property
    def digest(self) -> str:
        """Digest of what decides data and training, wherever the file lies."""
        return digest_json(self.model_dump(mode="json", exclude={"controller", "openlineage"}))

    @property
    def source_path(self) -> Path:
        """Absolute path of the source table."""
        return (self.folder / self.source.path).resolve()

    @property
    def policy_path(self) -> Path:
        """Absolute path of the risk policy."""
        return (self.folder / self.policy).resolve()

    @property
    def n_classes(self) -> int:
        """Number of label values."""
        return len(self.columns.label.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as the model sees it, without the batch dimension."""
        first = self.columns.features[0]
        if first.shape is not None:
            return first.shape
        if first.max_length is not None:
            return (first.max_length,)
        return (sum(len(f.categories or "x") for f in self.columns.features),)


def load_declaration(name: str | Path) -> Declaration:
    """Read a dataset declaration.

    Args:
        name: Path of the YAML file. Stages resolve ``embedded:digits`` before they call this.

    Raises:
        DeclarationError: The file is missing, is not YAML, or has problems; all are listed.
    """
    path = Path(name)
    what = f"dataset declaration {path.name}"
    try:
        content, repeated = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeclarationError(what, [f"expected a readable file, got {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeclarationError(what, [f"expected YAML, got {_first_line(error)}"]) from error
    if not isinstance(content, dict):
        got = type(content).__name__
        raise DeclarationError(what, [f"expected a mapping with 'name', got {got}"])
    if "folder" in content:
        raise DeclarationError(what, [*repeated, "folder: unknown key"])
    try:
        declaration = Declaration.model_validate({**content, "folder": path.resolve().parent})
    except ValidationError as error:
        raise DeclarationError(what, [*repeated, *describe_problems(error)]) from error
    if repeated:
        raise DeclarationError(what, repeated)
    return declaration


def describe_problems(error: ValidationError) -> list[str]:
    """Turn pydantic's errors into lines of ``path: what was expected, what came``."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "file"
        got = problem.get("input")
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "unknown key"
        elif isinstance(got, str | int | float | bool) and not _is_nan(got):
            text = f"{text}, got {got!r}"
        lines.append(f"{place}: {text}")
    return lines


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
