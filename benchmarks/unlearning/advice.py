"""What to use when: sentences that follow from the numbers of a case by fixed rules.

Rules. A method *forgets measurably* where its Avg. Gap is below that of the same model with
nothing done, in a paired interval over seeds. It is *told apart* where the lower end of its LRT AUC
is above the upper end of that of a second retrain. Its records *come back* where after retain-only
training they are known more than 1 point better than by retrained models, with the whole interval.
A likelihood ratio that does not tell the model with nothing done apart is *blind*.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.readiness.statistics import Estimate, mean
from benchmarks.unlearning.cases import ORDINARY, READY
from benchmarks.unlearning.choice import CONTROL
from benchmarks.unlearning.summary import MIN_POOL, SECOND, CaseRows

_BACK = 1.0


def advice(cases: Sequence[CaseRows]) -> list[str]:
    """Return a line for each case and training, and what they have in common."""
    lines = []
    for case in cases:
        for training in (ORDINARY, READY):
            method = case.pick(training, "fast")
            lines.append(f"- {case.title}, {training} model, {method}: {_verdict(case, training)}.")
    return [
        *lines,
        "- Where a method does not forget measurably, where its result is told apart and that "
        "matters, or where more is asked than a test can show: the exact lanes (`replay`, "
        "`retrain`), whose result never saw the records.",
    ]


def _verdict(case: CaseRows, training: str) -> str:
    method = case.pick(training, "fast")
    found, share = case.measures(training, method), case.measures(training, method)["share"].value
    gained = gain(case, training, method)
    if len(case.seeds) < MIN_POOL and not (gained.high is not None and gained.high < 0):
        forgets = f"too few seeds; Avg. Gap {found['gap'].value:.2f}, with nothing done "
        forgets += f"{case.measures(training, CONTROL)['gap'].value:.2f}"
    elif gained.high is None or gained.high >= 0:
        forgets = "does not forget measurably (no nearer to a retrain than doing nothing)"
    else:
        near, plain = found["gap"].value, found["accuracy_gap"].value
        forgets = (
            f"forgets to within {near:.2f} points of a retrain ({plain:.2f} without MIA) for "
            f"{share:.1f} % of its time"
        )
    parts = [forgets]
    if is_told_apart(case, found):
        chance = case.measures(SECOND)["auc"].value
        parts.append(
            f"told apart record by record (AUC {found['auc'].value:.2f}, chance {chance:.2f})"
        )
    elif "auc" in found and is_told_apart(case, case.measures(training, CONTROL)):
        parts.append("not told apart record by record with this many models")
    elif "auc" in found:
        parts.append(
            "the likelihood ratio is blind here: it does not see the untouched model either"
        )
    back = found["rebound"]
    if back.low is not None and back.low > _BACK:
        parts.append(f"the records come back by {back.value:.1f} points with retain-only training")
    return "; ".join(parts)


def gain(case: CaseRows, training: str, method: str) -> Estimate:
    """Return Avg. Gap of a method minus that of doing nothing, paired; below 0 is better."""
    pairs = zip(case.gaps(training, method), case.gaps(training, CONTROL), strict=True)
    return mean([ours - nothing for ours, nothing in pairs])


def is_told_apart(case: CaseRows, found: dict[str, Estimate]) -> bool:
    """Return whether the likelihood ratio sees more than between two pools of retrained models."""
    if "auc" not in found:
        return False
    low, chance = found["auc"].low, case.measures(SECOND)["auc"].high
    return low is not None and chance is not None and low > chance
