"""The lineage as a picture: models as bars over time, who served when, what was erased when.

A pale bar is a model whose weights exist, a strong one a model that serves. The colour says what
the model has to do with the records that are asked about, and each bar says it in words too. A
dashed line is an erasure; an arrow goes from a model to the one that was made from it. Up to 40
models are drawn; of more, those that knew the records, served or are a parent of one come first.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import matplotlib as mpl
from matplotlib import dates as mdates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from governance.lineage_answer import Answer, Knowledge, Relation

MAX_MODELS = 40

_COLORS = {
    Relation.KNEW: "#c2410c",
    Relation.MAY_HAVE_KNOWN: "#a16207",
    Relation.UNLEARNED: "#1d4ed8",
    Relation.MADE_WITHOUT: "#15803d",
    Relation.NEVER: "#64748b",
}
_ROW_INCHES = 0.42
_INK, _SOFT = "#1c1917", "#57534e"
_ERASURE = "#7e22ce"


def draw_lineage(answer: Answer, *, format_name: str) -> bytes:
    """Return the picture of an answer.

    Args:
        answer: From ``who_knew`` or ``about_model``.
        format_name: ``svg`` or ``png``. The same answer gives the same bytes.
    """
    rows = _chosen(answer.models)
    height = 1.9 + _ROW_INCHES * max(len(rows), 2)
    with mpl.rc_context(_settings()):  # type: ignore[arg-type]
        figure = Figure(figsize=(11.0, height), layout="constrained", facecolor="white")
        axes = figure.subplots()
        start, end = _span(answer)
        _draw_bars(axes, rows, start, end)
        _draw_arrows(axes, rows)
        _draw_erasures(axes, answer, len(rows), end - start)
        _dress(figure, axes, answer, rows, start, end)
        buffer = io.BytesIO()
        metadata = {"Date": None} if format_name == "svg" else {"Software": None}
        figure.savefig(buffer, format=format_name, dpi=130, metadata=metadata)
    return buffer.getvalue()


def _settings() -> dict[str, Any]:
    return {"svg.hashsalt": "r2u", "svg.fonttype": "none", "font.size": 9, "text.color": _INK}


def _chosen(models: Sequence[Knowledge]) -> list[Knowledge]:
    """Return what is drawn, oldest first."""
    if len(models) <= MAX_MODELS:
        return list(models)
    parents = {k.model.parent for k in models if k.relation is not Relation.NEVER}

    def weight(known: Knowledge) -> tuple[bool, bool, bool, datetime]:
        model = known.model
        never = known.relation is Relation.NEVER
        return (not never, bool(model.serving), model.model_key in parents, model.created_at)

    kept = {id(known) for known in sorted(models, key=weight, reverse=True)[:MAX_MODELS]}
    return [known for known in models if id(known) in kept]


def _span(answer: Answer) -> tuple[datetime, datetime]:
    start = min((k.model.created_at for k in answer.models), default=answer.as_of)
    length = max(answer.as_of - start, timedelta(minutes=1))
    return start, start + length


def _draw_bars(axes: Axes, rows: Sequence[Knowledge], start: datetime, end: datetime) -> None:
    least = (end - start) / 250  # what lasted a moment is still seen
    for row, known in enumerate(rows):
        if row % 2 == 0:  # a band leads the eye from the name to the words on the right
            axes.axhspan(row - 0.5, row + 0.5, color="#f5f5f4", zorder=0, linewidth=0)
        model, color = known.model, _COLORS[known.relation]
        gone = model.removed_at or (end if model.weights_present else model.created_at)
        _bar(axes, row, model.created_at, max(gone, model.created_at + least), color, 0.28)
        for interval in model.serving:
            until = max(interval.end or end, interval.start + least)
            _bar(axes, row, interval.start, until, color, 1.0)
        if not model.weights_present:
            axes.plot([_number(gone)], [row], marker="X", color=color, markersize=7, zorder=5)
        text = f"{known.relation}" + (f" ({known.n_records})" if known.n_records else "")
        axes.annotate(
            text,
            (_number(end), row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=8,
            annotation_clip=False,
        )


def _bar(axes: Axes, row: int, start: datetime, end: datetime, color: str, alpha: float) -> None:
    left = _number(start)
    width = _number(end) - left
    height = 0.52 if alpha == 1.0 else 0.36
    axes.barh(row, width, left=left, height=height, color=color, alpha=alpha, zorder=3)


def _draw_arrows(axes: Axes, rows: Sequence[Knowledge]) -> None:
    places = {known.model.model_key: row for row, known in enumerate(rows)}
    for row, known in enumerate(rows):
        parent = places.get(known.model.parent or "")
        if parent is None:
            continue
        x = _number(known.model.created_at)
        axes.add_patch(
            FancyArrowPatch(
                (x, parent + 0.2),
                (x, row - 0.3),
                arrowstyle="-|>",
                mutation_scale=9,
                connectionstyle="arc3,rad=0.12",
                color=_SOFT,
                linewidth=1.1,
                zorder=6,
                shrinkA=0,
                shrinkB=0,
            )
        )


def _draw_erasures(axes: Axes, answer: Answer, n_rows: int, length: timedelta) -> None:
    """Draw a line for each erasure; labels that would meet share the line's height in turns."""
    last: datetime | None = None
    level = 0
    for erasure in answer.erasures:
        at = erasure.rows_erased_at or erasure.started_at
        axes.axvline(_number(at), color=_ERASURE, linestyle="--", linewidth=1.2, zorder=4)
        close = last is not None and at - last < length / 6
        level = (level + 1) % 3 if close else 0
        axes.annotate(
            f"{erasure.batch_id}\n{erasure.n_records} erased",
            (_number(at), -0.62),
            xytext=(0, 2 + 22 * level),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=_ERASURE,
            fontsize=7.5,
            annotation_clip=False,
        )
        last = at
    axes.set_ylim(n_rows - 0.4, -0.62)


