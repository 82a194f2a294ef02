"""WebRTC through a relay with a rate limit, loss and outages: aiortc peers, our own feedback."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from aiortc.rtp import RtpPacket
from websockets.exceptions import ConnectionClosed

from tests.bridge.conftest import RawClient, RigMaker, eventually
from tests.bridge.test_webrtc import BrowserLike, extensions, playing
from tests.support import fake_worker
from tests.support.fake_worker import SPEC, now_ms
from worldbridge.benchmarks.impairment import LINKS, Link, UdpRelay, udp_relay
from worldbridge.bridge.protocol import Ping
from worldbridge.bridge.transports.aiortc_internals import (
    CAPTURE_TIME_URI,
    EXTENSION_IDS,
    TRANSPORT_CC_URI,
)
from worldbridge.bridge.transports.webrtc import RtcConnection

pytestmark = [pytest.mark.serial, pytest.mark.timeout(240)]

REPORT_S = 0.1


def noise(frame: int, spec: Any = SPEC) -> bytes:
    """I420 that no encoder can make small."""
    luma = np.random.default_rng(frame).integers(16, 236, spec.width * spec.height, np.uint8)
    return luma.tobytes() + bytes([128]) * (spec.width * spec.height // 2)


class Reporting(BrowserLike):
    """Report to the server which packets arrived and when, as browsers do ten times a second."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[tuple[int, float, int]] = []  # (number, ms, bytes), not reported yet
        self.received: list[tuple[float, int]] = []  # (ms, bytes) of all
        self.begun: dict[int, tuple[float, float]] = {}  # frame -> its age in ms, at (ms)
        self.ages: list[tuple[float, float]] = []  # (ms, ms since the frame was made)

    def listen(self) -> None:
        transport: Any = self.receiver.transport
        handle = transport._handle_rtp_data

        async def hear(data: bytes, arrival_time_ms: int) -> None:
            self._note(data)
            await handle(data, arrival_time_ms)

        transport._handle_rtp_data = hear

    def _note(self, data: bytes) -> None:
        packet, found = RtpPacket.parse(data), extensions(data)
        number = int.from_bytes(found[EXTENSION_IDS[TRANSPORT_CC_URI]])
        self.arrived.append((number, now_ms(), len(data)))
        self.received.append((now_ms(), len(data)))
        captured = found.get(EXTENSION_IDS[CAPTURE_TIME_URI])
        if captured is not None:
            made = int.from_bytes(captured) / 2**32 - 2_208_988_800
            self.begun[packet.timestamp] = (time.time() - made) * 1000, now_ms()
        if packet.marker and packet.timestamp in self.begun:
            age, at = self.begun.pop(packet.timestamp)
            self.ages.append((now_ms(), age + now_ms() - at))

    async def report(self) -> None:
        transport: Any = self.receiver.transport
        count = 0
        while True:
            await asyncio.sleep(REPORT_S)
            batch, self.arrived = sorted(self.arrived), []
            if not batch or batch[-1][0] - batch[0][0] > 30_000:  # none, or the numbers wrap
                continue
            source = RtpPacket.parse(self.packets[-1]).ssrc
            await transport._send_rtp(feedback(batch, source, count))
            count += 1

    def rate(self, seconds: float) -> float:
        """Bits per second that arrived lately."""
        recent = [size for at, size in self.received if at > now_ms() - seconds * 1000]
        return sum(recent) * 8 / seconds


