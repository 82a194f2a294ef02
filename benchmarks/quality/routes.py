"""Scripted routes through held-out scenes, whose truth the renderer knows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from worldbridge.bridge.protocol import Pose
from worldbridge.models.procedural.camera import (
    CameraState,
    camera_pose,
    clearance,
    spawn,
    step_camera,
)
from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.models.procedural.scene import Scene
from worldbridge.models.training.play_clips import HELD_OUT_SEEDS

__all__ = [
    "LOOK_AROUND",
    "REVISITS",
    "Action",
    "View",
    "held_out_scene",
    "pose_of",
    "random_play",
    "route_views",
    "view_of",
]

Action = tuple[float, float, float, float]  # strafe, forward, yaw, pitch

_LEFT, _RIGHT = (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, -1.0, 0.0)
_AHEAD, _BACK = (0.0, 1.0, 0.0, 0.0), (0.0, -1.0, 0.0, 0.0)
# Routes that end where they began: 120 degrees left and back, a full circle, 2 m ahead and back.
REVISITS: dict[str, Sequence[Action]] = {
    "turn": [_LEFT] * 24 + [_RIGHT] * 24,
    "circle": [_LEFT] * 72,
    "walk": [_AHEAD] * 13 + [_BACK] * 13,
}
# Ten seconds that keep most of the first frame in view.
LOOK_AROUND: Sequence[Action] = [
    *[(0.0, 0.5, 0.0, 0.0)] * 15,
    *[(0.0, 0.0, 0.4, 0.0)] * 20,
    *[(0.0, 0.0, -0.4, 0.0)] * 40,
    *[(0.0, 0.0, 0.4, 0.0)] * 20,
    *[(0.0, -0.5, 0.0, 0.0)] * 15,
    *[(0.5, 0.0, 0.0, 0.0)] * 20,
    *[(-0.5, 0.0, 0.0, 0.0)] * 10,
    *[(0.0, 0.5, 0.0, 0.0)] * 10,
]
_FREE_M = 3.0
_PIECES: Sequence[Action] = (
    *((0.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.6, 0.0), (0.0, 1.0, -0.6, 0.0), _LEFT, _RIGHT),
    *((1.0, 0.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0), _BACK),
    *((0.0, 0.0, 0.5, 0.4), (0.0, 0.0, -0.5, -0.4), (0.0, 0.0, 0.0, 0.0)),
)


@dataclass(frozen=True, slots=True)
class View:
    """What a camera in a scene sees: rgb uint8 (H, W, 3), nearness float32 (H, W)."""

    rgb: Tensor
    nearness: Tensor
    state: CameraState


def held_out_scene(theme: str, number: int) -> tuple[Scene, CameraState]:
    """Return a scene that no world is trained on, and a start with free space ahead."""
    seed = HELD_OUT_SEEDS[number]
    scene = build_plain_scene(theme, seed)
    starts = [spawn(scene, seed + n) for n in range(4)]
    return scene, max(starts, key=lambda s: clearance(scene, s.x, s.z, s.yaw, _FREE_M))


def view_of(scene: Scene, state: CameraState, height: int = 320, width: int = 512) -> View:
    """Render what a camera sees."""
    rgb, nearness = render_rgbd(scene, state, height, width)
    return View(rgb.permute(1, 2, 0).contiguous(), nearness, state)


def route_views(scene: Scene, start: CameraState, actions: Sequence[Action]) -> Iterator[View]:
    """Render the start and the view after each action."""
    state = start
    for n in range(len(actions) + 1):
        if n:
            state = step_camera(scene, state, actions[n - 1])
        yield view_of(scene, state)


def pose_of(state: CameraState) -> Pose:
    """Return the camera's pose as clients say it."""
    return Pose(*camera_pose(state))


def random_play(seed: int, frames: int) -> list[Action]:
    """Return the actions of someone who walks and looks about."""
    rng = random.Random(seed)
    actions: list[Action] = []
    while len(actions) < frames:
        actions += [rng.choice(_PIECES)] * rng.randrange(8, 30)
    return actions[:frames]
