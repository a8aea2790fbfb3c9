"""How fast and how well personal data is detected, beside Presidio and DataProfiler.

    make bench NAME=detection            (SIZE=small: under a minute, without DataProfiler)

*Speed*: rows a second for the entities that Presidio's pattern recognisers know, on the same rows,
in the same run. Presidio's recognisers are called directly, without its engine: their best case.
DataProfiler runs in an environment of its own, which the benchmark makes under ``build/``.
*Quality*: precision, recall and F1 by entity on the half of each corpus that no rule was chosen on
(``detection_parts.quality``). *Hostile text*: seconds a MB for each kind over that of sentences.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.common import is_small, plot, row, write_results
from benchmarks.detection_parts import hostile
from benchmarks.detection_parts.corpus import Labelled, generated, person_cells, persons, sentences
from benchmarks.detection_parts.page import write_page
from benchmarks.detection_parts.quality import (
    best_scores,
    entities_in,
    find_ours,
    find_presidio,
    judge,
)
from governance.presidio import SUPPORTED, PresidioScanner
from governance.scanner import count_column, detect, scan_table

PRESIDIO = "Presidio pattern recognisers"
OURS = "ready2unlearn"
_PEER = Path(__file__).parent / "detection_parts" / "dataprofiler_peer.py"
_PEER_ENVIRONMENT = Path("build/dataprofiler")
_PEER_PACKAGE = "DataProfiler[ml]==0.14.0"
_SINGLE = ("email", "phone", "card", "ip", "iban", "url", "us_ssn", "date")


def detection_rows(size: str) -> list[dict[str, Any]]:
    """Return all results.

    Args:
        size: ``small`` for under a minute, anything else for the full study.
    """
    small = size == "small"
    scanner = PresidioScanner()
    rows = speed_rows(scanner, small=small)
    if not small:
        rows += dataprofiler_rows()
    return rows + hostile_rows(small=small) + quality_rows(scanner, small=small)


def speed_rows(scanner: PresidioScanner, *, small: bool) -> list[dict[str, Any]]:
    """Time all shared entities at once, and each alone, on three columns of text."""
    table = persons()
    corpora = {
        "sentences": [cell.text for half in ("tune", "report") for cell in sentences(half)],
        "e-mail column": table["EmailAddress"],
        "phone column": table["TelephoneNumber"],
    }
    rows = []
    for name, texts in corpora.items():
        ask = {"all": SUPPORTED}
        if name == "sentences":
            ask |= {entity: (entity,) for entity in _SINGLE}
        for what, entities in ask.items():
            rows += _compare(scanner, f"{name}, {what}", texts, entities, small=small)
    return rows


def _compare(
    scanner: PresidioScanner, case: str, texts: list[str], entities: Sequence[str], *, small: bool
) -> list[dict[str, Any]]:
    """Time both on the same rows, in turns; ours sees them several times over.

    Presidio takes the same time for each row, so that a part of the rows is enough for it.
    """
    repeats, n_slow = (3, 60) if small else (5, 400)
    few = texts[: n_slow if len(entities) > 1 else 4 * n_slow]
    many = pa.array(few * max(1, (20_000 if small else 200_000) // len(few)))
    ours, theirs = [], []

    def run_ours() -> None:
        if len(entities) == 1:
            detect(many, entities[0])
        else:
            count_column(many, entities=entities)

    run_ours()
    for _ in range(repeats):
        theirs.append(len(few) / _seconds(lambda: _run_presidio(scanner, few, entities)))
        ours.append(len(many) / _seconds(run_ours))
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return [
        row(f"{OURS}: {case}", "speed", ours, "rows/s"),
        row(f"{PRESIDIO}: {case}", "speed", theirs, "rows/s"),
        row(f"{OURS}: {case}", "speed ratio", ratios, "x", f"{PRESIDIO}: {case}"),
    ]


def _run_presidio(scanner: PresidioScanner, texts: list[str], entities: Sequence[str]) -> None:
    for entity in entities:
        for text in texts:
            scanner.matches(text, entity)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def dataprofiler_rows() -> list[dict[str, Any]]:
    """Time DataProfiler on the sentences, and ours with every entity on the same."""
    texts = [cell.text for half in ("tune", "report") for cell in sentences(half)][:400]
    measured = _run_peer(texts, repeats=3)
    if measured is None:
        return []
    many = pa.array(texts * 250)
    ours = [len(many) / _seconds(lambda: count_column(many)) for _ in range(3)]
    rows = [row(f"{OURS}: sentences, every entity", "speed", ours, "rows/s")]
    for what, rates in measured["rates"].items():
        case = f"DataProfiler {measured['version']}: sentences, {what}"
        rows.append(row(case, "speed", rates, "rows/s"))
        ratios = [mine / other for mine, other in zip(ours, rates, strict=True)]
        rows.append(row(f"{OURS}: sentences, every entity", "speed ratio", ratios, "x", case))
    return rows


def _run_peer(texts: list[str], *, repeats: int) -> dict[str, Any] | None:
    """Return what the peer measures; None, and a line that says so, where it cannot be made."""
    python = _PEER_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"making an environment for {_PEER_PACKAGE} (2.7 GB) ...", flush=True)
        made = [
            [sys.executable, "-m", "venv", str(_PEER_ENVIRONMENT)],
            [str(python), "-m", "pip", "install", "-qq", _PEER_PACKAGE],
        ]
        try:
            for command in made:
                subprocess.run(command, check=True)  # noqa: S603 - our own command
        except subprocess.CalledProcessError as error:
            print(f"DataProfiler is not measured: {error}")
            return None
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(texts, file)
        file.flush()
        command = [str(python), str(_PEER), file.name, str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        print(f"DataProfiler is not measured: {done.stderr.strip().splitlines()[-1:]}")
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def hostile_rows(*, small: bool) -> list[dict[str, Any]]:
    """Time every kind of hostile text as one cell and as many; plain sentences are the measure."""
    n_bytes = 1 << 18 if small else 1 << 21
    repeats = 1 if small else 3
    plain = "\n".join(cell.text for cell in sentences("tune")).encode()
    kinds = {"plain sentences": (plain * (n_bytes // len(plain) + 1))[:n_bytes]}
    kinds |= {name: make(n_bytes) for name, make in hostile.KINDS.items()}
    rows, base = [], {}
    count_column(pa.array([kinds["plain sentences"]], pa.large_binary()))
    for name, text in kinds.items():
        shapes = {
            "one cell": pa.array([text], pa.large_binary()),
            "cells of 64 bytes": pa.array([text[i : i + 64] for i in range(0, n_bytes, 64)]),
        }
        for shape, column in shapes.items():
            times = [_seconds(lambda c=column: count_column(c)) for _ in range(repeats)]
            per_mb = [seconds / n_bytes * 1e6 for seconds in times]
            if name == "plain sentences":
                base[shape] = per_mb
            case = f"hostile: {name}, {shape}"
            rows.append(row(case, "time per MB", per_mb, "s/MB"))
            ratios = [a / b for a, b in zip(per_mb, base[shape], strict=True)]
            baseline = f"hostile: plain sentences, {shape}"
            rows.append(row(case, "time ratio", ratios, "x", baseline))
    return rows + ([] if small else _long_cell_rows(plain))


def _long_cell_rows(plain: bytes) -> list[dict[str, Any]]:
    """Time one cell of 64 MB, and the worst backtracking trap at 64 MB."""
    rows = []
    n_bytes = 64_000_000
    texts = {
        "plain sentences": (plain * (n_bytes // len(plain) + 1))[:n_bytes],
        "almost e-mail": hostile.KINDS["almost e-mail"](n_bytes),
    }
    for name, text in texts.items():
        column = pa.array([text], pa.large_binary())
        per_mb = [_seconds(lambda c=column: count_column(c)) / n_bytes * 1e6]
        rows.append(row(f"hostile: {name}, one cell of 64 MB", "time per MB", per_mb, "s/MB"))
    return rows


def quality_rows(scanner: PresidioScanner, *, small: bool) -> list[dict[str, Any]]:
    """Judge ours and Presidio on the report half of each corpus, and the columns of a table."""
    n = 20 if small else 300
    corpora: dict[str, Callable[[str], list[Labelled]]] = {
        "sentences": lambda half: sentences(half)[:: 5 if small else 1],
        "table cells": lambda half: person_cells(half)[:: 40 if small else 1],
        "generated": lambda half: generated(half, per_entity=n),
    }
    rows = []
    for name, make in corpora.items():
        tune, report = make("tune"), make("report")
        entities = entities_in(report)
        shared = [entity for entity in entities if entity in SUPPORTED]
        score = best_scores(scanner, tune, shared)
        for entity in entities:
            mine = judge(report, find_ours(report, entity), entity).measures()
            case = f"quality: {name}, {entity}"
            rows += _measured(OURS, case, mine)
            if entity in shared:
                found = find_presidio(scanner, report, entity)
                theirs = judge(report, found, entity, score[entity]).measures()
                rows += _measured(PRESIDIO, case, theirs)
    return rows + _column_rows()


def _measured(
    who: str, case: str, measures: dict[str, tuple[float, float, float, int]]
) -> list[dict[str, Any]]:
    return [
        {
            "case": f"{who}: {case}",
            "metric": metric,
            "value": value,
            "unit": "fraction",
            "n": n,
            "low": low,
            "high": high,
            "spread": "95 %",
            "baseline": None,
        }
        for metric, (value, low, high, n) in measures.items()
    ]


_TRUE_COLUMNS = {
    "GivenName": "person_name",
    "Surname": "person_name",
    "MothersMaiden": "person_name",
    "StreetAddress": "street_address",
    "EmailAddress": "email",
    "Username": "username",
    "Password": "password",
    "TelephoneNumber": "phone",
    "Birthday": "date_of_birth",
    "CCExpires": "date",
    "Domain": "url",
}


def _column_rows() -> list[dict[str, Any]]:
    """Count the columns of the persons' table that are told as their provider says."""
    table = persons()
    told = {c.name: c.entity for c in scan_table(pa.table(table))}
    right = sum(told[name] == _TRUE_COLUMNS.get(name) for name in table)
    return [row(f"{OURS}: columns of the persons' table", "right", [right], f"of {len(table)}")]


