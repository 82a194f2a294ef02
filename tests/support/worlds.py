"""Drive a world frame by frame through its contract."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worldbridge.bridge.protocol import Pose
from worldbridge.runtime.worlds.contract import Controls, WorldFrame, WorldModel, next_frames


@dataclass(frozen=True, slots=True)
class Step:
    """One frame of each session, in the order of the states."""

    frames: list[WorldFrame]

    @property
    def i420(self) -> list[bytes]:
        return [frame.i420 for frame in self.frames]

    @property
    def poses(self) -> list[Pose]:
        return [frame.pose for frame in self.frames]


def controls_of(actions: Tensor, tags: Sequence[object] | None = None) -> list[Controls]:
    """Return the controls of each row of `actions` [B, 4]."""
    rows: list[list[float]] = actions.tolist()
    marks = [None] * len(rows) if tags is None else tags
    return [
        Controls((a, b, c, d), None, tag) for (a, b, c, d), tag in zip(rows, marks, strict=True)
    ]


def advance(world: WorldModel[Any], states: Sequence[Any], actions: Tensor) -> Step:
    """Submit actions [B, 4] and wait for a frame of every state. Raises what a state reports."""
    return Step(next_frames(world, states, controls_of(actions)))


def until_answered(
    world: WorldModel[Any], states: Sequence[Any], seconds: float = 60.0
) -> list[WorldFrame | Exception]:
    """Poll until every state has answered with a frame or with an error."""
    answers: dict[int, WorldFrame | Exception] = {}
    deadline = time.monotonic() + seconds
    while len(answers) < len(states):
        assert time.monotonic() < deadline, "no answer"
        for place, state in enumerate(states):
            if place not in answers and (answer := world.poll([state])[0]) is not None:
                answers[place] = answer
        time.sleep(0.0005)
    return [answers[place] for place in range(len(states))]
