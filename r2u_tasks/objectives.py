"""Losses and scores on the outputs of a network.

A ``TaskLoss`` is what the training core knows of a task: the loss of each record, and its mean. A
record is the unit of forgetting, so the mean is over records also where records are sequences.

Shapes: B records, C classes, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

IGNORED_TOKEN = -100
"""Label of a token that has no loss (padding, a question before its answer)."""


def record_losses(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Return the cross entropy of each record in nats, ``[B]``, at least 0."""
    return functional.cross_entropy(logits_BC, labels_B, reduction="none")


def mean_loss(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Return the mean cross entropy in nats, a scalar."""
    return functional.cross_entropy(logits_BC, labels_B)


def sequence_losses(output: Any, labels_BT: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Return the mean next-token cross entropy of each sequence in nats, ``[B]``.

    Args:
        output: Logits ``[B, T, V]``, or an object with them as ``logits`` (transformers).
        labels_BT: Token ids, not shifted; ``IGNORED_TOKEN`` has no loss.
    """
    logits_BTV = output if isinstance(output, torch.Tensor) else output.logits  # noqa: N806
    targets_BT = labels_BT[:, 1:]  # noqa: N806
    losses_BT = functional.cross_entropy(  # noqa: N806
        logits_BTV[:, :-1].transpose(1, 2),
        targets_BT,
        ignore_index=IGNORED_TOKEN,
        reduction="none",
    )
    counted_B = (targets_BT != IGNORED_TOKEN).sum(dim=1).clamp(min=1)  # noqa: N806
    return losses_BT.sum(dim=1) / counted_B


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """The loss of a task.

    Attributes:
        each: ``(output, targets)`` to the loss of each record, ``[B]``, in nats.
        mean: ``(output, targets)`` to their mean, a scalar.
    """

    each: Callable[[Any, torch.Tensor], torch.Tensor]
    mean: Callable[[Any, torch.Tensor], torch.Tensor]

    @classmethod
    def from_records(cls, each: Callable[[Any, torch.Tensor], torch.Tensor]) -> TaskLoss:
        """Return the loss whose mean is the plain mean of ``each``."""
        return cls(each, lambda output, targets: each(output, targets).mean())


CLASSIFICATION = TaskLoss(record_losses, mean_loss)
CAUSAL_LM = TaskLoss.from_records(sequence_losses)


def find_loss(model: nn.Module) -> TaskLoss:
    """Return the loss of a network: its own where it has one, else cross entropy over classes.

    A network brings its own loss as a method ``record_losses(output, targets)`` that returns the
    loss of each record, ``[B]``, at least 0 and without parameters of its own.
    """
    own = getattr(model, "record_losses", None)
    return CLASSIFICATION if own is None else TaskLoss.from_records(own)


def logit_margins(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Return phi = log(p_y / (1 - p_y)) of each record, ``[B]``, computed from logits.

    Source: Carlini et al. 2022 (LiRA), section VI-C; the stable form z_y - logsumexp of the rest.

    >>> logit_margins(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item()
    2.0
    """
    own = logits_BC.gather(1, labels_B[:, None]).squeeze(1)
    others = logits_BC.scatter(1, labels_B[:, None], float("-inf"))
    return own - torch.logsumexp(others, dim=1)
