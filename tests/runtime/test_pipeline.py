"""Worlds whose pixels are made beside the next tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from tests.support.fakes import CountingState, CountingWorld, FakeClock
from worldbridge.bridge.protocol import CloseSession, Failed, OpenSession, RawFrame, RestartSession
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.worlds.contract import Frames


@dataclass
class Slow:
    """Frames that are ready when told, or fail."""

    made: Frames
    done: bool = False
    error: Exception | None = None
    waited: int = 0

    @property
    def t_tokens(self) -> float:
        return self.made.t_tokens

    def ready(self) -> bool:
        return self.done

    def frames(self) -> Frames:
        self.waited += not self.done
        if self.error is not None:
            raise self.error
        return self.made


@dataclass
class PipelinedCountingWorld(CountingWorld):
    begun: list[Slow] = field(default_factory=list)
    between: Callable[[], None] = lambda: None

    def begin(self, states: Sequence[CountingState], actions: Tensor) -> Slow:
        self.between()
        self.begun.append(Slow(self.step(states, actions)))
        return self.begun[-1]

    def rest(self) -> None:
        """It has no threads."""


def rig() -> tuple[Engine, PipelinedCountingWorld, FakeClock]:
    clock = FakeClock()
    world = PipelinedCountingWorld(clock)
    return Engine(world, seats=4, pick_seed=lambda: 1), world, clock


def test_frames_leave_when_their_pixels_are_ready() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    assert not [m for m in engine.step(clock.now_ms) if isinstance(m, RawFrame)]
    assert engine.unfinished and not engine.collect()
    world.begun[0].done = True
    (frame,) = engine.collect()
    assert isinstance(frame, RawFrame) and frame.header.frame == 0
    assert not engine.unfinished


def test_at_most_one_step_is_unfinished_and_order_is_kept() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    world.begun[0].done = False
    second = [m for m in engine.step(clock.now_ms) if isinstance(m, RawFrame)]
    assert [m.header.frame for m in second] == [0]  # it was waited for
    assert world.begun[0].waited == 1
    world.begun[1].done = True
    assert [m.header.frame for m in engine.collect() if isinstance(m, RawFrame)] == [1]


def test_finished_frames_leave_while_the_next_tokens_are_made() -> None:
    engine, world, clock = rig()
    sent: list[object] = []
    engine.between(lambda: sent.extend(engine.collect()))
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    world.begun[0].done = True
    engine.step(clock.now_ms)
    assert len(sent) == 1


def test_nobody_gets_a_frame_of_a_world_that_was_left() -> None:
    engine, world, clock = rig()
    for name in ("a", "b"):
        engine.receive(OpenSession(name, "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    engine.receive(CloseSession("a"), clock.now_ms)
    engine.receive(RestartSession("b", "striped", 2), clock.now_ms)
    world.begun[0].done = True
    assert not [m for m in engine.collect() if isinstance(m, RawFrame)]


def test_pixels_that_fail_end_their_sessions() -> None:
    engine, world, clock = rig()
    engine.receive(OpenSession("a", "plain", 1), clock.now_ms)
    engine.step(clock.now_ms)
    world.begun[0].done, world.begun[0].error = True, RuntimeError("no pixels")
    (failed,) = engine.collect()
    assert isinstance(failed, Failed) and failed.session == "a" and "no pixels" in failed.got
    assert engine.sessions == ()
