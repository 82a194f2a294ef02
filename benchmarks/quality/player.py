"""Play worlds for the evaluation: frames as RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.benchmarks.quality.routes import Action, View, pose_of
from worldbridge.models.procedural.camera import CameraState
from worldbridge.runtime.frames.i420 import rgb_to_i420
from worldbridge.runtime.worlds.contract import Controls, Pose, WorldModel, WorldStart, next_frames

__all__ = ["Shown", "WorldPlayer", "as_shown", "rgb_of", "takes_frames"]

_NEUTRAL: Action = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame and its camera: rgb uint8 (H, W, 3); nearness float32 (H, W), 1/m, from worlds that
    have depth."""

    rgb: Tensor
    pose: Pose
    nearness: Tensor | None


class WorldPlayer:
    """A session of a world, begun with the frame of its start where the world takes one.

    `depth`: with the frame's depth, if the world has depth, as a session of a theme begins.
    """

    def __init__(
        self, world: WorldModel[Any], theme: str, start: View, seed: int, depth: bool = True
    ) -> None:
        self._world = world
        self._follows = "camera" in world.spec.conditionings
        frames = self._start_frame(start)
        nearness = start.nearness if depth and world.spec.depth and frames is not None else None
        self.state = world.open(WorldStart(self._theme(theme), seed, frames, nearness))
        # The first frame: what is shown where the session begins, to a client standing there.
        self.first = self.step(_NEUTRAL, start.state)

    def step(self, action: Action, camera: CameraState | None = None) -> Shown:
        """Return the next frame. `camera`: where the client's is, if it has one."""
        pose = pose_of(camera) if camera is not None and self._follows else None
        controls = Controls(action, pose, depth=True)
        [frame] = next_frames(self._world, [self.state], [controls])
        spec = self._world.spec
        return Shown(
            rgb_of(frame.i420, spec.height, spec.width), frame.pose, self._nearness(frame.depth)
        )

    def _theme(self, theme: str) -> str:
        """The world's name of a theme, such as a locality of the city; its first one without."""
        names = self._world.spec.themes
        alike = [name for name in names if name.split("/")[0] == theme.split("/")[0]]
        return theme if theme in names else [*alike, *names][0]

    def _start_frame(self, start: View) -> Tensor | None:
        return start.rgb.permute(2, 0, 1)[None] if takes_frames(self._world) else None

    def _nearness(self, depth: bytes | None) -> Tensor | None:
        if depth is None:
            return None
        metres = torch.from_numpy(np.frombuffer(depth, np.float32).copy())
        return 1.0 / metres.view(self._world.spec.height, self._world.spec.width).clamp_min(1e-3)


def takes_frames(world: WorldModel[Any]) -> bool:
    """Whether a world can begin with a given frame."""
    return world.spec.max_prompt_frames > 0


def as_shown(rgb: Tensor) -> Tensor:
    """Return a frame as a client sees it: with the colour resolution of I420."""
    height, width = rgb.shape[:2]
    return rgb_of(rgb_to_i420(rgb.permute(2, 0, 1)), height, width)


def rgb_of(i420: bytes, height: int, width: int) -> Tensor:
    """Return uint8 (H, W, 3) of an I420 frame: BT.601 limited range, chroma repeated."""
    planes = torch.from_numpy(np.frombuffer(i420, np.uint8).copy()).float()
    luma = (planes[: height * width].view(height, width) - 16.0) * (255.0 / 219.0)
    chroma = planes[height * width :].view(2, height // 2, width // 2) - 128.0
    blue, red = F.interpolate(chroma[None], scale_factor=2, mode="nearest")[0]
    colors = (
        luma + 1.596027 * red,
        luma - 0.391762 * blue - 0.812968 * red,
        luma + 2.017232 * blue,
    )
    return torch.stack(colors, -1).round_().clamp_(0, 255).to(torch.uint8)
