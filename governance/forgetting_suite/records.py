"""One line for each record, by salted hash, and the strata that are looked at by themselves.

A raw id never leaves this module. With the salt, whoever holds it finds the line of an id again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from governance.errors import DataError
from governance.forgetting_metrics import epsilon
from governance.forgetting_metrics.likelihood import MIN_MODELS, fit_gaussians, record_aucs
from governance.forgetting_metrics.statuses import (
    STATUSES,
    STILL_VISIBLE,
    RecordTests,
    model_statuses,
    pool_statuses,
)
from governance.forgetting_suite.measures import PoolMeasures

JSON = dict[str, Any]

HIGH_RISK, CANARIES, MEMORISED = "high_risk", "canaries", "most_memorised"
_LABEL_CHARACTERS = 24
_TOP_SHARE, _TOP_MOST = 0.1, 50

STRATA = {
    HIGH_RISK: "records that were classified as likely to be asked for, or not at all",
    CANARIES: "records planted to be memorised, whose membership is known",
    MEMORISED: "the tenth of the records, at most 50, that the original models know best",
}


def label_of(record_id: str, salt: bytes) -> str:
    """Return the name of a record in the evidence: HMAC-SHA256 under the salt, 96 bits of it.

    Raises:
        DataError: A salt that can be guessed, of less than 16 bytes.
    """
    if len(salt) < 16:
        message = f"salt of the record labels: expected at least 16 bytes, got {len(salt)}"
        raise DataError(message)
    digest = hmac.new(salt, f"evidence\x00{record_id}".encode(), hashlib.sha256)
    return digest.hexdigest()[:_LABEL_CHARACTERS]


def check_records(unlearned: PoolMeasures, reference: PoolMeasures) -> RecordTests:
    """Test each record: a pool by Mann-Whitney, less than ``MIN_MODELS`` models by the first."""
    if len(unlearned) >= MIN_MODELS:
        return pool_statuses(unlearned.relative, reference.relative)
    return model_statuses(unlearned.relative[0], reference.relative)


def record_lines(
    ids: Sequence[str],
    tests: RecordTests,
    unlearned: PoolMeasures,
    reference: PoolMeasures,
    strata: Mapping[str, np.ndarray],
    salt: bytes,
) -> list[JSON]:
    """Return a line for each record, sorted by label so that the order tells nothing.

    Returns:
        ``record``, ``status``, ``p``, ``adjusted_p``, ``epsilon_bound`` (None where pools are too
        small) and ``strata``.
    """
    bounds: list[float] | None = None
    if min(len(unlearned), len(reference)) >= MIN_MODELS:
        found = epsilon.certified_epsilons(unlearned.relative, reference.relative)
        bounds = [float(bound) for bound in found]
    lines = [
        {
            "record": label_of(record_id, salt),
            "status": tests.statuses[i],
            "p": float(tests.p_values[i]),
            "adjusted_p": float(tests.adjusted[i]),
            "epsilon_bound": None if bounds is None else bounds[i],
            "strata": [name for name, mask in strata.items() if mask[i]],
        }
        for i, record_id in enumerate(ids)
    ]
    return sorted(lines, key=lambda line: str(line["record"]))


def find_record(lines: Sequence[JSON], record_id: str, salt: bytes) -> JSON:
    """Return the line of an id.

    Raises:
        DataError: The evidence is not about this record. It never says anything about others.
    """
    label = label_of(record_id, salt)
    for line in lines:
        if line["record"] == label:
            return line
    message = (
        "unknown record: the evidence is not about it; check the id and the salt, "
        "for nothing is said about a record that was not tested"
    )
    raise DataError(message)


def most_memorised(original: PoolMeasures, reference: PoolMeasures) -> np.ndarray:
    """Return a mask of the records with the largest margins under O in deviations of R, ``[n]``."""
    n = original.n_forget
    mask = np.zeros(n, dtype=bool)
    if len(reference) < MIN_MODELS:
        return mask
    mean, deviation = fit_gaussians(reference.relative, shrinkage=0.5)
    known = (original.relative.mean(axis=0) - mean) / deviation
    size = min(_TOP_MOST, max(1, round(_TOP_SHARE * n)))
    mask[np.argsort(-known, kind="stable")[:size]] = True
    return mask


def stratum_numbers(
    mask: np.ndarray,
    tests: RecordTests,
    columns: Mapping[str, PoolMeasures],
    reference: PoolMeasures,
) -> JSON:
    """Return what is said of one stratum: counts of statuses, worst AUC in each column.

    Returns:
        ``n``, ``statuses``, ``worst_auc`` by column (None for small pools), and ``met``: no record
        is still visible. None where there is no record, or none could be seen.
    """
    statuses = [status for status, chosen in zip(tests.statuses, mask, strict=True) if chosen]
    counts = {name: statuses.count(name) for name in STATUSES if name in statuses}
    worst: dict[str, float | None] = {}
    for name, pool in columns.items():
        too_small = min(len(pool), len(reference)) < MIN_MODELS or not statuses
        worst[name] = None
        if not too_small:
            aucs = record_aucs(pool.relative[:, mask], reference.relative[:, mask])
            worst[name] = round(float(np.maximum(aucs, 1 - aucs).max()), 6)
    is_open = not statuses or "underpowered" in counts
    met = None if is_open else STILL_VISIBLE not in counts
    return {"n": len(statuses), "statuses": counts, "worst_auc": worst, "met": met}
