"""Plots of a report as inline SVG: no file, no script, no outside resource."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLORS = {"original": "#c2410c", "unlearned": "#1d4ed8", "retrained": "#15803d"}
_NAMES = {
    "original": "original (must fail)",
    "unlearned": "under test",
    "retrained": "retrained without the records",
}


def plot_roc(roc: dict[str, Sequence[float]]) -> str:
    """Return the ROC of 'was trained on it' on log axes."""
    figure, axes = _figure()
    fpr = roc["fpr"]
    for name in ("original", "unlearned"):
        rates = [max(rate, fpr[0]) for rate in roc[f"tpr_{name}"]]  # a log axis has no 0
        axes.plot(fpr, rates, color=_COLORS[name], label=_NAMES[name], linewidth=2)
    axes.plot(fpr, fpr, color="#737373", linestyle="--", label="guessing")
    axes.set(xscale="log", yscale="log", xlabel="false positive rate", ylabel="true positive rate")
    return _svg(figure, axes)


def plot_margins(margins: dict[str, Sequence[float]]) -> str:
    """Return histograms of the margins of the erased records."""
    figure, axes = _figure()
    for name, values in margins.items():
        axes.hist(
            values,
            bins=25,
            density=True,
            histtype="step",
            color=_COLORS[name],
            label=_NAMES[name],
            linewidth=2,
        )
    axes.set(xlabel="margin of the erased records (nats)", ylabel="density")
    return _svg(figure, axes)


def plot_losses(losses: dict[str, Sequence[float]]) -> str:
    """Return histograms of the losses of the erased records, on a log axis."""
    figure, axes = _figure()
    floor = 1e-6
    shown = {name: [max(value, floor) for value in values] for name, values in losses.items()}
    everything = [value for values in shown.values() for value in values]
    low, high = math.log10(min(everything)), math.log10(max(everything))
    edges = [10 ** (low + (high - low) * i / 24) for i in range(25)] if high > low else 10
    for name, values in shown.items():
        axes.hist(
            values,
            bins=edges,
            histtype="step",
            color=_COLORS[name],
            label=_NAMES[name],
            linewidth=2,
        )
    axes.set(xscale="log", xlabel="loss of an erased record (nats)", ylabel="percent of records")
    return _svg(figure, axes)


def plot_bands(
    bands: dict[str, dict[str, Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    level: float | None = None,
) -> str:
    """Return means over models with the range of all of them, while models are trained further.

    Args:
        bands: ``mean``, ``low`` and ``high`` at each step, by pool.
        xlabel: Title of the horizontal axis.
        ylabel: Title of the vertical axis.
        level: Height of a dashed line: relearned.
    """
    figure, axes = _figure()
    for name, band in bands.items():
        axes.plot(band["mean"], color=_COLORS[name], label=_NAMES[name], linewidth=2)
        steps = range(len(band["mean"]))
        axes.fill_between(steps, band["low"], band["high"], color=_COLORS[name], alpha=0.12)
    if level is not None:
        axes.axhline(level, color="#737373", linestyle="--", label="counts as relearned")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return _svg(figure, axes)


def plot_steps(steps: Sequence[dict[str, float]], window: dict[str, Any]) -> str:
    """Return accuracies over the unlearning steps, with the steps that may be used.

    Args:
        steps: ``step``, ``forget_accuracy`` and ``retain_accuracy`` of each point.
        window: ``usable_steps`` of the curves: first and last, and the levels of retrained models.
    """
    figure, axes = _figure()
    numbers = [step["step"] for step in steps]
    forget = [step["forget_accuracy"] for step in steps]
    retain = [step["retain_accuracy"] for step in steps]
    axes.plot(numbers, forget, color="#c2410c", marker="o", label="erased records", markersize=4)
    axes.plot(numbers, retain, color="#15803d", marker="s", label="retained records", markersize=4)
    for name, color in (("forget_accuracy", "#c2410c"), ("retain_accuracy", "#15803d")):
        axes.axhline(window[name], color=color, linestyle=":", linewidth=1.5)
    axes.plot([], [], color="#737373", linestyle=":", label="retrained models")
    if window["first"] is not None:
        axes.axvspan(
            window["first"] - 0.5,
            window["last"] + 0.5,
            color="#1d4ed8",
            alpha=0.12,
            label="usable steps",
        )
    axes.set(xlabel="unlearning step", ylabel="accuracy")
    return _svg(figure, axes)


def plot_return(roi: dict[str, Sequence[float] | None]) -> str:
    """Return seconds in total over deletion batches, for the ways to serve them.

    Args:
        roi: ``cost.roi`` of ``readiness.json``: ``batches``, and ``retrain``, ``ordinary`` and
            ``ready`` in seconds, each None where it could not be measured.
    """
    figure, axes = _figure()
    lines = {
        "retrain": ("#c2410c", "-", "ordinary, retrained for every batch"),
        "ordinary": ("#737373", "--", "ordinary, unlearned"),
        "ready": ("#1d4ed8", "-", "ready, unlearned"),
    }
    for name, (color, style, label) in lines.items():
        seconds = roi[name]
        if seconds is not None:
            batches = roi["batches"] or range(len(seconds))
            axes.plot(batches, seconds, color=color, linestyle=style, label=label, linewidth=2)
    axes.set(xlabel="deletion batches", ylabel="seconds in total, tests left out")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    axes.legend(fontsize=8, frameon=False)
    buffer = io.StringIO()
    settings: dict[str, Any] = {"svg.hashsalt": "r2u", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(settings):  # type: ignore[arg-type]
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
