"""Precision, recall and F1 of detection by entity, ours and Presidio's on the same cells.

A span found counts when it overlaps a true span of its entity by at least half of their union, and
a true span counts once. Intervals: Wilson for precision and recall, 1,000 bootstrap draws over
cells for F1. Presidio's results are taken at the score that gives it the best F1 on the ``tune``
half, entity by entity; ours has no such setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.detection_parts.corpus import Labelled
from governance.presidio import SUPPORTED, PresidioScanner
from governance.scanner.decision import wilson
from governance.scanner.search import searched, spans_in

Found = list[list[tuple[int, int, float]]]
"""For each cell: start, stop, score."""

SCORES = (0.0, 0.05, 0.1, 0.3, 0.4, 0.5, 0.6, 0.85, 1.0)


@dataclass(frozen=True, slots=True)
class Quality:
    """Counts of one entity in one corpus, for each cell."""

    hits: np.ndarray
    found: np.ndarray
    true: np.ndarray

    def measures(self) -> dict[str, tuple[float, float, float, int]]:
        """Return value, lower and upper end of the 95 % interval, and n, by measure."""
        hits, found, true = (int(part.sum()) for part in (self.hits, self.found, self.true))
        return {
            "precision": (hits / found if found else 1.0, *wilson(hits, found), found),
            "recall": (hits / true if true else 1.0, *wilson(hits, true), true),
            "f1": (_f1(hits, found, true), *self._bootstrap(), true),
        }

    def _bootstrap(self) -> tuple[float, float]:
        rng = np.random.default_rng(20)
        seen = np.flatnonzero(self.found + self.true)
        if not len(seen):
            return 1.0, 1.0
        draws = rng.integers(0, len(seen), (1000, len(seen)))
        parts = [part[seen][draws].sum(axis=1) for part in (self.hits, self.found, self.true)]
        values = 2 * parts[0] / np.maximum(parts[1] + parts[2], 1)
        return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def _f1(hits: int, found: int, true: int) -> float:
    return 2 * hits / (found + true) if found + true else 1.0


def find_ours(cells: Sequence[Labelled], entity: str) -> Found:
    """Return our spans in characters."""
    found: Found = [[] for _ in cells]
    column = pa.array([cell.text for cell in cells], pa.large_string())
    for part in searched(column):
        spans = spans_in(part, entity)
        for cell, start, stop in zip(spans.cell, spans.start, spans.stop, strict=True):
            raw = cells[cell].text.encode()
            first, last = (len(raw[:at].decode("utf-8", "ignore")) for at in (start, stop))
            found[cell].append((first, last, 1.0))
    return found


def find_presidio(scanner: PresidioScanner, cells: Sequence[Labelled], entity: str) -> Found:
    """Return Presidio's spans with their scores."""
    return [
        [(match.start, match.stop, match.score) for match in scanner.matches(cell.text, entity)]
        for cell in cells
    ]


def judge(cells: Sequence[Labelled], found: Found, entity: str, score: float = 0.0) -> Quality:
    """Compare spans with the truth."""
    counts = np.zeros((3, len(cells)), np.int64)
    for index, (cell, spans) in enumerate(zip(cells, found, strict=True)):
        true = [(start, stop) for kind, start, stop in cell.spans if kind == entity]
        mine = _without_contained([(s, e) for s, e, value in spans if value >= score])
        taken: set[int] = set()
        for span in mine:
            best = next(
                (i for i, other in enumerate(true) if i not in taken and _agree(span, other)), None
            )
            if best is not None:
                taken.add(best)
        counts[:, index] = len(taken), len(mine), len(true)
    return Quality(*counts)


def _without_contained(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Drop repeated spans and those inside another: one mistake is not counted twice."""
    kept: list[tuple[int, int]] = []
    for span in sorted(set(spans), key=lambda s: (s[0] - s[1], s[0])):
        if not any(start <= span[0] and span[1] <= stop for start, stop in kept):
            kept.append(span)
    return kept


def _agree(one: tuple[int, int], other: tuple[int, int]) -> bool:
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared * 2 >= max(one[1], other[1]) - min(one[0], other[0])


def best_scores(
    scanner: PresidioScanner, cells: Sequence[Labelled], entities: Sequence[str]
) -> dict[str, float]:
    """Return for each entity the score from which Presidio's F1 is best."""
    best = {}
    for entity in entities:
        found = find_presidio(scanner, cells, entity)
        value: Callable[[float], float] = lambda score, f=found, e=entity: judge(  # noqa: E731
            cells, f, e, score
        ).measures()["f1"][0]
        best[entity] = max(SCORES, key=value)
    return best


def entities_in(cells: Sequence[Labelled]) -> list[str]:
    """Return the entities that have true spans, those of Presidio first."""
    seen = {kind for cell in cells for kind, _, _ in cell.spans}
    return sorted(seen, key=lambda kind: (kind not in SUPPORTED, kind))