def feedback(batch: list[tuple[int, float, int]], source: int, count: int) -> bytes:
    """One transport-wide feedback packet: a status of two bits per packet, large deltas."""
    first, last = batch[0][0], batch[-1][0]
    times = {number: at for number, at, _ in batch}
    reference = int(min(times.values()) // 64)
    at, deltas, statuses = reference * 64.0, b"", []
    for number in range(first, last + 1):
        statuses.append(2 if number in times else 0)
        if number in times:
            ticks = max(-32_768, min(32_767, round((times[number] - at) * 4)))
            at += ticks / 4
            deltas += ticks.to_bytes(2, signed=True)
    chunks = b""
    for begin in range(0, len(statuses), 7):
        word = 3
        for status in [*statuses[begin : begin + 7], *[0] * 7][:7]:
            word = word << 2 | status
        chunks += word.to_bytes(2)
    head = first.to_bytes(2) + len(statuses).to_bytes(2)
    fci = head + (reference & 0xFFFFFF).to_bytes(3) + bytes([count & 0xFF]) + chunks + deltas
    body = (1).to_bytes(4) + source.to_bytes(4) + fci + bytes(-len(fci) % 4)
    return bytes([0x80 | 15, 205]) + (len(body) // 4).to_bytes(2) + body


@dataclass
class Played:
    page: Reporting
    relay: UdpRelay

    def longest_pause_ms(self, seconds: float) -> float:
        times = [at for at, _ in self.page.ages if at > now_ms() - seconds * 1000]
        return max(np.diff([*times, now_ms()]), default=seconds * 1000)

    def age_ms(self, seconds: float) -> float:
        """95th percentile."""
        recent = [age for at, age in self.page.ages if at > now_ms() - seconds * 1000]
        return float(np.percentile(recent, 95))


async def ping(client: RawClient) -> None:
    with suppress(ConnectionClosed):
        while True:
            await client.send(Ping(now_ms()))
            await asyncio.sleep(0.5)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def played(make_rig: RigMaker, link: Link) -> AsyncIterator[Played]:
    """A player whose media all pass a relay at the server's public address."""
    port = free_port()
    address = {"public_address": "127.0.0.2", "udp_ports": f"{port}-{port}"}
    rig = await make_rig(min_bitrate=30_000, **address)
    await rig.worker()
    page = Reporting()
    async with udp_relay(("127.0.0.1", port), link, listen=("127.0.0.2", port)) as relay:
        client = await playing(rig)
        tasks = [asyncio.create_task(page.report())]
        sdp = await page.connect(client)
        assert f"127.0.0.2 {port}" in sdp and "transport-cc" in sdp
        page.listen()
        tasks += [asyncio.create_task(ping(client)), asyncio.create_task(client.keep_reading())]
        await page.frame()
        assert relay.down.sent > 0, "media pass the relay"
        yield Played(page, relay)
        for task in tasks:
            task.cancel()
        await page.pc.close()


async def test_the_stream_fits_the_network_and_grows_with_it(
    make_rig: RigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_worker, "moving_frame", noise)
    made: list[RtcConnection] = []

    class Kept(RtcConnection):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("worldbridge.bridge.gateway.hub.RtcConnection", Kept)
    async with played(make_rig, Link(delay_ms=20, rate_bps=120e3, queue_ms=400)) as play:
        (connection,) = made
        rate = connection.rate
        await eventually(lambda: rate.decreases > 0 and rate.bitrate < 200e3, 60)
        await asyncio.sleep(3)
        print(
            f"120 kbit/s: {rate.bitrate / 1e3:.0f} kbit/s, {play.page.rate(3) / 1e3:.0f} received, "
            f"{play.age_ms(3):.0f} ms old, {play.longest_pause_ms(3):.0f} ms of pause"
        )
        assert play.page.rate(3) < 130e3
        slow = rate.bitrate
        play.relay.use(LINKS["lan"])
        begun = now_ms()
        await eventually(lambda: rate.bitrate > 1.5 * slow, 60)
        print(f"then a LAN: {rate.bitrate / 1e3:.0f} kbit/s after {now_ms() - begun:.0f} ms")


async def test_play_goes_on_after_an_outage_and_with_loss(make_rig: RigMaker) -> None:
    async with played(make_rig, Link(delay_ms=20, loss=0.1)) as play:
        await eventually(lambda: len(play.page.ages) > 30, 60)
        print(f"10 % loss: {play.longest_pause_ms(2):.0f} ms of pause")
        play.relay.black_out(2.0)
        await asyncio.sleep(2.0)
        before, back = len(play.page.ages), now_ms()
        await eventually(lambda: len(play.page.ages) >= before + 5, 60)
        print(f"after 2 s of nothing: the fifth frame within {now_ms() - back:.0f} ms")
