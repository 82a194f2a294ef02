"""Actions move the camera as the contract says, and never through anything."""

import math

import pytest

from worldbridge.models.procedural import (
    THEMES,
    CameraState,
    actions,
    build_scene,
    camera_pose,
    random_walk,
    spawn,
    step_camera,
)
from worldbridge.models.procedural.draft import CELL_M


@pytest.mark.parametrize("theme", THEMES)
def test_a_long_walk_never_enters_anything_solid(theme: str) -> None:
    scene = build_scene(theme, 5)
    _, states = random_walk(scene, 5, 2000)
    radius = actions.BODY_RADIUS_M - 1e-6
    for state in states:
        for dx in (-radius, radius):
            for dz in (-radius, radius):
                assert not scene.is_solid(state.x + dx, state.z + dz), state
    assert max(math.dist((s.x, s.z), (states[0].x, states[0].z)) for s in states) > 4.0


@pytest.mark.parametrize("theme", THEMES)
def test_walking_straight_on_stops_at_walls_and_props(theme: str) -> None:
    scene = build_scene(theme, 1)
    for turn in range(8):
        state = CameraState(*_position(spawn(scene, turn)), turn * math.pi / 4)
        for _ in range(450):
            state = step_camera(scene, state, (0.0, 1.0, 0.0, 0.0))
            assert not scene.is_solid(state.x, state.z)
            for x, z, radius in scene.obstacles:
                assert math.dist((state.x, state.z), (x, z)) > radius + 0.1


def test_steps_are_the_largest_allowed() -> None:
    scene = build_scene("museum", 0)
    start = spawn(scene, 0)
    start = CameraState(start.x, start.z, 0.0)
    right = step_camera(scene, start, (1.0, 0.0, 0.0, 0.0))
    ahead = step_camera(scene, start, (0.0, 1.0, 0.0, 0.0))
    turned = step_camera(scene, start, (0.0, 0.0, 1.0, 1.0))
    assert right.x - start.x == pytest.approx(actions.MAX_STRAFE_M) and right.z == start.z
    assert start.z - ahead.z == pytest.approx(actions.MAX_WALK_M) and ahead.x == start.x
    assert math.degrees(turned.yaw) == pytest.approx(actions.MAX_YAW_DEG)
    assert math.degrees(turned.pitch) == pytest.approx(actions.MAX_PITCH_DEG)
    wild = step_camera(scene, start, (0.0, 9.0, -9.0, 0.0))
    assert math.degrees(wild.yaw) == pytest.approx(-actions.MAX_YAW_DEG)


def test_pitch_is_clamped() -> None:
    scene = build_scene("zoo", 0)
    for sign in (1.0, -1.0):
        state = spawn(scene, 0)
        for _ in range(20):
            state = step_camera(scene, state, (0.0, 0.0, 0.0, sign))
        assert math.degrees(state.pitch) == pytest.approx(sign * actions.PITCH_LIMIT_DEG)


def test_walls_are_slid_along() -> None:
    scene = build_scene("hospital", 2)
    free = [
        (x, z)
        for z in range(1, 30)
        for x in range(1, 31)
        if not scene.solid[z][x]
        and scene.solid[z - 1][x]
        and not scene.solid[z][x + 1]
        and scene.solid[z - 1][x + 1]
    ]
    x, z = free[0]
    touching = CameraState(
        (x + 0.5) * CELL_M, z * CELL_M + actions.BODY_RADIUS_M + 1e-6, -math.pi / 4
    )
    moved = step_camera(scene, touching, (0.0, 1.0, 0.0, 0.0))
    assert moved.z == pytest.approx(touching.z, abs=0.01)
    assert moved.x - touching.x == pytest.approx(actions.MAX_WALK_M * math.sqrt(0.5), abs=1e-6)


def test_pose_is_a_unit_quaternion_at_eye_height() -> None:
    position, rotation, fov_y = camera_pose(CameraState(3.0, 4.0, 0.7, -0.2))
    assert position == (3.0, actions.EYE_HEIGHT_M, 4.0)
    assert sum(v * v for v in rotation) == pytest.approx(1.0)
    assert fov_y == actions.FOV_Y_DEG


def _position(state: CameraState) -> tuple[float, float]:
    return state.x, state.z
