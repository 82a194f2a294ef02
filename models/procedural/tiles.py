"""Painting of surface textures: square tiles of 4 m, with progressively softer levels.

A tile is drawn in metres with soft edges, so nothing in it is finer than the renderer can show
without shimmer. Every level keeps the full resolution and is only blurred more: near surfaces
never look blocky and the renderer needs one index for all levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Canvas",
    "Color",
    "HardCanvas",
    "Image",
    "LEVELS",
    "Material",
    "TILE_M",
    "TILE_PX",
    "WINDOW_GLOW",
    "glowing",
    "harden",
    "pack_glowing",
    "pack_rgb",
    "plain_levels",
    "tile_levels",
]


TILE_PX = 128
TILE_M = 4.0
LEVELS = 5

Color = tuple[float, float, float]
Image = NDArray[np.floating[Any]]


class Canvas:
    """A tile being painted: u to the right, v up (walls) or to +z (floors), both in 0..4 m."""

    def __init__(self, color: Color) -> None:
        axis = (np.arange(TILE_PX, dtype=np.float32) + 0.5) * (TILE_M / TILE_PX)
        self.u, self.v = axis[None, :], axis[:, None]
        self.image: Image = np.empty((TILE_PX, TILE_PX, 3), np.float32)
        self.image[:] = np.asarray(color, np.float32)

    def blend(self, mask: Image, color: Color) -> "Canvas":
        """Mix `color` in where `mask` (0..1, [128, 128]) says."""
        weight = np.clip(np.broadcast_to(mask, (TILE_PX, TILE_PX)), 0.0, 1.0)[..., None]
        self.image += weight * (np.asarray(color, np.float32) - self.image)
        return self

    def rect(self, u0: float, v0: float, u1: float, v1: float, color: Color) -> "Canvas":
        return self.blend(_inside(self.u, u0, u1) * _inside(self.v, v0, v1), color)

    def disc(
        self, u: float, v: float, radius: float, color: Color, squash: float = 1.0
    ) -> "Canvas":
        distance = np.sqrt((self.u - u) ** 2 + ((self.v - v) / squash) ** 2)
        return self.blend((radius - distance) * (TILE_PX / TILE_M) * 0.7 + 0.5, color)

    def triangle(self, u: float, v: float, half: float, height: float, color: Color) -> "Canvas":
        """An upright triangle with its base centre at (u, v)."""
        slope = half * (1.0 - (self.v - v) / height)
        mask = np.clip((slope - np.abs(self.u - u)) * 24.0 + 0.5, 0, 1)
        return self.blend(mask * _inside(self.v, v, v + height), color)

    def shade_v(self, bottom: float, top: float) -> "Canvas":
        """Multiply brightness by a ramp from `bottom` (v = 0) to `top` (v = 4 m)."""
        self.image *= (bottom + (top - bottom) * self.v / TILE_M)[..., None]
        return self

    def checks(self, size: float, color: Color) -> "Canvas":
        """Colour every second square of `size` metres."""
        wave = np.sin(np.pi * self.u / size) * np.sin(np.pi * self.v / size)
        return self.blend(np.clip(wave * 14.0 + 0.5, 0, 1), color)

    def stripes(self, period: float, color: Color, upright: bool = True) -> "Canvas":
        """Colour every second half period across u (or across v)."""
        axis = self.u if upright else self.v
        return self.blend(np.clip(np.sin(2 * np.pi * axis / period) * 9.0 + 0.5, 0, 1), color)

    def joints(self, size: float, width: float, color: Color) -> "Canvas":
        """Lines between square slabs of `size` metres."""
        for axis in (self.u, self.v):
            offset = np.abs((axis + size / 2) % size - size / 2)
            self.blend((width / 2 - offset) * 24.0 + 0.5, color)
        return self


def _inside(axis: Image, low: float, high: float) -> Image:
    scale = TILE_PX / TILE_M
    rise = np.clip((axis - low) * scale + 0.5, 0, 1)
    result: Image = rise * np.clip((high - axis) * scale + 0.5, 0, 1)
    return result


class Material:
    """One surface: the tile of its lowest 4 m and the tile repeated above."""

    def __init__(self, lower: Canvas, upper: Canvas | None = None) -> None:
        self.lower = lower.image
        self.upper = (upper or lower).image


def tile_levels(materials: Mapping[str, Material]) -> NDArray[np.uint8]:
    """All tiles at all levels, [2 * materials, LEVELS, 128, 128, 4] (RGB and a spare byte)."""
    tiles: Sequence[Image] = [t for m in materials.values() for t in (m.lower, m.upper)]
    level = np.stack(tiles)
    levels = [level]
    for step in range(LEVELS - 1):
        level = _soften(level, 1 << step)
        levels.append(level)
    return pack_rgb(np.stack(levels, axis=1))


def _soften(tiles: Image, reach: int) -> Image:
    for axis in (1, 2):
        sides = np.roll(tiles, reach, axis) + np.roll(tiles, -reach, axis)
        tiles = 0.5 * tiles + 0.25 * sides
    return tiles


def pack_rgb(image: Image) -> NDArray[np.uint8]:
    """[..., 3] floats in 0..1 to [..., 4] bytes."""
    packed = np.zeros((*image.shape[:-1], 4), np.uint8)
    packed[..., :3] = np.clip(image * 255.0 + 0.5, 0, 255)
    return packed


# -- the plain style: few flat colours with hard edges ---------------------------------------------

# A glowing colour is written with 2 added to each channel, so that it travels through the
# painting functions like any other; packing moves that into the fourth byte of a texel.
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
