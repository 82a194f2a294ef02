"""Impair a network in userspace: relays with loss, delay, jitter, a rate limit and outages.

Run `python -m worldbridge.benchmarks.impairment --link mobile 9000 127.0.0.1:8080` to put a relay
for TCP and UDP in front of a server. Kernel queueing disciplines (netem) do the same with more
precision, but containers and hosted CI rarely have them.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["LINKS", "Impairment", "Link", "TcpRelay", "UdpRelay", "tcp_relay", "udp_relay"]

Address: TypeAlias = tuple[str, int]

_CHUNK: Final = 4096  # bytes that a TCP relay reads at once: the resolution of its rate limit
_PACKET_OVERHEAD: Final = 28  # bytes of IPv4 and UDP headers, which a rate limit counts too
_MIN_RTO_S: Final = 0.2  # Linux retransmits a lost TCP segment after this time at the earliest


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a connection. The default link is perfect.

    Attributes:
        delay_ms: from one end to the other.
        jitter_ms: up to this much more, uniformly distributed; packets then overtake each other.
        loss: the share of packets that are lost, 0 to 1.
        rate_bps: bits per second, or None for no limit.
        queue_ms: how much a rate limit queues before it drops packets, at its rate.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate_bps: float | None = None
    queue_ms: float = 200.0


LINKS: Final = {
    "perfect": Link(),
    "lan": Link(delay_ms=0.5, jitter_ms=0.5),
    "wifi": Link(delay_ms=3.0, jitter_ms=10.0, loss=0.005, rate_bps=50e6),
    "lossy": Link(delay_ms=20.0, jitter_ms=5.0, loss=0.05),
    "mobile": Link(delay_ms=40.0, jitter_ms=20.0, loss=0.01, rate_bps=5e6),
    "2mbit": Link(delay_ms=30.0, loss=0.01, rate_bps=2e6),
    "600kbit": Link(delay_ms=50.0, loss=0.03, rate_bps=600e3),
    "300kbit": Link(delay_ms=50.0, rate_bps=300e3),
    "far": Link(delay_ms=200.0),
    "very_lossy": Link(delay_ms=20.0, loss=0.1),
}


class Impairment:
    """Decide when each packet of one direction arrives. Sans-I/O: time is a parameter.

    Attributes:
        link: may be replaced while packets are on their way.
        sent, lost, overflowed: packets that came in, were lost at random, and found a full queue.
    """

    def __init__(self, link: Link, seed: int = 0) -> None:
        self.link = link
        self.sent = self.lost = self.overflowed = 0
        self._random = random.Random(seed)
        self._free_s = -math.inf  # when the rate limit has passed everything before
        self._dark_until_s = -math.inf
        self._last_s = -math.inf  # arrival of the newest packet, for ordered delivery

    def black_out(self, now_s: float, seconds: float) -> None:
        """Lose everything for some time."""
        self._dark_until_s = now_s + seconds

    def arrival(self, size: int, now_s: float) -> float | None:
        """Return when a datagram of `size` bytes arrives, None if it is lost."""
        self.sent += 1
        dark = now_s < self._dark_until_s
        if dark or self._random.random() < self.link.loss:
            self.lost += 1
            return None
        passed = self._pass(size + _PACKET_OVERHEAD, now_s)
        return None if passed is None else passed + self._delay_s()

    def ordered_arrival(self, size: int, now_s: float) -> float:
        """Return when a part of a TCP stream arrives.

        What would be lost is late by a retransmission, and so is everything behind it.
        """
        self.sent += 1
        at = max(now_s, self._dark_until_s, self._free_s) + self._duration_s(size)
        self._free_s = at
        at += self._delay_s()
        if self._random.random() < self.link.loss:
            self.lost += 1
            at += max(_MIN_RTO_S, 2 * self.link.delay_ms / 1000)
        # the event loop keeps the order of different times only
        self._last_s = max(at, math.nextafter(self._last_s, math.inf))
        return self._last_s

    def backlog_s(self, now_s: float) -> float:
        """Return how long the rate limit takes to pass what it has queued."""
        return max(0.0, self._free_s - now_s)

    def _pass(self, size: int, now_s: float) -> float | None:
        if self.backlog_s(now_s) * 1000 > self.link.queue_ms:
            self.overflowed += 1
            return None
        self._free_s = max(now_s, self._free_s) + self._duration_s(size)
        return self._free_s

    def _duration_s(self, size: int) -> float:
        return 0.0 if self.link.rate_bps is None else size * 8 / self.link.rate_bps

    def _delay_s(self) -> float:
        jitter = self._random.random() * self.link.jitter_ms
        return (self.link.delay_ms + jitter) / 1000


class _Relay:
    """Both directions of a relay: `up` leads to the server, `down` to its clients."""

    def __init__(self, up: Link, down: Link, seed: int = 0) -> None:
        self.up = Impairment(up, seed)
        self.down = Impairment(down, seed + 1)
        self.address: Address = ("", 0)

    @property
    def port(self) -> int:
        return self.address[1]

    def use(self, link: Link) -> None:
        """Impair both directions by `link` from now on."""
        self.up.link = self.down.link = link

    def black_out(self, seconds: float) -> None:
        """Lose (TCP: delay) everything in both directions for some time."""
        now = asyncio.get_running_loop().time()
        self.up.black_out(now, seconds)
        self.down.black_out(now, seconds)


class UdpRelay(_Relay):
    """Forwards datagrams to `target`. Each client has its own socket, as behind a NAT.

    Attributes:
        target: may be replaced while it runs, for a server that is known later.
    """

    def __init__(self, target: Address, up: Link, down: Link, seed: int = 0) -> None:
        super().__init__(up, down, seed)
        self.target = target
        self._front: asyncio.DatagramTransport | None = None
        self._backs: dict[Address, asyncio.DatagramTransport] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, listen: Address) -> None:
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._from_client), local_addr=listen
        )
        self.address = self._front.get_extra_info("sockname")[:2]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for transport in (self._front, *self._backs.values()):
            if transport is not None:
                transport.close()

    def _from_client(self, data: bytes, client: Address) -> None:
        back = self._backs.get(client)
        if back is None:
            task = asyncio.create_task(self._adopt(client, data))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._carry(self.up, data, back, lambda: self.target)

    async def _adopt(self, client: Address, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        front = self._front
        assert front is not None

        def answer(data: bytes, _: Address) -> None:
            self._carry(self.down, data, front, lambda: client)

        host = self.target[0]
        local = ("127.0.0.1" if host.startswith("127.") else "0.0.0.0", 0)
        back, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(answer), local_addr=local)
        if self._backs.setdefault(client, back) is not back:
            back.close()  # two datagrams of a new client came at once
        self._from_client(data, client)

    def _carry(
        self,
        way: Impairment,
        data: bytes,
        transport: asyncio.DatagramTransport,
        to: Callable[[], Address],
    ) -> None:
        def send() -> None:
            if not transport.is_closing():
                transport.sendto(data, to())

        loop = asyncio.get_running_loop()
        at = way.arrival(len(data), loop.time())
        if at is not None:
            loop.call_at(at, send)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, receive: Callable[[bytes, Address], None]) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._receive(data, addr)

    def error_received(self, exc: Exception) -> None:
        """Ignore that nobody listens on the other side: so does a network."""


class TcpRelay(_Relay):
    """Forwards connections to `target`. A full queue stops reading, as TCP's window does."""

    def __init__(self, target: Address, up: Link, down: Link, seed: int = 0) -> None:
        super().__init__(up, down, seed)
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self, listen: Address) -> None:
        self._server = await asyncio.start_server(self._serve, *listen, limit=_CHUNK)
        self.address = self._server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(far_writer)
        try:
            # asyncio's streams log the cancellation of what serves them as a fault
            with suppress(asyncio.CancelledError):
                await asyncio.gather(
                    _stream(self.up, reader, far_writer), _stream(self.down, far_reader, writer)
                )
        finally:
            for end in (writer, far_writer):
                self._writers.discard(end)
                end.close()


