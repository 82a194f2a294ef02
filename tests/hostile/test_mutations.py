"""Messages with random changes, of clients and of a worker: the gateway refuses and lives on.

First handed to it, then over real sockets, where frames and parts are changed as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from tests.bridge.conftest import Rig, RigMaker, make_rig
from tests.hostile.attacks import frame, websocket
from tests.support.fake_worker import SPEC
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway import http, limits
from worldbridge.bridge.gateway.connection import Phase
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.peer import Peer
from worldbridge.bridge.gateway.workers import WorkerLink
from worldbridge.bridge.protocol import Credit, Hello, Ready, Start, Status, encode, encode_parts
from worldbridge.bridge.protocol.examples import VALID
from worldbridge.bridge.transports import zmtp
from worldbridge.clock import now_ms

__all__ = ["make_rig"]  # the fixture

MAX_GROWTH_MB = 64
WORKER = b"worker"
COUNTS = [5_000, pytest.param(500_000, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]


def examples(direction: str, session: str = "s-1") -> list[bytes]:
    """The maps of the protocol's example messages, about a session of that name."""
    named = [
        message.replace(session=session)
        if direction == "worker" and hasattr(message, "session")
        else message
        for message in VALID[direction].values()
    ]
    return [bytes(encode_parts(message)[0]) for message in named]  # type: ignore[arg-type]


def mutated(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change some bytes; cut, repeat or splice."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] = rng.randrange(256)
            case 1 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 9))
            case 3:
                del changed[at : at + rng.randint(1, 9)]
            case 4:
                changed[at:at] = changed[at : at + 40]
            case _:
                changed[at:] = rng.choice(others)[at:]
    return bytes(changed)


def resident_mb() -> float:
    text = Path("/proc/self/status").read_text()
    found: Mapping[str, str] = dict(re.findall(r"(\w+):\s+(\d+) kB", text))
    return int(found["VmRSS"]) / 1024


class Target:
    """A gateway whose clients and worker are the test."""

    def __init__(self) -> None:
        self.gateway = Gateway(
            GatewayConfig(
                max_clients=8, grace_s=0.001, silence_s=80_000.0, worker_grace_s=80_000.0
            ),
            "test",
        )
        self._link = self.gateway.worlds.link
        self.worker_says(encode(Ready(SPEC, 4, "")))

    def peer(self) -> Peer:
        found = self.gateway.connect(lambda: None)
        self.gateway.receive(found, encode(Hello()))
        self.gateway.receive(found, encode(Start()))
        assert found.session is not None, "it plays"
        return found

    def worker_says(self, *parts: bytes) -> None:
        self._link._receive([zmq.Frame(WORKER), *(zmq.Frame(part) for part in parts)], now_ms())


@pytest.mark.parametrize("count", COUNTS)
async def test_messages_of_clients(count: int, caplog: pytest.LogCaptureFixture) -> None:
    rng, valid = random.Random(12), examples("client")
    target = Target()
    honest, peer = target.peer(), target.peer()
    ended, before = 0, resident_mb()
    caplog.set_level(logging.ERROR)
    for number in range(count):
        target.gateway.receive(peer, mutated(rng, rng.choice(valid), valid))
        if number % 100 == 0:
            await asyncio.sleep(0)
            target.gateway.tick(now_ms())
        if peer.connection.phase is Phase.CLOSED:
            ended += 1
            target.gateway.disconnect(peer)
            await asyncio.sleep(0)
            target.gateway.tick(now_ms() + 10)  # its seat is free again
            peer = target.peer()
    growth = resident_mb() - before
    print(f"\n{count} messages of clients: {ended} connections ended, {growth:+.1f} MB")
    assert [record.getMessage() for record in caplog.records] == []
    assert honest.session is not None and honest.connection.phase is not Phase.CLOSED
    assert ended > count / 100 and growth < MAX_GROWTH_MB
    await target.gateway._close()


@pytest.mark.parametrize("count", COUNTS)
async def test_messages_of_a_worker(count: int, caplog: pytest.LogCaptureFixture) -> None:
    target = Target()
    honest = target.peer()
    assert honest.session is not None
    rng, valid = random.Random(21), examples("worker", honest.session.id)
    before = resident_mb()
    caplog.set_level(logging.ERROR)
    for number in range(count):
        parts = [mutated(rng, rng.choice(valid), valid)]
        if rng.random() < 0.3:
            parts += [rng.randbytes(rng.randint(0, 64))] * rng.randint(1, 2)
        target.worker_says(*parts)
        if number % 100 == 0:
            await asyncio.sleep(0)
            target.gateway.tick(now_ms())
    growth = resident_mb() - before
    print(f"\n{count} messages of a worker: {growth:+.1f} MB")
    assert [record.getMessage() for record in caplog.records] == []
    assert growth < MAX_GROWTH_MB
    target.worker_says(encode(Ready(SPEC, 4, "")))
    newcomer = target.peer()
    assert newcomer.session is not None
    assert honest in target.gateway._peers or honest.connection.phase is Phase.CLOSED
    await target.gateway._close()


