"""Qualification: a signed, expiring record of what the batch tier may decide, and how well it can.

It is made once for a combination of training recipe, unlearning method, settings and policy, with
retrained models: their values fix the limits; original models, and models that forgot one half,
give the power. A batch is decided with the limits of a valid record. Without one, or where it does
not cover the batch, the verdict is ``refuse`` and the exact lane serves the batch: unknown is the
stricter side. The original model of the batch must break the limits by far: of records that it
never learned, or hardly remembers, nothing can be shown.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature

from governance.batch_tier import MEMBERSHIP, SIDES, broken_limits, limits_of
from governance.digests import canonical_json, digest_bytes
from governance.errors import DigestMismatchError
from governance.forgetting_metrics.intervals import clopper_pearson
from governance.signing import Signer, key_id, public_key_of

SCHEMA = "r2u-qualification/1"
MIN_POWER = 0.9
"""Lower 95 % limit of the share of known bad models that must be rejected (29 of 29 reach it)."""
POWER_FACTOR = 0.1
"""The original of a batch must break limits at a tenth of the error level."""
MAX_REJECTED = 0.2
"""Largest upper limit of the share of retrained models that may be rejected."""
LIFETIME = timedelta(days=90)
COVERED = ("recipe", "method", "settings", "policy")
"""What a record is bound to, each a digest or a name; another value of any ends its validity."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Values of the conditions for models whose answer is known.

    Attributes:
        limits_from: Retrained models that fix the limits, ``{condition: [K]}``.
        retrained: Other retrained models.
        original: Models that were trained on the records.
        half: Models that were trained on one half of the records.
    """

    limits_from: Mapping[str, np.ndarray]
    retrained: Mapping[str, np.ndarray]
    original: Mapping[str, np.ndarray]
    half: Mapping[str, np.ndarray]


def make_qualification(
    found: Evidence,
    *,
    covers: Mapping[str, str],
    n_records: tuple[int, int],
    error_level: float,
    max_accuracy_drop: float,
    made_at: datetime,
    lifetime: timedelta = LIFETIME,
) -> dict[str, Any]:
    """Return the record, without signature.

    Args:
        found: Values of known models.
        covers: A value for each of ``COVERED``.
        n_records: Smallest and largest number of records of a batch that it is valid for.
        error_level: Joint, 0-1.
        max_accuracy_drop: Fraction 0-1.
        made_at: Aware time.
        lifetime: After which it expires.
    """
    if set(covers) != set(COVERED):
        message = f"qualification: expected what it covers as {', '.join(COVERED)}"
        raise ValueError(message)
    limits = limits_of(
        found.limits_from, error_level=error_level, max_accuracy_drop=max_accuracy_drop
    )
    wide = limits_of(
        found.limits_from,
        error_level=POWER_FACTOR * error_level,
        max_accuracy_drop=max_accuracy_drop,
    )
    rates = {
        name: _rejected(getattr(found, name), limits) for name in ("retrained", "original", "half")
    }
    return {
        "schema": SCHEMA,
        "covers": dict(covers),
        "n_records": list(n_records),
        "error_level": error_level,
        "limits": {name: list(pair) for name, pair in limits.items()},
        "power_limits": {name: list(wide[name]) for name in MEMBERSHIP},
        "n_limits": len(next(iter(found.limits_from.values()))),
        "rejected": rates,
        "has_power": all(rates[name]["low"] >= MIN_POWER for name in ("original", "half")),
        "made_at": made_at.isoformat(),
        "expires_at": (made_at + lifetime).isoformat(),
    }


def sign_qualification(record: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """Return record, digest, key and signature."""
    content = canonical_json(dict(record))
    return {
        "record": dict(record),
        "digest": digest_bytes(content),
        "key": key_id(signer.public_pem),
        "signature": base64.b64encode(signer.sign(content)).decode(),
    }


def read_qualification(signed: Mapping[str, Any], public_pem: bytes) -> dict[str, Any]:
    """Return the record of a signed qualification.

    Raises:
        DigestMismatchError: It is not what the key signed.
    """
    try:
        record = dict(signed["record"])
        content = canonical_json(record)
        signature = base64.b64decode(signed["signature"], validate=True)
        public_key_of(public_pem).verify(signature, content)
        intact = signed["digest"] == digest_bytes(content) and record["schema"] == SCHEMA
    except (InvalidSignature, KeyError, TypeError, ValueError) as error:
        message = (
            f"qualification: expected a record signed by {key_id(public_pem)}, got "
            f"{type(error).__name__}; qualify again"
        )
        raise DigestMismatchError(message) from error
    if not intact:
        message = f"qualification: expected the digest of its record and schema {SCHEMA}"
        raise DigestMismatchError(message)
    return record


def why_invalid(
    record: Mapping[str, Any] | None,
    *,
    covers: Mapping[str, str],
    n_records: int,
    at: datetime,
) -> list[str]:
    """Return why a record does not decide a batch, in words; nothing where it does.

    Args:
        record: Read with ``read_qualification``; None where there is none.
        covers: What the batch was made with.
        n_records: Of the batch.
        at: Aware time of the decision.
    """
    if record is None:
        return ["there is no qualification for this training"]
    reasons = [
        f"the qualification is for another {name}"
        for name in COVERED
        if record["covers"].get(name) != covers.get(name) or covers.get(name) is None
    ]
    made, expires = (datetime.fromisoformat(record[name]) for name in ("made_at", "expires_at"))
    if not made <= at < expires:
        reasons.append(f"the qualification is valid from {made:%Y-%m-%d} to {expires:%Y-%m-%d}")
    low, high = record["n_records"]
    if not low <= n_records <= high:
        reasons.append(f"the qualification is for {low} to {high} records, the batch has another")
    if not record["has_power"]:
        reasons.append(
            "the qualification found too little power: models that know the records, or one half "
            "of them, are not always rejected"
        )
    if record["rejected"]["retrained"]["low"] > MAX_REJECTED:
        reasons.append("the qualification found that retrained models are rejected too often")
    return reasons


def decide_batch(
    record: Mapping[str, Any] | None,
    values: Mapping[str, float],
    original: Mapping[str, float],
    *,
    covers: Mapping[str, str],
    n_records: int,
    at: datetime,
) -> tuple[str, list[str]]:
    """Return ``accept | retrain | refuse`` and why, by the limits of a qualification.

    Args:
        record: As in ``why_invalid``.
        values: Conditions of the candidate, from ``batch_statistics``.
        original: The same of the original model, on the same records.
        covers: As in ``why_invalid``.
        n_records: As in ``why_invalid``.
        at: As in ``why_invalid``.
    """
    reasons = why_invalid(record, covers=covers, n_records=n_records, at=at)
    if record is None or reasons:
        return "refuse", reasons
    limits = {name: (pair[0], pair[1]) for name, pair in record["limits"].items()}
    wide = {name: (pair[0], pair[1]) for name, pair in record["power_limits"].items()}
    if not broken_limits({name: original[name] for name in wide}, wide):
        return "refuse", [
            "the test does not tell the original model from retrained ones on these records, so "
            "it cannot show that they were forgotten (underpowered)"
        ]
    if set(limits) != set(SIDES):
        return "refuse", ["the qualification has other conditions than this software"]
    broken = broken_limits(values, limits)
    if broken:
        return "retrain", [f"outside the qualified limits: {', '.join(broken)}"]
    return "accept", ["within the limits that retrained models keep, by a test qualified for it"]


def _rejected(
    models: Mapping[str, np.ndarray], limits: Mapping[str, tuple[float | None, float | None]]
) -> dict[str, float]:
    n = len(next(iter(models.values())))
    each = [{name: float(models[name][index]) for name in SIDES} for index in range(n)]
    rejected = sum(bool(broken_limits(values, limits)) for values in each)
    return {
        "rejected": rejected,
        "n": n,
        "low": clopper_pearson(rejected, n, side="lower")[0],
        "high": clopper_pearson(rejected, n, side="upper")[1],
    }
