"""Plain scenes: equal seeds give equal scenes, nearness is geometry, styles are crisp."""

import math

import pytest
import torch

from tests.support.procedural import SMALL, project
from worldbridge.models.procedural import spawn
from worldbridge.models.procedural.camera import CameraState
from worldbridge.models.procedural.plain import (
    PLAIN_THEMES,
    build_plain_scene,
    plain_place,
    plain_time,
)
from worldbridge.models.procedural.render import SKY_NEARNESS, render, render_rgbd
from worldbridge.models.procedural.scene import THEMES
from worldbridge.models.procedural.sky import DAY, NIGHT, TIMES


@pytest.mark.parametrize("theme", PLAIN_THEMES)
def test_equal_seeds_give_equal_frames(theme: str) -> None:
    def view(seed: int) -> torch.Tensor:
        scene = build_plain_scene(theme, seed)
        return render(scene, spawn(scene, seed), **SMALL)

    assert torch.equal(view(5), view(5))
    assert not torch.equal(view(5), view(6))


@pytest.mark.parametrize("theme", PLAIN_THEMES)
def test_each_time_of_day_looks_different(theme: str) -> None:
    frames = []
    for time in TIMES:
        scene = build_plain_scene(theme, 3, time)
        frames.append(render(scene, spawn(scene, 3), **SMALL).float())
    day, dusk, night = frames
    assert float(day.mean()) > float(night.mean()) + 20
    assert float((day - dusk).abs().mean()) > 6


def test_the_city_is_one_of_its_localities() -> None:
    places = {plain_place("city", seed) for seed in range(4)}
    assert places == set(PLAIN_THEMES) - set(THEMES)
    assert {plain_time(seed).name for seed in range(16)} == {"day", "dusk", "night"}


def test_an_unknown_theme_names_the_themes() -> None:
    with pytest.raises(ValueError, match="city/marrakesh; got 'city/oslo'"):
        build_plain_scene("city/oslo", 0)


@pytest.mark.parametrize("theme", ["museum", "city/paris"])
def test_nearness_is_the_inverse_of_depth_along_the_optical_axis(theme: str) -> None:
    """A point seen from one camera lies, by its nearness, where another camera sees it as near."""
    scene = build_plain_scene(theme, 8, DAY)
    start = spawn(scene, 8)
    ahead = CameraState(
        start.x - 0.3 * math.sin(start.yaw), start.z - 0.3 * math.cos(start.yaw), start.yaw, 0.1
    )
    _, before = render_rgbd(scene, start)
    _, after = render_rgbd(scene, ahead)
    step = 2 * math.tan(math.radians(25)) / 320
    agreed = []
    for row in range(20, 300, 20):
        for column in range(20, 500, 20):
            near = float(before[row, column])
            if near < 2 * SKY_NEARNESS:
                continue
            right, up = (column + 0.5 - 256) * step / near, (159.5 - row) * step / near
            s, c, depth = math.sin(start.yaw), math.cos(start.yaw), 1 / near
            point = (start.x + c * right - s * depth, 1.6 + up, start.z - s * right - c * depth)
            u, v = (round(value) for value in project(ahead, point, 320, 512))
            if 0 <= u < 512 and 0 <= v < 320:
                offset = [point[0] - ahead.x, point[1] - 1.6, point[2] - ahead.z]
                level = -math.sin(ahead.yaw) * offset[0] - math.cos(ahead.yaw) * offset[2]
                expected = 1 / (level * math.cos(0.1) + offset[1] * math.sin(0.1))
                agreed.append(abs(float(after[v, u]) / expected - 1) < 0.03)
    assert len(agreed) > 100
    assert sum(agreed) / len(agreed) > 0.93  # the rest is newly hidden, or at an edge


def test_the_sky_has_one_nearness_that_half_precision_holds() -> None:
    scene = build_plain_scene("zoo", 1, DAY)
    _, near = render_rgbd(scene, CameraState(32.0, 32.0, 0.0, 0.43))
    sky = near[near < 0.009]
    assert len(sky) > 1000
    assert float(sky.min()) == float(sky.max()) == SKY_NEARNESS == float(near.half().min())


def test_windows_glow_at_night() -> None:
    scene = build_plain_scene("city/new_york", 4, NIGHT)
    frame = render(scene, spawn(scene, 4)).float()
    assert float((frame[0] - frame[2] > 80).float().mean()) > 0.005
