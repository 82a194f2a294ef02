"""Pixels are where the camera's pose says, and move as the actions say."""

import math

import pytest
import torch

from tests.support.procedural import (
    MAGENTA,
    SMALL,
    centroid,
    magenta,
    project,
    shift_between,
    with_props,
)
from worldbridge.models.procedural import (
    THEMES,
    CameraState,
    actions,
    build_scene,
    random_walk,
    render,
    render_batch,
    spawn,
    step_camera,
)
from worldbridge.models.procedural.draft import CELL_M, CELLS
from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.props import BOX, CONE, CYLINDER, ELLIPSOID, Primitive
from worldbridge.models.procedural.render import render_rgbd

SIZE = {"height": actions.IMAGE_HEIGHT, "width": actions.IMAGE_WIDTH}


def test_full_size_frames() -> None:
    frame = render(build_scene("city", 0), CameraState(10.0, 10.0))
    assert frame.shape == (3, 320, 512) and frame.dtype == torch.uint8


@pytest.mark.parametrize("theme", THEMES)
def test_batch_equals_single(theme: str) -> None:
    scene = build_scene(theme, 2)
    _, states = random_walk(scene, 2, 25)
    batch = render_batch(scene, states[::6], **SMALL)
    for frame, state in zip(batch, states[::6], strict=True):
        assert torch.equal(frame, render(scene, state, **SMALL))


@pytest.mark.parametrize("kind", [ELLIPSOID, CYLINDER, BOX])
@pytest.mark.parametrize(
    "yaw,pitch,side,up",
    [(0.0, 0.0, 0.0, 0.0), (0.6, 0.3, 0.9, 0.5), (-2.5, -0.4, -1.1, -0.6), (2.0, 0.436, -0.3, 1.4)],
)
def test_props_are_drawn_where_the_pose_projects_them(
    kind: int, yaw: float, pitch: float, side: float, up: float
) -> None:
    scene = build_scene("museum", 0)
    start = spawn(scene, 0)
    state = CameraState(start.x, start.z, yaw, pitch)
    point = (
        start.x - 0.9 * math.sin(yaw) + 0.3 * side * math.cos(yaw),
        actions.EYE_HEIGHT_M + 0.3 * up,
        start.z - 0.9 * math.cos(yaw) - 0.3 * side * math.sin(yaw),
    )
    scene = with_props(scene, Primitive(kind, point, (0.008, 0.008, 0.008), MAGENTA))
    column, row = centroid(magenta(render(scene, state)))
    assert (column, row) == pytest.approx(project(state, point, **SIZE), abs=1.2)


def test_cone_hangs_below_its_apex() -> None:
    scene = build_scene("museum", 0)
    state = spawn(scene, 0)
    ahead = (state.x - 3 * math.sin(state.yaw), 1.9, state.z - 3 * math.cos(state.yaw))
    scene = with_props(scene, Primitive(CONE, ahead, (0.5, 0.6, 0.5), MAGENTA))
    rows, columns = magenta(render(scene, state)).nonzero(as_tuple=True)
    column, row = project(state, ahead, **SIZE)
    assert float(rows.min()) == pytest.approx(row, abs=2.0)
    assert float(columns[rows == rows.min()].float().mean()) == pytest.approx(column, abs=1.5)
    widths = [int((rows == r).sum()) for r in (int(rows.min()) + 10, int(rows.min()) + 40)]
    assert widths[0] < widths[1]


@pytest.mark.parametrize("pitch", [0.0, 0.35, -0.35])
def test_walls_stand_where_the_map_says(pitch: float) -> None:
    """A chip just in front of a wall is seen where it projects; just behind, it is hidden."""
    scene = build_scene("museum", 3)
    state, wall_z = _facing_a_wall(scene.solid, pitch)
    checked = 0
    for side in (-0.8, 0.0, 0.7):
        for depth, visible in ((0.02, True), (-0.02, False)):
            point = (state.x + side, actions.EYE_HEIGHT_M + math.tan(pitch) * 3, wall_z + depth)
            chip = Primitive(ELLIPSOID, point, (0.06, 0.06, 0.015), MAGENTA)
            mask = magenta(render(with_props(scene, chip), state))
            assert bool(mask.any()) == visible
            if visible:
                assert centroid(mask) == pytest.approx(project(state, point, **SIZE), abs=1.2)
                checked += 1
    assert checked == 3


