"""The records of an evaluation, and everything that must hold of them before a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from governance.errors import DataError
from r2u_tasks.data import Records


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgettingData:
    """Records of one evaluation.

    Attributes:
        training: All records that the original was trained on; classes ``[B]`` or tokens
            ``[B, T]`` as labels.
        forget_ids: Ids of those to forget, all in ``training``.
        test: Records that no model was trained on.
        high_risk_ids: Of the forget records, to be looked at by themselves.
        canary_ids: Of the forget records: planted to be memorised.
    """

    training: Records
    forget_ids: Sequence[str]
    test: Records
    high_risk_ids: Sequence[str] = ()
    canary_ids: Sequence[str] = ()

    @property
    def forget(self) -> Records:
        """Records to forget."""
        return self.training.select(self._mask(self.training.ids, self.forget_ids))

    @property
    def retain(self) -> Records:
        """Records that stay."""
        return self.training.select(~self._mask(self.training.ids, self.forget_ids))

    def forget_mask(self, ids: Sequence[str]) -> np.ndarray:
        """Return which of the forget records have one of these ids, ``[n]``."""
        return self._mask(self.forget.ids, ids)

    def require_sound(self) -> None:
        """Refuse what would make a verdict about something else.

        Raises:
            DataError: An id that is unknown, stands twice or is also in the test records; nothing
                to forget, to keep or to test. All problems at once, as counts and never as ids.
        """
        ids, forget_ids = self.training.ids, list(self.forget_ids)
        problems = []
        if len(set(ids.tolist())) != len(ids):
            problems.append("training records: an id stands twice")
        shared = int(np.isin(self.test.ids, ids).sum())
        if shared:
            problems.append(f"test records: {shared} of them are training records")
        for name, asked, among, where in (
            ("forget ids", forget_ids, ids.tolist(), "the training records"),
            ("high-risk ids", self.high_risk_ids, forget_ids, "the forget ids"),
            ("canary ids", self.canary_ids, forget_ids, "the forget ids"),
        ):
            unknown = len(set(asked) - set(among))
            if unknown:
                problems.append(f"{name}: {unknown} of {len(asked)} are unknown to {where}")
        for name, n in (
            ("forget ids", len(forget_ids)),
            ("test records", len(self.test)),
            ("retained records", len(self.retain)),
        ):
            if n == 0:
                problems.append(f"{name}: expected at least one, got none")
        if problems:
            message = "; ".join(problems) + "; there is no verdict about unknown records"
            raise DataError(message)

    @staticmethod
    def _mask(ids: np.ndarray, wanted: Sequence[str]) -> np.ndarray:
        return np.isin(ids.astype(str), np.asarray(list(wanted), dtype=str))
