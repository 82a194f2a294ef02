"""Latency spans from a control to the frame that answers it. Pure: no clock is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from worldbridge.bridge.protocol import FrameHeader

# In the order in which they pass, and from where to where each of them leads.
SPANS: Final = MappingProxyType(
    {
        "uplink": "control sampled -> gateway has it",
        "wait": "gateway has it -> step that uses it",
        "tokens": "step starts -> tokens decoded",
        "detokenize": "tokens decoded -> frame ready",
        "handover": "worker -> gateway",
        "encode": "frame -> compressed",
        "downlink": "compressed -> here",
        "show": "here -> decoded frame",
    }
)


class ClockOffset:
    """Client time minus server time, from the quickest of the last pings.

    Queues only ever add to a round trip, so the quickest one is the most symmetric; the offset is
    wrong by half its round trip at most.
    """

    def __init__(self, window: int = 32) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=window)  # (round trip, offset)

    def add(self, sent_ms: float, received_ms: float, server_ms: float) -> None:
        round_trip = received_ms - sent_ms
        if round_trip >= 0:
            self._samples.append((round_trip, (sent_ms + received_ms) / 2 - server_ms))

    @property
    def offset_ms(self) -> float | None:
        return min(self._samples)[1] if self._samples else None

    @property
    def round_trip_ms(self) -> float | None:
        return min(self._samples)[0] if self._samples else None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame at the client: client-clock milliseconds, and the offset to the server's clock."""

    header: FrameHeader
    received_ms: float
    shown_ms: float
    offset_ms: float


def spans(sampled_ms: float, arrival: Arrival) -> dict[str, float]:
    """Return the ms of each span from sampling a control to showing a frame that answers it.

    The frame may answer a newer control than this one; the way up is then measured on that newer
    one, and the rest is waiting. The spans add up to `shown_ms - sampled_ms` exactly.
    """
    header, offset = arrival.header, arrival.offset_ms
    uplink = header.t_input - (header.input_time - offset)
    return {
        "uplink": uplink,
        "wait": header.t_controls - (sampled_ms - offset + uplink),
        "tokens": header.t_tokens - header.t_controls,
        "detokenize": header.t_frame - header.t_tokens,
        "handover": header.t_gateway - header.t_frame,
        "encode": header.t_encoded - header.t_gateway,
        "downlink": arrival.received_ms - offset - header.t_encoded,
        "show": arrival.shown_ms - arrival.received_ms,
    }


class InputToPhoton:
    """Matches every control that was sent with the first shown frame that answers it."""

    def __init__(self, max_pending: int = 4096) -> None:
        self._pending: deque[tuple[int, float]] = deque(maxlen=max_pending)
        self.samples: list[dict[str, float]] = []
        self.sampled_ms: list[float] = []  # when the control of each sample was read

    def sent(self, sequence: int, sampled_ms: float) -> None:
        self._pending.append((sequence, sampled_ms))

    def shown(self, arrival: Arrival) -> None:
        while self._pending and self._pending[0][0] <= arrival.header.input_sequence:
            _, sampled_ms = self._pending.popleft()
            self.samples.append(spans(sampled_ms, arrival))
            self.sampled_ms.append(sampled_ms)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, interpolated between ranks. Raises ValueError for no values."""
    if not values:
        raise ValueError("percentiles need at least one value, got none")
    ranked = sorted(values)
    return {f"p{share}": _at(ranked, share / 100) for share in (50, 95, 99)}


def _at(ranked: Sequence[float], share: float) -> float:
    place = share * (len(ranked) - 1)
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)