async def _stream(
    way: Impairment, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    loop = asyncio.get_running_loop()

    def deliver(data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)

    at = 0.0
    with suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            at = way.ordered_arrival(len(data), loop.time())
            loop.call_at(at, deliver, data)
            await writer.drain()
            excess = way.backlog_s(loop.time()) - way.link.queue_ms / 1000
            if excess > 0:
                await asyncio.sleep(excess)
    await asyncio.sleep(max(0.0, at - loop.time()))
    with suppress(ConnectionError, OSError, RuntimeError):
        writer.write_eof()


@asynccontextmanager
async def udp_relay(
    target: Address,
    link: Link = LINKS["perfect"],
    *,
    up: Link | None = None,
    listen: Address = ("127.0.0.1", 0),
    seed: int = 0,
) -> AsyncIterator[UdpRelay]:
    """Relay UDP to `target` while the block runs; `up` differs from `link` only if it is given."""
    relay = UdpRelay(target, up or link, link, seed)
    await relay.open(listen)
    try:
        yield relay
    finally:
        relay.close()


@asynccontextmanager
async def tcp_relay(
    target: Address,
    link: Link = LINKS["perfect"],
    *,
    up: Link | None = None,
    listen: Address = ("127.0.0.1", 0),
    seed: int = 0,
) -> AsyncIterator[TcpRelay]:
    """Relay TCP to `target` while the block runs; `up` differs from `link` only if it is given."""
    relay = TcpRelay(target, up or link, link, seed)
    await relay.open(listen)
    try:
        yield relay
    finally:
        relay.close()


async def _run(listen: Address, target: Address, link: Link) -> None:
    async with tcp_relay(target, link, listen=listen), udp_relay(target, link, listen=listen):
        print(f"{listen[0]}:{listen[1]} -> {target[0]}:{target[1]}, {link}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Relay TCP and UDP over an impaired link.")
    parser.add_argument("port", type=int, help="port to listen on, on 127.0.0.1")
    parser.add_argument("target", help="host:port of the server")
    parser.add_argument("--link", choices=LINKS, default="lossy")
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(("127.0.0.1", options.port), (host, int(port)), LINKS[options.link]))


if __name__ == "__main__":
    main()
