"""Times of short pieces of work, and how fast this machine reads memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

__all__ = ["Laps", "percentiles", "read_bandwidth"]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p10, p50 and p90 of at least one value."""
    if len(values) == 1:
        return dict.fromkeys(("p10", "p50", "p90"), values[0])
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return {"p10": tenths[0], "p50": tenths[4], "p90": tenths[8]}


class Laps:
    """Milliseconds between marks. On a GPU the marks are events in its stream, not waits."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def mark(self) -> None:
        if self._gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def take(self) -> list[float]:
        """The laps since the last call; begins anew."""
        if self._gpu:
            torch.cuda.synchronize()
            events, self._events = self._events, []
            return [a.elapsed_time(b) for a, b in zip(events, events[1:], strict=False)]
        times, self._times = self._times, []
        return [(b - a) * 1000 for a, b in zip(times, times[1:], strict=False)]


def read_bandwidth(device: torch.device, quick: bool = False) -> float:
    """Bytes per second of reading a large tensor once, the best of several tries.

    The memory is far larger than any cache. On a CPU all threads of torch take part.
    """
    size = (64 if quick else 512) * 2**20 if device.type == "cpu" else 4 * 2**30
    data = torch.ones(size // 4, device=device)
    laps = Laps(device)
    best = _best(laps, lambda: data.sum(), tries=5 if quick else 20)
    return size / (best / 1000)


def _best(laps: Laps, work: Callable[[], object], tries: int) -> float:
    work()
    laps.take()
    times = []
    for _ in range(tries):
        laps.mark()
        work()
        laps.mark()
        times += laps.take()
    return min(times)
