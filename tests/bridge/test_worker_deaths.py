"""A session that ends its worker again and again ends alone; the others come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.fake_worker import SPEC
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway import sessions as module
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.protocol import Opened, Ready, Start

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
