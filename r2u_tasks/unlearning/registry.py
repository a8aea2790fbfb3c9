"""Names of unlearning methods; a user's own comes by entry point group ``r2u.unlearners``."""

from __future__ import annotations

import copy
from importlib.metadata import entry_points

from torch import nn

from governance.declaration import UNLEARNERS
from governance.errors import DeclarationError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.unlearning.ascent import (
    gradient_ascent,
    gradient_ascent_clipped,
    neg_grad_plus,
    npo,
)
from r2u_tasks.unlearning.choice import auto
from r2u_tasks.unlearning.contract import UnlearnedModel, UnlearnFunction
from r2u_tasks.unlearning.dampening import ssd
from r2u_tasks.unlearning.finetuning import finetune, l1_sparse
from r2u_tasks.unlearning.matching import level_matching
from r2u_tasks.unlearning.relabeling import random_labels, salun
from r2u_tasks.unlearning.scrub import scrub


def no_op(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return an unchanged copy: the control that every gate must refuse."""
    del retain, forget, validation, config
    return UnlearnedModel(copy.deepcopy(model), "no_op", 0, "does nothing, on purpose")


BUILT_IN: dict[str, UnlearnFunction] = {
    "neg_grad_plus": neg_grad_plus,
    "gradient_ascent": gradient_ascent,
    "gradient_ascent_clipped": gradient_ascent_clipped,
    "npo": npo,
    "random_labels": random_labels,
    "salun": salun,
    "scrub": scrub,
    "ssd": ssd,
    "finetune": finetune,
    "l1_sparse": l1_sparse,
    "level_matching": level_matching,
    "auto": auto,
    "no_op": no_op,
}
"""The methods under the names that a declaration may use (``UNLEARNING_METHODS``)."""


def find_method(name: str) -> UnlearnFunction:
    """Return the method of that name.

    Raises:
        DeclarationError: Nobody registered it (the message lists the known names), or what was
            registered cannot be imported or called.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    added = {entry.name: entry for entry in entry_points(group=UNLEARNERS)}
    if name not in added:
        known = ", ".join(sorted({*BUILT_IN, *added}))
        problem = f"unlearning.method: expected one of {known}, got '{name}'"
        raise DeclarationError("unlearning method", [problem])
    where = f"unlearning.method: entry point '{name}' of group {UNLEARNERS}"
    try:
        method: UnlearnFunction = added[name].load()
    except (ImportError, AttributeError) as error:
        raise DeclarationError("unlearning method", [f"{where}: {error}"]) from error
    if not callable(method):
        problem = f"{where}: expected a function, got {type(method).__name__}"
        raise DeclarationError("unlearning method", [problem])
    return method
