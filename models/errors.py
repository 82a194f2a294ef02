"""What the models say of input they cannot take: what was expected, what came, what to do."""

from __future__ import annotations

from typing import Protocol, Self

__all__ = ["InputError", "Told"]


class Told(Protocol):
    """Any error of ours, on whichever side of a process or package it was raised."""

    message: str
    expected: str
    got: str
    remedy: str


class InputError(ValueError):
    """Base of the errors below `models/`; nothing was computed or written when one is raised."""

    def __init__(self, message: str, *, expected: str, got: str, remedy: str) -> None:
        super().__init__(f"{message}: expected {expected}, got {got}; {remedy}")
        self.message, self.expected, self.got, self.remedy = message, expected, got, remedy

    @classmethod
    def of(cls, error: Told) -> Self:
        """The same report as another kind of error."""
        return cls(error.message, expected=error.expected, got=error.got, remedy=error.remedy)
