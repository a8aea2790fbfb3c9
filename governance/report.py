"""Reports: evidence and governance state as one self-contained HTML page each. Pure functions."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from governance import plots

CONTROLS = (
    (
        "original_fails",
        "The original model is told apart",
        "otherwise the test could not see that something was not forgotten",
    ),
    (
        "second_retrain_passes",
        "Independent retrained models pass",
        "otherwise the test rejects models that never saw the records",
    ),
    (
        "random_fails",
        "A randomly initialised model is told apart",
        "otherwise a destroyed model would pass as a forgetful one",
    ),
)

GLOSSARY = {
    "approximate": "the model was changed and passed the tests; a statistical claim",
    "exact": "the model was made without the records, from a state that never saw them",
    "claim": "what a certificate says about the model; it follows from the lane, never from hope",
    "lane": "the way a batch was served: approximate, replay from a checkpoint, or retrain",
    "retrained": "trained by the same recipe without the records: the yardstick of every number",
    "tombstone": "keyed digest of an erased record, so that it cannot come back with the next load",
}


def render_evidence(evidence: dict[str, Any]) -> str:
    """Return the page of one evidence document (schema ``r2u-evidence/3``)."""
    return (
        _environment()
        .get_template("evidence.html.j2")
        .render(
            e=_defaults(evidence),
            controls=CONTROLS,
            plots=_plots(evidence),
            number=_number,
            cost_titles=_COST_TITLES,
        )
    )


def render_governance(report: dict[str, Any], *, picture: str) -> str:
    """Return the page of one governance report (schema ``r2u-report/2``).

    Args:
        report: What the stage collected.
        picture: The lineage as inline SVG.
    """
    template = _environment().get_template("report.html.j2")
    return template.render(r=report, glossary=GLOSSARY, picture=picture)


def _plots(evidence: dict[str, Any]) -> list[tuple[str, str]]:
    curves = evidence.get("curves")
    if not curves:
        return []
    pictures = []
    if curves["roc"]:
        title = "Membership: how well single records are recognised (both axes logarithmic)"
        pictures.append((title, plots.plot_roc(curves["roc"])))
    pictures += [
        ("Losses of the erased records", plots.plot_losses(curves["losses"])),
        ("Margins of the erased records", plots.plot_margins(curves["margins"])),
    ]
    if curves["relearn"]:
        picture = plots.plot_bands(
            curves["relearn"],
            xlabel="steps on erased records",
            ylabel="their loss (nats)",
            level=curves["relearn_level"],
        )
        pictures.append(("Relearning: training on the erased records again", picture))
    if curves["rebound"]:
        picture = plots.plot_bands(
            curves["rebound"],
            xlabel="steps on retained records",
            ylabel="accuracy on erased records",
        )
        pictures.append(("Rebound: training on retained records only", picture))
    if curves["steps"]:
        picture = plots.plot_steps(curves["steps"], curves["usable_steps"])
        pictures.append((_window_text(curves["usable_steps"]), picture))
    return pictures


def _window_text(window: dict[str, Any]) -> str:
    title = "Unlearning steps: "
    if window["first"] is None:
        return title + "at no step the model is like a retrained one"
    if window["n"] == 1:
        return title + f"only at step {window['first']:g} the model is like a retrained one"
    return title + f"like a retrained model from step {window['first']:g} to {window['last']:g}"


def _number(value: float | None) -> str:
    """Return a number in at most four significant places; a dash for none."""
    if value is None:
        return "\N{EN DASH}"
    if value != 0 and abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


_COST_TITLES = {
    "unlearn_s": "unlearning (s)",
    "evidence_s": "this evidence (s)",
    "retrain_s": "full retrain (s)",
    "share_of_retrain": "unlearning, share of a retrain",
    "pools_s": "training the pools (s)",
    "peak_mib": "peak memory (MiB)",
}

_OPTIONAL = (
    "claim", "escalated_because", "columns", "suite", "records", "sequence", "cost", "lineage",
    "limits", "batch_id", "title", "notes",
)  # fmt: skip


def _defaults(evidence: dict[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys(_OPTIONAL), **evidence}


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("governance"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
