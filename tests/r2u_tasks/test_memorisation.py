"""Laws of the memorisation scores: one for each revocable record, none after its erasure."""

from datetime import date

import numpy as np
import pyarrow.compute as pc
import pytest

from governance.classification.table import classify_records
from governance.declaration import load_declaration
from governance.policy import load_policy
from governance.source import read_source
from governance.storage import read_table, with_buckets
from governance.suppression import pseudonyms
from governance.workspace import open_workspace
from r2u_tasks import embedded
from r2u_tasks.model import build_model
from r2u_tasks.records import encode_splits
from r2u_tasks.stages.context import StageContext
from r2u_tasks.stages.memorisation import erase_memorisation, percentiles, write_memorisation

pytestmark = pytest.mark.ml


def test_scores_cover_the_revocable_records_and_go_with_them(tmp_path):
    """Keys are pseudonyms in the record's bucket; a model against itself remembers nothing."""
    declaration = load_declaration(embedded.resolve("embedded:digits", tmp_path))
    context = StageContext(declaration, open_workspace(str(tmp_path)))
    raw = with_buckets(read_source(declaration), "subject_id", declaration.buckets)
    policy = load_policy(declaration.policy_path, declaration)
    table = classify_records(raw, policy, declaration=declaration, as_of=date(2026, 11, 24))
    splits = encode_splits(table, declaration)
    model, other = build_model(declaration, 1), build_model(declaration, 2)
    models = {"model": model, "phase_a": other}

    n = write_memorisation(context, "m1", table=table, splits=splits, **models)
    found = read_table(context.workspace.memorisation)

    wanted = table.filter(pc.and_(table["revocable"], pc.equal(table["split"], "train")))
    keys = pseudonyms(context.pseudonym_key, "record", wanted["record_id"].to_pylist())
    bucket = dict(zip(keys, wanted["bucket"].to_pylist(), strict=True))
    assert n == len(bucket) > 0
    assert bucket == dict(
        zip(found["record_key"].to_pylist(), found["bucket"].to_pylist(), strict=True)
    )
    order = np.argsort(found["score"].to_numpy(), kind="stable")
    assert np.all(np.diff(found["percentile"].to_numpy()[order]) >= 0)
    assert 0 < found["percentile"].to_numpy().min() < found["percentile"].to_numpy().max() < 100

    erase_memorisation(context, "b1", keys[:5])
    left = set(read_table(context.workspace.memorisation)["record_key"].to_pylist())
    assert set(keys[5:]) == left

    write_memorisation(context, "m2", table=table, splits=splits, model=model, phase_a=model)
    again = read_table(context.workspace.memorisation)
    assert set(again["score"].to_pylist()) == {0.0}
    assert set(again["percentile"].to_pylist()) == {50.0}


def test_percentiles_of_equals_are_equal():
    """1, 2, 2, 3: a quarter each, equals share the middle."""
    assert [12.5, 50.0, 50.0, 87.5] == percentiles(np.array([1.0, 2.0, 2.0, 3.0])).tolist()
