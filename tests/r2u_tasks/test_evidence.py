"""Laws of the gate, on real digits: what must never be accepted, and what must be."""

import copy
import json
from datetime import date

import numpy as np
import pytest
import torch

from governance.classification.table import classify_records
from governance.declaration import load_declaration
from governance.errors import UnlearningError
from governance.forgetting_suite.records import find_record
from governance.policy import load_policy
from governance.report import render_evidence
from governance.source import read_source
from governance.storage import with_buckets
from r2u_tasks import embedded
from r2u_tasks.evidence import (
    BatchData,
    judge,
    require_absent,
    train_pools,
    unlearn_model,
)
from r2u_tasks.evidence_suite import add_suite
from r2u_tasks.model import build_model, weights_digest
from r2u_tasks.records import encode_splits

pytestmark = pytest.mark.ml

PERSONS = {"SYN-P0015", "SYN-P0029", "SYN-P0039"}


class Batch:
    """The batch of the demo (a tenant and three persons), with its pools."""

    def __init__(self, root):
        path = embedded.resolve("embedded:digits", root)
        declaration = load_declaration(path)
        evidence = declaration.evidence.model_copy(update={"pool_size": 12})
        self.declaration = declaration.model_copy(update={"evidence": evidence})
        policy = load_policy(declaration.policy_path, declaration)
        raw = with_buckets(read_source(declaration), "subject_id", 8)
        table = classify_records(raw, policy, declaration=declaration, as_of=date(2026, 11, 24))
        splits = encode_splits(table, declaration)
        training = splits.training
        wanted = {
            record
            for record, tenant, person in zip(
                *(table[name].to_pylist() for name in ("record_id", "tenant", "subject_id")),
                strict=True,
            )
            if tenant == "syn-tenant-00" or person in PERSONS
        }
        asked = np.array([record in wanted for record in training.records.ids])
        self.data = BatchData(
            training, training.records.select(asked), splits.validation, splits.holdout
        )
        self.pools = train_pools(self.declaration, self.data, folder=root / "pools")

    def verdict(self, candidate, pool, lane="approximate"):
        """Judge a candidate; ``pool`` is what the same algorithm gives on every original."""
        return judge(
            self.declaration,
            self.data,
            self.pools,
            original=self.pools.original.models[0],
            candidate=candidate,
            lane=lane,
            unlearned_pool=pool,
        )


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    return Batch(tmp_path_factory.mktemp("digits"))


def test_the_controls_of_the_test_behave(batch):
    """The original fails, a second retrain passes and a random model fails: the test has power."""
    evidence = batch.verdict(batch.pools.original.models[1], batch.pools.original.models)

    assert evidence["controls"] == {
        "original_fails": True,
        "second_retrain_passes": True,
        "random_fails": True,
    }


def test_a_model_that_was_not_changed_is_never_accepted(batch):
    """The no-op control, for every model of the pool as the served one."""
    originals = batch.pools.original.models
    verdicts = {batch.verdict(model, originals)["verdict"] for model in originals}

    assert verdicts == {"retrain"}


def test_the_suite_reads_a_model_that_was_not_changed_as_not_forgotten(batch):
    """Every strong row says so; records are named by salted hashes only, the risky ones apart."""
    originals = batch.pools.original.models
    evidence = batch.verdict(originals[0], originals)
    add_suite(
        evidence,
        batch.declaration,
        batch.data,
        batch.pools,
        candidate=originals[0],
        unlearned_pool=originals,
        salt=b"salt of sixteen!",
    )
    rows = {row["name"]: row for row in evidence["suite"]["rows"]}

    assert {rows[name]["outcome"] for name in ("lrt_auc", "batch_p", "js_divergence")} == {
        "not_met"
    }
    assert len(evidence["records"]) == evidence["n_forget"] == len(batch.data.forget)
    assert evidence["suite"]["strata"]["high_risk"]["n"] > 0
    assert "SYN-" not in json.dumps(evidence, allow_nan=False)
    find_record(evidence["records"], str(batch.data.forget.ids[0]), b"salt of sixteen!")
    assert "<svg" in render_evidence(evidence)


def test_a_random_model_is_never_accepted(batch):
    """Forgetting everything is not forgetting the records, in no lane."""
    models = [build_model(batch.declaration, seed) for seed in range(10)]
    for lane, pool in (("approximate", models), ("replay", None), ("retrain", None)):
        verdicts = {batch.verdict(model, pool, lane)["verdict"] for model in models[:3]}
        assert "accept" not in verdicts


def test_a_model_that_never_saw_the_records_is_accepted(batch):
    """The positive control: an algorithm as good as retraining passes as approximate."""
    second = batch.pools.second.models
    verdicts = [batch.verdict(model, second)["verdict"] for model in second]

    assert verdicts.count("accept") >= 10


def test_a_method_that_changes_nothing_is_a_loud_error(batch):
    """The no-op method never gets as far as the gate."""
    model = batch.pools.original.models[0]
    before = weights_digest(model)
    with pytest.raises(UnlearningError, match="changed nothing"):
        unlearn_model(batch.declaration, model, None, batch.data, method="no_op")

    assert weights_digest(model) == before


def test_margins_that_are_not_finite_are_an_error_and_no_verdict(batch):
    """NaN weights raise; nothing is skipped."""
    broken = copy.deepcopy(batch.pools.original.models[0])
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))

    with pytest.raises(Exception, match="finite"):
        batch.verdict(broken, batch.pools.original.models)


def test_a_record_planted_in_the_retained_data_is_found(batch):
    """Lineage: one forget record left in the data of a retrained model stops the batch."""
    planted = np.append(batch.data.after.records.ids, batch.data.forget.ids[:1])

    require_absent(batch.data.forget.ids, batch.data.after.records.ids)
    with pytest.raises(UnlearningError, match="got 1"):
        require_absent(batch.data.forget.ids, planted)
