"""Whether a time that is measured now says something about the program."""

from __future__ import annotations

import time
from pathlib import Path

_LEAST_IDLE = 0.4


def busy(patience_s: float = 30.0) -> str | None:
    """Why not: others compute on most of the cores, and go on with it. None on a quiet machine.

    The load average would also know of the tests that have just ended; what these have left to do,
    such as a process that starts again, is over in a moment.
    """
    deadline = time.monotonic() + patience_s
    while (idle := _idle(1.0)) < _LEAST_IDLE:
        if time.monotonic() > deadline:
            return f"only {idle:.0%} of the processor is idle"
    return None


def _idle(seconds: float) -> float:
    """Share of all cores' time from now on."""
    before = _times()
    time.sleep(seconds)
    spent = [b - a for a, b in zip(before, _times(), strict=True)]
    return (spent[3] + spent[4]) / max(1, sum(spent[:8]))


def _times() -> list[int]:
    """Ticks of all cores: user, nice, system, idle, waiting, ... (man 5 proc_stat)."""
    return [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
