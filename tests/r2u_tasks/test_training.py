"""Laws of segmented training."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from governance.errors import DataError, DigestMismatchError
from r2u_tasks.checkpoint import load_weights
from r2u_tasks.config import Episodes, Order, Precision, ReadinessConfig, TrainingConfig
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


READY = ReadinessConfig(inner_lr=0.05)


class KilledError(Exception):
    """The process dies here."""


def interrupt_in(segment):
    def progress(name, epoch, n_epochs, values):
        if name == segment and epoch == 2:
            raise KilledError

    return progress


def test_an_interrupted_run_resumes_with_the_bits_of_an_uninterrupted_one(data, tmp_path):
    """Killed inside slice 2, the run repeats slice 2 from its checkpoint: same bits, less work."""
    with pytest.raises(KilledError):
        trained(data, READY, checkpoints=tmp_path, progress=interrupt_in("slice-2"))

    net = make_net()
    cost = train_segments(
        net, data, training=RECIPE, readiness=READY, checkpoints=tmp_path, resume=True
    )

    assert weights_digest(trained(data, READY)) == weights_digest(net)
    assert cost.resumed_from == "slice-2"
    assert list(cost.segment_seconds) == ["slice-2"]


def test_checkpoints_of_other_records_are_never_continued(data, tmp_path):
    """A record erased between crash and restart: the old checkpoints go, training starts anew."""
    with pytest.raises(KilledError):
        trained(data, READY, checkpoints=tmp_path, progress=interrupt_in("slice-2"))
    remaining = data.without(data.records.ids[np.flatnonzero(data.segment == 1)[:3]])

    with pytest.raises(KilledError):  # dies again, before it could overwrite checkpoint 2
        trained(
            remaining,
            READY,
            checkpoints=tmp_path,
            resume=True,
            progress=interrupt_in("stable"),
        )
    left = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    resumed = trained(remaining, READY, checkpoints=tmp_path, resume=True)

    assert left == []
    assert weights_digest(resumed) == weights_digest(trained(remaining, READY))


def test_a_run_is_not_resumed_from_a_checkpoint_that_it_did_not_write(data, tmp_path):
    """One bit of the last checkpoint changed between crash and restart: named, not trained on."""
    with pytest.raises(KilledError):
        trained(data, READY, checkpoints=tmp_path, progress=interrupt_in("slice-2"))
    path = tmp_path / "2.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(bytes(changed))

    with pytest.raises(DigestMismatchError, match=r"2\.safetensors"):
        trained(data, READY, checkpoints=tmp_path, resume=True)


def test_a_finished_run_is_taken_over_without_training(data, tmp_path):
    """What one process finished, another publishes: same weights, same cost, no step."""
    whole = trained(data, READY, checkpoints=tmp_path, keep_finished=True)

    net = make_net()
    cost = train_segments(
        net,
        data,
        training=RECIPE,
        readiness=READY,
        checkpoints=tmp_path,
        resume=True,
        progress=interrupt_in("stable"),
    )

    assert weights_digest(whole) == weights_digest(net)
    assert cost.gradient_evaluations > 0


def test_parameters_out_of_scope_are_trained_on_the_task_alone(data):
    """With readiness on the head only, the first step of the body is the ordinary one."""
    one_step = dataclasses.replace(RECIPE, optimizer="sgd", stable_epochs=0, revocable_epochs=1)
    one_step = dataclasses.replace(one_step, batch_size=200)
    nets = []
    for readiness in (READY.ordinary(), dataclasses.replace(READY, parameters=("3.*",))):
        net = make_net()
        train_segments(
            net,
            SegmentedRecords(data.records, np.minimum(data.segment, 1), 2),
            training=one_step,
            readiness=readiness,
        )
        nets.append(net)

    assert torch.equal(nets[0][0].weight, nets[1][0].weight)
    assert not torch.equal(nets[0][3].weight, nets[1][3].weight)


def test_the_last_fraction_leaves_earlier_steps_ordinary(data):
    """Readiness in the last quarter of 4 epochs: the first 3 have no terms, the fourth has."""
    seen = []
    recipe = dataclasses.replace(RECIPE, revocable_epochs=4)
    train_segments(
        make_net(),
        data,
        training=recipe,
        readiness=dataclasses.replace(READY, last_fraction=0.25),
        progress=lambda name, epoch, n, values: seen.append((name, epoch, "gain" in values)),
    )

    assert [entry[2] for entry in seen if entry[0] == "slice-1"] == [False, False, False, True]


@pytest.mark.parametrize("kind", [Episodes.RECORDS, Episodes.CLASSES])
def test_episodic_requests_need_no_known_forget_set(data, kind):
    """With every record revocable and none stable, episodes still prepare the model, repeatably."""
    everything = SegmentedRecords(data.records, np.ones(120, dtype=np.int8), 2)
    readiness = dataclasses.replace(READY, episodes=kind, episode_steps=2)

    ready = trained(everything, readiness)

    assert weights_digest(ready) == weights_digest(trained(everything, readiness))
    assert weights_digest(ready) != weights_digest(trained(everything, readiness.ordinary()))


def test_the_networks_own_loss_is_trained(data):
    """A network with ``record_losses`` is trained on it: ten times the loss, ten times the step."""

    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.net, self.factor = make_net(), factor

        def forward(self, inputs):
            return self.net(inputs)

        def record_losses(self, output, targets):
            losses = nn.functional.cross_entropy(output, targets, reduction="none")
            return self.factor * losses

    recipe = dataclasses.replace(RECIPE, optimizer="sgd", batch_size=200, stable_epochs=1)
    steps = []
    for factor in (1.0, 10.0):
        model = Scaled(factor)
        before = model.net[0].weight.detach().clone()
        train_segments(
            model,
            SegmentedRecords(data.records, data.segment, 1),
            training=recipe,
            readiness=READY.ordinary(),
        )
        steps.append(model.net[0].weight.detach() - before)

    assert torch.allclose(10 * steps[0], steps[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", list(Order))
def test_bfloat16_trains_near_float32_with_float32_weights(data, order):
    """Mixed precision changes digits, not the outcome; weights stay float32."""
    readiness = dataclasses.replace(READY, order=order)
    half = dataclasses.replace(RECIPE, precision=Precision.BFLOAT16)
    nets = []
    for recipe in (RECIPE, half):
        net = make_net()
        train_segments(net, data, training=recipe, readiness=readiness)
        nets.append(torch.cat([p.detach().flatten() for p in net.parameters()]))

    assert nets[1].dtype is torch.float32
    assert not torch.equal(nets[0], nets[1])
    assert float((nets[0] - nets[1]).norm() / nets[0].norm()) < 0.2


def test_a_device_that_is_not_there_is_one_clear_error():
    """A wrong device fails with its name, before any training."""
    with pytest.raises(DataError, match="expected a device of this machine, got 'cuda:7'"):
        _ = TrainingConfig(device="cuda:7").torch_device
