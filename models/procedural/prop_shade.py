"""Colour and light of the pixels covered by props."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.procedural.prop_view import FACES, ShapesInView
from worldbridge.models.procedural.props import BANDS, BOX, PATCHES, PLAIN, SECTORS, STRIPES
from worldbridge.models.procedural.raycast import View
from worldbridge.models.procedural.scene import Scene

__all__ = ["shade_props"]

_BOX_LIGHT = np.array([0.74, 0.92, 0.62, 1.04, 0.90, 0.82])  # faces towards -x, +x, -y, +y, -z, +z
_AMBIENT, _SUNLIGHT = 0.80, 0.24
_HAZE = 0.85


def shade_props(
    scene: Scene, view: View, image: Tensor, near: Tensor, owner: Tensor, shapes: ShapesInView
) -> None:
    """Colour the pixels of `image` [3, H, W] whose `owner` [H, W] is the number of a shape's face.

    near: nearness [H, W] of what is seen.
    """
    pixel = (owner.view(-1) >= 0).nonzero().view(-1)
    face = owner.view(-1).index_select(0, pixel)
    row = torch.div(pixel, view.width, rounding_mode="floor")
    a = view.a.index_select(0, pixel - row * view.width)
    b = view.b.index_select(0, row)
    depth = near.view(-1).index_select(0, pixel).reciprocal_()
    table = torch.from_numpy(_face_table(scene, shapes)).to(image.device)
    value = table.index_select(1, face)  # [10, pixels]
    light = (value[0] * a).addcmul_(value[1], b).add_(value[2]).mul_(depth).add_(value[3])
    light.clamp_(_AMBIENT - _SUNLIGHT, _AMBIENT + _SUNLIGHT)
    color = value[4:7]
    if scene.props.pattern[shapes.index].any():
        _add_patterns(scene, shapes, color, face, a, b, depth)
    image.view(3, -1).index_copy_(1, pixel, color.mul_(light).add_(value[7:10]))


def _fog(scene: Scene, shapes: ShapesInView) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.clip(shapes.distance / scene.look.fog_range_m, 0.0, 1.0)
    return _HAZE * share[:, None] ** 2


def _face_table(scene: Scene, shapes: ShapesInView) -> NDArray[np.float32]:
    """Light plane and offset (4), colour (3), haze (3) of each numbered face, [10, n * FACES]."""
    fog, sun = _fog(scene, shapes), scene.props.sun[shapes.index]
    light = np.empty((len(fog), FACES, 4))
    light[:, :, :3] = _SUNLIGHT * np.einsum("ni,nij->nj", sun[:, :3], shapes.rays)[:, None]
    offset = (sun[:, :3] * shapes.origin).sum(1) + sun[:, 3]
    light[:, :, 3] = (_AMBIENT + _SUNLIGHT * offset)[:, None]
    is_box = shapes.kind == BOX
    light[is_box] = 0.0
    light[is_box, :, 3] = _BOX_LIGHT[shapes.faces[is_box]]
    color = scene.props.color[shapes.index] * np.array(scene.tint) * 255.0 * (1.0 - fog)
    haze = np.array(scene.look.fog_color) * 255.0 * fog
    rest = np.repeat(np.concatenate([color, haze], 1)[:, None], FACES, 1)
    table = np.concatenate([light, rest], 2).reshape(-1, 10)
    return np.ascontiguousarray(table.T, np.float32)


def _add_patterns(
    scene: Scene,
    shapes: ShapesInView,
    color: Tensor,
    face: Tensor,
    a: Tensor,
    b: Tensor,
    depth: Tensor,
) -> None:
    """Mix the second colour into `color` [3, pixels] where a pattern asks for it, in place."""
    patterns = scene.props.pattern[shapes.index]
    numbers = torch.from_numpy(np.repeat(patterns, FACES).astype(np.int32)).to(face.device)
    pattern = numbers.index_select(0, face)
    chosen = (pattern != PLAIN).nonzero().view(-1)
    shape = torch.div(face.index_select(0, chosen), FACES, rounding_mode="floor")
    difference = scene.props.second[shapes.index] - scene.props.color[shapes.index]
    difference = difference * np.array(scene.tint) * 255.0 * (1.0 - _fog(scene, shapes))
    rays = shapes.rays.transpose(0, 2, 1).reshape(-1, 9)
    table = np.concatenate([rays, shapes.origin, difference], 1).T.astype(np.float32)
    value = torch.from_numpy(np.ascontiguousarray(table)).to(face.device).index_select(1, shape)
    local = value[0:3] * a.index_select(0, chosen) + value[3:6] * b.index_select(0, chosen)
    local = (local + value[6:9]) * depth.index_select(0, chosen) + value[9:12]
    second = _pattern_mask(pattern.index_select(0, chosen), local)
    color.index_add_(1, chosen, value[12:15] * second)


def _pattern_mask(pattern: Tensor, local: Tensor) -> Tensor:
    """Where the second colour shows, float 0/1 [pixels]; local: unit-space points [3, pixels]."""
    x, y, z = local
    waves = {
        SECTORS: x * z * (x * x - z * z),
        BANDS: torch.sin(y * 9.0),
        STRIPES: torch.sin(z * 12.0),
        PATCHES: torch.sin(x * 7 + z * 2) * torch.sin(y * 7) + 0.4 * torch.sin(z * 6) - 0.1,
    }
    second = torch.zeros_like(x)
    for kind, wave in waves.items():
        second += ((pattern == kind) & (wave > 0)).float()
    return second
