"""Arithmetic on named parameters: what the inner and the outer loop need of a vector space.

Values may be distributed tensors (FSDP): sums over all elements go through ``total``, which gathers
the partial sums of all shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from governance.errors import DeclarationError

Parameters = dict[str, torch.Tensor]

EVERYTHING = ("*",)
"""Pattern list that puts every trainable parameter in scope."""


def parameters_in_scope(model: nn.Module, patterns: Sequence[str] = EVERYTHING) -> Parameters:
    """Return the trainable parameters whose name matches any shell-style pattern, by name.

    Raises:
        DeclarationError: No trainable parameter matches; the message lists the first names.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen: Parameters = {
        name: p
        for name, p in trainable.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not chosen:
        known = ", ".join(list(trainable)[:6]) or "none"
        problem = (
            f"parameters: expected patterns that match a trainable parameter, "
            f"got {list(patterns)}; the model's names begin with {known}"
        )
        raise DeclarationError("readiness and unlearning", [problem])
    return chosen


def move(at: Parameters, step: Parameters, factor: float = 1.0) -> Parameters:
    """Return ``at + factor * step``."""
    if factor == 1.0:
        return {name: value + step[name] for name, value in at.items()}
    return {name: value + factor * step[name] for name, value in at.items()}


def scale(at: Parameters, factor: float) -> Parameters:
    """Return ``factor * at``."""
    return {name: value * factor for name, value in at.items()}


def leaf(at: Parameters) -> Parameters:
    """Return the same values, cut from their history, ready to be differentiated."""
    return {name: value.detach().requires_grad_(True) for name, value in at.items()}


def dot(left: Parameters, right: Parameters) -> float:
    """Return the inner product."""
    return sum(total(left[name].detach() * right[name].detach()) for name in left)


def norm(at: Parameters) -> float:
    """Return the Euclidean norm over all parameters."""
    return float(sum(total(v.detach() ** 2) for v in at.values()) ** 0.5)


def total(values: torch.Tensor) -> float:
    """Return the sum of all elements; of all shards when the tensor is distributed."""
    summed = values.sum()
    gather = getattr(summed, "full_tensor", None)
    return float(summed if gather is None else gather())