# --- over sockets -------------------------------------------------------------------------------

DEALER = zmtp.command(b"READY", b"\x0bSocket-Type\0\0\0\x06DEALER")
SOCKET_COUNTS = [
    pytest.param(1_000, marks=pytest.mark.timeout(300)),
    pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(6 * 3600)]),
]


class Flood:
    """Sends messages that are nearly right to a gateway until enough of them arrived."""

    def __init__(self, rig: Rig, count: int) -> None:
        self.rng = random.Random(34)
        self.rig = rig
        self.count = count
        self.arrived = self.connections = 0

    @property
    def done(self) -> bool:
        return self.arrived >= self.count

    async def websocket(self) -> None:
        greeting = [frame(encode(Hello())), frame(encode(Start()))]
        while not self.done:
            await self._say(await websocket(self.rig.port), greeting, frame)

    async def zeromq(self) -> None:
        def framed(data: bytes) -> bytes:
            return b"".join(zmtp.frames([data]))

        host, port = self.rig.zeromq.removeprefix("tcp://").split(":")
        hello = Hello(transports=("zeromq",))
        greeting = [framed(encode(hello)), framed(encode(Credit(1))), framed(encode(Start()))]
        while not self.done:
            stream = await asyncio.open_connection(host, int(port))
            stream[1].write(zmtp.GREETING + DEALER)
            await self._say(stream, greeting, framed)

    async def _say(
        self,
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        greeting: list[bytes],
        framed: Callable[[bytes], bytes],
    ) -> None:
        """Say hello in most connections, then anything until the gateway has enough of it."""
        reader, writer = stream
        self.connections += 1
        valid = examples("client")
        drain = asyncio.create_task(_until_error(reader))
        with contextlib.suppress(OSError):
            writer.writelines(greeting if self.rng.random() < 0.9 else [])
            for _ in range(200):  # a frame that became long swallows what follows
                if drain.done() or self.done:
                    break
                data = framed(mutated(self.rng, self.rng.choice(valid), valid))
                changed = self.rng.random() < 0.05  # the frame, not the message in it
                writer.write(mutated(self.rng, data, [data]) if changed else data)
                await writer.drain()
                await asyncio.sleep(0)
        writer.transport.abort()
        drain.cancel()

    async def worker(self) -> None:
        """The link to the worker: a second one, which takes the place of the first."""
        with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.routing_id = WORKER
            socket.connect(self.rig.endpoint)
            valid = examples("worker")
            while not self.done:
                parts = [mutated(self.rng, self.rng.choice(valid), valid)]
                if self.rng.random() < 0.3:
                    sizes = [self.rng.randint(0, 64) for _ in range(self.rng.randint(1, 2))]
                    parts += [self.rng.randbytes(size) for size in sizes]
                await socket.send_multipart(parts)
                if self.rng.random() < 0.1:
                    await asyncio.sleep(0)


async def _until_error(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            if b"error" in data or b"fatal" in data:
                return


@pytest.mark.serial
@pytest.mark.parametrize("count", SOCKET_COUNTS)
@pytest.mark.parametrize("way", ["websocket", "zeromq", "worker"])
async def test_messages_over_sockets(
    way: str,
    count: int,
    make_rig: RigMaker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for share in ("AT_ONCE", "NEWCOMERS"):  # here parsers are tried, not patience
        monkeypatch.setattr(limits, share, (10.0, 10.0))
        monkeypatch.setattr(http, share, (10.0, 10.0), raising=False)
    rig = await make_rig(zmq_port=0, grace_s=0.001, max_clients=64, log_level="error")
    served = await rig.worker(seats=60)
    flood = Flood(rig, count)
    owner, method = (WorkerLink, "_receive") if way == "worker" else (Gateway, "receive")
    receive = getattr(owner, method)

    def counted(*arguments: Any) -> None:
        flood.arrived += 1
        served.received.clear()  # it remembers what it got, for other tests
        if flood.arrived % 50_000 == 0:
            print(f"{flood.arrived} messages, {resident_mb() - before:+.1f} MB", flush=True)
        receive(*arguments)

    monkeypatch.setattr(owner, method, counted)
    caplog.set_level(logging.ERROR)
    before = resident_mb()
    await getattr(flood, way)()
    growth = resident_mb() - before
    print(f"\n{flood.arrived} messages, {way}: {flood.connections} connections, {growth:+.1f} MB")
    assert [record.getMessage() for record in caplog.records] == []
    assert growth < MAX_GROWTH_MB
    await rig.worker(seats=60)
    player = await rig.play()  # it still serves
    await player.until(Status, lambda status: status.state == "playing")
