"""Write ``docs/results/detection.md`` from ``benchmarks/results/detection.json``.

python -m benchmarks.detection_parts.page
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "results" / "detection.md"

_HEAD = """\
# Detection of personal data: speed, quality, hostile text

Made by `python -m benchmarks.detection_parts.page` from `benchmarks/results/detection.json`
(`make bench NAME=detection`); nothing here is typed.
Commit {commit}; {processor}, {cores} cores, Python {python}, load {load_at_end} at the end; \
{packages}.

![Speed over Presidio](../../benchmarks/results/detection.png)

## Speed

Rows a second on one thread, median and range of the repeats, both in turns in the same run.
Presidio's recognisers are called directly, without its engine and without a language model: their
best case. *all*: the {n_shared} entities that both know, counted by column; a single entity: the
mask by cell. The sentences are those of presidio-research, the columns those of
FakeNameGenerator's table.

| rows | ours | Presidio | ratio | range |
| --- | ---: | ---: | ---: | --- |
"""

_WANTED = 50
"""What the design asks of the ratio."""

_PEER = """
DataProfiler, in an environment of its own (its pins do not go with ours), beside ours with every
entity on one thread; TensorFlow takes the threads it wants:

| rows | rows a second | ours is |
| --- | ---: | ---: |
"""

_QUALITY = """
## Quality

Spans found against true ones (overlap of at least half of their union); precision, recall and F1
with 95 % intervals (Wilson; F1: bootstrap over cells). Only the half of each corpus on which no
rule was chosen: of the sentences, the templates with odd numbers; of the table, the odd rows; the
generated records come from other sentences and another seed than those that were looked at. Of
the report halves single values were seen when the files were first looked at, and one earlier
table of totals, after which the rule for dates without a year was changed by errors of the other
half; their errors were not. Presidio's
score threshold is the one with its best F1 on the other half, entity by entity; ours has none.
`n` is the number of true spans.

The generated corpus is made by us: half of its values stand beside their word, half do not; as
many near misses (one digit changed so that python-stdnum refuses it), numbers of goods, versions,
hashes. Precision there is that of this mixture and of no real one. `-`: Presidio has no such
recogniser.

| corpus | entity | n | ours P | R | F1 | Presidio P | R | F1 | F1 not below |
| --- | --- | ---: | --- | --- | --- | --- | --- | --- | --- |
"""

_HOSTILE = """
## Hostile text

Seconds a MB with every entity; the ratio is to plain sentences in the same shape. The worst ten
of {n}:

| text | s/MB | ratio |
| --- | ---: | ---: |
"""


def write_page() -> Path:
    """Write the page and return its path."""
    content = json.loads((RESULTS / "detection.json").read_text(encoding="utf-8"))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("".join(_page(content)), encoding="utf-8")
    return PAGE


def _page(content: dict[str, Any]) -> Iterable[str]:
    rows = content["rows"]
    told = {"n_shared": _n_shared(), "commit": content["commit"], **content["machine"]}
    wanted = ("numpy", "pyarrow", "presidio-analyzer", "phonenumbers")
    packages = ", ".join(f"{name} {content['packages'][name]}" for name in wanted)
    yield _HEAD.format(**told, packages=packages)
    yield from _speed(rows)
    yield from _peer(rows)
    yield _QUALITY
    yield from _quality(rows)
    yield from _columns(rows)
    yield from _hostile(rows)


def _n_shared() -> int:
    from governance.presidio import SUPPORTED  # noqa: PLC0415 - only for the page

    return len(SUPPORTED)


def _speed(rows: list[dict[str, Any]]) -> Iterable[str]:
    speed = {row["case"]: row for row in rows if row["metric"] == "speed"}
    short: list[str] = []
    for row in rows:
        if row["metric"] == "speed ratio" and "Presidio" in row["baseline"]:
            ours, other = speed[row["case"]], speed[row["baseline"]]
            name = row["case"].partition(": ")[2]
            spread = f"{row['low']:.0f} to {row['high']:.0f}"
            if row["value"] < _WANTED:
                short.append(name)
            yield (
                f"| {name} | {ours['value']:,.0f} | {other['value']:,.0f} | "
                f"{row['value']:.0f} x | {spread} |\n"
            )
    yield _below(short)


def _below(short: list[str]) -> str:
    if not short:
        return f"\nEvery row is at {_WANTED} x or above.\n"
    return (
        f"\nBelow {_WANTED} x: {'; '.join(short)}. Most sentences hold nothing like these, so "
        "that a regular expression leaves them at once.\n"
    )


def _peer(rows: list[dict[str, Any]]) -> Iterable[str]:
    speed = {row["case"]: row["value"] for row in rows if row["metric"] == "speed"}
    ratios = [
        row
        for row in rows
        if row["metric"] == "speed ratio" and row["baseline"].startswith("DataProfiler")
    ]
    if not ratios:
        yield "\nDataProfiler was not measured in this run.\n"
        return
    yield _PEER
    yield f"| {ratios[0]['case']} | {speed[ratios[0]['case']]:,.0f} | |\n"
    for row in ratios:
        value = speed[row["baseline"]]
        yield f"| {row['baseline']} | {value:,.0f} | {row['value']:.1f} x |\n"


def _quality(rows: list[dict[str, Any]]) -> Iterable[str]:
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        who, _, rest = row["case"].partition(": quality: ")
        if rest:
            found.setdefault((who, rest), {})[row["metric"]] = row
    for (who, case), ours in found.items():
        if who.startswith("Presidio"):
            continue
        theirs = found.get(("Presidio pattern recognisers", case))
        corpus, _, entity = case.partition(", ")
        cells = [corpus, entity, str(ours["recall"]["n"]), *_measures(ours)]
        if theirs is None:
            cells += ["-", "-", "-", ""]
        else:
            not_below = ours["f1"]["value"] >= theirs["f1"]["value"]
            cells += [*_measures(theirs), "yes" if not_below else "**no**"]
        yield f"| {' | '.join(cells)} |\n"


def _measures(found: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{row['value']:.3f} ({row['low']:.3f}-{row['high']:.3f})"
        for row in (found["precision"], found["recall"], found["f1"])
    ]


def _columns(rows: list[dict[str, Any]]) -> Iterable[str]:
    for row in rows:
        if row["metric"] == "right":
            yield (
                f"\nBy column, with the columns' names: {row['value']:.0f} {row['unit']} columns "
                "of FakeNameGenerator's table are told as its provider says. All of that table was "
                "seen while the rules for columns were made.\n"
            )


def _hostile(rows: list[dict[str, Any]]) -> Iterable[str]:
    ratios = [row for row in rows if row["metric"] == "time ratio"]
    times = {row["case"]: row["value"] for row in rows if row["metric"] == "time per MB"}
    yield _HOSTILE.format(n=len(ratios))
    for row in sorted(ratios, key=lambda row: -row["value"])[:10]:
        name = row["case"].removeprefix("hostile: ")
        yield f"| {name} | {times[row['case']]:.2f} | {row['value']:.1f} x |\n"
    for case, value in times.items():
        if "64 MB" in case:
            yield f"| {case.removeprefix('hostile: ')} | {value:.2f} | |\n"


if __name__ == "__main__":
    print(write_page())
