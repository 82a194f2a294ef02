"""Running steps: as recorded CUDA graphs on a GPU, one by one under Triton's interpreter.

A step is about 7 launches per layer. Started one by one from Python they would take several
times as long as the GPU needs for them; a graph starts them all at once. A graph has a fixed batch,
so one is recorded for each bucket of sessions, and none for lengths, which steps read from memory.

The first start on a machine compiles every kernel, which takes a minute or two. Triton keeps the
results in `~/.triton/cache` (or `$TRITON_CACHE_DIR`), so later starts only record.

How many steps to enqueue for a latent (`DispatchPacer`): a step gives a session at least one token
and at most `width`, so the host knows how many steps are certainly needed, but not how many are
enough. It enqueues what is certain, in groups, and after each group the device reports how many
tokens are left. While the report of one group is awaited the next one is already enqueued, as long
as it is certain to be needed. So the device waits for the host only during the last few steps of a
latent, some tens of microseconds each, and does no step for nothing, which would cost as much as
reading all weights. Where steps are so short that this is the wrong way round, `ahead` steps are
enqueued beyond what is certain; they change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from worldbridge.models.progress import Progress
from worldbridge.runtime.decoding.executors.cuda.layers import CudaLayers

__all__ = ["DispatchPacer", "EagerSteps", "GraphSteps", "Reports", "Steps", "buckets_of"]

_GROUPS = 2  # under way at most: one that runs, and the one behind it


class Steps(Protocol):
    """What enqueues steps."""

    buckets: tuple[int, ...]  # ascending

    def prepare(self, bucket: int, given: bool) -> None:
        """Make ready to run such steps. All places are idle afterwards."""

    def run(self, bucket: int, given: bool = False) -> None:
        """Run one step of the first `bucket` places; `given`: of latents with given tokens."""


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

    def prepare(self, bucket: int, given: bool) -> None:
        """Nothing has to be recorded."""

    def run(self, bucket: int, given: bool = False) -> None:
        self.step.run(bucket, given)


class GraphSteps:
    """A graph for each bucket. The largest is recorded first, all on one stream, so that the others
    find room in its memory. Those for given tokens are recorded when they are first needed."""

    def __init__(self, step: CudaLayers, progress: Progress) -> None:
        self.step = step
        self.buckets = buckets_of(step.shape.sessions)
        self._graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(step.keys.device):
            self._stream = torch.cuda.Stream()
            for i, bucket in enumerate(reversed(self.buckets)):
                progress(f"recording a step for {bucket} players", i / len(self.buckets))
                self.prepare(bucket, given=False)
        progress("recorded all steps", 1.0)

    def prepare(self, bucket: int, given: bool) -> None:
        if (bucket, given) not in self._graphs:
            self._graphs[bucket, given] = self._record(bucket, given)

    def run(self, bucket: int, given: bool = False) -> None:
        self._graphs[bucket, given].replay()

    @torch.inference_mode()
    def _record(self, bucket: int, given: bool) -> torch.cuda.CUDAGraph:
        # all idle: nothing is changed
        self.step.state.feed.num_accepted.fill_(self.step.shape.size)
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step.run(bucket, given)  # compiles what is not compiled yet
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # other threads, such as that of the frames, may go on allocating meanwhile
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode=mode):
            self.step.run(bucket, given)
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


class DispatchPacer:
    """Of one latent. Ask `next_group` until it gives 0, then read a report, until `finished`."""

    def __init__(self, size: int, width: int, *, group: int = 8, ahead: int = 0) -> None:
        """A latent of `size` tokens; `group` is the most steps between two reports."""
        if size < 1 or width < 1 or group < 1 or ahead < 0:
            raise ValueError(
                "expected size, width and group of at least 1 and ahead of at least 0, got "
                f"{size}, {width}, {group} and {ahead}"
            )
        self.left = size  # tokens, by the newest report, of the session that lacks most
        self._width, self._group, self._ahead = width, group, ahead
        self._under_way: deque[int] = deque()

    @staticmethod
    def most(group: int, ahead: int) -> int:
        """How many steps can be enqueued that no report is known of."""
        return _GROUPS * group + ahead

    @property
    def finished(self) -> bool:
        return self.left == 0

    def next_group(self) -> int:
        """How many steps to enqueue now, with a report behind them; 0: read a report first."""
        if self.finished or len(self._under_way) == _GROUPS:
            return 0
        certain = -(-self.left // self._width) - sum(self._under_way)
        wanted = certain + self._ahead
        if wanted <= 0:
            return 0
        # near the end shorter groups, so that the next report comes while some still run
        count = min(self._group, -(-wanted // _GROUPS))
        self._under_way.append(count)
        return count

    def report(self, left: int) -> None:
        """The oldest group is done, and the session that lacks most lacks `left` tokens.

        Raises RuntimeError if that cannot be, so that a broken device ends in an error instead of
        a loop without end.
        """
        steps = self._under_way.popleft()
        if not 0 <= left <= max(0, self.left - steps):
            raise RuntimeError(
                f"after {steps} steps with {self.left} tokens left, the device reports {left}; "
                "expected at least one token per step: its memory or kernels are damaged"
            )
        self.left = left
