"""Laws of segmented training."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from governance.errors import DataError
from r2u_tasks.checkpoint import load_weights
from r2u_tasks.config import ReadinessConfig, TrainingConfig
from r2u_tasks.data import Records
from r2u_tasks.model import weights_digest
from r2u_tasks.seeding import seeded
from r2u_tasks.training import SegmentedRecords, assign_slices, train_segments

pytestmark = pytest.mark.ml

RECIPE = TrainingConfig(batch_size=16, stable_epochs=2, revocable_epochs=2, learning_rate=0.01)


def make_net():
    with seeded(0, "init"):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(120, 4, generator=generator)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    ids = np.array([f"r{i:04d}" for i in range(120)])
    revocable = np.arange(120) % 3 == 0
    segment = assign_slices(revocable, np.arange(120), 2)
    return SegmentedRecords(Records(inputs, labels, ids), segment, 3)


def trained(data, readiness, **changes):
    net = make_net()
    train_segments(net, data, training=RECIPE, readiness=readiness, **changes)
    return net


def test_readiness_weight_zero_is_ordinary_training_bit_for_bit(data):
    """Weights 0 give the bits of a plain loop over the same batches; other weights do not."""
    zero = trained(data, ReadinessConfig(order="first", inner_steps=3).ordinary())
    other_zero = trained(data, ReadinessConfig().ordinary())
    active = trained(data, ReadinessConfig(inner_lr=0.05))

    assert weights_digest(zero) == weights_digest(other_zero)
    assert weights_digest(active) != weights_digest(zero)


def test_ordinary_training_equals_an_independent_plain_loop(data):
    """Phase A with weight 0 is exactly AdamW over shuffled batches, written out by hand."""
    from r2u_tasks.seeding import make_generator

    only_stable = SegmentedRecords(data.records, data.segment, 1)
    ours = trained(only_stable, ReadinessConfig().ordinary())

    net = make_net()
    stable = torch.from_numpy(np.flatnonzero(data.segment == 0))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.0)
    with seeded(0, "stable", "dropout"):
        for epoch in range(2):
            order = torch.randperm(
                len(stable), generator=make_generator(0, "stable", "epoch", epoch)
            )
            for part in torch.split(order, 16):
                index = stable[part]
                optimizer.zero_grad()
                output = net(data.records.inputs[index])
                nn.functional.cross_entropy(output, data.records.labels[index]).backward()
                optimizer.step()

    assert weights_digest(net) == weights_digest(ours)


def test_replay_from_a_checkpoint_gives_the_bits_of_the_whole_run(data, tmp_path):
    """The rest of a run from the checkpoint before a segment is the run itself."""
    whole = trained(data, ReadinessConfig(inner_lr=0.05), checkpoints=tmp_path)

    rest = load_weights(make_net(), tmp_path / "2.safetensors")
    train_segments(
        rest, data, training=RECIPE, readiness=ReadinessConfig(inner_lr=0.05), first_segment=2
    )

    assert weights_digest(rest) == weights_digest(whole)


def test_checkpoint_before_a_slice_never_saw_it(data, tmp_path):
    """Replaying without records of slice 2 equals training from scratch without them."""
    gone = data.records.ids[np.flatnonzero(data.segment == 2)[:5]]
    trained(data, ReadinessConfig(inner_lr=0.05), checkpoints=tmp_path)

    replayed = load_weights(make_net(), tmp_path / "2.safetensors")
    remaining = data.without(gone)
    readiness = ReadinessConfig(inner_lr=0.05)
    train_segments(replayed, remaining, training=RECIPE, readiness=readiness, first_segment=2)

    assert weights_digest(replayed) == weights_digest(trained(remaining, readiness))


def test_slices_are_ordered_by_erasure_probability():
    """The least likely revocable records come first, stable ones are in no slice."""
    segment = assign_slices(np.array([True, False, True, True, True]), np.array([3, 0, 1, 2, 4]), 2)

    assert segment.tolist() == [2, 0, 1, 1, 2]


def test_no_record_left_is_one_clear_error(data):
    """Erasing everything does not give an untrained model."""
    empty = data.without(data.records.ids)
    with pytest.raises(DataError, match="at least one record"):
        trained(empty, ReadinessConfig())


def test_another_seed_gives_another_model(data):
    """Seeds matter: otherwise pools would hold one model many times."""
    net = make_net()
    train_segments(
        net,
        data,
        training=dataclasses.replace(RECIPE, seed=1),
        readiness=ReadinessConfig().ordinary(),
    )

    assert weights_digest(net) != weights_digest(trained(data, ReadinessConfig().ordinary()))
