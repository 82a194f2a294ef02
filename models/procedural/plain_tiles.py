"""The plain style of surfaces: few flat colours with hard edges, some of which glow at night.

A glowing colour is written with 2 added to each channel, so that it travels through the painting
functions like any other; packing moves that into the fourth byte of a texel.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.procedural.tiles import LEVELS, TILE_PX, Canvas, Color, Image, Material

__all__ = ["WINDOW_GLOW", "HardCanvas", "glowing", "harden", "pack_glowing", "plain_levels"]

_GLOW = 2.0


def glowing(color: Color) -> Color:
    """Return the same colour as one that no light changes."""
    return color[0] + _GLOW, color[1] + _GLOW, color[2] + _GLOW


WINDOW_GLOW: Color = glowing((1.0, 0.82, 0.46))


class HardCanvas(Canvas):
    """A canvas on which every texel is painted wholly or not at all."""

    def blend(self, mask: Image, color: Color) -> "HardCanvas":
        covered = np.broadcast_to(mask, (TILE_PX, TILE_PX)) >= 0.5
        self.image[covered] = np.asarray(color, np.float32)
        return self


def harden(image: Image, glow: Mapping[Color, Color]) -> Image:
    """Snap a tile [128, 128, 3] to its main colours, and replace those that `glow` names.

    Soft edges have colours of their own on few texels; a tile that is mostly gradient stays.
    """
    flat = np.round(image.reshape(-1, 3) * 255).astype(np.int64)
    codes = flat @ np.array([1 << 20, 1 << 10, 1])  # glowing colours reach 765
    codes, owner, counts = np.unique(codes, return_inverse=True, return_counts=True)
    colors = np.stack([codes >> 20, codes >> 10 & 1023, codes & 1023], 1)
    main = colors[counts >= 0.012 * TILE_PX**2]
    hard = image.reshape(-1, 3).astype(np.float32)
    if counts[counts >= 0.012 * TILE_PX**2].sum() > 0.5 * TILE_PX**2:
        nearest = ((colors[:, None] - main[None]) ** 2).sum(2).argmin(1)
        hard = (main[nearest] / 255.0).astype(np.float32)[owner.reshape(-1)]
    for color, replacement in glow.items():
        same = np.abs(hard - np.asarray(color, np.float32)).max(1) < 0.02
        hard[same] = np.asarray(replacement, np.float32)
    return hard.reshape(TILE_PX, TILE_PX, 3)


def plain_levels(
    materials: Mapping[str, Material], glow: Mapping[Color, Color]
) -> NDArray[np.uint8]:
    """Return all tiles at all levels, [2 * materials, LEVELS, 128, 128, 4] (RGB, glow)."""
    tiles = np.stack([harden(t, glow) for m in materials.values() for t in (m.lower, m.upper)])
    level = _split(tiles)
    levels = [level]
    for step in range(LEVELS - 1):
        for axis in (1, 2):
            sides = np.roll(level, 1 << step, axis) + np.roll(level, -(1 << step), axis)
            level = 0.5 * level + 0.25 * sides
        levels.append(level)
    return pack_glowing(np.stack(levels, axis=1))


def _split(image: Image) -> Image:
    """[..., 3] colours that may glow -> [..., 4] colours in 0..1 and glow 0 or 1."""
    glow = (image[..., :1] > 1.5).astype(np.float32)
    return np.concatenate([image - _GLOW * glow, glow], -1).astype(np.float32)


def pack_glowing(image: Image) -> NDArray[np.uint8]:
    """[..., 4] floats in 0..1 to bytes."""
    packed: NDArray[np.uint8] = np.clip(image * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return packed
