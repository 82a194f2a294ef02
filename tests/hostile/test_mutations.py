"""Messages with random changes, of clients and of a worker: the gateway refuses and lives on."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import zmq

from tests.support.fake_worker import SPEC
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.connection import Phase
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.peer import Peer
from worldbridge.bridge.protocol import Hello, Ready, Start, encode, encode_parts
from worldbridge.bridge.protocol.examples import VALID
from worldbridge.clock import now_ms

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
