"""Where controls lead a camera when nothing is in its way."""

from __future__ import annotations

import math
from collections.abc import Sequence

from worldbridge.models.worlds import CameraState
from worldbridge.models.worlds import actions as limits

__all__ = ["dead_reckoning"]


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
