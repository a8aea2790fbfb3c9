"""Names of unlearning methods; a user's own comes by entry point group ``r2u.unlearners``."""

from __future__ import annotations

import copy
from importlib.metadata import entry_points

from torch import nn

from governance.errors import DeclarationError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.unlearning.ascent import gradient_ascent, neg_grad_plus
from r2u_tasks.unlearning.contract import UnlearnedModel, UnlearnFunction

ENTRY_POINTS = "r2u.unlearners"


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
    "no_op": no_op,
}


def find_method(name: str) -> UnlearnFunction:
    """Return the method of that name.

    Raises:
        DeclarationError: Nobody registered it; the message lists the known names.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    added = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name in added:
        method: UnlearnFunction = added[name].load()
        return method
    known = ", ".join(sorted({*BUILT_IN, *added}))
    raise DeclarationError("unlearning method", [f"unlearning.method: expected one of {known}"])
