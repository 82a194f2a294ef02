"""Colour and light of the pixels covered by props."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.worlds.prop_view import ShapesInView
from worldbridge.models.worlds.props import BANDS, PATCHES, SECTORS
from worldbridge.models.worlds.raycast import View
from worldbridge.models.worlds.scene import Scene

__all__ = ["shade_props"]

_BOX_LIGHT = ((0.74, 0.92), (0.62, 1.04), (0.90, 0.82))  # faces towards -, + of x, y, z
_HAZE = 0.85
# Where the rows of the shape table begin: rays (9), eye (3), then these.
_COLOR_AT, _SECOND_AT, _HAZE_AT, _SUN_AT, _BOX_AT, _PATTERN_AT = 12, 15, 18, 21, 25, 26


def shade_props(
    scene: Scene, view: View, image: Tensor, near: Tensor, owner: Tensor, shapes: ShapesInView
) -> None:
    """Colour the pixels of `image` [3, H, W] whose `owner` [H, W] is the number of a shape."""
    pixel = (owner.view(-1) >= 0).nonzero().view(-1)
    shape = owner.view(-1).index_select(0, pixel)
    table = torch.from_numpy(_shape_table(scene, shapes)).to(image.device)
    value = table.index_select(1, shape)  # [rows, pixels]
    row = torch.div(pixel, view.width, rounding_mode="floor")
    a = view.a.index_select(0, pixel - row * view.width)
    b = view.b.index_select(0, row)
    depth = near.view(-1).index_select(0, pixel).reciprocal_()
    local = (value[0:9:3] * a + value[1:9:3] * b + value[2:9:3]) * depth + value[9:12]
    color = value[_COLOR_AT : _COLOR_AT + 3]
    if bool(np.any(scene.props.traits[shapes.index, -1])):
        second = _pattern(value[_PATTERN_AT], value[_BOX_AT], local)
        color.addcmul_(value[_SECOND_AT : _SECOND_AT + 3], second)
    shaded = color.mul_(_light(value, local)).add_(value[_HAZE_AT : _HAZE_AT + 3])
    image.view(3, -1).index_copy_(1, pixel, shaded)


def _shape_table(scene: Scene, shapes: ShapesInView) -> NDArray[np.float32]:
    """What a pixel needs to know about its shape, [rows, n]."""
    far = np.clip(shapes.distance / scene.look.fog_range_m, 0.0, 1.0)[:, None]
    fog = _HAZE * far**2
    tint = np.array(scene.tint) * 255.0
    colors, traits = scene.props.colors[shapes.index], scene.props.traits[shapes.index]
    first = colors[:, :3] * tint * (1.0 - fog)
    second = colors[:, 3:] * tint * (1.0 - fog) - first
    haze = np.array(scene.look.fog_color) * 255.0 * fog
    rays = shapes.rays.reshape(-1, 9)
    table = np.concatenate([rays, shapes.origin, first, second, haze, traits], 1)
    return np.ascontiguousarray(table.T, np.float32)


def _light(value: Tensor, local: Tensor) -> Tensor:
    """Round shapes by the sun, boxes by face, [pixels]."""
    sun = value[_SUN_AT : _SUN_AT + 4]
    cosine = (sun[:3] * local).sum(0).add_(sun[3])
    round_light = cosine.clamp_(-1.0, 1.0).mul_(0.24).add_(0.80)
    x, y, z = local.abs()
    upright = (y > x) & (y > z)
    faces = [(local[k] > 0).float() * (high - low) + low
             for k, (low, high) in enumerate(_BOX_LIGHT)]
    flat = torch.where(upright, faces[1], torch.where(x > z, faces[0], faces[2]))
    return torch.lerp(round_light, flat, value[_BOX_AT])


def _pattern(pattern: Tensor, is_box: Tensor, local: Tensor) -> Tensor:
    """Where the second colour shows, float 0/1 [pixels]."""
    x, y, z = local
    waves = {
        SECTORS: lambda: x * z * (x * x - z * z),
        BANDS: lambda: torch.lerp(torch.sin(y * 9.0), y, is_box),
        PATCHES: lambda: torch.sin(x * 7 + z * 2) * torch.sin(y * 7) + 0.4 * torch.sin(z * 6) - 0.1,
    }
    second = torch.zeros_like(pattern)
    for kind, wave in waves.items():
        chosen = pattern == kind
        if bool(chosen.any()):
            second = torch.where(chosen, (wave() > 0).float(), second)
    return second
