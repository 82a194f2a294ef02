"""Clients and workers that do anything in any order: the gateway lives, and its seats add up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.fake_worker import SPEC
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.connection import Phase
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.peer import Peer
from worldbridge.bridge.protocol import (
    Bye,
    Failed,
    HandOver,
    Hello,
    Loading,
    Opened,
    Ping,
    Ready,
    RequestControl,
    Start,
    encode,
)
from worldbridge.clock import now_ms

SEATS = 2
messages = st.one_of(
    st.sampled_from([b"", b"\xc1", b"\x81", encode(Bye()), encode(Ping(1.0)), encode(Start())]),
    st.sampled_from([encode(Hello()), encode(Hello(role="spectator")), encode(Start("night", 3))]),
    st.sampled_from([encode(Hello(wait=True)), encode(Bye(keep=True))]),
    st.sampled_from([encode(RequestControl()), encode(HandOver())]),
    st.binary(max_size=40),
)


class GatewayMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.peers: list[Peer] = []
        self.time = now_ms()
        self.run(self._open)

    def run(self, work: Callable[[], Any]) -> Any:
        async def inside() -> Any:
            result = work()
            await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(inside())

    def _open(self) -> None:
        self.gateway = Gateway(GatewayConfig(max_clients=6, queue=2), "test")

    def _pick(self, number: int) -> Peer | None:
        return self.peers[number % len(self.peers)] if self.peers else None

    @rule()
    def connect(self) -> None:
        self.peers.append(self.run(lambda: self.gateway.connect(lambda: None)))

    @rule(number=st.integers(0, 9), data=messages)
    def send(self, number: int, data: bytes) -> None:
        peer = self._pick(number)
        if peer is not None:
            self.run(lambda: self.gateway.receive(peer, data))

    @rule(number=st.integers(0, 9))
    def read_nothing(self, number: int) -> None:
        """The outbox overflows, and the client is closed as too slow."""
        peer = self._pick(number)
        if peer is not None:
            self.run(lambda: [self.gateway.receive(peer, encode(Ping(1.0))) for _ in range(100)])

    @rule(number=st.integers(0, 9))
    def disconnect(self, number: int) -> None:
        peer = self._pick(number)
        if peer is not None:
            self.peers.remove(peer)
            self.run(lambda: self.gateway.disconnect(peer))

    @rule(seats=st.integers(1, SEATS))
    def ready(self, seats: int) -> None:
        self.run(lambda: self.gateway.worlds.worker_ready(Ready(SPEC, seats, "")))

    @rule()
    def loading(self) -> None:
        self.run(lambda: self.gateway.worlds.worker_loading(Loading("loading", 0.5)))

    @rule()
    def lost(self) -> None:
        self.run(lambda: self.gateway.worlds.worker_lost("the test"))

    @rule(name=st.sampled_from(["opened", "failed"]))
    def worker_says(self, name: str) -> None:
        for session in list(self.gateway.worlds.sessions):
            worlds = self.gateway.worlds
            if name == "opened":
                self.run(partial(worlds.session_opened, Opened(session.id)))
            else:
                failed = Failed(session.id, "world_failed", "the test")
                self.run(partial(worlds.session_failed, failed))

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.time += seconds * 1000
        self.run(lambda: self.gateway.tick(self.time))

    @invariant()
    def seats_add_up(self) -> None:
        worlds = self.gateway.worlds
        held, waiting = worlds._seats._held, worlds._seats._queue
        assert len(held) + len(waiting) == len(worlds.sessions)
        assert len(held) <= SEATS and not set(held) & set(waiting)
        assert all(not session.started for session in worlds.sessions if session.id in waiting)
        playing = [peer for peer in self.peers if peer.plays and peer.session is not None]
        assert len({peer.session.id for peer in playing if peer.session}) == len(playing)
        for peer in playing:
            assert worlds.sessions.get(peer.session.id) is peer.session  # type: ignore[union-attr]

    @invariant()
    def whoever_waits_was_greeted(self) -> None:
        if self.gateway.worlds.world is not None:
            assert all(peer.connection.phase is not Phase.WAITING for peer in self.peers)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.gateway._close())
        self.loop.close()


GatewayMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestGateway = GatewayMachine.TestCase


def test_a_waiting_client_that_is_being_closed_gets_no_seat() -> None:
    """Each order of a `bye`, or of being too slow, and the world that becomes ready."""
    for end in ("bye", "slow"):
        machine = GatewayMachine()
        machine.connect()
        machine.connect()
        machine.send(0, encode(Hello()))
        machine.send(1, encode(Hello()))
        if end == "bye":
            machine.send(0, encode(Bye()))
        else:
            machine.read_nothing(0)
        machine.ready(2)
        machine.seats_add_up()
        assert machine.peers[0].connection.phase is Phase.CLOSED
        assert machine.peers[1].connection.phase is Phase.STREAMING
        machine.teardown()


def test_an_error_of_ours_in_a_tick_ends_nobody_elses_game() -> None:
    machine = GatewayMachine()
    machine.connect()
    machine.connect()

    def broken(*_: object) -> None:
        raise AssertionError("a bug")

    machine.peers[0].overdue = broken  # type: ignore[method-assign, assignment]
    machine.gateway.worlds.tick = broken  # type: ignore[method-assign, assignment]
    machine.wait(0.1)
    assert machine.peers[0].connection.phase is Phase.CLOSED
    assert machine.peers[1].connection.phase is Phase.GREETING
    machine.teardown()


def test_after_a_pause_of_the_machine_nobody_is_judged_at_once() -> None:
    machine = GatewayMachine()
    machine.connect()
    machine.send(0, encode(Hello()))
    [peer] = machine.peers
    machine.wait(0.1)
    machine.wait(60.0)  # the machine was suspended: what clients sent meanwhile is unread
    assert peer.connection.phase is Phase.WAITING
    for _ in range(19):
        machine.wait(0.1)
    assert peer.connection.phase is Phase.WAITING
    machine.wait(0.2)
    assert peer.connection.phase is Phase.CLOSED, "it had its time"
    machine.teardown()
