"""Models: building from the declared factory, digests of weights, batched evaluation."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from governance.declaration import Declaration
from governance.errors import DeclarationError
from r2u_tasks.data import Records
from r2u_tasks.seeding import seeded

_EVALUATION_BATCH = 2048


def build_model(declaration: Declaration, seed: int) -> nn.Module:
    """Build the declared network with weights drawn from the seed.

    The declaration's folder is importable while the factory is looked up, so a user's own module
    can lie beside the YAML file.

    Raises:
        DeclarationError: The factory cannot be imported or called, or the network does not map
            ``[B, *input_shape]`` to ``[B, n_classes]``.
    """
    factory = _load_factory(declaration)
    what = f"model factory {declaration.model.factory}"
    try:
        with seeded(seed, "init"):
            network = factory(
                input_shape=declaration.input_shape,
                n_classes=declaration.n_classes,
                **declaration.model.parameters,
            )
    except TypeError as error:
        raise DeclarationError(what, [f"model.parameters: {error}"]) from error
    _require_output_shape(network, declaration, what)
    return network


def example_input(declaration: Declaration, n_records: int = 1) -> torch.Tensor:
    """Return zeros of the shape and type of an input: never a training record."""
    kind = torch.int64 if declaration.task == "text" else torch.float32
    return torch.zeros((n_records, *declaration.input_shape), dtype=kind)


def weights_digest(model: nn.Module) -> str:
    """Return the digest of names, types, shapes and bytes of all parameters and buffers."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        state.update(f"{name}\x00{array.dtype}\x00{tuple(array.shape)}\x00".encode())
        state.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return "sha256:" + state.hexdigest()


@torch.no_grad()
def compute_logits(model: nn.Module, records: Records) -> torch.Tensor:
    """Return logits ``[B, C]`` in evaluation mode; the model's mode is put back."""
    was_training = model.training
    model.eval()
    try:
        parts = [model(part) for part in torch.split(records.inputs, _EVALUATION_BATCH)]
    finally:
        model.train(was_training)
    return torch.cat(parts)


def _load_factory(declaration: Declaration) -> Callable[..., nn.Module]:
    module_name, _, attribute = declaration.model.factory.partition(":")
    folder = str(Path(declaration.folder))
    sys.path.insert(0, folder)
    try:
        factory: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        what = f"model factory {declaration.model.factory}"
        problem = f"model.factory: expected an importable callable, got {error}"
        raise DeclarationError(what, [problem]) from error
    finally:
        sys.path.remove(folder)
    return factory


def _require_output_shape(network: object, declaration: Declaration, what: str) -> None:
    if not isinstance(network, nn.Module):
        problem = f"model.factory: expected a torch.nn.Module, got {type(network).__name__}"
        raise DeclarationError(what, [problem])
    expected = (2, declaration.n_classes)
    network.eval()
    try:
        with torch.no_grad():
            got = tuple(network(example_input(declaration, 2)).shape)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        problem = f"model.factory: expected a network for inputs {declaration.input_shape}: {error}"
        raise DeclarationError(what, [problem]) from error
    finally:
        network.train()
    if got != expected:
        problem = f"model.factory: expected output shape {expected} for 2 records, got {got}"
        raise DeclarationError(what, [problem])
