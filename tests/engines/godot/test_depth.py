"""Depth in a real Godot: a frame reprojected to another camera, and a ball behind a world's walls.

The frames are rendered by the procedural world's renderer, with exact depth and poses.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from tests.engines.godot.test_godot import CACHE, PROJECT
from tests.support.client_server import LAST, client_server
from worldbridge.models.procedural import CameraState, build_scene, camera_pose, spawn
from worldbridge.models.procedural.render import render_rgbd

pytestmark = [pytest.mark.e2e, pytest.mark.serial, pytest.mark.timeout(300)]

SCALE = 0.002  # metres per step of the depth: up to 131 m
TURN_DEG, WALK_M = 9.0, 0.15  # a tenth of a second at 90 degrees/s and 1.5 m/s
BORDER = 0.25  # of the width: what the turned camera sees beyond the frame
BALL_M = 0.5  # radius
MAGENTA = (255, 0, 255)


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


@pytest.fixture(scope="module")
def screen() -> list[str]:
    """How a command is started under a virtual screen, in the tree of setup.sh."""
    if os.geteuid() != 0 or not (CACHE / "usr/bin/xvfb-run").exists():
        pytest.skip("no virtual screen: run tests/engines/godot/setup.sh as root")
    return ["chroot", str(CACHE), "xvfb-run", "-a", "-s", "-screen 0 1280x720x24"]


@dataclass(frozen=True, slots=True)
class Shown:
    camera: CameraState
    frame: View
    truth: View  # what the moved camera sees
    reprojected: NDArray[np.uint8]  # what Godot shows of the frame for it
    centre: tuple[float, float, float]
    ball: NDArray[np.uint8]  # the frame with the ball


@pytest.fixture(scope="module")
def shown(screen: list[str]) -> Iterator[Shown]:
    scene = build_scene("city", 7, "cpu")
    camera = spawn(scene, 7)
    frame = view(scene, camera)
    yaw = camera.yaw + math.radians(TURN_DEG)
    moved = CameraState(camera.x - WALK_M * math.sin(yaw), camera.z - WALK_M * math.cos(yaw), yaw)
    # Its middle is on the edge of the nearest wall: half of it is hidden.
    row, column = _edge(frame.depth)
    depth = float(frame.depth[row, column]) + 2 * BALL_M
    place = (
        np.array(frame.pose["position"])
        + depth * rays(camera, frame.depth.shape, frame.pose["fov_y"])[row, column]
    )
    centre = (float(place[0]), float(place[1]), float(place[2]))
    work = CACHE / "tmp" / f"depth-{os.getpid()}"  # inside the tree that Godot is started in
    shutil.copytree(PROJECT, work, ignore=shutil.ignore_patterns(".godot"))
    shutil.copy(Path(__file__).parent / "backdrop_test.gd", work)
    inside = f"/tmp/{work.name}"
    try:
        with client_server("whole", session=[frame.fields()] * 3) as server:
            ball = json.dumps([*centre, BALL_M])
            pose = json.dumps(view(scene, moved).pose)
            script = ["--script", f"{inside}/backdrop_test.gd", "--", server.url, inside]
            options = ["--audio-driver", "Dummy", "--rendering-driver", "opengl3"]
            result = subprocess.run(
                [*screen, "godot", "--path", inside, *options, *script, str(LAST), pose, ball],
                capture_output=True,
                text=True,
                timeout=200,
            )
            (hello,) = server.of("hello")
        printed = result.stdout + result.stderr
        assert "DONE" in printed and "ERROR" not in printed, printed
        assert hello["depth"] is True
        reprojected, with_ball = (
            np.asarray(Image.open(work / name).convert("RGB"))
            for name in ("reprojected.png", "ball.png")
        )
        yield Shown(camera, frame, view(scene, moved), reprojected, centre, with_ball)
    finally:
        shutil.rmtree(work)


def _edge(depth: NDArray[np.float32]) -> tuple[int, int]:
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


def test_a_frame_is_reprojected_to_a_camera_that_turned_and_walked(shown: Shown) -> None:
    unwarped = psnr(shown.frame.rgb, shown.truth.rgb)
    warped = psnr(shown.reprojected, shown.truth.rgb)
    print(f"PSNR {warped:.1f} dB reprojected, {unwarped:.1f} dB as it came")
    assert warped > unwarped + 6


def test_a_ball_is_hidden_by_the_walls_of_the_world(shown: Shown) -> None:
    distance = np.abs(shown.ball.astype(int) - MAGENTA).max(-1)
    magenta = distance < 40
    visible = ball_mask(shown.camera, shown.frame, shown.centre)
    far_away = View(shown.frame.rgb, np.full_like(shown.frame.depth, 1e6), shown.frame.pose)
    whole = ball_mask(shown.camera, far_away, shown.centre)
    print(f"{magenta.sum()} pixels shown, {visible.sum()} expected, {whole.sum()} without walls")
    assert 0.2 < visible.sum() / whole.sum() < 0.8  # half of it, or the test shows nothing
    assert (magenta != visible).sum() < 0.1 * whole.sum()
