"""The drawing board on which a theme lays out its scene: grid cells, props and obstacles."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.procedural.props import BOX, CONE, CYLINDER, ELLIPSOID, PLAIN, Primitive
from worldbridge.models.procedural.sky import Daylight
from worldbridge.models.procedural.tiles import Color, Image

__all__ = [
    "CELLS",
    "CELL_M",
    "Draft",
    "PlainDraft",
    "SOLID_M",
    "TOP_ROW_SHIFT",
    "light_map",
    "tinted",
]


CELLS = 32
CELL_M = 2.0
TOP_ROW_SHIFT = 8  # where a cell's packed tiles hold that of its top
SOLID_M = 0.3  # a cell higher than this stops a walker


class Draft:
    """A scene under construction. Cells are addressed (column x, row z), 0..31, 2 m each."""

    thinnest_m = 0.0  # least radius of a post

    def __init__(self, materials: Sequence[str], rng: np.random.Generator) -> None:
        self.rng = rng
        self._index = {name: i for i, name in enumerate(materials)}
        self.height = np.zeros((CELLS, CELLS), np.float32)
        self.wall = np.zeros((CELLS, CELLS), np.int32)
        self.top = np.zeros((CELLS, CELLS), np.int32)
        self.prims: list[Primitive] = []
        self.obstacles: list[tuple[float, float, float]] = []

    def material(self, name: str) -> int:
        return self._index[name]

    def floor(self, x0: int, z0: int, x1: int, z1: int, top: str) -> None:
        """Walkable ground of material `top` in cells [x0, x1) x [z0, z1)."""
        self.height[z0:z1, x0:x1] = 0.0
        self.top[z0:z1, x0:x1] = self.material(top)

    def block(
        self, x0: int, z0: int, x1: int, z1: int, height: float, wall: str, top: str | None = None
    ) -> None:
        """A solid block in cells [x0, x1) x [z0, z1)."""
        self.height[z0:z1, x0:x1] = height
        self.wall[z0:z1, x0:x1] = self.material(wall)
        self.top[z0:z1, x0:x1] = self.material(top or wall)

    def border(self, height: float, wall: str, top: str | None = None) -> None:
        last = CELLS - 1
        for x0, z0, x1, z1 in (
            (0, 0, CELLS, 1),
            (0, last, CELLS, CELLS),
            (0, 0, 1, CELLS),
            (last, 0, CELLS, CELLS),
        ):
            self.block(x0, z0, x1, z1, height, wall, top)

    def is_free(self, x0: int, z0: int, x1: int, z1: int) -> bool:
        return bool((self.height[z0:z1, x0:x1] <= SOLID_M).all())

    def obstacle(self, x: float, z: float, radius: float) -> None:
        """A round thing that a walker must go round."""
        self.obstacles.append((x, z, radius))

    def clear_of_obstacles(self, x: float, z: float, radius: float) -> bool:
        return all(math.hypot(x - ox, z - oz) > r + radius for ox, oz, r in self.obstacles)

    def ball(
        self,
        x: float,
        y: float,
        z: float,
        size: Sequence[float] | float,
        color: Color,
        yaw: float = 0.0,
        tilt: float = 0.0,
        second: Color = (0, 0, 0),
        pattern: int = PLAIN,
    ) -> None:
        color = self._lit(x, z, color)
        half = _three(size)
        self.prims.append(Primitive(ELLIPSOID, (x, y, z), half, color, yaw, tilt, second, pattern))

    def _lit(self, x: float, z: float, color: Color) -> Color:
        """Return the colour of a ball at (x, z) in this scene's light."""
        return color

    def post(
        self,
        x: float,
        y0: float,
        z: float,
        y1: float,
        radius: float,
        color: Color,
        second: Color = (0, 0, 0),
        pattern: int = PLAIN,
        yaw: float = 0.0,
        tilt: float = 0.0,
    ) -> None:
        """An upright cylinder from height y0 to y1."""
        radius = max(radius, self.thinnest_m)
        size = (radius, (y1 - y0) / 2, radius)
        center = (x, (y0 + y1) / 2, z)
        self.prims.append(Primitive(CYLINDER, center, size, color, yaw, tilt, second, pattern))

    def cone(
        self,
        x: float,
        base: float,
        z: float,
        apex: float,
        radius: float,
        color: Color,
        second: Color = (0, 0, 0),
        pattern: int = PLAIN,
    ) -> None:
        size = (radius, apex - base, radius)
        self.prims.append(Primitive(CONE, (x, apex, z), size, color, 0.2, 0.0, second, pattern))

    def box(
        self,
        x: float,
        y0: float,
        z: float,
        y1: float,
        half: tuple[float, float],
        color: Color,
        yaw: float = 0.0,
        second: Color = (0, 0, 0),
        pattern: int = PLAIN,
    ) -> None:
        """A box from height y0 to y1, `half` = half-extents along its own x and z."""
        size = (half[0], (y1 - y0) / 2, half[1])
        center = (x, (y0 + y1) / 2, z)
        self.prims.append(Primitive(BOX, center, size, color, yaw, 0.0, second, pattern))

    def tree(self, x: float, z: float, height: float, crown: Color) -> None:
        """A street tree: trunk, a big crown and a smaller lighter one beside it."""
        width = height * 0.27
        self.post(x, 0.0, z, height * 0.55, 0.16, (0.42, 0.29, 0.2))
        self.ball(x, height * 0.68, z, (width, height * 0.3, width), crown)
        turn = self.rng.uniform(0, 2 * math.pi)
        self.ball(
            x + 0.5 * width * math.cos(turn),
            height * 0.84,
            z + 0.5 * width * math.sin(turn),
            (width * 0.7, height * 0.2, width * 0.7),
            tinted(crown, 1.12),
        )
        self.obstacle(x, z, 0.3)


