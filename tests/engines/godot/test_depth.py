"""Depth in a real Godot: a frame reprojected to another camera, and a ball behind a wall."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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


@pytest.fixture(scope="module")
def shown(screen: list[str]) -> Shown:
    """What Godot shows: "reprojected" to the moved camera, and the frame with the "ball"."""
    scene = depth_scene()
    work = CACHE / "tmp" / f"depth-{os.getpid()}"  # inside the tree that Godot is started in
    shutil.copytree(PROJECT, work, ignore=shutil.ignore_patterns(".godot"))
    shutil.copy(Path(__file__).parent / "backdrop_test.gd", work)
    inside = f"/tmp/{work.name}"
    try:
        with client_server("whole", session=[scene.frame.fields()] * 3) as server:
            ball, pose = json.dumps([*scene.centre, BALL_M]), json.dumps(scene.truth.pose)
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
        return {
            name: np.asarray(Image.open(work / f"{name}.png").convert("RGB"))
            for name in ("reprojected", "ball")
        }
    finally:
        shutil.rmtree(work)


def test_a_frame_is_reprojected_to_a_camera_that_turned_and_walked(shown: Shown) -> None:
    depth_scene().check_reprojected(shown["reprojected"])


def test_a_ball_is_hidden_by_the_walls_of_the_world(shown: Shown) -> None:
    depth_scene().check_ball(shown["ball"])
