"""What steps are made of: losses of a batch, their gradients, and a move along them.

Gradients are taken in evaluation mode: of the function that serves, without dropout, and without
letting the records of a request into the statistics of a normalisation layer.

Shapes: B records, C classes, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from governance.errors import UnlearningError
from r2u_tasks.data import Records
from r2u_tasks.objectives import IGNORED_TOKEN, find_loss
from r2u_tasks.parameters import Parameters, norm
from r2u_tasks.unlearning.scores import logits_of

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and labels; the first dimension counts records."""

Loss = Callable[[nn.Module], torch.Tensor]
"""A scalar of a model, to be made smaller."""

CLIP_NORM = 1.0
"""A clipped step is shorter than a normalised one where the gradient's norm is below this."""


def in_batches(n_records: int, size: int) -> list[torch.Tensor]:
    """Return the indices 0 ... n_records - 1 in batches."""
    return [torch.arange(i, min(i + size, n_records)) for i in range(0, n_records, size)]


def batch_of(records: Records, index: torch.Tensor) -> Batch:
    """Return the records of an index ``[b]``."""
    return records.inputs[index], records.labels[index]


def task_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean loss of a batch, a scalar in nats."""
    inputs, labels = batch
    return find_loss(model).mean(model(inputs), labels)


def losses_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of each record of a batch, ``[B]``, in nats."""
    inputs, labels = batch
    return find_loss(model).each(model(inputs), labels)


def gradient(loss: Loss, model: nn.Module, scope: Parameters) -> Parameters:
    """Return the gradient of a loss in the parameters of the scope, by name."""
    values = torch.autograd.grad(loss(model), list(scope.values()), allow_unused=False)
    return dict(zip(scope, values, strict=True))


def move_along(
    scope: Parameters, direction: Parameters, length: float, *, clipped: bool = False
) -> float:
    """Move the parameters against a gradient, in place, and return how far.

    Args:
        scope: Parameters to move.
        direction: The gradient of what should become smaller.
        length: Euclidean length of the step over all parameters.
        clipped: Shorten the step in proportion where the gradient's norm is below ``CLIP_NORM``.
    """
    size = norm(direction)
    if size == 0:
        return 0.0
    factor = length / (max(size, CLIP_NORM) if clipped else size)
    with torch.no_grad():
        for name, parameter in scope.items():
            parameter.sub_(direction[name], alpha=factor)
    return factor * size


def move_both(
    scope: Parameters, up: Parameters, down: Parameters, weight: float, length: float
) -> float:
    """Move against a forget and a retain gradient together, in place, and return how far.

    A forget gradient shorter than the retain gradient is scaled up to its length, so that records
    which the model knows well are not drowned. The sum is divided by the longer of both, so that
    the step gets shorter where they are opposed; it is never longer than ``length``.

    Args:
        scope: Parameters to move.
        up: Gradient of what should become smaller on the records to forget; may be 0.
        down: The same on retained records.
        weight: Of ``down``.
        length: Longest step.
    """
    climb, size = norm(up), max(norm(up), norm(down))
    if size == 0:
        return 0.0
    rise = 1 / climb if climb > 0 else 0.0
    both = {name: up[name] * rise + down[name] * (weight / size) for name in up}
    return move_along(scope, both, length, clipped=True)


def divergence(
    teacher_logits: torch.Tensor, student_logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the mean over records of KL(teacher || student) in nats, at least 0.

    Args:
        teacher_logits: ``[B, C]`` or ``[B, T, V]``; constants.
        student_logits: The same shape.
        labels: ``[B]`` or ``[B, T]``; positions with ``IGNORED_TOKEN`` do not count.
    """
    p = functional.log_softmax(teacher_logits, dim=-1)
    q = functional.log_softmax(student_logits, dim=-1)
    each = (p.exp() * (p - q)).sum(dim=-1)
    if labels.ndim == 1:
        return each.mean()
    counted = labels != IGNORED_TOKEN
    return ((each * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)).mean()


def other_labels(model: nn.Module, records: Records, generator: torch.Generator) -> torch.Tensor:
    """Return for each label a random other one, uniform over all others; ignored tokens stay.

    Raises:
        UnlearningError: There is only one class.
    """
    with torch.no_grad():
        n_classes = logits_of(model(records.inputs[:1])).shape[-1]
    if n_classes < 2:
        message = f"random labels: expected at least 2 classes, got {n_classes}"
        raise UnlearningError(message)
    labels = records.labels
    shift = torch.randint(1, n_classes, labels.shape, generator=generator)
    return torch.where(labels == IGNORED_TOKEN, labels, (labels + shift) % n_classes)