def _three(size: Sequence[float] | float) -> tuple[float, float, float]:
    return (size, size, size) if isinstance(size, float | int) else (size[0], size[1], size[2])


def tinted(color: Color, factor: float) -> Color:
    """The same colour, brighter (> 1) or darker (< 1)."""
    return (min(color[0] * factor, 1.0), min(color[1] * factor, 1.0), min(color[2] * factor, 1.0))


def light_map(
    height: NDArray[np.float32], prims: Sequence[Primitive], indoor: bool
) -> NDArray[np.float32]:
    """Brightness of the ground, [256, 256] over the map: shade near walls, sun shadows, blobs."""
    scale = 256 // CELLS
    fine = np.kron(height, np.ones((scale, scale), np.float32))
    solid = (fine > SOLID_M).astype(np.float32)
    shade = 1.0 - (0.30 if indoor else 0.22) * _blur(solid, 5)
    if not indoor:
        shade *= 1.0 - 0.20 * _blur(_sun_shadow(fine), 1)
    blobs = np.zeros_like(shade)
    for prim in prims:
        _stamp(blobs, prim)
    light: NDArray[np.float32] = (shade * (1.0 - 0.3 * np.clip(blobs, 0, 1))).astype(np.float32)
    light[fine > SOLID_M] = 1.0
    return light


def _blur(image: Image, reach: int) -> Image:
    for _ in range(2):
        for axis in (0, 1):
            total = image.copy()
            for step in range(1, reach + 1):
                total += np.roll(image, step, axis) + np.roll(image, -step, axis)
            image = total / (2 * reach + 1)
    return image


def _sun_shadow(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 where something high enough stands towards the sun (which is at +x, -z)."""
    shadow = np.zeros_like(fine)
    for step in range(1, 24, 2):
        towards = np.roll(np.roll(fine, -step, 1), step // 2, 0)
        shadow = np.maximum(shadow, (towards > step * 0.25 * 1.1).astype(np.float32))
    return shadow * (fine <= SOLID_M)


def _stamp(blobs: NDArray[np.float32], prim: Primitive) -> None:
    """A soft blob below a primitive that is near the ground."""
    bottom = prim.center[1] - prim.size[1]
    if bottom > 3.0:
        return
    radius = max(prim.size[0], prim.size[2]) * 1.25 + 0.2
    x, z, reach = prim.center[0] * 4, prim.center[2] * 4, int(radius * 4) + 1
    x0, z0 = max(int(x) - reach, 0), max(int(z) - reach, 0)
    x1, z1 = min(int(x) + reach + 1, 256), min(int(z) + reach + 1, 256)
    if x1 <= x0 or z1 <= z0:
        return
    gx = (np.arange(x0, x1) + 0.5 - x) / (radius * 4)
    gz = (np.arange(z0, z1) + 0.5 - z) / (radius * 4)
    fall = np.clip(1.3 * (1.0 - gx[None, :] ** 2 - gz[:, None] ** 2), 0, 1)
    patch = blobs[z0:z1, x0:x1]
    np.maximum(patch, fall / (1.0 + 0.6 * max(bottom, 0.0)), out=patch)


# Balls of these colours are lamps in the themes that were laid out before there was a night.
_LAMP_COLORS: tuple[Color, ...] = ((1.0, 0.96, 0.82), (1.0, 0.94, 0.70))


class PlainDraft(Draft):
    """A scene of the plain style: no thin things, and lamps that light the ground.

    It is built for one time of day.
    """

    thinnest_m = 0.08  # 5 pixels across at 8 m

    def __init__(
        self, materials: Sequence[str], rng: np.random.Generator, time: Daylight, tint: Color
    ) -> None:
        super().__init__(materials, rng)
        self.time, self._tint = time, tint
        self.pools: list[tuple[float, float, float]] = []  # x, z, strength of light on the ground

    def _lit(self, x: float, z: float, color: Color) -> Color:
        if color not in _LAMP_COLORS:
            return color
        self.pools.append((x, z, 1.0))
        return self._glow(color)

    def lamp(
        self,
        x: float,
        y: float,
        z: float,
        size: Sequence[float] | float,
        color: Color,
        pool: float = 1.0,
    ) -> None:
        """A ball that glows when it is dark, with a pool of light below it."""
        if pool:
            self.pools.append((x, z, pool))
        self.prims.append(Primitive(ELLIPSOID, (x, y, z), _three(size), self._glow(color)))

    def glow_box(
        self,
        x: float,
        y0: float,
        z: float,
        y1: float,
        half: tuple[float, float],
        color: Color,
        yaw: float = 0.0,
    ) -> None:
        """A box that glows when it is dark."""
        self.box(x, y0, z, y1, half, self._glow(color), yaw)

    def _glow(self, color: Color) -> Color:
        """Undo the light's tint, which multiplies every prop."""
        if not self.time.lit:
            return color
        r, g, b = (1.1 * c / t for c, t in zip(color, self._tint, strict=True))
        return r, g, b
