"""A world's number of players is measured, not guessed."""

import time
from collections.abc import Sequence

import torch

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.runtime.capacity import players_carried, step_times
from worldbridge.runtime.world import Frames, Pose, WorldStart


class SleepingWorld:
    """Takes a fixed time per player."""

    def __init__(self, ms_per_player: float, fps: float = 20.0) -> None:
        self.seconds = ms_per_player / 1000
        self.opened = 0
        self.spec = WorldSpec("sleepy", "", 2, 2, fps, 1, ("plain",), ("a",), 1, "procedural")

    def open(self, start: WorldStart) -> object:
        self.opened += 1
        return object()

    def step(self, states: Sequence[object], actions: torch.Tensor) -> Frames:
        assert actions.shape == (len(states), 4)
        time.sleep(self.seconds * len(states))
        return Frames([b""] * len(states), [Pose()] * len(states), 0.0, 0.0)

    def snapshot(self, state: object) -> bytes:
        raise NotImplementedError

    def restore(self, data: bytes) -> object:
        raise NotImplementedError


def test_steps_are_timed_one_by_one() -> None:
    times = step_times(SleepingWorld(5.0), 2, 6)
    assert len(times) == 6
    assert min(times) >= 10.0


def test_as_many_as_keep_the_rate() -> None:
    # 50 ms a frame: three take 36 ms, five would take 60
    assert players_carried(SleepingWorld(12.0), 8, 12.0) in (3, 4)


def test_a_fast_machine_is_asked_for_no_more_than_is_wanted() -> None:
    assert players_carried(SleepingWorld(0.1), 3, 0.1) == 3


def test_one_player_is_let_in_however_slow_it_is_and_at_once() -> None:
    world = SleepingWorld(30.0)
    assert players_carried(world, 8, 30.0) == 1
    assert world.opened == 2  # nothing beyond the first number that is too large was tried
    slow = SleepingWorld(10_000.0)
    assert players_carried(slow, 8, 10_000.0) == 1
    assert slow.opened == 0