def _plot(rows: list[dict[str, Any]]) -> None:
    ratios = [r for r in rows if r["metric"] == "speed ratio" and PRESIDIO in str(r["baseline"])]

    def draw(axes: Any) -> None:
        names = [r["case"].partition(": ")[2] for r in ratios]
        values = [r["value"] for r in ratios]
        error = [
            [r["value"] - r["low"] for r in ratios],
            [r["high"] - r["value"] for r in ratios],
        ]
        axes.barh(names, values, xerr=error, color="#4477aa", ecolor="#333333", capsize=2)
        axes.axvline(50, color="#cc3311", linestyle="--", linewidth=1)
        axes.text(50, -0.75, " 50 x", color="#cc3311", fontsize=8, va="center")
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("rows a second, as a multiple of Presidio's (range of repeats)")

    plot("detection", draw, title="Speed of detection over Presidio's pattern recognisers")


def main() -> None:
    """Measure, write the results and the plot."""
    rows = detection_rows(os.environ.get("SIZE", ""))
    _plot(rows)
    path = write_results("detection", rows, peers=("presidio-analyzer", "phonenumbers", "Faker"))
    worst = max((r for r in rows if r["metric"] == "time ratio"), key=lambda r: r["value"])
    for r in rows:
        if r["metric"] == "speed ratio":
            print(f"{r['case']}: {r['value']:.0f} x {r['baseline']}")
    print(f"worst hostile text: {worst['case']}, {worst['value']:.1f} x plain")
    print(path)
    if not is_small():
        print(write_page())


if __name__ == "__main__":
    main()
