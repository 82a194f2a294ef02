"""What `/metrics` shows, in Prometheus' format. Every label has a fixed, small set of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from worldbridge.bridge.protocol import Role, Seats

__all__ = ["Metrics"]

_MOST_MS: Final = 60_000.0
_SPAN_BUCKETS_MS: Final = (*(0.5, 1, 2, 4, 8, 16, 33, 50, 67, 100, 150, 200, 300, 500, 1000, 2000),)
_LOOP_BUCKETS_MS: Final = (1, 2, 4, 8, 16, 33, 67, 133, 267, 533, 1067)


class Metrics:
    """One registry per gateway: nothing is shared between gateways of a process."""

    def __init__(self, server: str = "worldbridge") -> None:
        self._registry = registry = CollectorRegistry()
        Info("worldbridge_server", "Name and version", registry=registry).info({"server": server})
        self.clients = Gauge(
            "worldbridge_clients", "Connected clients", ["role"], registry=registry
        )
        for role in get_args(Role):
            self.clients.labels(role)
        self.sessions = Gauge(
            "worldbridge_sessions", "Sessions that are kept for players", registry=registry
        )
        self._seats = Gauge(
            "worldbridge_seats", "Seats that are used, and all", ["state"], registry=registry
        )
        self.worker_up = Gauge(
            "worldbridge_worker_up", "1 while the worker answers", registry=registry
        )
        self.frames = Counter(
            "worldbridge_frames", "Frames of the worker by their fate", ["fate"], registry=registry
        )
        self._sent = Counter(
            "worldbridge_frames_sent", "Frames sent to clients", ["transport"], registry=registry
        )
        self._skipped = Counter(
            "worldbridge_frames_skipped",
            "Frames that a client did not get because a newer one replaced them",
            ["transport"],
            registry=registry,
        )
        self.errors = Counter(
            "worldbridge_errors", "Errors sent to clients", ["code"], registry=registry
        )
        self.spans = Histogram(
            "worldbridge_span_ms",
            "Milliseconds of each latency span from input to photon",
            ["span"],
            buckets=_SPAN_BUCKETS_MS,
            registry=registry,
        )
        self._out_of_range = Counter(
            "worldbridge_spans_out_of_range",
            "Latency spans of more than a minute, which are not counted",
            registry=registry,
        )
        self._loop_delay = Histogram(
            "worldbridge_event_loop_delay_ms",
            "Milliseconds by which the gateway's event loop ran late",
            buckets=_LOOP_BUCKETS_MS,
            registry=registry,
        )
        ProcessCollector(registry=registry)

    def follow_seats(self, seats: Callable[[], Seats]) -> None:
        """Ask for the seats at every scrape."""
        self._seats.labels("used").set_function(lambda: seats().used)
        self._seats.labels("total").set_function(lambda: seats().total)

    def observe(self, spans: dict[str, float]) -> None:
        for name, value in spans.items():
            if not value <= _MOST_MS:  # a report of nonsense would spoil the sums
                self._out_of_range.inc()
                continue
            # a clock offset is an estimate: it may put an arrival slightly before the departure
            self.spans.labels(name).observe(max(0.0, value))

    def frame_sent(self, transport: str, skipped: int) -> None:
        """Count a frame that was sent, and those that were skipped since the one before."""
        self._sent.labels(transport).inc()
        if skipped > 0:
            self._skipped.labels(transport).inc(skipped)

    def ticked(self, late_ms: float) -> None:
        """Count by how much a tick of the event loop was late."""
        self._loop_delay.observe(max(0.0, late_ms))

    def text(self) -> bytes:
        return generate_latest(self._registry)
