"""Vocabularies of data categories: dotted keys, one versioned file for each release.

A policy names the release that it was written against; a key that the release does not have is a
mistake, because ``category_under`` would silently never match.

Source: Fideslang (Ethyca, CC BY 4.0), keys of the data categories only.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

import yaml

_FOLDER = Path(__file__).parent / "vocabularies"

DEFAULT = "fideslang-3.1.4"
"""Vocabulary of a policy that names none."""


def known_vocabularies() -> tuple[str, ...]:
    """Return the names of the vocabularies that ship with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


@cache
def load_categories(name: str) -> frozenset[str]:
    """Return the category keys of a known vocabulary."""
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return frozenset(content["categories"])


def category_problem(key: str, vocabulary: str) -> str | None:
    """Say what is wrong with a category key, and which known key is closest.

    >>> category_problem("user.contact.email", "fideslang-3.1.4")
    >>> category_problem("user.contact.emial", "fideslang-3.1.4")
    "expected a key of fideslang-3.1.4 (closest: user.contact.email), got 'user.contact.emial'"
    """
    categories = load_categories(vocabulary)
    if key in categories:
        return None
    close = difflib.get_close_matches(key, sorted(categories), n=1)
    hint = f" (closest: {close[0]})" if close else ""
    return f"expected a key of {vocabulary}{hint}, got '{key}'"
