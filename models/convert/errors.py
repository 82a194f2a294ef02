"""Why a checkpoint cannot be converted."""

from __future__ import annotations

__all__ = ["ConvertError"]


class ConvertError(ValueError):
    """A source that is not what it should be; nothing has been written when it is raised."""

    def __init__(self, message: str, *, expected: str, got: str, remedy: str) -> None:
        super().__init__(f"{message}: expected {expected}, got {got}; {remedy}")
        self.message, self.expected, self.got, self.remedy = message, expected, got, remedy
