"""Where controls lead a camera when nothing is in its way, and cameras that clients send."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from worldbridge.bridge.protocol import Pose
from worldbridge.models.procedural import CameraState
from worldbridge.models.procedural import actions as limits

__all__ = ["Alignment", "dead_reckoning"]

_Vec3 = tuple[float, float, float]
_Quaternion = tuple[float, float, float, float]


def dead_reckoning(camera: CameraState, action: Sequence[float]) -> CameraState:
    """The camera after one action (strafe, forward, yaw, pitch), without walls."""
    strafe, forward, yaw, pitch = action
    turned = camera.yaw + yaw * math.radians(limits.MAX_YAW_DEG)
    limit = math.radians(limits.PITCH_LIMIT_DEG)
    gaze = camera.pitch + pitch * math.radians(limits.MAX_PITCH_DEG)
    right, ahead = strafe * limits.MAX_STRAFE_M, forward * limits.MAX_WALK_M
    return CameraState(
        x=camera.x + right * math.cos(turned) - ahead * math.sin(turned),
        z=camera.z - right * math.sin(turned) - ahead * math.cos(turned),
        yaw=math.remainder(turned, 2 * math.pi),
        pitch=max(-limit, min(limit, gaze)),
    )


@dataclass(frozen=True, slots=True)
class Alignment:
    """The rigid motion from a client's coordinates to the world's: p -> rotation p + shift.

    An engine has an origin and a north of its own. Its first camera is taken to be where the
    stream's camera is at that moment; a client whose coordinates are the world's, which it is told
    with every frame, is not moved at all.
    """

    rotation: _Quaternion
    shift: _Vec3

    @classmethod
    def of(cls, ours: Pose, theirs: Pose) -> Alignment:
        """The motion that takes their pose to ours."""
        x, y, z, w = _unit(theirs.rotation)
        rotation = _unit(_times(_unit(ours.rotation), (-x, -y, -z, w)))
        moved = _turned(rotation, theirs.position)
        a, b, c = (mine - other for mine, other in zip(ours.position, moved, strict=True))
        return cls(rotation, (a, b, c))

    def apply(self, pose: Pose) -> Pose:
        x, y, z = _turned(self.rotation, pose.position)
        a, b, c = self.shift
        rotation = _unit(_times(self.rotation, _unit(pose.rotation)))
        return Pose((x + a, y + b, z + c), rotation, pose.fov_y)


def _times(p: _Quaternion, q: _Quaternion) -> _Quaternion:
    """The product p q of two quaternions (x, y, z, w): first q, then p."""
    px, py, pz, pw = p
    qx, qy, qz, qw = q
    return (
        pw * qx + px * qw + py * qz - pz * qy,
        pw * qy - px * qz + py * qw + pz * qx,
        pw * qz + px * qy - py * qx + pz * qw,
        pw * qw - px * qx - py * qy - pz * qz,
    )


def _unit(q: _Quaternion) -> _Quaternion:
    x, y, z, w = q
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def _turned(q: _Quaternion, point: _Vec3) -> _Vec3:
    x, y, z, w = q
    a, b, c, _ = _times(_times(q, (*point, 0.0)), (-x, -y, -z, w))
    return a, b, c
