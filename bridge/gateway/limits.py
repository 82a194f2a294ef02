"""What a connection may cost, from accept on: descriptors, waiting, and time of the event loop.

A connection is ended for what it costs in CPU time, so a busy machine makes nobody look greedy.
How long it has to wait follows from its time on the clock, because the event loop has no more than
that; see `Stopwatch` for the exception.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = [
    "ConnectionTable",
    "LimitedHttp",
    "Throttle",
    "PacedReading",
    "Stopwatch",
    "Turns",
    "WorkBudget",
    "descriptors",
]

log = logging.getLogger(__name__)

WORK_RATE: Final = 0.1  # seconds of work per second
WORK_BURST: Final = 0.5  # seconds
AT_ONCE: Final = (0.05, 0.05)  # rate and burst of what is read at once of a client
NEWCOMERS: Final = (0.05, 0.5)  # of all connections together that said no hello
LATER: Final = 0.1  # seconds per second for what goes beyond
STEP_S: Final = 0.001  # for which one connection is read before the event loop goes on
REQUEST_WORK: Final = 0.001  # seconds that a request takes beside being read
HELLO_WORK: Final = 0.01  # seconds, with the session
MAX_HELD: Final = 512 * 1024  # bytes of one connection that wait to be read
MAX_HELD_TOGETHER: Final = 32 << 20
REQUEST_S: Final = 5.0  # for a request to arrive, and for its connection to be idle
RESPONSE_S: Final = 30.0  # for a response to be read
_CHECK_S: Final = 1.0
_RESERVED: Final = 256  # descriptors for everything but connections
_MAX_DESCRIPTORS: Final = 65_536


class WorkBudget:
    """A leaky bucket of seconds of work. Pure: times come from the caller."""

    def __init__(self, rate: float = WORK_RATE, burst: float = WORK_BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._spent = 0.0
        self._at = 0.0

    def spend(self, seconds: float, now: float, held: float = 0.0) -> bool:
        """Count work that was done by `now` (s). Return whether it is within the budget.

        `held`: how long it took by the clock, which is longer on a busy machine. Nothing is
        regained in that time, or work that never ends could be within its budget.
        """
        self._at += held
        self._spent = max(0.0, self._spent - max(0.0, now - self._at) * self._rate) + seconds
        self._at = max(self._at, now)
        return self._spent <= self._burst


class ConnectionTable:
    """Open connections. Beyond a limit the oldest one that is not in use makes room.

    In use are WebSockets: the gateway limits their number and ends silent ones itself.
    """

    def __init__(self, most: int, per_address: int) -> None:
        self._most = most
        self._per_address = per_address
        self._open: dict[asyncio.Transport, str] = {}  # oldest first, with its address
        self._in_use: set[asyncio.Transport] = set()
        self.turns = Turns()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transport: asyncio.Transport, address: str) -> None:
        """Take a new connection, and abort the one that makes room for it, if one has to."""
        self._open[transport] = address
        same = [other for other, place in self._open.items() if place == address]
        if len(same) > self._per_address:
            self._abort_oldest(same)
        elif len(self._open) > self._most:
            self._abort_oldest(list(self._open))

    def use(self, transport: asyncio.Transport) -> None:
        """Note that a connection became a WebSocket."""
        self._in_use.add(transport)

    def remove(self, transport: asyncio.Transport) -> None:
        """Forget a connection. May be called twice."""
        self._open.pop(transport, None)
        self._in_use.discard(transport)

    def _abort_oldest(self, transports: list[asyncio.Transport]) -> None:
        victim = next((t for t in transports if t not in self._in_use), transports[-1])
        self.remove(victim)
        victim.abort()


class Turns:
    """When the bytes of connections are read: at once, or later, in turns.

    A connection has a share of the event loop's time. What goes beyond it waits, while its socket
    is not read, and is served step by step: players and newcomers alternate, and among them
    addresses. So nobody's flood takes more of the loop than these shares, whatever it consists of.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.newcomers = WorkBudget(*NEWCOMERS)
        self.held = 0  # bytes that wait
        self._clock = clock
        self._next: deque[_Queue] = deque(({}, {}))  # the one that is served next is the first
        self._players, self._newcomers = self._next
        self._free_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, waiting: PacedReading | Throttle) -> None:
        """Let a connection read when it is its turn."""
        queue = self._newcomers if waiting.newcomer else self._players
        queue.setdefault(waiting.address, deque()).append(waiting)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and any(self._next):
            pause = max(0.0, self._free_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(pause, self._serve)

    def _serve(self) -> None:
        if not self._next[0]:
            self._next.rotate()
        queue = self._next[0]
        address = next(iter(queue))
        connections = queue.pop(address)
        waiting = connections.popleft()
        if connections:
            queue[address] = connections  # at the end
        self._next.rotate()
        took = waiting.advance()  # which may wait again, for after the pause
        self._timer = None
        self._free_at = self._clock() + took * (1 / LATER - 1)
        self._schedule()


class Stopwatch:
    """Seconds of work on the clock, and `fair` ones: of those at most three times the CPU time.

    On a busy machine the event loop has less than the clock says. What is read later, and of
    newcomers, is measured by the clock, for frames have no more than that. Yet a client whose
    bytes are read at once is not to wait for what others compute.
    """

    def __init__(self) -> None:
        self._at = time.monotonic(), time.thread_time()
        self.fair = 0.0

    def lap(self) -> float:
        """Return the seconds since the last call, and add to `fair`."""
        before, self._at = self._at, (time.monotonic(), time.thread_time())
        seconds = self._at[0] - before[0]
        self.fair += min(seconds, 3 * (self._at[1] - before[1]))
        return seconds


class PacedReading:
    """What uvicorn's protocols have in common here: bytes are read in steps, as `Turns` says."""

    table: ClassVar[ConnectionTable]
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    address = ""
    _held = b""
    _waits = False
    _slice = 512  # bytes between two looks at the time; more where they are cheap
    _work_s = 0.0  # done for it since the last step

    @property
    def share(self) -> WorkBudget:
        """What is read of this connection at once."""
        return self.table.turns.newcomers

    @property
    def newcomer(self) -> bool:
        return self.share is self.table.turns.newcomers

    @property
    def behind(self) -> bool:
        """Whether bytes wait to be read."""
        return bool(self._held)

    def read(self, data: bytes) -> None:
        """Handle bytes of the client."""
        raise NotImplementedError

    def keep_reading(self) -> None:
        """Read the socket again: nothing waits."""
        raise NotImplementedError

    def worked(self, seconds: float) -> None:
        """Count work that its messages cause beside being read."""
        self._work_s += seconds

    def data_received(self, data: bytes) -> None:
        """Read what came, now or later."""
        self._hold(self._held + data if self._held else data)
        if len(self._held) > MAX_HELD or self.table.turns.held > MAX_HELD_TOGETHER:
            self._abort()
        elif not self._waits:
            self._go_on(at_once=True)

    def forget(self) -> None:
        """Drop what waits: somebody else reads this connection, or nobody."""
        self._hold(b"")

    def advance(self) -> float:
        """Read for a step. Return the seconds it took, with the work that was counted before."""
        self._waits = False
        data, done, watch = self._held, 0, Stopwatch()
        spent = own = self._work_s
        self._work_s = 0.0
        while done < len(data) and self._held and spent < STEP_S:
            try:
                self.read(data[done : done + self._slice])
            except Exception:  # our bug must end this client's connection, not the server
                log.exception("the bytes of a client were not read")
                self._abort()
            done += self._slice
            took = watch.lap()
            spent += took
            if took < STEP_S / 8:
                self._slice = min(self._slice * 2, MAX_HELD)
            elif took > STEP_S / 2:
                self._slice = max(self._slice // 2, 64)
            if self.transport.is_closing():
                self.forget()
        self.share.spend(spent if self.newcomer else own + watch.fair, time.monotonic())
        if self._held:
            self._hold(data[done:])
            if self._held:
                self._go_on()
            else:
                self.keep_reading()
        return spent

    def _go_on(self, at_once: bool = False) -> None:
        within = self.share.spend(0.0, time.monotonic())
        if within and at_once:
            self.advance()
        elif not self.transport.is_closing():
            self._waits = True
            self.transport.pause_reading()
            if within:
                self.loop.call_soon(self.advance)
            else:
                self.table.turns.wait(self)

    def _hold(self, data: bytes) -> None:
        self.table.turns.held += len(data) - len(self._held)
        self._held = data

    def _abort(self) -> None:
        self.forget()
        self.transport.abort()


class Throttle:
    """The same for a connection that a coroutine reads: it pauses between two messages."""

    def __init__(self, turns: Turns, address: str) -> None:
        self.address = address
        self._turns = turns
        self._own: WorkBudget | None = None
        self._spent = 0.0
        self._turn: asyncio.Future[None] | None = None

    @property
    def newcomer(self) -> bool:
        return self._own is None

    async def spend(self, seconds: float, greeted: bool = False) -> None:
        """Count work; wait for a turn if it goes beyond the share."""
        if greeted and self._own is None:
            self._own = WorkBudget(*AT_ONCE)
            self._turns.newcomers.spend(HELLO_WORK, time.monotonic())
        self._spent = seconds
        if not (self._own or self._turns.newcomers).spend(seconds, time.monotonic()):
            self._turn = asyncio.get_running_loop().create_future()
            self._turns.wait(self)
            await self._turn

    def advance(self) -> float:
        """Go on. Return the seconds of the work that was counted last."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
            return self._spent
        return 0.0


_Queue = dict[str, deque[PacedReading | Throttle]]


class LimitedHttp(PacedReading, H11Protocol):
    """uvicorn's HTTP, with deadlines for requests and responses. Subclasses name the table."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._since = self.loop.time()
        # the newest request, and if it is being answered
        self._seen: tuple[Any, bool] = (None, False)
        self._timer = self.loop.call_later(_CHECK_S, self._check)
        self.table.add(transport, self.address)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self.forget()
        self.table.remove(self.transport)
        super().connection_lost(exc)

    def read(self, data: bytes) -> None:
        before = self.cycle
        H11Protocol.data_received(self, data)
        if self.cycle is not before:
            self.worked(REQUEST_WORK)

    def keep_reading(self) -> None:
        if not self.flow.read_paused:
            self.transport.resume_reading()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._timer.cancel()
        self.forget()
        self.table.use(self.transport)
        super().handle_websocket_upgrade(event)

    def _check(self) -> None:
        """Abort a connection whose request or response takes too long."""
        now, cycle = self.loop.time(), self.cycle
        answering = cycle is not None and not cycle.response_complete
        if self._seen != (cycle, answering) or self.behind:
            self._seen, self._since = (cycle, answering), now
        if now - self._since > (RESPONSE_S if answering else REQUEST_S):
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(_CHECK_S, self._check)


def descriptors() -> int:
    """Raise this process's limit of open files as far as it may; return how many sockets fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(16, (_MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) - _RESERVED)
