"""Streams, events and what happens before what, as vector clocks.

Every piece of work is a tick of its stream. A stream knows up to which tick of each other stream
it comes after: by events that it waited for, and by what the host had waited for when the work was
enqueued. One such knowledge serves all threads of the host: how they wait for each other is not
followed.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Clock", "Event", "Memory", "Recorder", "RuleError", "Stream", "Timeline"]

_PRODUCT = re.compile(r"/(runtime|models|kernels)/(?!.*test)")
Clock = dict["Stream", int]  # up to which tick of each stream


class RuleError(RuntimeError):
    """Something that a GPU would refuse, or that would give wrong numbers now and then."""


def _place() -> str:
    """The innermost line of the product on the calling thread's stack."""
    frame = sys._getframe()
    while frame is not None and not _PRODUCT.search(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    return "a test" if frame is None else f"{frame.f_code.co_qualname}, line {frame.f_lineno}"


def _merge(into: Clock, other: Clock) -> None:
    for stream, tick in other.items():
        into[stream] = max(into.get(stream, 0), tick)


@dataclass(eq=False)
class Memory:
    """Of one allocation: who used it when. Freed when no tensor has it any more."""

    owner: Stream
    written: tuple[Stream, int]
    used: Clock = field(default_factory=dict)
    recorded: set[Stream] = field(default_factory=set)  # `record_stream`
    origin: str = field(default_factory=lambda: _place())

    def __del__(self) -> None:
        self.owner.timeline.freed(self)


class Recorder:
    """What a stream did while a graph was recorded."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.steps: list[Callable[[], None]] = []


class Timeline:
    """All streams of one GPU."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.host: Clock = {}
        self.default = Stream(self)
        self.broken: list[str] = []  # rules that were broken where no one could catch the error
        self.waits = 0  # of the host
        self._late: list[tuple[Stream, int, Callable[[], None]]] = []
        self._local = threading.local()
        self.recorder: Recorder | None = None

    @property
    def current(self) -> Stream:
        """Of the calling thread."""
        stream: Stream = getattr(self._local, "stream", self.default)
        return stream

    @property
    def now(self) -> Clock:
        """All that the calling thread's stream has been given so far."""
        return {**self.current.knows, self.current: self.current.tick}

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        before = self.current
        self._local.stream = before if stream is None else stream
        try:
            yield
        finally:
            self._local.stream = before

    @property
    def waited(self) -> Clock:
        """What the calling thread itself has waited for, or was informed of by one that has."""
        if not hasattr(self._local, "waited"):
            self._local.waited = {}
        waited: Clock = self._local.waited
        return waited

    @property
    def recording(self) -> Recorder | None:
        """Of the calling thread's stream."""
        recorder = self.recorder
        return recorder if recorder is not None and recorder.stream is self.current else None

    def wait(self, clock: Clock) -> None:
        """The host waits, and gets to see what was copied to it until then."""
        if self.recording is not None:
            raise RuleError("the host waits for the GPU while a graph is recorded")
        with self.lock:
            self.waits += 1
            _merge(self.host, clock)
            _merge(self.waited, clock)
            arrived = [late for late in self._late if self.host.get(late[0], 0) >= late[1]]
            self._late = [late for late in self._late if self.host.get(late[0], 0) < late[1]]
            for _, _, arrive in arrived:
                arrive()

    def informed(self, clock: Clock | None) -> None:
        """The calling thread hears from another one what that one has waited for."""
        _merge(self.waited, clock or {})

    def wait_for_all(self) -> None:
        self.wait({stream: stream.tick for stream in list(Stream.all_of(self))})

    def later(self, arrive: Callable[[], None]) -> None:
        """What the host sees when it has waited for the work enqueued last."""
        with self.lock:
            self._late.append((self.current, self.current.tick, arrive))

    def work(self, reads: list[Memory], writes: list[Memory]) -> None:
        """One operation on the calling thread's stream. Raises RuleError for a race."""
        stream = self.current
        with self.lock:
            stream.advance()
            for memory in reads:
                self._behind(stream, "reads", *memory.written)
            for memory in writes:
                self._behind(stream, "writes", *memory.written)
                for other, tick in memory.used.items():
                    self._behind(stream, "writes", other, tick)
                memory.written = stream, stream.tick
            for memory in (*reads, *writes):
                memory.used[stream] = stream.tick

    def _behind(self, stream: Stream, does: str, other: Stream, tick: int) -> None:
        if stream is not other and stream.knows.get(other, 0) < tick:
            raise RuleError(f"a stream {does} what another one may still be using: wait for it")

    def allocated(self) -> Memory:
        stream = self.current
        with self.lock:
            stream.advance()
            return Memory(stream, (stream, stream.tick), {stream: stream.tick})

    def freed(self, memory: Memory) -> None:
        """The allocator gives memory back to the stream that asked for it, at once.

        Whether another thread has waited is chance, unless this one was informed; so only what this
        one has waited for counts.
        """
        owner = memory.owner
        for stream, tick in memory.used.items():
            known = max(owner.knows.get(stream, 0), self.waited.get(stream, 0))
            if stream is not owner and stream not in memory.recorded and known < tick:
                self.broken.append(
                    f"memory of stream {owner.name} was freed that stream {stream.name} was still "
                    f"using (allocated in {memory.origin})"
                )


class Stream:
    """As torch.cuda.Stream."""

    _made: list[Stream] = []  # noqa: RUF012 -- of all timelines; they are few

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.name = f"{len(self.all_of(timeline))}"
        self.tick = 0
        self.knows: Clock = {}
        Stream._made.append(self)

    @classmethod
    def all_of(cls, timeline: Timeline) -> list[Stream]:
        return [stream for stream in cls._made if stream.timeline is timeline]

    @property
    def cuda_stream(self) -> int:
        return id(self)

    def advance(self) -> None:
        _merge(self.knows, self.timeline.waited)
        self.tick += 1
        self.knows[self] = self.tick

    def wait_stream(self, other: Stream) -> None:
        _merge(self.knows, {**other.knows, other: other.tick})

    def wait_event(self, event: Event) -> None:
        _merge(self.knows, event.clock)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self.timeline)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.timeline.wait({**self.knows, self: self.tick})

    def query(self) -> bool:
        return True


class Event:
    """As torch.cuda.Event; its time is the host's."""

    def __init__(self, timeline: Timeline, **_: Any) -> None:
        self._timeline = timeline
        self.clock: Clock = {}
        self._at = 0.0

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self._timeline.current
        stream.advance()
        self.clock = {**stream.knows, stream: stream.tick}
        self._at = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._timeline.current).wait_event(self)

    def synchronize(self) -> None:
        self._timeline.wait(self.clock)

    def query(self) -> bool:
        host = self._timeline.host
        return all(host.get(stream, 0) >= tick for stream, tick in self.clock.items())

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds; both must have been waited for, as on a GPU."""
        if not (self.query() and end.query()):
            raise RuleError("elapsed_time of events that nobody waited for")
        return max(1e-6, (end._at - self._at) * 1000)
