"""What the tests of the procedural worlds share."""

import dataclasses
import math

import torch
from torch import Tensor

from worldbridge.models.procedural import CameraState, Scene, camera_pose
from worldbridge.models.procedural.props import Primitive, PropArrays

MAGENTA = (1.0, 0.0, 1.0)
SMALL = {"height": 80, "width": 128}


def with_props(scene: Scene, *prims: Primitive) -> Scene:
    """The scene with these primitives instead of its props, true colours and no obstacles."""
    return dataclasses.replace(scene, props=PropArrays(prims), obstacles=(), tint=(1.0, 1.0, 1.0))


def project(
    state: CameraState, point: tuple[float, float, float], height: int, width: int
) -> tuple[float, float]:
    """Column and row at which the pose of `camera_pose` puts a world point (pixel centres .0)."""
    position, (x, y, z, w), fov_y = camera_pose(state)
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    offset = torch.tensor(point, dtype=torch.float64) - torch.tensor(position, dtype=torch.float64)
    right, up, back = (rotation.T @ offset).tolist()
    focal = height / 2 / math.tan(math.radians(fov_y) / 2)
    return width / 2 - 0.5 + focal * right / -back, height / 2 - 0.5 - focal * up / -back


def magenta(frame: Tensor) -> Tensor:
    """Mask [H, W] of the pixels that only a magenta prop has."""
    red, green, blue = frame.int()
    return (red - green > 60) & (blue - green > 60) & (green < 90)


def centroid(mask: Tensor) -> tuple[float, float]:
    rows, columns = mask.nonzero(as_tuple=True)
    return float(columns.float().mean()), float(rows.float().mean())


def shift_between(before: Tensor, after: Tensor, axis: int, reach: int = 24) -> int:
    """Pixels by which the content of [3, H, W] `before` moved along `axis` (1 down, 2 right)."""
    size = before.shape[axis]

    def error(shift: int) -> float:
        kept = size - abs(shift)
        old = before.narrow(axis, max(-shift, 0), kept).float()
        new = after.narrow(axis, max(shift, 0), kept).float()
        return float((old - new).abs().mean())

    return min(range(-reach, reach + 1), key=error)
