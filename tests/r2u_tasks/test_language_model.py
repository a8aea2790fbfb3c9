"""Laws of readiness on a real language model (skipped without transformers or the shared data)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from r2u_tasks.config import Order, ReadinessConfig, TrainingConfig
from r2u_tasks.data import Records
from r2u_tasks.functional_loss import FunctionalLoss
from r2u_tasks.model import weights_digest
from r2u_tasks.objectives import CAUSAL_LM, IGNORED_TOKEN, sequence_losses
from r2u_tasks.parameters import dot, leaf, move, norm, parameters_in_scope, scale
from r2u_tasks.readiness import readiness_gradient, readiness_objective
from r2u_tasks.readiness_terms import ReadinessBatches
from r2u_tasks.training import SegmentedRecords, train_segments

pytestmark = pytest.mark.ml

FOLDER = Path(os.environ.get("R2U_SHARED_DATA", "../shared/data")) / "models/stories260K-hf"


@pytest.fixture
def llama():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if not FOLDER.exists():
        pytest.skip(f"no model in {FOLDER}; set R2U_SHARED_DATA")
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER)


def tokens(n_records, length=8):
    generator = torch.Generator().manual_seed(n_records)
    return torch.randint(3, 500, (n_records, length), generator=generator)


def test_sequence_loss_is_the_mean_over_counted_tokens():
    """Uniform logits over 4 tokens: ln 4 for every counted token, whatever is ignored."""
    labels = torch.tensor([[1, 2, 3], [1, IGNORED_TOKEN, 3], [0, IGNORED_TOKEN, IGNORED_TOKEN]])

    losses = sequence_losses(torch.zeros(3, 3, 4), labels)

    assert losses.tolist() == pytest.approx([np.log(4), np.log(4), 0.0])


@pytest.mark.parametrize("order", [Order.SECOND, Order.FINITE_DIFFERENCE])
def test_readiness_of_a_language_model_equals_directional_differences(llama, order):
    """Along its own direction, the gradient of a Llama is the slope of the objective.

    To 1e-3 and not 1e-6: the network's own normalisation and rotation work in float32 whatever the
    weights are, which leaves about 1e-7 of noise in each value and 1e-3 in a slope over 2e-4.
    """
    model = llama.double().eval()

    def batch(n):
        ids = tokens(n)
        return ids, ids

    batches = ReadinessBatches([batch(2)], batch(3), batch(2), batch(4))
    config = ReadinessConfig(order=order, inner_lr=0.01, relearn_lr=0.01, efficiency_cap_nats=9.0)
    loss, theta = FunctionalLoss(model, 0, task=CAUSAL_LM), parameters_in_scope(model)

    gradient, _ = readiness_gradient(loss, theta, batches, config)

    direction = scale(gradient, 1 / norm(gradient))
    step = 1e-4
    ends = [
        float(readiness_objective(loss, leaf(move(theta, direction, s)), batches, config).detach())
        for s in (step, -step)
    ]
    assert dot(gradient, direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


def test_a_language_model_trains_through_the_same_segments(llama):
    """A causal language model with its loss goes through both phases and differs from ordinary."""
    ids = tokens(24)
    records = Records(ids, ids, np.array([f"r{i:02d}" for i in range(24)]))
    data = SegmentedRecords(records, (np.arange(24) % 3 == 0).astype(np.int8), 2)
    recipe = TrainingConfig(batch_size=8, stable_epochs=1, revocable_epochs=1, learning_rate=1e-3)
    start = {name: value.clone() for name, value in llama.state_dict().items()}
    readiness = ReadinessConfig(inner_lr=0.05, parameters=("*mlp*",))
    digests = []
    for config in (readiness, readiness.ordinary()):
        llama.load_state_dict(start)
        seen = []
        train_segments(
            llama,
            data,
            training=recipe,
            readiness=config,
            loss=CAUSAL_LM,
            progress=lambda *call, seen=seen: seen.append(call[3]["loss"]),
        )
        assert np.all(np.isfinite(seen))
        digests.append(weights_digest(llama))

    assert digests[0] != digests[1]
