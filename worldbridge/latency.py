"""Where the time between a sampled control and the picture that answers it goes.

Pure: every function is told the time, in milliseconds of the client's clock. The web page measures
by the same definitions (`engine_plugins/web/latency.js`), so that their figures can be compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worldbridge.bridge.protocol import FrameHeader

__all__ = ["LEGS", "ClockOffset", "LatencyMeter", "Sample", "legs_of", "percentiles"]

# In the order in which time passes. Together they are exactly shown - sampled.
LEGS: Final = ("uplink", "wait", "tokens", "pixels", "handover", "encode", "downlink", "show")
LEG_TEXT: Final = {
    "uplink": "control sampled -> gateway has it",
    "wait": "gateway has it -> the step that uses it starts",
    "tokens": "step starts -> tokens decoded",
    "pixels": "tokens decoded -> picture ready",
    "handover": "worker -> gateway",
    "encode": "picture -> compressed",
    "downlink": "compressed -> here",
    "show": "here -> decoded picture",
}
_MAX_PENDING = 1024


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99 by linear interpolation between the closest ranks; None for no values."""
    ranked = sorted(values)
    return {f"p{p}": _percentile(ranked, p / 100) for p in (50, 95, 99)}


def _percentile(ranked: Sequence[float], share: float) -> float | None:
    if not ranked:
        return None
    rank = (len(ranked) - 1) * share
    low = int(rank)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (rank - low)


class ClockOffset:
    """Client time - server time, from the round trip that took least among the last ones.

    Queueing only ever adds to a round trip, so the shortest is the most symmetric; the error is at
    most half of it.
    """

    def __init__(self, window: int = 30) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=window)  # (round trip, offset)

    def pong(self, sent: float, received: float, server_time: float) -> None:
        if received >= sent:
            self._samples.append((received - sent, (sent + received) / 2 - server_time))

    @property
    def offset(self) -> float | None:
        return min(self._samples)[1] if self._samples else None

    @property
    def shortest_round_trip(self) -> float | None:
        return min(self._samples)[0] if self._samples else None


@dataclass(frozen=True, slots=True)
class Sample:
    """One control snapshot that a shown frame answered. Milliseconds."""

    seq: int
    frame: int
    total: float
    legs: dict[str, float]


def legs_of(
    header: FrameHeader, sampled: float, received: float, shown: float, offset: float
) -> dict[str, float]:
    """The legs of one snapshot, in milliseconds; their sum is shown - sampled.

    A snapshot that a newer one overtook before the step has no arrival stamp of its own: it is
    given the newer one's uplink, and the rest of its time up to the step counts as waiting.
    """
    uplink = header.t_input + offset - header.input_time
    return {
        "uplink": uplink,
        "wait": header.t_latch + offset - (sampled + uplink),
        "tokens": header.t_tokens - header.t_latch,
        "pixels": header.t_pixels - header.t_tokens,
        "handover": header.t_gateway - header.t_pixels,
        "encode": header.t_encoded - header.t_gateway,
        "downlink": received - (header.t_encoded + offset),
        "show": shown - received,
    }


class LatencyMeter:
    """Input to photon of every snapshot: the first shown frame whose input_seq is at least its."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, float]] = deque(maxlen=_MAX_PENDING)  # (seq, sampled)
        self.samples: list[Sample] = []

    def sent(self, seq: int, sampled: float) -> None:
        self._pending.append((seq, sampled))

    def shown(
        self, header: FrameHeader, received: float, shown: float, offset: float | None
    ) -> None:
        while self._pending and self._pending[0][0] <= header.input_seq:
            seq, sampled = self._pending.popleft()
            if offset is not None:
                legs = legs_of(header, sampled, received, shown, offset)
                self.samples.append(Sample(seq, header.frame, shown - sampled, legs))
