"""How good the classification was, in the light of the requests that came.

Recall: the share of asked subjects (and records) that were in the revocable set, for whom
forgetting is cheap. Precision: the share of that set that was asked for so far. Brier score: mean
squared difference between a subject's probability of asking in the observed time and whether they
did, beside that of one constant rate for all. Misses: batches that need an exact retraining, and
the erasure cost, by the policy, of the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from governance.calibration.observations import Observation
from governance.calibration.rates import (
    GroupRate,
    hazard,
    poisson_interval,
    wilson_interval,
    within,
)
from governance.calibration.timeline import trace
from governance.classification.runs import RunRecord

_LARGEST = 1.0 - 1e-12
_BINS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval."""

    value: float | None
    n: int
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high}


def share(hits: int, n: int) -> Share:
    """Return hits / n with a Wilson interval; no value of nothing."""
    low, high = wilson_interval(hits, n)
    return Share(hits / n if n else None, n, low, high)


def measure(
    runs: Sequence[RunRecord],
    observations: Sequence[Observation],
    rates: Sequence[GroupRate],
    *,
    until: datetime,
) -> dict[str, Any]:
    """Return the measures as JSON.

    Args:
        runs: Classifications, oldest first; only what the newest policy classified counts.
        observations: Batches of requests.
        rates: From ``group_rates``.
        until: End of the observed time, as in ``rates``.
    """
    latest = runs[-1]
    observations = [o for o in observations if o.policy_digest == latest.policy_digest]
    total = {
        name: sum(getattr(observation, name) for observation in observations)
        for name in ("n_subjects", "n_subjects_covered", "n_records", "n_high", "n_revocable")
    }
    # Rows asked for since the latest classification are among its own.
    before = sum(o.n_revocable for o in observations if o.at <= latest.at)
    n_revocable = sum(latest.revocable_by_group.values()) + before
    # A batch planned before a classification and erased after it kept its earlier decisions.
    n_revocable = max(n_revocable, total["n_revocable"])
    days = len(trace(runs, observations, until=until).days)
    return {
        "observed_days": days,
        "n_batches": len(observations),
        "recall_subjects": share(total["n_subjects_covered"], total["n_subjects"]).to_dict(),
        "recall_records": share(total["n_revocable"], total["n_records"]).to_dict(),
        "recall_high": share(total["n_high"], total["n_records"]).to_dict(),
        "precision_records": share(total["n_revocable"], n_revocable).to_dict(),
        "misses": {
            "n_records": total["n_records"] - total["n_revocable"],
            "n_batches": sum(o.n_revocable < o.n_records for o in observations),
            "cost": sum(observation.cost_of_misses for observation in observations),
        },
        **_brier(rates, latest.horizon_days, days),
        "reliability": reliability(rates, latest.horizon_days),
    }


def reliability(rates: Sequence[GroupRate], horizon_days: float) -> list[dict[str, Any]]:
    """Return, by the probability that the policy states, what was observed.

    Args:
        rates: Risk groups.
        horizon_days: Days that the probabilities are about.
    """
    rows = []
    for start, end in pairwise(_BINS):
        inside = [r for r in rates if start <= min(r.probability, _LARGEST) < end]
        time = sum(rate.exposure_days for rate in inside)
        if not time:
            continue
        count = sum(rate.asked for rate in inside)
        low, high = poisson_interval(count)
        stated = sum(rate.probability * rate.exposure_days for rate in inside) / time
        rows.append(
            {
                "stated": stated,
                "subject_years": time / 365.25,
                "asked": count,
                "expected": sum(rate.expected for rate in inside),
                "observed": within(count / time, horizon_days),
                "low": within(low / time, horizon_days),
                "high": within(high / time, horizon_days),
            }
        )
    return rows


def _brier(rates: Sequence[GroupRate], horizon_days: float, days: int) -> dict[str, float | None]:
    """Return Brier scores over the days under the policy: of it, and of one rate for all.

    A group of n subjects of whom k asked adds k (1 - p)^2 + (n - k) p^2.
    """
    n_all = sum(rate.n_subjects for rate in rates)
    if n_all <= 0 or not days:
        return {"brier": None, "brier_constant": None}
    constant = sum(rate.asked for rate in rates) / n_all
    policy = base = 0.0
    for rate in rates:
        n, k = rate.n_subjects, rate.asked
        p = within(hazard(rate.probability, horizon_days), days)
        policy += k * (1 - p) ** 2 + max(0.0, n - k) * p**2
        base += k * (1 - constant) ** 2 + max(0.0, n - k) * constant**2
    return {"brier": policy / n_all, "brier_constant": base / n_all}
