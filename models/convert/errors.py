"""Why a checkpoint cannot be converted."""

from __future__ import annotations

from worldbridge.models.errors import InputError

__all__ = ["ConvertError"]


class ConvertError(InputError):
    """A source that is not what it should be; nothing has been written when it is raised."""
