"""Times of short pieces of work, cold launches on a GPU, and memory bandwidth.

A launch of ten microseconds costs the host as much to make, so `ColdLaunches` records many in a
CUDA graph and replays it, as decoding does. Each has its own operands: between two uses of the same
memory more than `_COLD` times the size of the cache is read, or the cache is flushed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

__all__ = ["ColdLaunches", "Laps", "copies_for", "percentiles", "read_bandwidth", "rotated"]

_COLD = 5  # times the L2 cache
_MOST = 64  # sets of operands; small ones are flushed from the cache instead
_LEAST_LAUNCHES = 8  # of a graph: starting one takes a few percent of a large product
_WARM_UP = 3


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p10, p50 and p90 of at least one value."""
    if len(values) == 1:
        return dict.fromkeys(("p10", "p50", "p90"), values[0])
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return {"p10": tenths[0], "p50": tenths[4], "p90": tenths[8]}


class Laps:
    """Measure milliseconds between marks. On a GPU a mark is an event in the stream, not a wait."""

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
        """Return the laps since the last call and start again."""
        if self._gpu:
            torch.cuda.synchronize()
            events, self._events = self._events, []
            return [a.elapsed_time(b) for a, b in zip(events, events[1:], strict=False)]
        times, self._times = self._times, []
        return [(b - a) * 1000 for a, b in zip(times, times[1:], strict=False)]


def read_bandwidth(device: torch.device, quick: bool = False) -> float:
    """Return the bytes per second of reading a large tensor once, the best of several tries.

    The tensor is far larger than any cache. On a CPU all threads of torch take part.
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


def copies_for(bytes_moved: int, cache: int) -> int:
    """Return how many sets of operands it takes until the first one has left the cache."""
    return min(_MOST, 1 + -(-_COLD * cache // max(1, bytes_moved)))


def rotated(launches: Sequence[Callable[[], object]]) -> list[Callable[[], object]]:
    """Repeat the launches in whole rounds until there are enough of them for a graph.

    All other sets lie between two uses of one set, also from one replay to the next.
    """
    return list(launches) * -(-_LEAST_LAUNCHES // len(launches))


class ColdLaunches:
    """Time launches that do the same work on different memory."""

    def __init__(self, device: torch.device, bytes_moved: int, samples: int) -> None:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.copies = copies_for(bytes_moved, cache)
        self._samples = samples
        self.launches = self.copies  # of the newest graph
        self._flush: torch.Tensor | None = None
        if (self.copies - 1) * bytes_moved < _COLD * cache:
            self._flush = torch.ones((_COLD + 1) * cache // 4, device=device)

    def time(self, launches: Sequence[Callable[[], object]]) -> dict[str, float]:
        """Return p10, p50 and p90 in ms of one launch; each sample is a mean over a graph."""
        if self._flush is None:  # after a flush, a second round would find the cache warm
            launches = rotated(launches)
        graph = self._record(launches)
        self.launches = len(launches)
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(2 * self._samples)]
        for sample in range(-_WARM_UP, self._samples):
            if self._flush is not None:
                self._flush.sum()  # reading leaves nothing that has to be written back later
            if sample >= 0:
                ends[2 * sample].record()
            graph.replay()
            if sample >= 0:
                ends[2 * sample + 1].record()
        torch.cuda.synchronize()
        pairs = zip(ends[::2], ends[1::2], strict=True)
        return percentiles([a.elapsed_time(b) / len(launches) for a, b in pairs])

    def _record(self, launches: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
        """Record a graph, after a warm-up on a side stream, which recording requires."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for launch in launches:
                launch()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for launch in launches:
                launch()
        return graph
