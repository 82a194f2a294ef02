"""A world's number of players is measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import pytest

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.runtime.decoding import capacity
from worldbridge.runtime.decoding.capacity import latent_times, players_carried, usual_ms
from worldbridge.runtime.worlds.contract import Controls, Pose, Synchronous, WorldFrame, WorldStart


@dataclass(eq=False)
class Stream:
    shown: int = 0


class SleepingWorld(Synchronous[Stream]):
    """Takes a fixed time per player."""

    def __init__(self, ms_per_player: float, fps: float = 20.0) -> None:
        super().__init__()
        self.seconds = ms_per_player / 1000
        self.opened = 0
        self.spec = WorldSpec("sleepy", "", 2, 2, fps, 1, ("plain",), (), 1, "procedural")

    def open(self, start: WorldStart) -> Stream:
        self.opened += 1
        return Stream()

    def submit(self, states: Sequence[Stream], controls: Sequence[Controls]) -> None:
        time.sleep(self.seconds * len(states))
        super().submit(states, controls)

    def render(self, state: Stream, controls: Controls) -> WorldFrame:
        return WorldFrame(b"", Pose(), 0.0, 0.0)

    def save(self, state: Stream) -> bytes:
        raise NotImplementedError

    def load(self, data: bytes) -> Stream:
        raise NotImplementedError


@dataclass
class Clock:
    """In place of the module `time`."""

    now_s: float = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class LatentWorld(SleepingWorld):
    """Draws a latent in the step of its first picture, as a converted world does, on a clock that
    says exactly what that costs. A stream begins with the picture that it was opened with."""

    def __init__(
        self,
        clock: Clock,
        *,
        pictures: int,
        fps: float,
        ms_a_latent: float,
        ms_a_player: float,
        others_ms: Sequence[float] = (),
    ) -> None:
        """`others_ms`: what somebody else takes away from each drawing, in turn."""
        super().__init__(0.0, fps)
        self.spec = self.spec.replace(frames_per_latent=pictures)
        self.clock, self.others_ms, self.drawings = clock, others_ms, 0
        self.cost = ms_a_latent, ms_a_player

    def submit(self, states: Sequence[Stream], controls: Sequence[Controls]) -> None:
        drawing = 0
        for state in states:
            drawing += state.shown % self.spec.frames_per_latent == 1 % self.spec.frames_per_latent
            state.shown += 1
        assert drawing in (0, len(states)), "they are in step with each other"
        if drawing:
            once, each = self.cost
            self.clock.now_s += (once + each * drawing) / 1000
            if self.others_ms:
                self.clock.now_s += self.others_ms[self.drawings % len(self.others_ms)] / 1000
            self.drawings += 1
        super().submit(states, controls)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(capacity, "time", clock)
    return clock


def test_latents_are_timed_one_by_one() -> None:
    times = list(islice(latent_times(SleepingWorld(5.0), 2), 6))
    assert len(times) == 6
    assert min(times) >= 10.0


@pytest.mark.parametrize("pictures", [1, 3, 8])
def test_a_latent_is_all_of_its_steps(clock: Clock, pictures: int) -> None:
    world = LatentWorld(clock, pictures=pictures, fps=100, ms_a_latent=4, ms_a_player=30)
    assert list(islice(latent_times(world, 3), 5)) == pytest.approx([94.0] * 5)


def test_the_slowest_of_eight_is_somebody_elses() -> None:
    assert usual_ms([2.0] * 7 + [900.0]) == 2.0
    assert usual_ms([1.0, 3.0]) == 2.0
    assert usual_ms([1.0] * 6 + [8.0]) == 2.0  # of fewer all count


@pytest.mark.parametrize(
    ("pictures", "fps", "cost", "carried"),
    [
        (8, 100, (0, 30), 2),  # 80 ms a latent: two take 60 ms, three would take 90
        (8, 100, (0, 26), 3),
        (8, 24, (100, 20), 11),  # 333 ms: 11 take 320
        (1, 15, (10, 20), 2),  # 67 ms: 2 take 50
        (1, 15, (0, 60), 1),
        (1, 1000, (0.5, 0.005), 64),  # as many as are wanted
        (1, 1000, (0.5, 0.0099), 50),
    ],
)
def test_as_many_as_keep_the_rate(
    clock: Clock, pictures: int, fps: float, cost: tuple[float, float], carried: int
) -> None:
    once, each = cost
    world = LatentWorld(clock, pictures=pictures, fps=fps, ms_a_latent=once, ms_a_player=each)
    assert players_carried(world, 64, once + each) == carried


@pytest.mark.parametrize("pictures", [1, 8])
def test_one_slow_latent_is_no_reason(clock: Clock, pictures: int) -> None:
    slow = [0.0] * 7 + [500.0]
    world = LatentWorld(
        clock, pictures=pictures, fps=20, ms_a_latent=0, ms_a_player=15 * pictures, others_ms=slow
    )
    assert players_carried(world, 8, 15 * pictures) == 3


@pytest.mark.parametrize("pictures", [1, 8])
def test_a_slide_of_every_third_latent_is_one(clock: Clock, pictures: int) -> None:
    """What belongs to the world is not taken for somebody else's."""
    world = LatentWorld(
        clock,
        pictures=pictures,
        fps=20,
        ms_a_latent=0,
        ms_a_player=15 * pictures,
        others_ms=[0.0, 0.0, 60.0 * pictures],
    )
    assert players_carried(world, 8, 15 * pictures) == 2


def test_a_fast_machine_is_asked_for_no_more_than_is_wanted() -> None:
    assert players_carried(SleepingWorld(0.1), 3, 0.1) == 3
    assert players_carried(SleepingWorld(0.1), 1, 0.1) == 1


def test_few_numbers_are_tried(clock: Clock) -> None:
    tried: list[int] = []
    world = LatentWorld(clock, pictures=8, fps=24, ms_a_latent=100, ms_a_player=20)
    players_carried(world, 64, 120.0, tried.append)
    assert tried == [2, 4, 8, 16, 12, 10, 11]


def test_one_player_is_let_in_however_slow_it_is_and_at_once() -> None:
    world = SleepingWorld(30.0)
    assert players_carried(world, 8, 30.0) == 1
    assert world.opened == 2  # nothing beyond the first number that is too large was tried
    slow = SleepingWorld(10_000.0)
    assert players_carried(slow, 8, 10_000.0) == 1
    assert slow.opened == 0


def test_what_cannot_keep_the_rate_any_more_is_ended_early(clock: Clock) -> None:
    world = LatentWorld(clock, pictures=8, fps=20, ms_a_latent=0, ms_a_player=1900)
    assert players_carried(world, 8, 300.0) == 1
    # the latents of the warm-up, the one that might be somebody else's, and one more
    assert world.drawings == 3
