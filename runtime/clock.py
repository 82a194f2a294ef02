"""The clock of everything that is timed, the same as the gateway's: processes of one host share
CLOCK_MONOTONIC."""

from __future__ import annotations

import time

__all__ = ["now_ms"]


def now_ms() -> float:
    """Milliseconds of the monotonic clock."""
    return time.monotonic() * 1000
