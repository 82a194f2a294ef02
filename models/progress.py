"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, float], None]  # what is being done, share of the whole


def silent(stage: str, share: float) -> None:
    """For callers who do not watch."""
