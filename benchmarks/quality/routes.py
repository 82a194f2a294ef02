"""Scripted routes through held-out scenes, whose truth the renderer knows."""

from __future__ import annotations

import math
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

__all__ = ["REVISITS", "Action", "View", "held_out_scene", "pose_of", "psnr_db", "route_views"]

Action = tuple[float, float, float, float]  # strafe, forward, yaw, pitch

_LEFT, _RIGHT = (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, -1.0, 0.0)
_AHEAD, _BACK = (0.0, 1.0, 0.0, 0.0), (0.0, -1.0, 0.0, 0.0)
# Routes that end where they began: 120 degrees left and back, a full circle, 2 m ahead and back.
REVISITS: dict[str, Sequence[Action]] = {
    "turn": [_LEFT] * 24 + [_RIGHT] * 24,
    "circle": [_LEFT] * 72,
    "walk": [_AHEAD] * 13 + [_BACK] * 13,
}
_FREE_M = 3.0


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


def route_views(
    scene: Scene, start: CameraState, actions: Sequence[Action], height: int = 320, width: int = 512
) -> Iterator[View]:
    """Render the start and the view after each action."""
    state = start
    for n in range(len(actions) + 1):
        if n:
            state = step_camera(scene, state, actions[n - 1])
        rgb, nearness = render_rgbd(scene, state, height, width)
        yield View(rgb.permute(1, 2, 0).contiguous(), nearness, state)


def pose_of(state: CameraState) -> Pose:
    """Return the camera's pose as clients say it."""
    return Pose(*camera_pose(state))


def psnr_db(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> float:
    """Return the PSNR of uint8 pictures (H, W, 3), of the masked pixels alone if there is a mask.

    At most 99 dB, for equal pictures; NaN for no pixels.
    """
    error = (found.float() - wanted.float()).square()
    mean = float((error if mask is None else error[mask]).mean())
    if math.isnan(mean):
        return mean
    return 99.0 if mean == 0 else min(99.0, 10 * math.log10(255.0**2 / mean))
