"""Validation gates: suites of Great Expectations with severities. The only importer of it.

``critical`` blocks the chain, ``warning`` and ``info`` are reported. Results are summaries: the
library would store failing values; failing rows are named by pseudonym, found by ourselves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from governance.declaration import Declaration
from governance.errors import ValidationFailedError

_MAX_REPORTED = 10
_LOGGERS = ("great_expectations",)


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation.

    Attributes:
        kind: Name of a Great Expectations class.
        severity: ``critical``, ``warning`` or ``info``.
        arguments: Its arguments.
    """

    kind: str
    severity: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GateResult:
    """Outcome of a suite.

    Attributes:
        suite: Name of the suite.
        n_expectations: How many were checked.
        n_rows: Rows that were checked.
        failures: One line for each failed expectation, with severity and count of rows.
        blocked: Whether a critical one failed.
    """

    suite: str
    n_expectations: int
    n_rows: int
    failures: tuple[str, ...]
    blocked: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "suite": self.suite,
            "n_expectations": self.n_expectations,
            "n_rows": self.n_rows,
            "failures": list(self.failures),
            "blocked": self.blocked,
        }


def input_suite(declaration: Declaration) -> list[Expectation]:
    """Return what must hold before classification."""
    columns = declaration.columns
    classes = [str(value) for value in columns.label.classes]
    return [
        Expectation("ExpectTableRowCountToBeBetween", "critical", {"min_value": 1}),
        Expectation("ExpectColumnValuesToNotBeNull", "critical", {"column": columns.record_id}),
        Expectation("ExpectColumnValuesToBeUnique", "critical", {"column": columns.record_id}),
        Expectation("ExpectColumnValuesToNotBeNull", "critical", {"column": columns.subject_id}),
        Expectation(
            "ExpectColumnValuesToBeInSet",
            "critical",
            {"column": columns.label.name, "value_set": classes},
        ),
        *(
            Expectation(
                "ExpectColumnValuesToNotBeNull", "warning", {"column": name, "mostly": 0.95}
            )
            for name in columns.governance
        ),
    ]


def result_suite() -> list[Expectation]:
    """Return what must hold after classification."""
    return [
        Expectation(
            "ExpectColumnValuesToBeInSet",
            "critical",
            {"column": "risk_level", "value_set": ["high", "low"]},
        ),
        Expectation(
            "ExpectColumnValuesToBeBetween",
            "critical",
            {"column": "erasure_probability", "min_value": 0, "max_value": 1},
        ),
        Expectation(
            "ExpectColumnValuesToBeBetween", "critical", {"column": "n_reasons", "min_value": 1}
        ),
        Expectation("ExpectColumnValuesToNotBeNull", "critical", {"column": "policy_digest"}),
        Expectation(
            "ExpectColumnMeanToBeBetween", "warning", {"column": "is_high", "max_value": 0.6}
        ),
        Expectation(
            "ExpectColumnMeanToBeBetween", "info", {"column": "is_high", "min_value": 0.01}
        ),
    ]


def request_suite() -> list[Expectation]:
    """Return what must hold of deletion requests before they go into the queue.

    Bad rows are sorted out with their reasons before; this says that the sorting worked.
    """
    words = {"regime": r"^[a-z][a-z0-9_-]*$", "hold_ground": r"^[a-z][a-z0-9_-]{0,60}$"}
    words |= {"request_id": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$", "subject_key": r"^[0-9a-f]{64}$"}
    return [
        Expectation("ExpectTableRowCountToBeBetween", "critical", {"min_value": 1}),
        Expectation(
            "ExpectColumnValuesToBeBetween", "critical", {"column": "n_targets", "min_value": 1}
        ),
        *(
            Expectation("ExpectColumnValuesToMatchRegex", "critical", {"column": n, "regex": regex})
            for n, regex in words.items()
        ),
        Expectation(
            "ExpectColumnValuesToMatchRegex",
            "critical",
            {"column": "received_at", "regex": r"^\d{4}-\d\d-\d\dT.*\+00:00$"},
        ),
        Expectation(
            "ExpectColumnMeanToBeBetween", "warning", {"column": "is_good", "min_value": 0.5}
        ),
    ]


def run_gate(name: str, frame: pd.DataFrame, suite: Sequence[Expectation]) -> GateResult:
    """Check a data frame against a suite.

    Args:
        name: Name of the gate.
        frame: The columns that the suite names.
        suite: Expectations with severities.
    """
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
    import great_expectations as gx
    import great_expectations.expectations as gxe

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batches = (
        context.data_sources.add_pandas(name)
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe(name)
    )
    expectations = [
        getattr(gxe, item.kind)(**item.arguments, severity=item.severity) for item in suite
    ]
    definition = gx.ValidationDefinition(
        name=name,
        data=batches,
        suite=context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations)),
    )
    result = definition.run(
        batch_parameters={"dataframe": frame}, result_format={"result_format": "SUMMARY"}
    )
    failures, blocked = [], False
    for item, outcome in zip(suite, result.results, strict=True):
        if not outcome.success:
            blocked |= item.severity == "critical"
            failures.append(_describe(item, outcome))
    return GateResult(name, len(suite), len(frame), tuple(failures), blocked)


def require_passed(gate: GateResult, failing_ids: Sequence[str] = ()) -> None:
    """Raise if a critical expectation failed.

    Args:
        gate: Result of the gate.
        failing_ids: Pseudonyms of failing records, if they are known.

    Raises:
        ValidationFailedError: Lists at most ten failed expectations and ten pseudonyms.
    """
    if gate.blocked:
        problems = list(gate.failures[:_MAX_REPORTED])
        if failing_ids:
            problems.append("failing records (pseudonyms): " + ", ".join(failing_ids[:10]))
        raise ValidationFailedError(f"validation gate {gate.suite}", problems)


def _describe(item: Expectation, outcome: Any) -> str:
    column = item.arguments.get("column", "table")
    error = (outcome.exception_info or {}).get("exception_message")
    if error:
        return f"{item.severity}: {item.kind} on {column}: could not be checked"
    count = (outcome.result or {}).get("unexpected_count")
    rows = f"{count} rows" if count is not None else "the table"
    return f"{item.severity}: {item.kind} on {column}: {rows} failed"
