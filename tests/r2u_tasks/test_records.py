"""The scale of the features: measured on stable records of the model, and on nobody else."""

import pyarrow as pa
import pytest

from governance.declaration import load_declaration
from r2u_tasks.records import encode_splits

DECLARATION = """
name: people
task: tabular
source: {path: people.csv, format: csv}
columns:
  record_id: id
  subject_id: person
  label: {name: churned, classes: [0, 1]}
  features: [{name: age, kind: numeric}]
deletion: {deletion_class: customers, backups_expire_days: 30}
policy: policy.yaml
model: {factory: "torch.nn:Linear", parameters: {}}
training: {n_slices: 2}
"""


@pytest.fixture
def declaration(tmp_path):
    path = tmp_path / "people.yaml"
    path.write_text(DECLARATION)
    return load_declaration(path)


def table(*rows):
    """Rows of id, age, revocable and split."""
    ids, ages, revocable, splits = zip(*rows, strict=True)
    return pa.table(
        {
            "id": ids,
            "person": ids,
            "churned": [0] * len(rows),
            "age": pa.array(ages, pa.float64()),
            "revocable": revocable,
            "slice_order": list(range(len(rows))),
            "split": splits,
        }
    )


ROWS = table(
    ("a", 10.0, False, "train"),
    ("b", 30.0, False, "train"),
    ("c", 900.0, True, "train"),
    ("d", 500.0, False, "train"),
    ("v", 700.0, False, "validation"),
)


def test_the_scale_is_measured_on_stable_training_records(declaration):
    """Mean of a, b and d: (10 + 30 + 500) / 3; c is revocable, v is no training record."""
    assert 180.0 == encode_splits(ROWS, declaration).scale.mean["age"]


def test_a_retrained_model_owes_its_scale_to_the_records_that_are_left(declaration):
    """Mean of a and b: d came after the training, c is in a slice."""
    segments = {"a": 0, "b": 0, "c": 1}
    splits = encode_splits(ROWS, declaration, segments=segments)

    assert (20.0, ["a", "b", "c"]) == (
        splits.scale.mean["age"],
        splits.training.records.ids.tolist(),
    )


def test_without_stable_records_the_scale_is_of_all_that_were_trained_on(declaration):
    """Mean of b and c, (30 + 900) / 2: the planner then retrains instead of replaying."""
    splits = encode_splits(ROWS, declaration, segments={"b": 1, "c": 2})

    assert 465.0 == splits.scale.mean["age"]
