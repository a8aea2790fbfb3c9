"""What stays of a classification: its risk groups with counts, and no row.

``classification/<run_key>/run.json`` is what a later run compares itself with, what a review lists,
and what calibration holds the requests against.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from governance.classification import RiskGroup
from governance.classification.decisions import Decision
from governance.digests import read_json, write_json
from governance.suites import Distribution

_NAME = "run.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One classification, in counts.

    Attributes:
        run_key: Run.
        at: When it was published.
        policy_digest: Policy.
        policy_version: Its version.
        horizon_days: Days that its probabilities are about.
        distribution: Figures for the drift suite.
        groups: Risk groups.
        revocable_by_group: Group -> records that fit into the budget.
        strata: Keyed digest of a stratum -> its subjects.
    """

    run_key: str
    at: datetime
    policy_digest: str
    policy_version: int
    horizon_days: int
    distribution: Distribution
    groups: tuple[RiskGroup, ...]
    revocable_by_group: dict[str, int]
    strata: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "at": self.at.isoformat()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RunRecord:
        """Read what ``to_dict`` wrote."""
        groups = tuple(read_group(group) for group in content["groups"])
        return cls(
            **{
                **content,
                "at": datetime.fromisoformat(content["at"]),
                "distribution": Distribution(**content["distribution"]),
                "groups": groups,
            }
        )


def read_group(content: dict[str, Any]) -> RiskGroup:
    """Read a risk group from the JSON of its fields."""
    decision = content["decision"]
    return RiskGroup(
        **{
            **content,
            "pattern": tuple(content["pattern"]),
            "decision": Decision(**{**decision, "deciding": tuple(decision["deciding"])}),
        }
    )


def save_run(folder: Path, record: RunRecord) -> None:
    """Keep a run; the same run writes the same place."""
    write_json(folder / record.run_key / _NAME, record.to_dict())


def load_runs(folder: Path) -> list[RunRecord]:
    """Return every run, oldest first."""
    paths = folder.glob(f"*/{_NAME}")
    return sorted((RunRecord.from_dict(read_json(path)) for path in paths), key=lambda run: run.at)


def latest_run(folder: Path, *, besides: str | None = None) -> RunRecord | None:
    """Return the newest run, except one."""
    runs = [run for run in load_runs(folder) if run.run_key != besides]
    return runs[-1] if runs else None
