"""Laws of the batch tier: who is accepted, and that nothing is without a valid qualification."""

import base64
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.batch_tier import (
    SIDES,
    BatchModel,
    References,
    batch_statistics,
    broken_limits,
    is_audited,
    limits_of,
)
from governance.errors import DataError, DigestMismatchError
from governance.qualification import (
    COVERED,
    Evidence,
    decide_batch,
    make_qualification,
    read_qualification,
    sign_qualification,
    why_invalid,
)
from governance.signing import KeySigner

NOW = datetime(2026, 11, 28, tzinfo=UTC)
COVERS = dict.fromkeys(COVERED, "sha256:aa")
N_RECORDS, N_UNSEEN, N_REFERENCES = 80, 300, 16


class World:
    """Records with levels of their own; a model that knows a record has a higher margin on it."""

    def __init__(self, seed=0, effect=2.0):
        self._random = np.random.default_rng(seed)
        self._levels = self._random.normal(3, 1, N_RECORDS + N_UNSEEN)
        self._effect = effect
        noise = self._random.normal(0, 1, (N_REFERENCES, N_RECORDS + N_UNSEEN))
        margins = self._levels - 0.5 + noise
        self.references = References(margins[:, :N_RECORDS], margins[:, N_RECORDS:])

    def model(self, known=0.0, accuracy=0.9):
        """Return a model that knows a share of the records."""
        margins = self._levels + self._random.normal(0, 1, len(self._levels))
        margins[: round(known * N_RECORDS)] += self._effect
        test, retain = accuracy + self._random.normal(0, 0.003, 2)
        return BatchModel(margins[:N_RECORDS], margins[N_RECORDS:], retain, test)

    def values(self, known=0.0, accuracy=0.9):
        """Return its conditions."""
        return batch_statistics(self.references, self.model(known, accuracy))

    def many(self, n, known=0.0):
        """Return the conditions of n models, by name."""
        rows = [self.values(known) for _ in range(n)]
        return {name: np.array([row[name] for row in rows]) for name in SIDES}

    def qualification(self, **changes):
        """Return a record made with models of this world."""
        found = Evidence(self.many(30), self.many(30), self.many(30, 1.0), self.many(30, 0.5))
        settings = {
            "covers": COVERS,
            "n_records": (60, 100),
            "error_level": 0.05,
            "max_accuracy_drop": 0.02,
            "made_at": NOW,
        }
        return make_qualification(found, **(settings | changes))


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def record(world):
    return world.qualification()


def decide(record, values, original, **changes):
    """Decide with what the record covers, unless changed."""
    settings = {"covers": COVERS, "n_records": N_RECORDS, "at": NOW + timedelta(days=1)}
    return decide_batch(record, values, original, **(settings | changes))


def test_a_retrained_model_is_accepted_and_others_are_not(world, record):
    """The controls in one: originals, half-done and random models never; retrains 95 %."""
    original = world.values(1.0)
    retrained = [decide(record, world.values(), original)[0] for _ in range(60)]

    assert record["has_power"]
    assert retrained.count("accept") >= 55
    for bad in (1.0, 0.5):
        verdicts = {decide(record, world.values(bad), original)[0] for _ in range(20)}
        assert verdicts == {"retrain"}
    assert decide(record, world.values(accuracy=0.5), original)[0] == "retrain"


def test_references_with_fewer_records_move_both_sides_alike(world):
    """A lower level of all references is no difference between asked and unseen records."""
    shifted = References(world.references.forget - 5, world.references.unseen - 5)
    model = world.model()

    assert batch_statistics(shifted, model)["shift"] == pytest.approx(
        batch_statistics(world.references, model)["shift"]
    )


