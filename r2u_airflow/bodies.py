"""Bodies of the API: what may come in, bounded in every direction; unknown keys are refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from governance.deletion_queue import ExemptionGround, HoldGround
from governance.request_rows import REQUEST_ID

Identifier = Annotated[
    str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^;\x00]+$")
]
RequestId = Annotated[str, StringConstraints(pattern=REQUEST_ID)]
Dataset = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
Reason = Annotated[str, StringConstraints(min_length=3, max_length=100, pattern=r"^[\w .,:/()-]+$")]


class Body(BaseModel):
    """A body without surprises."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(Body):
    """What is to be forgotten: a person, single records, or all records of a tenant or class."""

    subject_id: Identifier | None = Field(None, examples=["p-17"])
    record_ids: Annotated[list[Identifier], Field(max_length=1000)] = []
    select: (
        Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^=\x00]+=[^\x00]+$")] | None
    ) = Field(None, description="column=value: a tenant or class", examples=["tenant=acme"])


class NewRequest(Target):
    """One deletion request."""

    request_id: RequestId | None = Field(None, description="your own id; the same id twice is one")
    verified: bool = Field(False, description="the person's identity is verified")
    received_at: AwareDatetime | None = Field(
        None, description="when you received it; now if absent"
    )
    hold_ground: HoldGround | None = None
    regime: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")] | None = None


class Hold(Body):
    """Keep the data of a request for now."""

    ground: HoldGround
    only: Dataset | None = Field(None, description="one dataset of the request; all if absent")


class Exemption(Body):
    """Keep the data of a request for good."""

    ground: ExemptionGround
    only: Dataset | None = Field(None, description="one dataset of the request; all if absent")


class Release(Body):
    """Release what holds a request."""

    only: Dataset | None = Field(None, description="one dataset of the request; all if absent")


class Extension(Body):
    """A person was told that the answer takes longer."""

    reason: Reason = Field(examples=["complex: three tables"])
    notice_at: AwareDatetime = Field(description="when the person was told, with the reason")


class Answered(Body):
    """The person was told."""

    reference: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{1,80}$")] | None = Field(
        None, description="where the letter is filed", examples=["letters/2026-0117"]
    )


class Why(Body):
    """Why something is decided; no personal data."""

    reason: Reason = Field(examples=["withdrawn by the person"])


class Submitted(BaseModel):
    """What became of a request."""

    request_id: str
    state: str
    due_at: datetime
    duplicate_of: str | None


class Stored(BaseModel):
    """What became of a file that was sent."""

    digest: str
    waiting: bool = Field(description="it lies in the inbox and the next intake reads it")
    repeated: bool = Field(description="the same bytes were read before; nothing was done")


class Refusal(BaseModel):
    """Why something was not done."""

    detail: str
