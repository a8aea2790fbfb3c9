"""How much is trained, and the settings of the gate: the defaults of a declaration."""

from __future__ import annotations

from dataclasses import dataclass

ERROR_LEVEL = 0.05
MAX_ACCURACY_DROP = 0.02
ONE_RECORD_CANDIDATES = 5
"""Retrains without one record that are candidates in turn."""


@dataclass(frozen=True)
class Sizes:
    """How many models.

    Attributes:
        pool: Of each of O, R, R' and U.
        repeats: For each request.
        requests: Even.
        one_record: Requests of which the first record is also asked for alone.
    """

    pool: int = 12
    repeats: int = 13
    requests: int = 4
    one_record: int = 1

    @property
    def drawn(self) -> int:
        """Models that R, R' and U are drawn from."""
        return 3 * self.pool

    @property
    def candidates(self) -> int:
        """Candidates of each request."""
        return self.repeats

    @property
    def one_record_repeats(self) -> int:
        """Repeats for each request of one record: as many in all as of the others."""
        return self.repeats * self.requests // self.one_record
