"""Seeds: every random choice is derived from the run's seed and the name of what it is for.

So the order in which things happen does not change what they draw, and a segment of training that
is replayed alone draws what it drew in the whole run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for one named purpose.

    >>> derive_seed(0, "init") == derive_seed(0, "init") != derive_seed(1, "init")
    True
    """
    text = "\x00".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for one named purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Seed torch's global generator (initialisation, dropout) and put the old state back."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, *names))
        yield
