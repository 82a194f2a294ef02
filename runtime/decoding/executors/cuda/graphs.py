"""Running steps: as recorded CUDA graphs on a GPU, one by one under Triton's interpreter.

A step is about 7 launches per layer. Started one by one from Python they would take several
times as long as the GPU needs for them; a graph starts them all at once. A graph has a fixed batch,
so one is recorded for each bucket of sessions, and none for lengths, which steps read from memory.

The first start on a machine compiles every kernel, which takes a minute or two. Triton keeps the
results in `~/.triton/cache` (or `$TRITON_CACHE_DIR`), so later starts only record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from worldbridge.runtime.decoding.executors.cuda.layers import CudaLayers
from worldbridge.runtime.worlds.contract import Progress

__all__ = ["EagerSteps", "GraphSteps", "Reports", "Steps", "buckets_of"]


class Steps(Protocol):
    """What enqueues steps."""

    buckets: tuple[int, ...]  # ascending

    def run(self, bucket: int) -> None:
        """One step of the first `bucket` places of the step's state."""


def buckets_of(capacity: int) -> tuple[int, ...]:
    """Numbers of sessions that are run together: 1, 2, 3, 4, 6, 8, 12, 16, ... and `capacity`.

    A batch is filled up with idle places to the next of these, at most by a third of it.
    """
    found, power = {1, capacity}, 2
    while power <= capacity:
        found |= {power, power * 3 // 2}
        power *= 2
    return tuple(sorted(bucket for bucket in found if bucket <= capacity))


class EagerSteps:
    """Every launch by itself."""

    def __init__(self, step: CudaLayers) -> None:
        self.step = step
        self.buckets = buckets_of(step.shape.sessions)

    def run(self, bucket: int) -> None:
        self.step.run(bucket)


class GraphSteps:
    """A graph for each bucket. The largest is recorded first, all on one stream, so that the others
    find room in its memory."""

    def __init__(self, step: CudaLayers, progress: Progress) -> None:
        self.step = step
        self.buckets = buckets_of(step.shape.sessions)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        pool, device = torch.cuda.graph_pool_handle(), step.keys.device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            for i, bucket in enumerate(reversed(self.buckets)):
                progress(f"recording a step for {bucket} players", i / len(self.buckets))
                self._graphs[bucket] = self._record(bucket, pool, stream)
        progress("recorded all steps", 1.0)

    def run(self, bucket: int) -> None:
        self._graphs[bucket].replay()

    @torch.inference_mode()
    def _record(self, bucket: int, pool: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        self.step.state.feed.num_accepted.fill_(
            self.step.shape.size
        )  # all idle: nothing is changed
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step.run(bucket)  # compiles what is not compiled yet
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # other threads, such as that of the pictures, may go on allocating meanwhile
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.step.run(bucket)
        return graph


class Reports:
    """How far the sessions are, read without making the device wait.

    `note` enqueues a copy of their numbers behind the steps enqueued so far; `read` waits for the
    oldest copy that was not read yet.
    """

    def __init__(self, done: Tensor, most: int = 4) -> None:
        """`done` int64 [sessions] on the device; `most` copies can be under way."""
        self._done = done
        self._on_gpu = done.is_cuda
        shape = (most, len(done))
        self._copies = torch.zeros(shape, dtype=torch.int64, pin_memory=self._on_gpu)
        self._events = [torch.cuda.Event() for _ in range(most)] if self._on_gpu else []
        self._under_way: deque[tuple[int, int]] = deque()  # which copy, and of how many sessions
        self._next = 0

    def note(self, sessions: int) -> None:
        if len(self._under_way) == len(self._copies):
            raise RuntimeError(f"{len(self._copies)} reports are under way; read one first")
        slot, self._next = self._next, (self._next + 1) % len(self._copies)
        self._copies[slot, :sessions].copy_(self._done[:sessions], non_blocking=True)
        if self._on_gpu:
            self._events[slot].record()
        self._under_way.append((slot, sessions))

    def read(self) -> Sequence[int]:
        """Final tokens of each session at the time of the oldest unread report."""
        slot, sessions = self._under_way.popleft()
        if self._on_gpu:
            self._events[slot].synchronize()
        return [int(done) for done in self._copies[slot, :sessions]]

    def forget(self) -> None:
        """Reports that nobody reads any more. Later ones come behind them, so nothing mixes."""
        self._under_way.clear()
