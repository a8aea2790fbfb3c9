"""Plain outcomes of a model: accuracies and relearning."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from r2u_tasks.data import Records
from r2u_tasks.model import compute_logits
from r2u_tasks.objectives import logit_margins, mean_loss


def accuracy(model: nn.Module, records: Records) -> float:
    """Return the fraction 0-1 of records whose largest logit is the label; NaN without records."""
    if len(records) == 0:
        return float("nan")
    hits = compute_logits(model, records).argmax(dim=1) == records.labels
    return float(hits.float().mean())


def loss_nats(model: nn.Module, records: Records) -> float:
    """Return the mean cross entropy in nats; NaN without records."""
    if len(records) == 0:
        return float("nan")
    return float(mean_loss(compute_logits(model, records), records.labels))


def margins(model: nn.Module, records: Records) -> np.ndarray:
    """Return the logit margins phi of the records, float64 ``[B]``."""
    if len(records) == 0:
        return np.empty(0)
    return logit_margins(compute_logits(model, records), records.labels).double().numpy()


def finetune_curve(
    model: nn.Module, train_on: Records, watch: Records, *, steps: int, learning_rate: float
) -> list[float]:
    """Fine-tune a copy on some records and return the accuracy on others after each step.

    Full-batch gradient descent with momentum 0.9. With ``train_on`` = forgotten records this is
    the relearning attack, with ``train_on`` = retained records the retain-only rebound (Dormant to
    Deleted, arXiv 2505.22310). Element 0 is the accuracy before any step.
    """
    student = copy.deepcopy(model)
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate, momentum=0.9)
    curve = [accuracy(student, watch)]
    student.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        mean_loss(student(train_on.inputs), train_on.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(accuracy(student, watch))
    return curve
