"""One process of the team that test_team.py starts; the first one writes gradients and weights."""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import distributed, nn

from r2u_tasks.config import Form, Order, ReadinessConfig, TrainingConfig
from r2u_tasks.data import Records
from r2u_tasks.functional_loss import FunctionalLoss
from r2u_tasks.parameters import parameters_in_scope
from r2u_tasks.readiness import readiness_gradient
from r2u_tasks.readiness_terms import ReadinessBatches
from r2u_tasks.seeding import seeded
from r2u_tasks.team import current_team
from r2u_tasks.training import SegmentedRecords, train_segments

CASES = [(order, form, rule) for order in Order for form in Form for rule in (True, False)]


def make_net():
    with seeded(0, "net"):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def make_data(n_records=61):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(n_records, 4, generator=generator)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    ids = np.array([f"r{i:03d}" for i in range(n_records)])
    segment = (np.arange(n_records) % 3 == 0).astype(np.int8)
    return SegmentedRecords(Records(inputs, labels, ids), segment, 2)


def gradients():
    """Return the readiness gradient of every order, form and step rule; batches of odd sizes.

    In float64: a finite difference in float32 magnifies the rounding of another order of summation.
    """
    records = make_data().records

    def batch(first, size):
        rows = slice(first, first + size)
        return records.inputs[rows].double(), records.labels[rows]

    batches = ReadinessBatches([batch(0, 7), batch(7, 7)], batch(14, 5), batch(0, 1), batch(30, 9))
    net = make_net().double()
    loss, theta = FunctionalLoss(net, 0, team=current_team()), parameters_in_scope(net)
    found = {}
    for order, form, normalized in CASES:
        config = ReadinessConfig(
            order=order,
            form=form,
            inner_steps=2,
            inner_lr=0.2,
            normalized_step=normalized,
            efficiency_cap_nats=3.0,
            revocable_weight=0.5,
        )
        gradient, _ = readiness_gradient(loss, theta, batches, config)
        for name, value in gradient.items():
            found[f"{order}/{form}/{normalized}/{name}"] = value.detach().clone()
    return found


def trained_weights(folder):
    """Return the weights after a short run of both phases, batches of odd sizes."""
    net = make_net()
    recipe = TrainingConfig(
        batch_size=15, stable_epochs=1, revocable_epochs=1, optimizer="sgd", learning_rate=0.05
    )
    train_segments(
        net,
        make_data(),
        training=recipe,
        readiness=ReadinessConfig(inner_lr=0.1),
        checkpoints=folder,
        resume=True,
        keep_finished=True,
    )
    return {f"weights/{name}": value.detach().clone() for name, value in net.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    try:
        results = gradients() | trained_weights(Path(sys.argv[1]) / "checkpoints")
        if distributed.get_rank() == 0:
            save_file(results, Path(sys.argv[1]) / "results.safetensors")
    finally:
        distributed.destroy_process_group()
