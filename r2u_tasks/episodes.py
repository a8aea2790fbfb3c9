"""Simulated requests: which records each meta-step forgets, keeps and relearns.

With ``fixed`` episodes the request is always for the revocable records. With ``records`` or
``classes`` each episode draws another part of them, and what it leaves is kept with the stable
records: the model is prepared for requests that nobody knows while it is trained.

Everything is drawn from the segment's seed, so a repeated segment simulates the same requests.
"""

from __future__ import annotations

import numpy as np
import torch

from governance.errors import DataError
from r2u_tasks.config import Episodes, ReadinessConfig
from r2u_tasks.data import BatchStream, Records
from r2u_tasks.functional_loss import Batch
from r2u_tasks.readiness_terms import ReadinessBatches
from r2u_tasks.seeding import derive_seed


class SimulatedRequests:
    """Endless meta-batches of one segment."""

    def __init__(
        self,
        records: Records,
        *,
        revocable: np.ndarray,
        stable: np.ndarray,
        config: ReadinessConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        """Prepare the requests.

        Args:
            records: All training records.
            revocable: Indices of the records that a request may ask for.
            stable: Indices of the other records that the segment sees.
            config: Kind and length of the episodes, inner steps.
            batch_size: Records in a batch, at most; half of the request if that is less.
            seed: Of this segment.

        Raises:
            DataError: Episodes of classes on records without one label each.
        """
        if config.episodes is Episodes.CLASSES and records.labels.ndim != 1:
            message = "readiness.episodes: expected one label for each record with 'classes'"
            raise DataError(message)
        self._records = records
        self._revocable = revocable
        self._stable = stable
        self._config = config
        self._batch_size = config.batch_size or batch_size
        self._seed = seed
        self._generator = np.random.default_rng(derive_seed(seed, "episodes"))
        self._n_drawn = 0
        if self.is_possible and config.episodes is Episodes.FIXED:
            self._open_streams(revocable, stable)

    @property
    def is_possible(self) -> bool:
        """Whether there is a record to forget, another to check it on, and one to keep."""
        if self._config.episodes is Episodes.FIXED:
            return len(self._revocable) > 1 and len(self._stable) > 0
        if self._config.episodes is Episodes.CLASSES:
            labels = self._records.labels.numpy()[self._revocable]
            return bool(len(labels)) and len(set(labels.tolist())) + len(self._stable) > 1
        return len(self._revocable) > 3

    def next(self) -> ReadinessBatches:
        """Return the batches of one meta-step."""
        is_episodic = self._config.episodes is not Episodes.FIXED
        if is_episodic and self._n_drawn % self._config.episode_steps == 0:
            self._open_streams(*self._draw_request())
        self._n_drawn += 1
        return ReadinessBatches(
            inner=[self._take(self._forget) for _ in range(self._config.inner_steps)],
            forget=self._take(self._forget),
            retain=self._take(self._retain),
            relearn=self._take(self._relearn),
        )

    def _draw_request(self) -> tuple[np.ndarray, np.ndarray]:
        if self._config.episodes is Episodes.CLASSES:
            labels = self._records.labels.numpy()[self._revocable]
            chosen = labels == self._generator.choice(np.unique(labels))
        else:
            size = max(2, round(len(self._revocable) * self._config.episode_fraction))
            picked = self._generator.permutation(len(self._revocable))[:size]
            chosen = np.isin(np.arange(len(self._revocable)), picked)
        kept = np.concatenate([self._stable, self._revocable[~chosen]])
        return self._revocable[chosen], kept

    def _open_streams(self, request: np.ndarray, kept: np.ndarray) -> None:
        size = max(1, min(self._batch_size, len(request) // 2))
        seed = derive_seed(self._seed, self._n_drawn) if self._n_drawn else self._seed
        self._forget = BatchStream(torch.from_numpy(request), size, seed, "forget")
        self._retain = BatchStream(torch.from_numpy(kept), size, seed, "retain")
        self._relearn = BatchStream(torch.from_numpy(kept), size, seed, "relearn")

    def _take(self, stream: BatchStream) -> Batch:
        index = stream.next()
        return self._records.inputs[index], self._records.labels[index]
