"""Reliability plot: the probability that the policy states against what was observed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw_reliability(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return the plot as PNG.

    Args:
        rows: From ``measures.reliability``.
    """
    figure = Figure(figsize=(5.2, 4.2), dpi=150, layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#737373", linestyle="--", label="as stated")
    stated = [row["stated"] for row in rows]
    observed = [row["observed"] for row in rows]
    below = [max(0.0, row["observed"] - row["low"]) for row in rows]
    above = [max(0.0, row["high"] - row["observed"]) for row in rows]
    axes.errorbar(
        stated,
        observed,
        yerr=[below, above],
        fmt="o",
        color="#1d4ed8",
        capsize=3,
        label="observed, 95 % interval",
    )
    for row in rows:
        place = (row["stated"], row["observed"])
        axes.annotate(
            f"{row['asked']}", place, xytext=(6, 4), textcoords="offset points", fontsize=8
        )
    limit = min(1.0, 1.1 * max([0.1, *stated, *(row["high"] for row in rows if row["asked"])]))
    axes.set(xlim=(0, limit), ylim=(0, limit))
    axes.set(xlabel="stated probability of erasure", ylabel="observed (number of subjects beside)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
