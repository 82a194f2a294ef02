"""Numbers for Prometheus, and the legs of a frame's way from a player's thumb to their eye."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from worldbridge.bridge.protocol import FrameHeader, FrameShown

_BUCKETS_MS: Final = (0.5, 1, 2, 4, 8, 16, 33, 50, 67, 100, 150, 200, 300, 500, 1000, 2000)


def server_legs(header: FrameHeader) -> dict[str, float]:
    """Milliseconds of each leg inside the server; they add up to t_sent - t_input."""
    return {
        "wait": header.t_latch - header.t_input,
        "tokens": header.t_tokens - header.t_latch,
        "pixels": header.t_pixels - header.t_tokens,
        "handover": header.t_gateway - header.t_pixels,
        "encode": header.t_encoded - header.t_gateway,
        "send": header.t_sent - header.t_encoded,
    }


def client_legs(header: FrameHeader, shown: FrameShown) -> dict[str, float]:
    """Milliseconds of the legs outside the server; clocks are related by the client's offset."""
    legs = {"show": shown.shown - shown.received, "total": shown.shown - header.input_time}
    if shown.offset is not None:
        legs["uplink"] = header.t_input - (header.input_time - shown.offset)
        legs["downlink"] = (shown.received - shown.offset) - header.t_sent
    return legs


class Metrics:
    """One registry per gateway: nothing is shared between gateways of a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.clients = Gauge(
            "worldbridge_clients", "Connected clients", ["role"], registry=self._registry
        )
        self.sessions = Gauge(
            "worldbridge_sessions", "Worlds that are kept for players", registry=self._registry
        )
        self.worker_up = Gauge(
            "worldbridge_worker_up", "1 while the worker answers", registry=self._registry
        )
        self.frames = Counter(
            "worldbridge_frames", "Frames by what became of them", ["fate"], registry=self._registry
        )
        self.errors = Counter(
            "worldbridge_errors", "Errors told to clients", ["code"], registry=self._registry
        )
        self.legs = Histogram(
            "worldbridge_leg_ms",
            "Milliseconds of each leg from input to photon",
            ["leg"],
            buckets=_BUCKETS_MS,
            registry=self._registry,
        )

    def observe(self, legs: dict[str, float]) -> None:
        for name, value in legs.items():
            # a clock offset is an estimate: it may put an arrival slightly before the departure
            self.legs.labels(name).observe(max(0.0, value))

    def text(self) -> bytes:
        return generate_latest(self._registry)
