"""What one connection may cost, from accept on: descriptors, waiting, and time of the event loop.

Counted work is CPU time of this thread, so a busy machine makes nobody look greedy.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ConnectionTable", "LimitedHttp", "WorkBudget", "descriptors"]

WORK_RATE: Final = 0.1  # seconds of work per second
WORK_BURST: Final = 0.5  # seconds
FRESH_BURST: Final = 0.1  # seconds, of a new connection
NEWCOMER: Final = 0.05  # seconds that one of a blamed address may take
MAX_WAIT_S: Final = 30.0
REQUEST_S: Final = 5.0  # for a request to arrive, and for its connection to be idle
RESPONSE_S: Final = 30.0  # for a response to be read
_CHECK_S: Final = 1.0
_RESERVED: Final = 256  # descriptors for everything but connections
_MAX_DESCRIPTORS: Final = 65_536


class WorkBudget:
    """A leaky bucket of seconds of work. Pure: times come from the caller.

    `fresh`: seconds that are free at the time `now`, if less than `burst`.
    """

    def __init__(
        self,
        rate: float = WORK_RATE,
        burst: float = WORK_BURST,
        fresh: float = WORK_BURST,
        now: float = 0.0,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._spent = max(0.0, burst - fresh)
        self._at = now

    @property
    def exceeded(self) -> bool:
        return self._spent > self._burst

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
        self._blamed: dict[str, float] = {}  # address -> when
        self._next: dict[str, float] = {}  # address -> when its next newcomer is heard

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

    def blame(self, address: str, seconds: float, now: float) -> None:
        """Note that a connection of this address held the event loop up for `seconds`.

        Its newcomers are heard one after the other for a while, so that whoever connects again
        gains nothing. Those who play on from there are not concerned.
        """
        if len(self._blamed) > self._most:
            self._blamed.clear()
            self._next.clear()
        self._blamed[address] = now
        heard = max(self._next.get(address, now), now) + seconds / WORK_RATE
        self._next[address] = min(heard, now + MAX_WAIT_S)

    def wait(self, address: str, since: float, now: float) -> float:
        """Return how many seconds one that was admitted at `since` has to wait to be heard."""
        heard = self._next.get(address, now)
        if heard <= now:
            self._next.pop(address, None)
            self._blamed.pop(address, None)
            return 0.0
        if self._blamed[address] < since:
            return 0.0
        self._next[address] = min(heard + NEWCOMER / WORK_RATE, now + MAX_WAIT_S)
        return heard - now

    def _abort_oldest(self, transports: list[asyncio.Transport]) -> None:
        victim = next((t for t in transports if t not in self._in_use), transports[-1])
        self.remove(victim)
        victim.abort()


class LimitedHttp(H11Protocol):
    """uvicorn's HTTP, with deadlines for requests and responses. Subclasses name the table."""

    table: ClassVar[ConnectionTable]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self._since = self.loop.time()
        self._seen: tuple[Any, bool] = (
            None,
            False,
        )  # the newest request, and if it is being answered
        wait = self.table.wait(address, 0.0, time.monotonic())
        if wait > 0:
            self._since += wait
            transport.pause_reading()
            self.loop.call_later(wait, _resume, transport)
        self._timer = self.loop.call_later(_CHECK_S, self._check)
        self.table.add(transport, address)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self.table.remove(self.transport)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._timer.cancel()
        self.table.use(self.transport)
        super().handle_websocket_upgrade(event)

    def _check(self) -> None:
        """Abort a connection whose request or response takes too long."""
        now, cycle = self.loop.time(), self.cycle
        answering = cycle is not None and not cycle.response_complete
        if self._seen != (cycle, answering):
            self._seen, self._since = (cycle, answering), now
        if now - self._since > (RESPONSE_S if answering else REQUEST_S):
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(_CHECK_S, self._check)


def _resume(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()


def descriptors() -> int:
    """Raise this process's limit of open files as far as it may; return how many sockets fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(16, (_MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) - _RESERVED)
