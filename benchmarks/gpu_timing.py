"""Times of single launches on a GPU, with operands that are not in its cache.

A launch of ten microseconds costs the host as much to make, so many are recorded in a CUDA graph
and replayed, as decoding does. Each of them has operands of its own: between two uses of the same
memory more than `_COLD` times the cache's size is read, or the cache is flushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from worldbridge.benchmarks.timing import percentiles

__all__ = ["ColdLaunches", "copies_for", "rotated"]

_COLD = 5  # times the L2 cache
_MOST = 64  # sets of operands; small ones are flushed from the cache instead
_LEAST_LAUNCHES = 8  # of a graph: the start of one takes as long as some percent of a large product
_WARM_UP = 3


def copies_for(bytes_moved: int, cache: int) -> int:
    """How many sets of operands are needed until one has left the cache again."""
    return min(_MOST, 1 + -(-_COLD * cache // max(1, bytes_moved)))


def rotated(launches: Sequence[Callable[[], object]]) -> list[Callable[[], object]]:
    """The launches in turn, whole rounds, until there are enough of them for a graph. Between two
    uses of a set lie all the others, as they do from one replay to the next."""
    return list(launches) * -(-_LEAST_LAUNCHES // len(launches))


class ColdLaunches:
    """Times a list of launches that do the same work on different memory."""

    def __init__(self, device: torch.device, bytes_moved: int, samples: int) -> None:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.copies = copies_for(bytes_moved, cache)
        self._samples = samples
        self.launches = self.copies  # of the newest graph
        self._flush: torch.Tensor | None = None
        if (self.copies - 1) * bytes_moved < _COLD * cache:
            self._flush = torch.ones((_COLD + 1) * cache // 4, device=device)

    def time(self, launches: Sequence[Callable[[], object]]) -> dict[str, float]:
        """p10, p50 and p90 in ms of one launch, each sample a mean over a graph of them."""
        if self._flush is None:  # where the cache is flushed, a second round would find it warm
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
        """Warms up beside the default stream first, as recording asks for."""
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
