"""Metrics for Prometheus, and the latency spans of a frame from input to photon."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from worldbridge.bridge.protocol import FrameHeader, FrameShown

_BUCKETS_MS: Final = (0.5, 1, 2, 4, 8, 16, 33, 50, 67, 100, 150, 200, 300, 500, 1000, 2000)


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
            "worldbridge_frames", "Frames by their fate", ["fate"], registry=self._registry
        )
        self.errors = Counter(
            "worldbridge_errors", "Errors sent to clients", ["code"], registry=self._registry
        )
        self.spans = Histogram(
            "worldbridge_span_ms",
            "Milliseconds of each latency span from input to photon",
            ["span"],
            buckets=_BUCKETS_MS,
            registry=self._registry,
        )

    def observe(self, spans: dict[str, float]) -> None:
        for name, value in spans.items():
            # a clock offset is an estimate: it may put an arrival slightly before the departure
            self.spans.labels(name).observe(max(0.0, value))

    def text(self) -> bytes:
        return generate_latest(self._registry)
