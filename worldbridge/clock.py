"""The clock of everything that is timed. A leaf, like `errors`: any package may import it.

CLOCK_MONOTONIC is shared by all processes of one host, so the gateway and its workers compare
times without exchanging offsets.
"""

from __future__ import annotations

import time

__all__ = ["now_ms"]


def now_ms() -> float:
    """Return the milliseconds of the monotonic clock."""
    return time.monotonic() * 1000.0
