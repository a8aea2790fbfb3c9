"""Plain outcomes of a model: accuracy, loss and margins."""

from __future__ import annotations

import numpy as np
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
