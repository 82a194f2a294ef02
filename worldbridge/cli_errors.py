"""What commands tell besides their results."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from worldbridge.errors import StartError

if TYPE_CHECKING:
    from worldbridge.runtime.errors import WorldError

__all__ = ["as_start_error", "tell"]


def tell(stage: str, fraction: float) -> None:
    """Progress where standard error is not a terminal."""
    print(f"{stage}: {fraction:4.0%}", file=sys.stderr)


def as_start_error(error: WorldError) -> StartError:
    """A WorldError of the runtime, as what ends a command."""
    told = StartError(
        error.message, expected=error.expected, got=error.got, remedy=error.remedy
    )
    told.exit_code = error.exit_code
    return told
