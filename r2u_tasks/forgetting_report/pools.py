"""The pools O, U, R and R' of an evaluation: given, filled by training, or too small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from governance.errors import DataError, UnlearningError
from governance.forgetting import MIN_POOL
from r2u_tasks.data import Records
from r2u_tasks.forgetting_report.data import ForgettingData
from r2u_tasks.model import weights_digest
from r2u_tasks.seeding import derive_seed

Train = Callable[[Records, int], nn.Module]
"""``(records, seed)`` to a model trained from scratch on them; another seed, another model."""

Unlearn = Callable[[nn.Module, Records, Records], nn.Module]
"""``(original model, retained records, forget records)`` to an unlearned model."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a pool, models done and models wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPools:
    """Models by role; the first original and the first unlearned one are judged.

    Attributes:
        original: O, trained with the records.
        unlearned: U, made of O in the same order.
        retrained: R, trained without them.
        second_retrain: R', the same once more, with other seeds.
    """

    original: Sequence[nn.Module]
    unlearned: Sequence[nn.Module]
    retrained: Sequence[nn.Module]
    second_retrain: Sequence[nn.Module] = ()

    def require_distinct(self) -> None:
        """Refuse models that stand twice, whatever their pools.

        Raises:
            UnlearningError: There is no original or no unlearned model, or they are the same.
            DataError: Some other model stands twice: pools must be independent.
        """
        if not self.original or not self.unlearned:
            message = "models: expected at least one original and one unlearned model"
            raise UnlearningError(message)
        if weights_digest(self.original[0]) == weights_digest(self.unlearned[0]):
            message = "models: the unlearned model is the original: nothing changed"
            raise UnlearningError(message)
        every = [*self.original, *self.unlearned, *self.retrained, *self.second_retrain]
        digests = [weights_digest(model) for model in every]
        doubled = len(digests) - len(set(digests))
        if doubled:
            message = (
                f"models: {doubled} of {len(digests)} stand twice; every model of every pool must "
                "come from a training run of its own"
            )
            raise DataError(message)

    def split(self) -> ModelPools:
        """Return R' as the second half of R where none was given and there are enough."""
        half = len(self.retrained) // 2
        if self.second_retrain or half < MIN_POOL:
            return self
        return ModelPools(
            original=self.original,
            unlearned=self.unlearned,
            retrained=self.retrained[:half],
            second_retrain=self.retrained[half:],
        )

    def too_small(self) -> list[str]:
        """Return why no verdict can follow from these pools; none where one can."""
        named = (
            ("original models", self.original, MIN_POOL),
            ("retrained models", self.retrained, MIN_POOL),
            ("second retrained models", self.second_retrain, MIN_POOL),
        )
        short = [
            f"{len(pool)} {name} (at least {least})"
            for name, pool, least in named
            if len(pool) < least
        ]
        if not short:
            return []
        return [
            f"underpowered: got {', '.join(short)}. One retrained model says where a model would "
            "be without the records, but not how far two such models differ by chance",
            "give pools of models (16 or more of each is advised), or a way to train them",
        ]


def fill_pools(
    data: ForgettingData,
    pools: ModelPools,
    *,
    size: int,
    seed: int,
    train: Train | None,
    unlearn: Unlearn | None,
    progress: Progress | None = None,
) -> ModelPools:
    """Return pools of ``size`` models as far as somebody said how to make them.

    An original on which the method fails stays in U as it is: dropping it would choose successes.

    Args:
        data: Records.
        pools: What was given.
        size: Models of each pool.
        seed: Of all seeds.
        train: How to train; None leaves O, R and R' as they are.
        unlearn: How to unlearn; None leaves U as it is.
        progress: Called after each model.
    """

    def filled(role: str, given: Sequence[nn.Module], records: Records) -> list[nn.Module]:
        models = list(given)
        while train is not None and len(models) < size:
            models.append(train(records, derive_seed(seed, "evidence pool", role, len(models))))
            if progress is not None:
                progress(role, len(models), size)
        return models

    retain = data.retain
    originals = filled("original", pools.original, data.training)
    unlearned = list(pools.unlearned)
    while unlearn is not None and len(unlearned) < len(originals):
        model = originals[len(unlearned)]
        try:
            unlearned.append(unlearn(model, retain, data.forget))
        except UnlearningError:
            unlearned.append(model)
        if progress is not None:
            progress("unlearned", len(unlearned), len(originals))
    return ModelPools(
        original=originals,
        unlearned=unlearned,
        retrained=filled("retrained", pools.retrained, retain),
        second_retrain=filled("second retrain", pools.second_retrain, retain),
    ).split()
