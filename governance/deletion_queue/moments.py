"""Instants as the queue stores them: UTC, ISO 8601, six decimals; text order is time order."""

from __future__ import annotations

from datetime import UTC, datetime


def text(moment: datetime) -> str:
    """Return an instant as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def instant(stored: str) -> datetime:
    """Return the instant that was stored."""
    return datetime.fromisoformat(stored)


def maybe_instant(stored: str | None) -> datetime | None:
    """Return the instant that was stored, if one was."""
    return None if stored is None else datetime.fromisoformat(stored)