def _facing_a_wall(solid: tuple[tuple[bool, ...], ...], pitch: float) -> tuple[CameraState, float]:
    """A camera that looks along -z at a wall 3 m away, and the wall's z."""
    for z in range(3, CELLS):
        for x in range(2, CELLS - 2):
            free = not any(solid[z - k][x + d] for k in (1, 0) for d in (-1, 0, 1))
            if free and all(solid[z - 2][x + d] for d in (-1, 0, 1)):
                return CameraState((x + 0.5) * CELL_M, (z - 1) * CELL_M + 3.0, 0.0, pitch), (
                    z - 1
                ) * CELL_M
    raise AssertionError("no wall to look at")


def test_ground_reaches_the_foot_of_walls() -> None:
    """The row where floor meets wall is where the wall's foot projects."""
    scene = with_props(build_scene("museum", 3))
    state, wall_z = _facing_a_wall(scene.solid, -0.35)
    _, row = project(state, (state.x, 0.0, wall_z), **SIZE)
    column = render(scene, state)[:, :, actions.IMAGE_WIDTH // 2].float()
    step = column.diff(dim=1).abs().sum(0)
    near = step[int(row) - 2 : int(row) + 4]
    assert float(near.max()) > 15.0 and float(near.max()) == float(step[int(row) - 20 :].max())


@pytest.mark.parametrize("theme", THEMES)
def test_turning_and_looking_move_the_image(theme: str) -> None:
    scene = build_scene(theme, 1)
    state = spawn(scene, 1)
    before = render(scene, state, height=160, width=256)
    shifts = {}
    for name, action, axis in (
        ("left", (0.0, 0.0, 0.6, 0.0), 2),
        ("right", (0, 0, -0.6, 0), 2),
        ("up", (0.0, 0.0, 0.0, 0.8), 1),
        ("down", (0, 0, 0, -0.8), 1),
    ):
        after = render(scene, step_camera(scene, state, action), height=160, width=256)
        shifts[name] = shift_between(before, after, axis)
    # 3 and 2.4 degrees at 160 rows for 50 degrees: 9.0 and 7.2 pixels at the image centre.
    assert shifts["left"] == pytest.approx(9, abs=3)
    assert shifts["right"] == pytest.approx(-9, abs=3)
    assert shifts["up"] == pytest.approx(7, abs=3)
    assert shifts["down"] == pytest.approx(-7, abs=3)


def test_walking_brings_things_nearer_and_strafing_right_moves_them_left() -> None:
    scene = build_scene("zoo", 1)
    state = spawn(scene, 1)
    ball = (state.x - 2.5 * math.sin(state.yaw), 1.5, state.z - 2.5 * math.cos(state.yaw))
    scene = with_props(scene, Primitive(ELLIPSOID, ball, (0.2, 0.2, 0.2), MAGENTA))
    before = magenta(render(scene, state))
    ahead = magenta(render(scene, step_camera(scene, state, (0.0, 1.0, 0.0, 0.0))))
    back = magenta(render(scene, step_camera(scene, state, (0.0, -1.0, 0.0, 0.0))))
    right = magenta(render(scene, step_camera(scene, state, (1.0, 0.0, 0.0, 0.0))))
    assert back.sum() < before.sum() < ahead.sum()
    assert centroid(right)[0] < centroid(before)[0] - 10


def test_odd_sizes_and_axis_aligned_views_have_no_holes() -> None:
    """Sizes with a centre row and column, whose rays run exactly along the axes."""
    for theme in ("city", "hospital"):
        scene = build_scene(theme, 0)
        start = spawn(scene, 0)
        for turn in range(4):
            state = CameraState(start.x, start.z, turn * math.pi / 2)
            odd = render(scene, state, height=81, width=129).float()
            even = render(scene, state, **SMALL).float()
            assert float((odd[:, :80, :128] - even).abs().mean()) < 14.0


def test_a_ray_along_a_wall_has_a_nearness() -> None:
    """A pixel of this view looks exactly along the line of a wall, below a ceiling."""
    state = CameraState(57.34572406253564, 34.01034696712048, 1.3413961716399347, 0.412966658832293)
    scene = build_plain_scene("hospital", 200_058)
    nearness = render_rgbd(scene, state, **SIZE)[1]
    assert bool(nearness.isfinite().all())
