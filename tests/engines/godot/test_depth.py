"""Depth in a real Godot: a frame reprojected to another camera, and a ball behind a wall."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.engines.godot.test_godot import CACHE, PROJECT
from tests.support.client_server import LAST, client_server
from tests.support.depth_scene import BALL_M, depth_scene

pytestmark = [pytest.mark.e2e, pytest.mark.serial, pytest.mark.timeout(300)]

Shown = dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def screen() -> list[str]:
    """How a command is started under a virtual screen, in the tree of setup.sh."""
    if os.geteuid() != 0 or not (CACHE / "usr/bin/xvfb-run").exists():
        pytest.skip("no virtual screen: run tests/engines/godot/setup.sh as root")
    return ["chroot", str(CACHE), "xvfb-run", "-a", "-s", "-screen 0 1280x720x24"]


@contextmanager
def project(script: str) -> Iterator[Path]:
    """A copy of the project with a test's script, inside the tree that Godot is started in."""
    work = CACHE / "tmp" / f"{Path(script).stem}-{os.getpid()}"
    shutil.copytree(PROJECT, work, ignore=shutil.ignore_patterns(".godot"))
    shutil.copy(Path(__file__).parent / script, work)
    try:
        yield work
    finally:
        shutil.rmtree(work)


def run(screen: list[str], work: Path, script: str, *arguments: str) -> str:
    """Return what the script prints."""
    inside = f"/tmp/{work.name}"
    options = ["--audio-driver", "Dummy", "--rendering-driver", "opengl3"]
    command = ["godot", "--path", inside, *options, "--script", f"{inside}/{script}", "--"]
    result = subprocess.run(
        [*screen, *command, *arguments], capture_output=True, text=True, timeout=200
    )
    printed = result.stdout + result.stderr
    assert "ERROR" not in printed, printed
    return printed


@pytest.fixture(scope="module")
def shown(screen: list[str]) -> Shown:
    """What Godot shows: "reprojected-0" and so on of the moving camera, and the "ball"."""
    scene = depth_scene()
    with project("backdrop_test.gd") as work:
        with client_server("whole", session=[scene.frame.fields()] * 3) as server:
            poses = json.dumps([truth.pose for truth in scene.truths])
            ball = json.dumps([*scene.centre, BALL_M])
            arguments = [server.url, f"/tmp/{work.name}", str(LAST), poses, ball]
            assert "DONE" in run(screen, work, "backdrop_test.gd", *arguments)
            (hello,) = server.of("hello")
        assert hello["depth"] is True
        return {
            name: np.asarray(Image.open(work / f"{name}.png").convert("RGB"))
            for name in ("reprojected-0", "reprojected-1", "reprojected-2", "ball")
        }


def test_a_frame_is_reprojected_to_a_camera_that_turns_and_walks(shown: Shown) -> None:
    depth_scene().check_reprojected([shown[f"reprojected-{i}"] for i in range(3)])


def test_a_ball_is_hidden_by_the_walls_of_the_world(shown: Shown) -> None:
    depth_scene().check_ball(shown["ball"])


def test_a_world_is_given_the_colour_and_depth_of_the_scene(screen: list[str]) -> None:
    """A red wall 4 m ahead on the left, nothing on the right; then the camera steps back by 1 m."""
    conditionings = ("actions", "camera", "observations")
    with (
        client_server("whole", conditionings=conditionings, answers=True) as server,
        project("guide_test.gd") as work,
    ):
        printed = run(screen, work, "guide_test.gd", server.url)
        views = [message["observation"] for message in server.of("observe")]
    (line,) = [text for text in printed.splitlines() if text.startswith("GUIDE ")]
    result = json.loads(line.removeprefix("GUIDE "))
    assert result["sent"] == len(views) == 2
    # the frames' poses are the world's: the client knows where that is in the scene
    assert result["frame_at"] == pytest.approx([10, 1.6, 20.5], abs=0.51)
    for view, distance in zip(views, (4.0, 5.0), strict=True):
        height, width = view["height"], view["width"]
        assert (width, height) == (320, 192)
        assert view["camera"]["fov_y"] == 60
        assert view["camera"]["position"] == pytest.approx([10, 1.6, 16 + distance])
        left, right = slice(0, width // 2 - 1), slice(width // 2 + 1, width)
        rgb = np.frombuffer(view["rgb"], np.uint8).reshape(height, width, 3)
        assert np.abs(rgb[:, left].astype(int) - (200, 40, 30)).max() <= 3
        steps = np.frombuffer(view["depth"], "<u2").reshape(height, width)
        assert np.abs(steps[:, left] * view["depth_scale"] - distance).max() < 0.01
        assert not steps[:, right].any()
    assert [view["fresh"] for view in views] == [True, False]


def test_a_world_without_observations_is_sent_none(screen: list[str]) -> None:
    with client_server("whole") as server, project("guide_test.gd") as work:
        printed = run(screen, work, "guide_test.gd", server.url, "2")
    assert "GUIDE" in printed and not server.of("observe")
