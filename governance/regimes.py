"""Legal periods as versioned data files: a change of law is a change of data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated
from zoneinfo import available_timezones

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from governance.declaration import describe_problems
from governance.errors import PolicyError

_FOLDER = Path(__file__).parent / "regime_data"


class Regime(BaseModel):
    """Periods of one law: in calendar months or in days, counted in one time zone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: Annotated[int, Field(ge=1)]
    answer_months: Annotated[int, Field(ge=0)] = 0
    answer_days: Annotated[int, Field(ge=0)] = 0
    extension_months: Annotated[int, Field(ge=0)] = 0
    extension_days: Annotated[int, Field(ge=0)] = 0
    time_zone: str = "UTC"

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, name: str) -> str:
        if name not in available_timezones():
            message = "expected a time zone of the IANA database, such as Europe/Brussels"
            raise ValueError(message)
        return name

    @model_validator(mode="after")
    def _has_a_period(self) -> Regime:
        if (self.answer_months > 0) == (self.answer_days > 0):
            message = "expected answer_months or answer_days, and not both"
            raise ValueError(message)
        return self


@cache
def load_regime(name: str) -> Regime:
    """Return a regime by name.

    Raises:
        PolicyError: There is no such regime, or its file is wrong.
    """
    path = _FOLDER / f"{name}.yaml"
    known = sorted(file.stem for file in _FOLDER.glob("*.yaml"))
    if name not in known:
        raise PolicyError("regime", [f"expected one of {', '.join(known)}"])
    try:
        return Regime.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise PolicyError(f"regime {name}", describe_problems(error)) from error
