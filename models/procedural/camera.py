"""The player's camera: where it stands, how an action moves it, what its pose is."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from worldbridge.models.procedural import actions as limits
from worldbridge.models.procedural.scene import Scene

__all__ = ["CameraState", "camera_pose", "clearance", "spawn", "step_camera"]


@dataclass(frozen=True, slots=True)
class CameraState:
    """Position in metres, yaw and pitch in radians (yaw + is left, pitch + is up)."""

    x: float
    z: float
    yaw: float = 0.0
    pitch: float = 0.0


def spawn(scene: Scene, seed: int) -> CameraState:
    """A free spot with an open view: of many seeded candidates, one that sees far enough.

    Raises ValueError when the scene has no free spot.
    """
    rng = random.Random(seed * 7919 + 17)
    best, best_score, tried = None, -1.0, 0
    for _ in range(400):
        x, z = rng.uniform(3, scene.extent_m - 3), rng.uniform(3, scene.extent_m - 3)
        yaw = rng.uniform(-math.pi, math.pi)
        if not _is_free(scene, x, z, 1.0):
            continue
        view = min(clearance(scene, x, z, yaw + side, 10.0) for side in (-0.45, 0.0, 0.45))
        score = min(view, 7.0) + 0.15 * _landmarks(scene, x, z, yaw)
        if score > best_score:
            best, best_score = CameraState(x, z, yaw), score
        tried += 1
        if tried >= 24 and best_score > 5.0:
            break
    if best is None:
        raise ValueError(f"expected a free spot in scene {scene.theme}/{scene.seed}, found none")
    return best


def _landmarks(scene: Scene, x: float, z: float, yaw: float) -> int:
    """How many props are in view within 3 to 25 m, at most 40; walls between are ignored."""
    across, along = scene.props.center[:, 0] - x, scene.props.center[:, 2] - z
    ahead = -math.sin(yaw) * across - math.cos(yaw) * along
    side = math.cos(yaw) * across - math.sin(yaw) * along
    seen = (ahead > 3.0) & (ahead < 25.0) & (abs(side) < 0.7 * ahead)
    return min(int(seen.sum()), 40)


def step_camera(scene: Scene, state: CameraState, action: Sequence[float]) -> CameraState:
    """Return the camera one frame later. `action` has a value of ACTION_NAMES each, in [-1, 1].

    It turns first and then walks along its new heading, sliding along what is in the way.
    """
    strafe, forward, turn, tilt, *_ = (min(max(float(a), -1.0), 1.0) for a in action)
    yaw = state.yaw + turn * math.radians(limits.MAX_YAW_DEG)
    yaw = (yaw + math.pi) % (2 * math.pi) - math.pi
    bound = math.radians(limits.PITCH_LIMIT_DEG)
    pitch = min(max(state.pitch + tilt * math.radians(limits.MAX_PITCH_DEG), -bound), bound)
    ahead, side = forward * limits.MAX_WALK_M, strafe * limits.MAX_STRAFE_M
    dx = -math.sin(yaw) * ahead + math.cos(yaw) * side
    dz = -math.cos(yaw) * ahead - math.sin(yaw) * side
    x, z = _slide(scene, state.x, state.z, dx, dz)
    return CameraState(x, z, yaw, pitch)


def camera_pose(
    state: CameraState,
) -> tuple[tuple[float, float, float], tuple[float, float, float, float], float]:
    """Position (m), rotation quaternion (x, y, z, w) and vertical field of view (degrees)."""
    sy, cy = math.sin(state.yaw / 2), math.cos(state.yaw / 2)
    sp, cp = math.sin(state.pitch / 2), math.cos(state.pitch / 2)
    rotation = (sp * cy, cp * sy, -sp * sy, cp * cy)
    return (state.x, limits.EYE_HEIGHT_M, state.z), rotation, limits.FOV_Y_DEG


def clearance(scene: Scene, x: float, z: float, yaw: float, reach: float) -> float:
    """Free metres ahead in direction `yaw`, at most `reach`, in steps of 0.25 m."""
    dx, dz = -math.sin(yaw), -math.cos(yaw)
    near = [o for o in scene.obstacles if abs(o[0] - x) < reach + 2 and abs(o[1] - z) < reach + 2]
    for step in range(1, int(reach / 0.25) + 1):
        px, pz = x + dx * 0.25 * step, z + dz * 0.25 * step
        hit = any((px - ox) ** 2 + (pz - oz) ** 2 < r * r for ox, oz, r in near)
        if hit or scene.is_solid(px, pz):
            return 0.25 * (step - 1)
    return reach


def _slide(scene: Scene, x: float, z: float, dx: float, dz: float) -> tuple[float, float]:
    if not _hits_cell(scene, x + dx, z, limits.BODY_RADIUS_M):
        x += dx
    if not _hits_cell(scene, x, z + dz, limits.BODY_RADIUS_M):
        z += dz
    for ox, oz, radius in scene.obstacles:
        gap = radius + limits.BODY_RADIUS_M
        away = math.hypot(x - ox, z - oz)
        if 1e-6 < away < gap:
            px, pz = ox + (x - ox) * gap / away, oz + (z - oz) * gap / away
            if _hits_cell(scene, px, pz, limits.BODY_RADIUS_M):
                return x - dx, z - dz
            x, z = px, pz
    return x, z


def _hits_cell(scene: Scene, x: float, z: float, radius: float) -> bool:
    """Whether a square body of half-width `radius` at (x, z) overlaps a solid cell."""
    sides = (-radius, radius)
    return any(scene.is_solid(x + sx, z + sz) for sx in sides for sz in sides)


def _is_free(scene: Scene, x: float, z: float, radius: float) -> bool:
    clear = all(math.hypot(x - ox, z - oz) > r + radius for ox, oz, r in scene.obstacles)
    return clear and not _hits_cell(scene, x, z, radius)
