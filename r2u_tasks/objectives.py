"""Pure losses and scores on logits.

Shapes: B records, C classes.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def record_losses(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Return the cross entropy of each record in nats, ``[B]``, at least 0."""
    return functional.cross_entropy(logits_BC, labels_B, reduction="none")


def mean_loss(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Return the mean cross entropy in nats, a scalar."""
    return functional.cross_entropy(logits_BC, labels_B)


def logit_margins(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Return phi = log(p_y / (1 - p_y)) of each record, ``[B]``, computed from logits.

    Source: Carlini et al. 2022 (LiRA), section VI-C; the stable form z_y - logsumexp of the rest.

    >>> logit_margins(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item()
    2.0
    """
    own = logits_BC.gather(1, labels_B[:, None]).squeeze(1)
    others = logits_BC.scatter(1, labels_B[:, None], float("-inf"))
    return own - torch.logsumexp(others, dim=1)
