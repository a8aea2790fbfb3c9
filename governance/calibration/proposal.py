"""From requests to a changed policy, which a person may accept.

The policy's probability is linear: base + sum of ``add`` over the matched rules. Observed rates by
risk group give a weighted least-squares problem for the change of these numbers, with a ridge that
holds each at its present value unless the requests speak against it (a normal prior of deviation
``_PRIOR`` around the present value). A change is proposed where it is larger than two standard
errors and than ``_SMALLEST``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from governance.calibration.rates import GroupRate
from governance.policy import Policy, Rule, parse_policy, write_policy

_PRIOR = 0.25
_SMALLEST = 0.01
_BASE = "base_probability"


def propose_policy(
    policy: Policy, rates: Sequence[GroupRate], *, horizon_days: float
) -> Policy | None:
    """Return the next version of a policy, or ``None`` if the requests do not ask for one.

    Args:
        policy: Present policy.
        rates: Its risk groups against their requests.
        horizon_days: Days that probabilities are about.
    """
    if not rates:
        return None
    names = [_BASE, *(rule.id for rule in policy.rules if rule.add is not None)]
    change, error = fit_change(names, rates, horizon_days=horizon_days)
    wanted = {
        name: float(delta)
        for name, delta, deviation in zip(names, change, error, strict=True)
        if abs(delta) > max(_SMALLEST, 2.0 * deviation)
    }
    if not wanted:
        return None
    rules = tuple(_changed(rule, wanted) for rule in policy.rules)
    base = (
        float(np.clip(round(policy.base_probability + wanted.get(_BASE, 0.0), 2), 0.0, 1.0)) + 0.0
    )
    header = policy.policy.model_copy(update={"version": policy.version + 1})
    changed = policy.model_copy(update={"policy": header, "rules": rules, "base_probability": base})
    return parse_policy(write_policy(changed), what="proposed policy")


def fit_change(
    names: Sequence[str], rates: Sequence[GroupRate], *, horizon_days: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the change of each number and its standard error.

    Args:
        names: ``base_probability`` first, then ids of rules that add.
        rates: Risk groups.
        horizon_days: Days that probabilities are about.
    """
    design = np.array([[1.0, *(name in rate.pattern for name in names[1:])] for rate in rates])
    n = np.array([rate.exposure_days / horizon_days for rate in rates])
    asked = np.array([rate.asked for rate in rates])
    stated = np.array([rate.probability for rate in rates])
    observed = np.array([rate.observed for rate in rates])
    expected = np.array([rate.expected for rate in rates])
    # Delta method: p = 1 - exp(-x / n) has the variance (1 - p)^2 x / n^2 for a Poisson count x.
    # The count is the larger of what came and what was expected, so that no request in no time
    # says nothing.
    count = np.maximum(np.maximum(asked, expected), 0.5)
    weight = n**2 / ((1.0 - np.minimum(stated, 0.9)) ** 2 * count)
    precision = design.T @ (design * weight[:, None]) + np.eye(len(names)) / _PRIOR**2
    covariance = np.linalg.inv(precision)
    change = covariance @ (design.T @ (weight * (observed - stated)))
    return change, np.sqrt(np.diag(covariance))


def _changed(rule: Rule, wanted: dict[str, float]) -> Rule:
    if rule.id not in wanted or rule.add is None:
        return rule
    add = float(np.clip(round(rule.add + wanted[rule.id], 2), -1.0, 1.0))
    return rule.model_copy(update={"add": add + 0.0})  # never -0.0