def test_records_that_the_original_never_learned_are_not_accepted(world, record):
    """Nothing can be shown of records that the original does not know."""
    verdict, reasons = decide(record, world.values(), world.values())

    assert verdict == "refuse"
    assert "underpowered" in reasons[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"at": NOW + timedelta(days=90)}, "valid from"),
        ({"at": NOW - timedelta(seconds=1)}, "valid from"),
        ({"n_records": 59}, "60 to 100 records"),
        ({"n_records": 101}, "60 to 100 records"),
        *[({"covers": COVERS | {name: "sha256:bb"}}, f"another {name}") for name in COVERED],
        ({"covers": {}}, "another recipe"),
    ],
)
def test_without_a_valid_qualification_the_verdict_is_refuse(world, record, changes, reason):
    """Expired, not yet valid, another size, or anything it depends on changed."""
    verdict, reasons = decide(record, world.values(), world.values(1.0), **changes)

    assert verdict == "refuse"
    assert any(reason in text for text in reasons)


def test_no_qualification_and_one_without_power_refuse(world):
    """None at all; and one whose half-done models are not always rejected."""
    weak = World(1, effect=0.3).qualification()
    original = world.values(1.0)

    assert decide(None, world.values(), original)[0] == "refuse"
    assert not weak["has_power"]
    assert decide(weak, world.values(), original)[0] == "refuse"
    assert "power" in why_invalid(weak, covers=COVERS, n_records=80, at=NOW)[0]


def test_a_signed_record_is_read_back_and_a_changed_one_is_not(record):
    """Wider limits, a later expiry, another key, a cut signature: all are found."""
    signer = KeySigner(Ed25519PrivateKey.generate())
    signed = sign_qualification(record, signer)
    other = KeySigner(Ed25519PrivateKey.generate())

    assert read_qualification(signed, signer.public_pem) == record
    changed = [
        signed | {"record": record | {"limits": record["limits"] | {"shift": [-99, 99]}}},
        signed | {"record": record | {"expires_at": "2099-01-01T00:00:00+00:00"}},
        signed | {"signature": base64.b64encode(b"0" * 64).decode()},
        signed | {"digest": "sha256:00"},
        {name: value for name, value in signed.items() if name != "signature"},
    ]
    for one in changed:
        with pytest.raises(DigestMismatchError, match="qualification"):
            read_qualification(one, signer.public_pem)
    with pytest.raises(DigestMismatchError, match="qualification"):
        read_qualification(signed, other.public_pem)


def test_limits_hold_new_retrained_values_at_the_joint_level():
    """Monte Carlo: six independent Gaussian conditions break some limit in at most 5 %."""
    random = np.random.default_rng(0)
    broken = 0
    for _ in range(400):
        past = {name: random.normal(0, 1, 20) for name in SIDES}
        limits = limits_of(past, error_level=0.05, max_accuracy_drop=0.0)
        broken += bool(broken_limits({name: random.normal() for name in SIDES}, limits))

    assert 0.02 <= broken / 400 <= 0.08


def test_nan_few_models_and_missing_conditions_are_errors(world, record):
    """Nothing is skipped."""
    model = world.model()
    broken = BatchModel(model.forget * np.nan, model.unseen, 0.9, 0.9)
    few = References(world.references.forget[:3], world.references.unseen[:3])
    limits = {name: tuple(pair) for name, pair in record["limits"].items()}

    with pytest.raises(DataError, match="finite"):
        batch_statistics(world.references, broken)
    with pytest.raises(DataError, match="reference models"):
        batch_statistics(few, model)
    with pytest.raises(DataError, match="expected values of"):
        broken_limits({"shift": 0.0}, limits)
    with pytest.raises(DataError, match="finite"):
        broken_limits(dict.fromkeys(SIDES, float("nan")), limits)


def test_one_batch_in_twenty_is_audited_and_anyone_draws_the_same():
    """The draw depends on batch and qualification only."""
    drawn = [is_audited(f"batch-{index}", "sha256:aa") for index in range(4000)]

    assert drawn == [is_audited(f"batch-{index}", "sha256:aa") for index in range(4000)]
    assert 160 <= sum(drawn) <= 240
    assert drawn != [is_audited(f"batch-{index}", "sha256:bb") for index in range(4000)]
