"""A view of the rendered world with exact depth, for the clients' tests of depth.

A camera sees a frame, a moved camera sees the truth that the reprojected frame is compared with,
and a ball stands half behind the nearest wall.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from worldbridge.models.procedural import CameraState, build_scene, camera_pose, spawn
from worldbridge.models.procedural.render import render_rgbd

MAGENTA = (255, 0, 255)  # of the ball
SCALE = 0.002  # metres per step of the depth: up to 131 m
TURN_DEG_S, WALK_M_S = 90.0, 1.5
REFRESHES = (2, 4, 6)  # sixtieths of a second after the frame; the sixth is when the next one comes
BORDER = 0.25  # of the width: what the turned camera sees beyond the frame
BALL_M = 0.5  # radius


@dataclass(frozen=True, slots=True)
class View:
    """uint8 [H, W, 3] and metres [H, W] that a camera sees, and its Pose."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    pose: Mapping[str, Any]

    def fields(self) -> dict[str, Any]:
        """Return the fields of the frame's message."""
        steps = np.clip(self.depth / SCALE, 1, 65535).round().astype("<u2")
        image = simplejpeg.encode_jpeg(self.rgb, 95, colorspace="RGB", colorsubsampling="444")
        return {
            "header": {"camera": self.pose, "width": 512, "height": 320},
            "image": image,
            "depth": steps.tobytes(),
            "depth_scale": SCALE,
        }


def view(scene: Any, camera: CameraState) -> View:
    rgb, nearness = render_rgbd(scene, camera)
    position, orientation, fov_y = camera_pose(camera)
    pose = {"position": position, "orientation": orientation, "fov_y": fov_y}
    image = np.ascontiguousarray(rgb.permute(1, 2, 0).numpy())
    return View(image, 1 / nearness.numpy(), pose)


def rays(camera: CameraState, size: tuple[int, int], fov_y: float) -> NDArray[np.float64]:
    """Return the direction of every pixel in the world, [H, W, 3], one metre along the axis."""
    height, width = size
    tangent = math.tan(math.radians(fov_y) / 2)
    x = ((np.arange(width) + 0.5) / width * 2 - 1) * tangent * width / height
    y = (1 - (np.arange(height) + 0.5) / height * 2) * tangent
    across, up = np.meshgrid(x, y)
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    return np.stack([cos * across - sin, up, -sin * across - cos], -1)


def ball_mask(
    camera: CameraState, seen: View, centre: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Return where a ball is seen that the world's surfaces hide, [H, W]."""
    direction = rays(camera, seen.depth.shape, seen.pose["fov_y"])
    offset = np.array(seen.pose["position"]) - centre
    a, b = (direction**2).sum(-1), (direction @ offset)
    root = b**2 - a * (offset @ offset - BALL_M**2)
    nearest = (-b - np.sqrt(np.maximum(root, 0))) / a
    return (root > 0) & (nearest < seen.depth)


def edge(depth: NDArray[np.float32]) -> tuple[int, int]:
    """Return the last pixel of a near surface in the middle row, before a far one."""
    row = depth.shape[0] // 2
    drop = 1 / depth[row, :-1] - 1 / depth[row, 1:]
    columns = np.arange(60, depth.shape[1] - 60)
    return row, int(columns[np.argmax(drop[columns])])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the ratio in dB inside the part that both cameras see."""
    width = a.shape[1]
    inside = slice(int(BORDER * width), int((1 - BORDER) * width))
    error = ((a[:, inside].astype(float) - b[:, inside]) ** 2).mean()
    return float(10 * np.log10(255**2 / error))


@dataclass(frozen=True, slots=True)
class DepthScene:
    """`frame` is sent, `truths` are what the moving camera sees, `centre` is the ball's."""

    camera: CameraState
    frame: View
    truths: tuple[View, ...]
    centre: tuple[float, float, float]

    def check_reprojected(self, shown: Sequence[NDArray[np.uint8]]) -> None:
        """Assert that what is shown at each refresh is much nearer to the truth than the frame."""
        assert len(shown) == len(self.truths)
        gains = []
        for refresh, image, truth in zip(REFRESHES, shown, self.truths, strict=True):
            unwarped, warped = psnr(self.frame.rgb, truth.rgb), psnr(image, truth.rgb)
            gains.append(warped - unwarped)
            turn, walk = TURN_DEG_S * refresh / 60, 100 * WALK_M_S * refresh / 60
            print(
                f"{turn:.0f} degrees and {walk:.0f} cm on: PSNR {warped:.1f} dB reprojected, "
                f"{unwarped:.1f} dB as it came"
            )
        assert min(gains) > 6

    def check_ball(self, shown: NDArray[np.uint8]) -> None:
        """Assert that the ball is seen beside the wall, and not through it."""
        magenta = np.abs(shown.astype(int) - MAGENTA).max(-1) < 40
        visible = ball_mask(self.camera, self.frame, self.centre)
        nothing = View(self.frame.rgb, np.full_like(self.frame.depth, 1e6), self.frame.pose)
        whole = ball_mask(self.camera, nothing, self.centre)
        print(f"{magenta.sum()} pixels shown, {visible.sum()} of {whole.sum()} expected")
        assert 0.2 < visible.sum() / whole.sum() < 0.8  # half of it, or the test shows nothing
        assert (magenta != visible).sum() < 0.1 * whole.sum()


def moved(camera: CameraState, seconds: float) -> CameraState:
    """Return a camera that has turned and walked for a time."""
    yaw = camera.yaw + math.radians(TURN_DEG_S) * seconds
    walk = WALK_M_S * seconds
    return CameraState(camera.x - walk * math.sin(yaw), camera.z - walk * math.cos(yaw), yaw)


@cache
def depth_scene() -> DepthScene:
    scene = build_scene("city", 7, "cpu")
    camera = spawn(scene, 7)
    frame = view(scene, camera)
    row, column = edge(frame.depth)
    depth = float(frame.depth[row, column]) + 2 * BALL_M
    direction = rays(camera, frame.depth.shape, frame.pose["fov_y"])[row, column]
    x, y, z = np.array(frame.pose["position"]) + depth * direction
    truths = tuple(view(scene, moved(camera, refresh / 60)) for refresh in REFRESHES)
    return DepthScene(camera, frame, truths, (float(x), float(y), float(z)))
