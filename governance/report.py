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
    """Return the page of one evidence document (schema ``r2u-evidence/2``)."""
    columns = evidence.get("columns") or {}

    def n_models(column: str) -> int:
        return int(columns[column]["forget_accuracy"]["n"])

    return (
        _environment()
        .get_template("evidence.html.j2")
        .render(e=_defaults(evidence), controls=CONTROLS, plots=_plots(evidence), n=n_models)
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
    pictures = [
        ("Membership: how well single records are recognised", plots.plot_roc(curves["roc"])),
        ("Margins of the erased records", plots.plot_margins(curves["margins"])),
        (
            "Relearning: training on the erased records again",
            plots.plot_relearning(curves["relearn"], "steps on erased records"),
        ),
        (
            "Rebound: training on retained records only",
            plots.plot_relearning(curves["rebound"], "steps on retained records"),
        ),
    ]
    if curves["steps"]:
        title = "Unlearning steps: erased and retained accuracy"
        pictures.append((title, plots.plot_steps(curves["steps"])))
    return pictures


def _defaults(evidence: dict[str, Any]) -> dict[str, Any]:
    return {"claim": None, "escalated_because": None, "columns": None, **evidence}


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("governance"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
