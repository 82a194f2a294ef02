"""The one clock of the server: CLOCK_MONOTONIC, shared by all processes of one host."""

from __future__ import annotations

import time


def now_ms() -> float:
    """Milliseconds of the monotonic clock."""
    return time.monotonic() * 1000.0
