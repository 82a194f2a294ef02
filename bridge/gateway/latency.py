"""What the gateway learns from clients' reports: latency spans and vsync alignment.

A display shows new frames at its refreshes only. A frame that arrives just after one waits for
almost a whole period, and a frame that was meant for one and is late misses it. From the waits
that a client reports, `VsyncAligner` computes by how much the frames of its session should be
later, so that they arrive a little before a refresh. Pure: no clocks.
"""

from __future__ import annotations

import cmath
import math
from typing import Final

from worldbridge.bridge.protocol import FrameHeader, FrameShown

__all__ = ["VsyncAligner", "client_spans", "server_spans"]

_REPORTS: Final = 10  # waits that one judgement needs
_STEADY: Final = 0.5  # concentration (1: all alike) below which frames have no common phase
_EXACT_MS: Final = 0.4  # a smaller correction is not worth making
_FIRST_TARGET_MS: Final = 5.0  # receiving and decoding take some of it
_LEAST_TARGET_MS: Final = 2.0
_MOST_TARGET: Final = 0.6  # of the refresh period
_LATE_SHARE: Final = 0.05  # of the frames may miss the refresh they were meant for
_RAISE_MS: Final = 0.7
_LOWER_MS: Final = 0.05
_SETTLED_MS: Final = 2.5


def server_spans(header: FrameHeader) -> dict[str, float]:
    """Return the ms of each span inside the server. They add up to t_sent - t_input."""
    return {
        "wait": header.t_controls - header.t_input,
        "tokens": header.t_tokens - header.t_controls,
        "detokenize": header.t_frame - header.t_tokens,
        "handover": header.t_gateway - header.t_frame,
        "encode": header.t_encoded - header.t_gateway,
        "send": header.t_sent - header.t_encoded,
    }


def client_spans(header: FrameHeader, shown: FrameShown) -> dict[str, float]:
    """Return the ms of each span outside the server. The client's offset relates the clocks."""
    spans = {"show": shown.shown - shown.received, "total": shown.shown - header.input_time}
    if shown.offset is not None:
        spans["uplink"] = header.t_input - (header.input_time - shown.offset)
        spans["downlink"] = (shown.received - shown.offset) - header.t_sent
    return spans


class VsyncAligner:
    """Aligns one player's frames. `seen` takes every report and sometimes asks for a shift."""

    def __init__(self) -> None:
        self.target_ms = _FIRST_TARGET_MS
        self._waits: list[float] = []
        self._skip = 0

    def seen(self, wait_ms: float, refresh_ms: float) -> float | None:
        """Return how many ms later (negative: earlier) frames should arrive, or None for no change.

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
