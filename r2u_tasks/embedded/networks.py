"""Networks of the embedded data set."""

from __future__ import annotations

import math

from torch import nn


def digits_mlp(*, input_shape: tuple[int, ...], n_classes: int, hidden: int = 128) -> nn.Module:
    """Return a multilayer perceptron with two hidden layers.

    Args:
        input_shape: Shape of one input.
        n_classes: Number of outputs.
        hidden: Width of both hidden layers.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_classes),
    )
