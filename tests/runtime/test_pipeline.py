"""Worlds whose pixels are made beside the next tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tests.support.fakes import CountingState, CountingWorld, FakeClock
from worldbridge.bridge.protocol import CloseSession, Failed, OpenSession, RawFrame, RestartSession
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.worlds.contract import Controls, WorldFrame

Answer = WorldFrame | Exception


class PipelinedCountingWorld(CountingWorld):
    """Its frames are finished when the test says so, at the latest with the submit after next."""

    overlap = 1

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.unfinished: deque[list[tuple[CountingState, Answer]]] = deque()
        self.done: dict[CountingState, deque[Answer]] = {}

    def submit(self, states: Sequence[CountingState], controls: Sequence[Controls]) -> None:
        self.notify()
        super().submit(states, controls)
        answers = super().poll(states)
        pairs = [(s, a) for s, a in zip(states, answers, strict=True) if a is not None]
        self.unfinished.append(pairs)
        if len(self.unfinished) > 1:
            self.finish()

    def finish(self, error: Exception | None = None) -> None:
        """The pixels of the oldest step are there, or fail."""
        for state, answer in self.unfinished.popleft():
            self.done.setdefault(state, deque()).append(error or answer)

    def poll(self, states: Sequence[CountingState]) -> list[Answer | None]:
        return [self.done[s].popleft() if self.done.get(s) else None for s in states]


def rig() -> tuple[Engine, PipelinedCountingWorld, FakeClock]:
    clock = FakeClock()
    world = PipelinedCountingWorld(clock)
    engine = Engine(world, seats=4, pick_seed=lambda: 1, clock=lambda: clock.now_ms)
    return engine, world, clock


def numbers(messages: Sequence[object]) -> list[int]:
    return [m.header.frame for m in messages if isinstance(m, RawFrame)]


def test_frames_leave_when_their_pixels_are_ready() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    assert not numbers(engine.step(clock.now_ms))
    assert not engine.poll()
    world.finish()
    (frame,) = engine.poll()
    assert isinstance(frame, RawFrame) and frame.header.frame == 0
    assert not engine.poll()


def test_order_is_kept_and_no_frame_is_lost() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    assert numbers(engine.step(clock.now_ms)) == [0]
    engine.step(clock.now_ms)
    world.finish()
    assert numbers(engine.poll()) == []  # the gateway takes two until it acknowledges them
    assert engine.sessions == ("a",)


def test_two_frames_that_are_finished_at_once_both_leave() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    world.submit([engine._sessions["a"].state], [Controls()])
    world.finish()
    assert numbers(engine.poll()) == [0, 1]


def test_finished_frames_leave_while_the_next_tokens_are_made() -> None:
    engine, world, clock = rig()
    sent: list[object] = []
    world.notify = lambda: sent.extend(engine.poll())
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    world.finish()
    engine.step(clock.now_ms)
    assert numbers(sent) == [0]


def test_nobody_gets_a_frame_of_a_world_that_was_left() -> None:
    engine, world, clock = rig()
    for name in ("a", "b"):
        engine.receive(OpenSession(name, "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    engine.receive(CloseSession("a"), clock.now_ms)
    engine.receive(RestartSession("b", "striped", 2), clock.now_ms)
    world.finish()
    assert not numbers(engine.poll())


def test_pixels_that_fail_end_their_sessions() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    world.finish(RuntimeError("no pixels"))
    (failed,) = engine.poll()
    assert isinstance(failed, Failed) and failed.session == "a" and "no pixels" in failed.got
    assert engine.sessions == ()


def test_a_submit_that_raises_ends_the_sessions_it_was_for() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)

    def raises() -> None:
        raise RuntimeError("no threads")

    world.notify = raises
    (failed,) = engine.step(clock.now_ms)
    assert isinstance(failed, Failed) and "no threads" in failed.got
    assert engine.sessions == ()
