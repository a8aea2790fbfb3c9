"""Command ``scan``: which columns hold personal data, as counts and never as values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from r2u_tasks.cli.console import AsJson, out, print_json, waiting

if TYPE_CHECKING:
    from governance.scanner import ColumnFindings

app = typer.Typer()

Source = Annotated[
    Path,
    typer.Argument(help="CSV or Parquet file, folder of a Delta table, or declaration (YAML)."),
]
Entities = Annotated[
    list[str] | None, typer.Option("--entity", "-e", help="Look for this entity only; repeatable.")
]


@app.command(epilog="Example: `r2u scan people.csv`, `r2u scan people.csv -e email -e phone`")
def scan(
    source: Source,
    entity: Entities = None,
    presidio: Annotated[
        bool, typer.Option("--presidio", help="Use Presidio's pattern recognisers (slow).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find personal data by column: what it is, how much, and the data category for the policy."""
    from governance.errors import DataError
    from governance.scanner import NAMES

    unknown = sorted(set(entity or ()) - set(NAMES))
    if unknown:
        message = f"--entity: expected some of {', '.join(NAMES)}; got {', '.join(unknown)}"
        raise DataError(message)
    with waiting("scan"):
        findings = _scan(_batches(source), tuple(entity or ()), presidio=presidio)
    if as_json:
        print_json({"columns": [column.to_dict() for column in findings], **_policy(findings)})
        return
    out.print(_table(findings))
    hint = _hint(findings)
    if hint:
        title = "\nFor the policy, after a look at each line:\n"
        out.print(title + hint, markup=False, highlight=False, soft_wrap=True)


def _scan(
    batches: Iterator[Any], entities: tuple[str, ...], *, presidio: bool
) -> list[ColumnFindings]:
    from governance.scanner import NAMES, scan_table

    if not presidio:
        return scan_table(batches, entities=entities or NAMES)
    from governance.presidio import SUPPORTED, PresidioScanner

    return PresidioScanner(entities or SUPPORTED).scan_table(batches)


def _batches(source: Path) -> Iterator[Any]:
    """Yield the batches of whatever the source is."""
    from governance.declaration import load_declaration
    from governance.scanner.files import read_batches
    from governance.storage import scan_table, table_exists

    if source.suffix.lower() in {".yaml", ".yml"}:
        source = load_declaration(source).source_path
    if source.is_dir() and table_exists(source):
        yield from scan_table(source)
        return
    yield from read_batches(source)


def _table(findings: Iterable[ColumnFindings]) -> Table:
    """Show a row for each entity that a column is or contains."""
    table = Table(box=None, pad_edge=False)
    for title in ("column", "filled", "holds", "cells", "share (95 %)"):
        right = title in {"filled", "cells"}
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for column in findings:
        shown = [f for f in column.findings if f.entity in {column.entity, *column.contains}]
        if not shown:
            table.add_row(escape(column.name), f"{column.n_filled:,}", "[dim]nothing found[/]")
        for finding in shown:
            how = "is" if finding.entity == column.entity else "contains"
            share = f"{finding.share:.1%} ({finding.low:.1%} - {finding.high:.1%})"
            cells = (f"{how} {finding.entity}", f"{finding.n_cells:,}", share)
            table.add_row(escape(column.name), f"{column.n_filled:,}", *cells)
    return table


def _policy(findings: Iterable[ColumnFindings]) -> dict[str, Any]:
    """Return what could stand in a policy: categories of columns, rules for what text contains."""
    from governance.scanner import ENTITIES

    categories, rules = {}, []
    for column in findings:
        if category := column.category:
            categories[column.name] = category
        rules += [
            {"column": column.name, "detects": entity}
            for entity in column.contains
            if ENTITIES[entity].category
        ]
    return {"categories": categories, "conditions": rules}


def _hint(findings: Iterable[ColumnFindings]) -> str:
    suggested = _policy(findings)
    lines = []
    if suggested["categories"]:
        lines += ["categories:"]
        lines += [
            f"  {json.dumps(name)}: {category}"
            for name, category in suggested["categories"].items()
        ]
    if suggested["conditions"]:
        lines += ["rules:"]
        for number, when in enumerate(suggested["conditions"], start=1):
            condition = f"{{column: {json.dumps(when['column'])}, detects: {when['detects']}}}"
            lines.append(f"  - {{id: found-{number}, when: {condition}, add_cost: 1.0}}")
    return "\n".join(lines)
