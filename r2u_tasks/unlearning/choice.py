"""``auto``: try the cheap methods and take the one that comes nearest at the least loss."""

from __future__ import annotations

import math

from torch import nn

from governance.errors import UnlearningError
from r2u_tasks.config import UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.unlearning.ascent import neg_grad_plus, npo
from r2u_tasks.unlearning.contract import (
    TOLERANCE_NATS,
    UnlearnedModel,
    UnlearnFunction,
    run_unlearning,
    staying,
)
from r2u_tasks.unlearning.relabeling import salun
from r2u_tasks.unlearning.scores import score_records
from r2u_tasks.unlearning.scrub import scrub

CHEAP: tuple[UnlearnFunction, ...] = (neg_grad_plus, npo, salun, scrub)
"""Methods that take a handful of batches and look at retained records too, in order of trial."""


def auto(
    model: nn.Module,
    retain: Records,
    forget: Records,
    validation: Records,
    *,
    config: UnlearningConfig,
) -> UnlearnedModel:
    """Return the best result of the cheap methods.

    The rule: of those that come within ``TOLERANCE_NATS`` of the level, the one with the highest
    accuracy on validation records of classes that stay; if none does, the nearest to the level. The
    first tried wins a tie. A method that changed nothing, diverged or collapsed is left out.

    Raises:
        UnlearningError: All of them failed; the message has every reason.
    """
    watched = staying(validation, retain)
    done: list[tuple[tuple[float, float], UnlearnedModel]] = []
    problems = []
    for method in CHEAP:
        try:
            result = run_unlearning(method, model, retain, forget, validation, config=config)
        except UnlearningError as error:
            problems.append(str(error))
            continue
        missing = abs(final_distance(result))
        lost = -score_records(result.model, watched).accuracy
        done.append(((0.0 if missing <= TOLERANCE_NATS else missing, lost), result))
    if not done:
        raise UnlearningError("auto: no method forgot; " + "; ".join(problems))
    best = min(done, key=lambda pair: pair[0])[1]
    best.stopped_because = f"{best.method}: {best.stopped_because}"
    best.method = f"auto:{best.method}"
    return best


def final_distance(result: UnlearnedModel) -> float:
    """Return how far the returned model's forget margins are above the level, in nats."""
    found = [entry.distance for entry in result.curve if entry.step == result.steps]
    return found[-1] if found else math.inf
