"""Margin and accuracy of each record, for any task: what methods stop by and are refused by.

Shapes: B records, C classes, T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from governance.errors import UnlearningError
from r2u_tasks.data import Records
from r2u_tasks.objectives import IGNORED_TOKEN, logit_margins, sequence_losses

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model makes of some records.

    Attributes:
        margins: phi = log(p / (1 - p)) of each record, ``[B]``, in nats; p is the probability of
            the label, or the geometric mean of the probabilities of a sequence's tokens.
        hits: Share of each record that is predicted right, ``[B]``, 0-1: the class, or the tokens.
    """

    margins: torch.Tensor
    hits: torch.Tensor

    @property
    def accuracy(self) -> float:
        """Mean share predicted right, 0-1; NaN without records."""
        return float(self.hits.mean()) if len(self.hits) else float("nan")


def logits_of(output: Any) -> torch.Tensor:
    """Return the logits of a network's output: a tensor, or an object with ``logits``."""
    return output if isinstance(output, torch.Tensor) else output.logits  # type: ignore[no-any-return]


@torch.no_grad()
def score_records(model: nn.Module, records: Records) -> Scores:
    """Score records in evaluation mode, in batches; the model's mode is put back.

    Raises:
        UnlearningError: Output and labels are neither classes nor sequences.
    """
    if len(records) == 0:
        return Scores(torch.empty(0), torch.empty(0))
    was_training = model.training
    model.eval()
    try:
        parts = [
            _score(logits_of(model(inputs)), labels)
            for inputs, labels in zip(
                torch.split(records.inputs, _BATCH),
                torch.split(records.labels, _BATCH),
                strict=True,
            )
        ]
    finally:
        model.train(was_training)
    return Scores(torch.cat([p.margins for p in parts]), torch.cat([p.hits for p in parts]))


def _score(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    if logits.ndim == 2 and labels.ndim == 1:
        hits = logits.argmax(dim=1) == labels
        return Scores(logit_margins(logits, labels), hits.float())
    if logits.ndim == 3 and labels.ndim == 2:
        losses = sequence_losses(logits, labels)
        margins = -losses - torch.log(-torch.expm1(-losses.clamp(min=1e-9)))
        return Scores(margins, _token_accuracy(logits, labels))
    message = (
        "unlearning: expected logits [B, C] with labels [B], or [B, T, V] with [B, T], "
        f"got {list(logits.shape)} with {list(labels.shape)}"
    )
    raise UnlearningError(message)


def _token_accuracy(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:  # noqa: N803
    targets = labels_BT[:, 1:]
    counted = targets != IGNORED_TOKEN
    right = (logits_BTV[:, :-1].argmax(dim=2) == targets) & counted
    return right.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
