"""Validation gates by Great Expectations. The only importer of it.

Results are summaries: the library would store failing values. Large tables are checked in shards
whose counts add up; failing rows are named by pseudonym, found by ourselves (``suites``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from governance.errors import ValidationFailedError
from governance.suites import Expectation, failing_rows

_MAX_REPORTED = 10
_MAX_NAMED = 100_000


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that failed.

    Attributes:
        severity: ``critical``, ``warning`` or ``info``.
        kind: Name of the Great Expectations class.
        column: Column that it is about.
        n_rows: Failing rows; 0 for one about the whole table.
        text: One line for people; holds no value of a record.
    """

    severity: str
    kind: str
    column: str
    n_rows: int
    text: str


@dataclass(frozen=True, slots=True)
class GateResult:
    """Outcome of a suite.

    Attributes:
        suite: Name of the suite.
        n_expectations: How many were checked.
        n_rows: Rows that were checked.
        failed: What failed.
        rows_path: File with the pseudonyms of failing records, where there are any.
    """

    suite: str
    n_expectations: int
    n_rows: int
    failed: tuple[Failure, ...]
    rows_path: Path | None = None

    @property
    def blocked(self) -> bool:
        """Whether a critical expectation failed."""
        return any(failure.severity == "critical" for failure in self.failed)

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each failed expectation."""
        return tuple(failure.text for failure in self.failed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "suite": self.suite,
            "n_expectations": self.n_expectations,
            "n_rows": self.n_rows,
            "failures": list(self.failures),
            "blocked": self.blocked,
            "rows_path": None if self.rows_path is None else str(self.rows_path),
        }


def run_gate(
    name: str,
    shards: Iterable[pa.Table],
    suite: Sequence[Expectation],
    *,
    keys: Callable[[pa.Table], pa.Array] | None = None,
    rows_path: Path | None = None,
) -> GateResult:
    """Check a table, in shards, against a suite.

    Args:
        name: Name of the gate.
        shards: Tables with the columns that the suite names; at least one.
        suite: Expectations with severities.
        keys: Gives the pseudonyms of the records of a shard.
        rows_path: Where to write the pseudonyms of failing records; at most 100,000 for each
            expectation.
    """
    runner = _Runner(name, suite)
    for shard in shards:
        outcomes = runner.check(shard)
        if keys is not None:
            for index, failed in enumerate(outcomes):
                if failed:
                    bad = shard.filter(pa.array(failing_rows(shard, suite[index])))
                    runner.name_rows(index, keys(bad))
    written = runner.write_rows(rows_path) if rows_path is not None else None
    return GateResult(name, len(suite), runner.n_rows, runner.failures(), written)


def require_passed(gate: GateResult) -> None:
    """Raise if a critical expectation failed.

    Raises:
        ValidationFailedError: Lists at most ten failed expectations, and where the failing
            records are named.
    """
    if gate.blocked:
        problems = list(gate.failures[:_MAX_REPORTED])
        if gate.rows_path is not None:
            problems.append(f"failing records, as pseudonyms: {gate.rows_path}")
        raise ValidationFailedError(f"validation gate {gate.suite}", problems)


class _Runner:
    """One suite against one shard after the other; adds up what fails."""

    def __init__(self, name: str, suite: Sequence[Expectation]) -> None:
        import great_expectations as gx
        import great_expectations.expectations as gxe

        for logger in [*logging.root.manager.loggerDict]:  # the import sets levels of its own
            if logger.split(".")[0] == "great_expectations":
                logging.getLogger(logger).setLevel(logging.ERROR)
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        batches = (
            context.data_sources.add_pandas(name)
            .add_dataframe_asset(name)
            .add_batch_definition_whole_dataframe(name)
        )
        expectations = [
            getattr(gxe, item.kind)(**_without_mostly(item.arguments), severity=item.severity)
            for item in suite
        ]
        self._definition = gx.ValidationDefinition(
            name=name,
            data=batches,
            suite=context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations)),
        )
        self._suite = suite
        self._bad = np.zeros(len(suite), dtype=np.int64)
        self._broken = np.zeros(len(suite), dtype=bool)
        self._values: list[Any] = [None] * len(suite)
        self._named: dict[int, list[pa.Array]] = {}
        self.n_rows = 0

    def check(self, shard: pa.Table) -> list[bool]:
        """Check a shard; returns which expectations about rows failed on it."""
        result = self._definition.run(
            batch_parameters={"dataframe": shard.to_pandas()},
            result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
        )
        self.n_rows += shard.num_rows
        failed = []
        for index, outcome in enumerate(result.results):
            content = outcome.result or {}
            count = int(content.get("unexpected_count") or 0)
            self._bad[index] += count
            self._broken[index] |= not outcome.success and not count
            self._values[index] = content.get("observed_value")
            failed.append(count > 0)
        return failed

    def name_rows(self, index: int, keys: pa.Array) -> None:
        """Keep the pseudonyms of rows that failed an expectation, up to a limit."""
        kept = self._named.setdefault(index, [])
        kept.append(keys.slice(0, _MAX_NAMED - sum(len(part) for part in kept)))

    def write_rows(self, path: Path) -> Path | None:
        """Write the pseudonyms that were kept; nothing if there are none."""
        names = [
            f"{self._suite[i].kind} on {self._suite[i].arguments['column']}" for i in self._named
        ]
        tables = [
            pa.table({"expectation": [name] * len(part), "record_key": part.cast(pa.string())})
            for name, parts in zip(names, self._named.values(), strict=True)
            for part in parts
            if len(part)
        ]
        if not tables:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(tables), path)
        return path

    def failures(self) -> tuple[Failure, ...]:
        """Return what failed over all shards."""
        found = []
        for index, item in enumerate(self._suite):
            allowed = (1.0 - float(item.arguments.get("mostly", 1.0))) * self.n_rows
            if self._broken[index] or self._bad[index] > allowed:
                found.append(self._failure(item, int(self._bad[index]), self._values[index]))
        return tuple(found)

    def _failure(self, item: Expectation, n_rows: int, observed: Any) -> Failure:
        column = str(item.arguments.get("column", "table"))
        limits = {
            key: item.arguments[key] for key in ("min_value", "max_value") if key in item.arguments
        }
        if n_rows:
            what = f"{n_rows} of {self.n_rows} rows failed"
        elif isinstance(observed, int | float):
            what = f"expected {limits}, got {observed:.4g}"
        else:
            what = "could not be checked"
        text = f"{item.severity}: {item.kind} on {column}: {what}"
        return Failure(item.severity, item.kind, column, n_rows, text)


def _without_mostly(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "mostly"}
