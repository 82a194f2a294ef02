"""Frames that an engine rendered, as a world with a memory takes them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from worldbridge.bridge.protocol import MAX_OBSERVED_PIXELS, Observation, Pose

__all__ = ["observation_of"]

_LARGEST = 65535  # of uint16
_FAR_M = 60_000.0


def observation_of(rgb: ArrayLike, depth: ArrayLike, pose: Pose, fresh: bool) -> Observation:
    """Return what the protocol sends of a rendered frame.

    rgb: uint8 [height, width, 3]; depth: metres along the view's axis [height, width], where 0, NaN
    or infinity mean that nothing was rendered. A large frame is sent as every second or third pixel
    of each row and column. Raises ValueError for other shapes or types.
    """
    pixels, metres = np.asarray(rgb), np.asarray(depth, np.float64)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"expected rgb as uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}"
        )
    if metres.shape != pixels.shape[:2] or metres.size == 0:
        raise ValueError(
            f"expected depth of the size of rgb, {list(pixels.shape[:2])}, got {list(metres.shape)}"
        )
    step = math.ceil(math.sqrt(metres.size / MAX_OBSERVED_PIXELS))
    while math.ceil(pixels.shape[0] / step) * math.ceil(pixels.shape[1] / step) > (
        MAX_OBSERVED_PIXELS
    ):
        step += 1
    pixels, metres = pixels[::step, ::step], metres[::step, ::step]
    metres = np.where(np.isfinite(metres) & (metres > 0), np.minimum(metres, _FAR_M), 0.0)
    scale = max(float(metres.max()) / _LARGEST, 1e-6)
    units = np.where(metres > 0, np.clip(np.rint(metres / scale), 1, _LARGEST), 0).astype("<u2")
    height, width = metres.shape
    return Observation(pose, width, height, pixels.tobytes(), units.tobytes(), scale, fresh)
