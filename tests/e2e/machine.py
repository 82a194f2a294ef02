"""Whether a time that is measured now says something about the program."""

from __future__ import annotations

import time
from pathlib import Path

_LEAST_IDLE = 0.4


def busy(seconds: float = 1.0) -> str | None:
    """Why not: others compute on most of the cores, at this moment. None on a quiet machine.

    The load average would also know of the tests that have just ended.
    """
    before = _times()
    time.sleep(seconds)
    spent = [b - a for a, b in zip(before, _times(), strict=True)]
    idle = (spent[3] + spent[4]) / max(1, sum(spent[:8]))
    return f"only {idle:.0%} of the processor is idle" if idle < _LEAST_IDLE else None


def _times() -> list[int]:
    """Ticks of all cores: user, nice, system, idle, waiting, ... (man 5 proc_stat)."""
    return [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
