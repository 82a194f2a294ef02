"""The worker's loop in this process, with a tiny world: what ends it, and what does not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import zmq

from tests.support.fakes import CountingWorld, FakeClock
from worldbridge.bridge.protocol import OpenSession, SavedSession, Shutdown, decode_worker
from worldbridge.bridge.protocol import encode as encoded
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import WorldFailedError
from worldbridge.runtime.process import StopSignal
from worldbridge.runtime.worker import Worker, warm_up


@dataclass
class Rig:
    gateway: zmq.Socket[bytes]
    worker_socket: zmq.Socket[bytes]
    engine: Engine
    stop: StopSignal

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.gateway.send_multipart([b"w", part])

    def run(self, silence_ms: float = 5000.0) -> float:
        """Seconds until the loop ends."""
        began = time.monotonic()
        Worker(self.worker_socket, self.engine, self.stop, silence_ms).run()
        return time.monotonic() - began

    def heard(self) -> list[object]:
        out: list[object] = []
        while self.gateway.poll(50):
            out.append(decode_worker(*self.gateway.recv_multipart()[1:]))
        return out


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with zmq.Context() as context, context.socket(zmq.ROUTER) as gateway:
        gateway.bind("inproc://gateway")
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.IDENTITY, b"w")
            socket.connect("inproc://gateway")
            socket.send(b"")
            gateway.recv_multipart()
            engine = Engine(CountingWorld(FakeClock()), seats=2, pick_seed=lambda: 0)
            stop = StopSignal()
            stop.arm()
            yield Rig(gateway, socket, engine, stop)
            stop.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_silent_gateway_ends_it(rig: Rig) -> None:
    assert 0.3 <= rig.run(silence_ms=300) < 1.5


def test_shutdown_ends_it_with_a_snapshot_of_every_session(rig: Rig) -> None:
    loop = threading.Thread(target=rig.run)
    loop.start()
    rig.say(encoded(OpenSession("a")), encoded(OpenSession("b")))
    heard: set[str] = set()
    deadline = time.monotonic() + 30
    while heard != {"a", "b"} and time.monotonic() < deadline:
        heard |= {m.session for m in rig.heard() if isinstance(m, SavedSession)}
    rig.say(encoded(Shutdown()))
    loop.join(30)
    assert not loop.is_alive()
    saved = [m.session for m in rig.heard() if isinstance(m, SavedSession)]
    assert saved[-2:] == ["a", "b"]


def test_a_signal_wakes_an_idle_loop(rig: Rig) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert 0.15 <= rig.run() < 1.5


def test_bytes_that_are_no_message_are_ignored(rig: Rig) -> None:
    rig.say(b"", b"\xff\xff", b"\x81\xa4type\xa5dance", encoded(OpenSession("a")))
    rig.say(encoded(Shutdown()))
    rig.run()
    assert rig.engine.sessions == ("a",)


def test_a_world_that_cannot_make_a_frame_is_not_ready() -> None:
    world = CountingWorld(FakeClock(), broken={0})
    with pytest.raises(WorldFailedError, match="seed 0 is broken"):
        warm_up(world, seats=2)


def test_the_warm_up_leaves_every_seat_free() -> None:
    world = CountingWorld(FakeClock())
    warm_up(world, seats=3)
    assert world.batches == [1, 1, 1, 3]
    assert world.alive() == []
