"""When frames should arrive so that they wait as little as can be for the display's refresh.

A display shows new pictures at its refreshes only. A frame that arrives just after one waits for
almost a whole period, and a frame that was meant for one and comes late misses it. From the waits
that a client reports, this says by how much the frames of its session should come later, so that
they arrive a little before a refresh. Pure: no clocks.
"""

from __future__ import annotations

import cmath
import math
from typing import Final

__all__ = ["VsyncAligner"]

_REPORTS: Final = 10  # waits that one judgement needs
_STEADY: Final = 0.5  # concentration (1: all alike) below which frames have no common phase
_EXACT_MS: Final = 0.75  # a smaller correction is not worth making
_FIRST_TARGET_MS: Final = 5.0  # receiving and decoding take some of it
_LEAST_TARGET_MS: Final = 2.0
_MOST_TARGET: Final = 0.6  # of the refresh period
_LATE_SHARE: Final = 0.05  # of the frames may miss the refresh they were meant for
_RAISE_MS: Final = 1.0
_LOWER_MS: Final = 0.1
_SETTLED_MS: Final = 2.5


class VsyncAligner:
    """Of one player. `seen` takes every reported frame and now and then asks for a shift."""

    def __init__(self) -> None:
        self.target_ms = _FIRST_TARGET_MS
        self._waits: list[float] = []
        self._skip = 0

    def seen(self, wait_ms: float, refresh_ms: float) -> float | None:
        """How many ms later (negative: earlier) frames should come from now on, if anything.

        `wait_ms`: from a frame's arrival at the client to the refresh that showed it.
        """
        if not 0.0 <= wait_ms <= 4 * refresh_ms:  # a page in the background, a stalled client
            return None
        if self._skip:
            self._skip -= 1
            return None
        self._waits.append(wait_ms)
        if len(self._waits) < _REPORTS:
            return None
        waits, self._waits = self._waits, []
        return self._judge(waits, refresh_ms)

    def _judge(self, waits: list[float], refresh_ms: float) -> float | None:
        # Waits are a circle: one just above nothing and one just below a period are neighbours.
        turns = [cmath.exp(2j * math.pi * wait / refresh_ms) for wait in waits]
        mean = sum(turns) / len(turns)
        if abs(mean) < _STEADY:
            return None
        phase = cmath.phase(mean) / (2 * math.pi) * refresh_ms
        most = _MOST_TARGET * refresh_ms
        error = math.remainder(phase - self.target_ms, refresh_ms)
        if abs(error) < _SETTLED_MS:  # only then is a long wait a refresh missed
            late = sum(wait > self.target_ms + refresh_ms / 2 for wait in waits)
            self.target_ms += _RAISE_MS if late > _LATE_SHARE * len(waits) else -_LOWER_MS
        self.target_ms = max(min(self.target_ms, most), min(_LEAST_TARGET_MS, most))
        if abs(error) < _EXACT_MS:
            return None
        self._skip = _REPORTS  # it takes the frames a while to get there
        return error
