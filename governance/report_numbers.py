"""Numbers of the governance report, from queue rows, ledger entries and batch files; pure.

Everything is plain JSON in and out, so that a test (or an auditor) can compute each number again
from ``queue`` and ``ledger`` by other code.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

JSON = dict[str, Any]

CLOSED = "closed"
_SOON = timedelta(days=7)


def request_numbers(rows: Sequence[JSON]) -> JSON:
    """Return how many requests there are, by state, outcome and legal regime.

    Args:
        rows: ``RequestRow.to_dict()`` of each request.
    """
    closed = [row for row in rows if row["state"] == CLOSED]
    return {
        "total": len(rows),
        "open": len(rows) - len(closed),
        "closed": len(closed),
        "by_state": _counts(row["state"] for row in rows),
        "by_outcome": _counts(row["outcome"] for row in closed),
        "by_claim": _counts(row["claim"] for row in closed if row["claim"]),
        "by_regime": _counts(row["regime"] for row in rows),
    }


def deadline_numbers(rows: Sequence[JSON], now: datetime) -> JSON:
    """Return how deadlines were kept: answers in time and late, and what is open.

    Args:
        rows: As for ``request_numbers``.
        now: Moment at which open requests are looked at.
    """
    answered = [row for row in rows if row["closed_at"]]
    late = [row for row in answered if _moment(row["closed_at"]) > _moment(row["due_at"])]
    waiting = [row for row in rows if not row["closed_at"]]
    overdue = [row for row in waiting if _moment(row["due_at"]) < now]
    soon = [row for row in waiting if now <= _moment(row["due_at"]) <= now + _SOON]
    days = sorted(int(row["days_used"]) for row in answered)
    return {
        "answered_in_time": len(answered) - len(late),
        "answered_late": len(late),
        "open_overdue": len(overdue),
        "open_due_in_7_days": len(soon),
        "late_requests": [row["request_id"] for row in (*late, *overdue)],
        "share_in_time": 1 - len(late) / len(answered) if answered else None,
        "days_to_answer": {
            "n": len(days),
            "median": quantile(days, 0.5),
            "p90": quantile(days, 0.9),
            "longest": days[-1] if days else None,
        },
    }


def quantile(ordered: Sequence[int], share: float) -> int | None:
    """Return the value by the nearest rank; None of nothing.

    >>> quantile([1, 2, 3, 4], 0.5), quantile([7], 0.9), quantile([], 0.5)
    (2, 7, None)
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def batch_times(entries: Iterable[JSON], batch_id: str) -> JSON:
    """Return when a batch was planned, erased, replaced the model, was sealed and closed."""
    names = {
        "batch_planned": "planned_at",
        "rows_erased": "rows_erased_at",
        "model_promoted": "model_replaced_at",
        "bundle_sealed": "sealed_at",
        "batch_closed": "closed_at",
    }
    found: JSON = dict.fromkeys(names.values())
    for entry in entries:
        if entry["kind"] in names and entry["body"].get("batch_id") == batch_id:
            found[names[entry["kind"]]] = entry["at"]
    return found


def batch_cost(evidences: Sequence[JSON]) -> JSON:
    """Return what a batch cost over all lanes that it tried, as seconds and as share of a retrain.

    Args:
        evidences: Evidence of each lane that was tried; one without ``cost`` did no work.
    """
    costs = [evidence["cost"] for evidence in evidences if evidence.get("cost")]
    unlearn_s = sum(cost["unlearn_s"] for cost in costs)
    evidence_s = sum(cost["evidence_s"] for cost in costs)
    retrain_s = costs[-1]["retrain_s"] if costs else 0.0
    return {
        "unlearn_s": unlearn_s,
        "evidence_s": evidence_s,
        "retrain_s": retrain_s,
        "share_of_retrain": (unlearn_s + evidence_s) / retrain_s if retrain_s else None,
    }


def cost_numbers(batches: Sequence[JSON]) -> JSON:
    """Return the cost of all batches, and for one request; evidence is included."""
    spent = sum(b["cost"]["unlearn_s"] + b["cost"]["evidence_s"] for b in batches)
    retrain_s = sum(b["cost"]["retrain_s"] for b in batches)
    n_requests = sum(b["n_requests"] for b in batches)
    return {
        "spent_s": spent,
        "retrain_s": retrain_s,
        "share_of_retrain": spent / retrain_s if retrain_s else None,
        "seconds_per_request": spent / n_requests if n_requests else None,
    }


def set_difference_holds(tables: JSON) -> bool:
    """Return whether in each table exactly the asked rows left and the others are as they were."""
    return all(
        table["after"] == table["before"] - table["erased"]
        and table["untouched_digest_before"] == table["untouched_digest_after"]
        for table in tables.values()
    )


def backups_until(times: JSON, expire_days: int | None) -> str | None:
    """Return the day on which the last backup expires that may hold what a batch erased."""
    if expire_days is None or times["rows_erased_at"] is None:
        return None
    return (_moment(times["rows_erased_at"]) + timedelta(days=expire_days)).date().isoformat()


def head_problems(entries: Sequence[JSON], heads: Iterable[JSON]) -> list[str]:
    """Return which heads that were noted elsewhere the ledger does not hold any more.

    Args:
        entries: The ledger.
        heads: ``made_at``, ``n_entries`` and ``head`` of earlier reports.

    Returns:
        A sentence for each head that is missing: the ledger was cut or written anew.
    """
    return [
        f"the report of {noted['made_at']} notes {noted['n_entries']} entries up to "
        f"{noted['head'][:19]}; the ledger does not hold them any more"
        for noted in heads
        if noted["n_entries"] and not _holds(entries, noted)
    ]


def _holds(entries: Sequence[JSON], noted: JSON) -> bool:
    count = noted["n_entries"]
    return len(entries) >= count and bool(entries[count - 1]["digest"] == noted["head"])


def _counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
