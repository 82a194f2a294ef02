"""The relays that impair a network: what arrives, when, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from worldbridge.benchmarks.impairment import Impairment, Link, tcp_relay, udp_relay

PACKET = 972  # with its headers, 8,000 bits


class TestDatagrams:
    def test_a_perfect_link_changes_nothing(self) -> None:
        way = Impairment(Link())
        assert [way.arrival(PACKET, t) for t in (0.0, 0.5, 0.5)] == [0.0, 0.5, 0.5]

    def test_loss_is_as_often_as_asked_and_the_same_for_the_same_seed(self) -> None:
        runs = [Impairment(Link(loss=0.1), seed=3) for _ in range(2)]
        arrived = [[way.arrival(PACKET, t) is not None for t in range(5_000)] for way in runs]
        assert arrived[0] == arrived[1]
        assert 0.08 < runs[0].lost / runs[0].sent < 0.12

    def test_a_rate_limit_queues_and_then_drops(self) -> None:
        way = Impairment(Link(rate_bps=800_000, queue_ms=25))
        at = [way.arrival(PACKET, 0.0) for _ in range(5)]
        assert at[:3] == pytest.approx([0.01, 0.02, 0.03])
        assert at[3:] == [None, None] and way.overflowed == 2
        assert way.arrival(PACKET, 0.03) == pytest.approx(0.04)

    def test_delay_and_jitter_add_up(self) -> None:
        way = Impairment(Link(delay_ms=20, jitter_ms=10))
        delays = [(way.arrival(PACKET, float(t)) or 0.0) - t for t in range(1_000)]
        assert min(delays) >= 0.02 - 1e-9 and max(delays) <= 0.03 + 1e-9
        assert max(delays) - min(delays) > 0.008

    def test_a_blackout_loses_everything_until_it_ends(self) -> None:
        way = Impairment(Link())
        way.black_out(1.0, 2.0)
        assert way.arrival(PACKET, 2.9) is None
        assert way.arrival(PACKET, 3.0) == 3.0


class TestStreams:
    def test_what_is_lost_holds_up_what_is_behind_it(self) -> None:
        way = Impairment(Link(loss=1.0))
        first = way.ordered_arrival(100, 0.0)
        way.link = Link()
        assert first == pytest.approx(0.2)
        assert way.ordered_arrival(100, 0.1) == pytest.approx(first)
        assert way.ordered_arrival(100, 0.5) == 0.5

    def test_a_rate_limit_holds(self) -> None:
        way = Impairment(Link(rate_bps=80_000))
        assert [way.ordered_arrival(1_000, 0.0) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
        assert way.backlog_s(0.1) == pytest.approx(0.2)


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


class _Collect(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait(data)


async def test_udp_clients_are_answered_each_by_its_own() -> None:
    loop = asyncio.get_running_loop()
    server, _ = await loop.create_datagram_endpoint(_Echo, local_addr=("127.0.0.1", 0))
    async with udp_relay(server.get_extra_info("sockname"), Link(delay_ms=20)) as relay:
        for name in (b"one", b"two"):
            client, collect = await loop.create_datagram_endpoint(
                _Collect, remote_addr=relay.address
            )
            begun = loop.time()
            client.sendto(name)
            assert await asyncio.wait_for(collect.received.get(), 20) == name
            assert loop.time() - begun >= 0.035
            client.close()
    server.close()


async def test_tcp_arrives_whole_in_order_and_late() -> None:
    loop = asyncio.get_running_loop()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()
    link = Link(delay_ms=10, jitter_ms=5, loss=0.02, rate_bps=8e6)
    async with tcp_relay(target, link) as relay:
        reader, writer = await asyncio.open_connection(*relay.address)
        data = bytes(i % 251 for i in range(200_000))
        begun = loop.time()
        writer.write(data)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 60) == data
        assert loop.time() - begun >= 0.4  # twice 200 kB at 1 MB/s
        writer.close()
    server.close()