def _dress(
    figure: Figure,
    axes: Axes,
    answer: Answer,
    rows: Sequence[Knowledge],
    start: datetime,
    end: datetime,
) -> None:
    margin = (end - start) / 50
    axes.set_xlim(_number(start - margin), _number(end))
    axes.xaxis_date()
    locator = mdates.AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = mdates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.grid(visible=True, axis="x", alpha=0.25, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_yticks(range(len(rows)), [_label(known) for known in rows])
    axes.tick_params(axis="y", length=0)
    for label, known in zip(axes.get_yticklabels(), rows, strict=True):
        serves = bool(known.model.serving) and known.model.serving[-1].end is None
        label.set_fontweight("bold" if serves else "normal")
    axes.set_xlabel("UTC", color=_SOFT, fontsize=8, loc="left")
    figure.suptitle(_title(answer), x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.legend(
        handles=_legend(answer, rows), loc="outside lower left", ncols=4, fontsize=8, frameon=False
    )


def _label(known: Knowledge) -> str:
    model = known.model
    return f"{model.model_key}  v{model.model_version}" if model.model_version else model.model_key


def _title(answer: Answer) -> str:
    hidden = len(answer.models) - MAX_MODELS
    more = f" ({hidden} models are not drawn)" if hidden > 0 else ""
    is_name = answer.kind in ("model", "dataset")
    who = answer.shown if is_name else f"{answer.kind} {answer.shown}…"
    return f"Lineage of {who}{more}"


def _legend(answer: Answer, rows: Sequence[Knowledge]) -> list[Any]:
    seen = [relation for relation in Relation if any(k.relation is relation for k in rows)]
    handles: list[Any] = [Patch(color=_COLORS[relation], label=relation) for relation in seen]
    handles += [
        Patch(color=_SOFT, label="serves"),
        Patch(color=_SOFT, alpha=0.28, label="weights exist"),
    ]
    if any(not known.model.weights_present for known in rows):
        handles.append(_mark("X", "weights removed"))
    if answer.erasures:
        handles.append(Line2D([], [], color=_ERASURE, linestyle="--", label="rows erased"))
    if any(known.model.parent for known in rows):
        handles.append(_mark(r"$\downarrow$", "made from"))
    return handles


def _mark(marker: str, label: str) -> Line2D:
    return Line2D([], [], color=_SOFT, marker=marker, linestyle="none", label=label)


def _number(moment: datetime) -> float:
    return float(mdates.date2num(moment))  # type: ignore[no-untyped-call]
