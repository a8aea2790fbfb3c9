"""Observations: one file for each batch of requests, with counts and no person.

They are made when a batch is planned, while the rows still exist. A *subject* counts once in each
risk group and stratum that one of their asked records is in. ``own`` counts the subjects who asked
themselves: they ask independently of each other, which the subjects of one tenant's request do not.
They count on the day of receipt, as a backlog says nothing about the time of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.classification import GROUP
from governance.classification.conditions import stratum_keys
from governance.classification.decisions import HIGH
from governance.classification.runs import RunRecord
from governance.digests import read_json, write_json

DAYS_PER_YEAR = 365.25
MIN_OBSERVED_DAYS = 30.0
"""A stratum that was observed for less has no known rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What one batch of requests asked for.

    Attributes:
        batch_id: Batch.
        at: When it was planned.
        policy_digest: Policy that had classified the records.
        n_subjects: Subjects with asked records.
        n_subjects_covered: Those of whom every asked record was in the revocable set.
        n_records: Asked records.
        n_high: Those classified high.
        n_revocable: Those in the revocable set.
        cost_of_misses: Sum of the erasure cost of asked records outside of the revocable set.
        subjects_by_group: Risk group -> subjects.
        own_by_group: Risk group -> subjects who asked themselves.
        records_by_group: Risk group -> records.
        subjects_by_stratum: Keyed digest of a stratum -> subjects.
        own_by_day: UTC day of receipt -> risk group -> subjects who asked themselves.
    """

    batch_id: str
    at: datetime
    policy_digest: str
    n_subjects: int
    n_subjects_covered: int
    n_records: int
    n_high: int
    n_revocable: int
    cost_of_misses: float
    subjects_by_group: dict[str, int]
    own_by_group: dict[str, int]
    records_by_group: dict[str, int]
    subjects_by_stratum: dict[str, int]
    own_by_day: dict[str, dict[str, int]] = field(default_factory=dict)

    def receipts(self) -> Iterator[tuple[date, str, int]]:
        """Yield day, risk group and subjects who asked themselves.

        Observations without days, of former releases, count on the day of their batch.
        """
        days = self.own_by_day or {self.at.astimezone(UTC).date().isoformat(): self.own_by_group}
        for day, groups in days.items():
            for name, count in groups.items():
                yield date.fromisoformat(day), name, count

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "at": self.at.isoformat()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Observation:
        """Read what ``to_dict`` wrote."""
        return cls(**{**content, "at": datetime.fromisoformat(content["at"])})


def observe_batch(
    rows: pa.Table,
    *,
    batch_id: str,
    at: datetime,
    subject_id: str,
    received: np.ndarray,
    strata: Sequence[str],
    pseudonym_keys: Sequence[bytes],
) -> Observation:
    """Count what a batch asks for.

    Args:
        rows: The asked records, with their decision columns.
        batch_id: Batch.
        at: Now.
        subject_id: Column of the subject.
        received: datetime64[D] ``[n]``: UTC day on which the subject of the record asked for all of
            their data; not a time where they did not.
        strata: Columns of the policy's strata.
        pseudonym_keys: Keys of the strata's digests; each stratum is counted under every one.
    """
    asked_themselves = ~np.isnat(received)
    person = _numbers(rows[subject_id])
    groups, group = _named_numbers(rows[GROUP])
    revocable = rows["revocable"].to_numpy()
    covered = np.ones(int(person.max(initial=-1)) + 1, dtype=bool)
    covered[person[~revocable]] = False
    missed = pc.sum(rows.filter(pa.array(~revocable))["erasure_cost"]).as_py() or 0.0
    by_stratum: dict[str, int] = {}
    for key in pseudonym_keys if strata else ():
        number, names = stratum_keys(rows, tuple(strata), key)
        by_stratum |= _count_persons(person, number, [name.hex() for name in names])
    digests = rows["policy_digest"].unique().to_pylist()
    return Observation(
        batch_id=batch_id,
        at=at,
        policy_digest=str(digests[0]) if digests else "",
        n_subjects=len(covered),
        n_subjects_covered=int(covered.sum()),
        n_records=rows.num_rows,
        n_high=int(pc.sum(pc.equal(rows["risk_level"], HIGH)).as_py() or 0),
        n_revocable=int(revocable.sum()),
        cost_of_misses=float(missed),
        subjects_by_group=_count_persons(person, group, groups),
        own_by_group=_count_persons(person[asked_themselves], group[asked_themselves], groups),
        records_by_group={
            name: int(count)
            for name, count in zip(groups, np.bincount(group, minlength=len(groups)), strict=True)
        },
        subjects_by_stratum=by_stratum,
        own_by_day={
            str(day): _count_persons(person[received == day], group[received == day], groups)
            for day in np.unique(received[asked_themselves])
        },
    )


def save_observation(folder: Path, observation: Observation) -> None:
    """Keep an observation; the same batch writes the same place."""
    write_json(folder / "observations" / f"{observation.batch_id}.json", observation.to_dict())


def load_observations(folder: Path) -> list[Observation]:
    """Return every observation, oldest first."""
    paths = (folder / "observations").glob("*.json")
    found = [Observation.from_dict(read_json(path)) for path in paths]
    return sorted(found, key=lambda observation: (observation.at, observation.batch_id))


def exposure_days(
    runs: Sequence[RunRecord], since: datetime, until: datetime
) -> list[tuple[RunRecord, float]]:
    """Return for how many days of a period each classification was in force.

    Args:
        runs: Classifications, oldest first; each is in force until the next.
        since: Begin.
        until: End.
    """
    ends = [run.at for run in runs[1:]] + [until]
    spans = []
    for run, end in zip(runs, ends, strict=True):
        begin, stop = max(run.at, since), min(end, until)
        spans.append((run, max(0.0, (stop - begin).total_seconds() / 86_400)))
    return spans


def request_rates(
    runs: Sequence[RunRecord], observations: Sequence[Observation], *, now: datetime
) -> dict[str, float]:
    """Return requests per subject and year by stratum, for those observed for long enough.

    Args:
        runs: Classifications, oldest first.
        observations: Batches of requests.
        now: End of the time that counts.
    """
    if not runs:
        return {}
    years: dict[str, float] = {}
    days: dict[str, float] = {}
    for run, span in exposure_days(runs, runs[0].at, now):
        for stratum, n_subjects in run.strata.items():
            years[stratum] = years.get(stratum, 0.0) + n_subjects * span / DAYS_PER_YEAR
            days[stratum] = days.get(stratum, 0.0) + span
    asked: dict[str, int] = {}
    for observation in observations:
        for stratum, count in observation.subjects_by_stratum.items():
            asked[stratum] = asked.get(stratum, 0) + count
    return {
        stratum: asked.get(stratum, 0) / exposure
        for stratum, exposure in years.items()
        if days[stratum] >= MIN_OBSERVED_DAYS and exposure > 0
    }


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return _named_numbers(column)[1]


def _named_numbers(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _count_persons(person: np.ndarray, number: np.ndarray, names: list[str]) -> dict[str, int]:
    if not len(person):
        return {}
    pairs = np.unique(person * len(names) + number)
    counts = np.bincount(pairs % len(names), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
