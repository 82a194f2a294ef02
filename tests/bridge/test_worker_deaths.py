"""A session that ends its worker again and again ends alone; the others come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import zmq
import zmq.asyncio

from tests.bridge.conftest import eventually
from tests.support.fake_worker import SPEC
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway import sessions as module
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.gateway.workers import WorkerEvents, WorkerLink
from worldbridge.bridge.protocol import (
    CloseSession,
    Opened,
    OpenSession,
    Ready,
    Start,
    WorkerPong,
    encode_parts,
)
from worldbridge.clock import now_ms

CLOCK = [0.0]


class Rig:
    """A gateway without sockets, whose worker ends when it has a deadly session."""

    def __init__(self, deadly: Callable[[PlayerSession], bool]) -> None:
        self.gateway = Gateway(GatewayConfig(), "test")
        self.worlds = self.gateway.worlds
        self.deadly = deadly
        self.deaths = 0

    def ready(self) -> None:
        self.worlds.worker_ready(Ready(SPEC, 4, ""))

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            CLOCK[0] += 100.0
            for session in list(self.worlds.sessions):
                if session.open_ms is not None and not session.opened:
                    if self.deadly(session):
                        self.deaths += 1
                        self.worlds.worker_lost("the worker's process ended")
                        self.ready()
                        break
                    self.worlds.session_opened(Opened(session.id))
            self.worlds._acquit(CLOCK[0])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    CLOCK[0] = 1_000.0
    monkeypatch.setattr(module, "now_ms", lambda: CLOCK[0])


async def test_the_culprit_ends_at_the_third_death_and_the_others_play_on() -> None:
    rig = Rig(lambda session: session.seed == 13)
    rig.ready()
    players = [rig.worlds.admit() for _ in range(4)]
    for number, session in enumerate(players):
        rig.worlds.start(session, Start(None, 13 if number == 1 else number), None)
    rig.run(20.0)
    left = list(rig.worlds.sessions)
    assert [session.seed for session in left] == [0, 2, 3]
    assert all(session.opened and session.deaths == 0 for session in left)
    assert rig.deaths == 3
    assert rig.worlds.seats().used == 3
    await rig.gateway._close()


async def test_deaths_far_apart_are_nobodys_fault() -> None:
    rig = Rig(lambda session: False)
    rig.ready()
    session = rig.worlds.admit()
    rig.worlds.start(session, Start(None, 1), None)
    for _ in range(5):
        rig.run(31.0)
        rig.worlds.worker_lost("killed by the test")
        rig.ready()
    rig.run(1.0)
    assert session.opened and rig.worlds.sessions.get(session.id) is session
    await rig.gateway._close()


async def test_one_death_brings_all_back_at_once() -> None:
    rig = Rig(lambda session: False)
    rig.ready()
    players = [rig.worlds.admit() for _ in range(3)]
    for session in players:
        rig.worlds.start(session, Start(), None)
    rig.run(0.2)
    rig.worlds.worker_lost("killed by the test")
    rig.ready()
    assert all(session.open_ms is not None for session in players)
    await rig.gateway._close()


@pytest.fixture
async def linked(tmp_path: Path) -> AsyncIterator[tuple[WorkerLink, Mock, zmq.asyncio.Socket]]:
    """A link, what it reports to, and a worker that said it is ready and reads nothing."""
    events = Mock(spec=WorkerEvents)
    link = WorkerLink(f"ipc://{tmp_path}/link", events)
    endpoint, running = link.bind(), asyncio.create_task(link.run(now_ms))
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as worker:
        worker.setsockopt(zmq.LINGER, 0)
        worker.setsockopt(zmq.RCVHWM, 1)
        worker.connect(endpoint)
        await worker.send_multipart(encode_parts(Ready(SPEC, 1, "jacobi")))
        await eventually(lambda: bool(events.worker_ready.called))
        yield link, events, worker
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    link.close()


Linked = tuple[WorkerLink, Mock, zmq.asyncio.Socket]


async def test_a_worker_that_misses_a_message_is_given_up_for_good(linked: Linked) -> None:
    link, events, worker = linked
    large = OpenSession("a", "day", 1, saved=bytes(1 << 20))
    for number in range(1_500):  # more than its queue and the kernel hold
        link.send(large if number < 4 else CloseSession("a"))
    await eventually(lambda: bool(events.worker_lost.called))
    assert events.worker_lost.call_args.args == ("the worker's queue is full",)
    await worker.send_multipart(encode_parts(WorkerPong(now_ms())))
    await asyncio.sleep(0.3)
    assert not events.worker_revived.called and link.worker_silent, "it is to be replaced"
    await worker.send_multipart(encode_parts(Ready(SPEC, 1, "jacobi")))
    await eventually(lambda: not link.worker_silent)


async def test_a_worker_that_is_gone_is_noticed_when_something_is_sent(linked: Linked) -> None:
    link, events, worker = linked
    link._worker = b"nobody"
    link.send(CloseSession("a"))
    await eventually(lambda: bool(events.worker_lost.called))
    assert events.worker_lost.call_args.args == ("the worker's connection ended",)
    assert not link.worker_silent, "there is no process to replace"
