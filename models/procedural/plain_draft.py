"""The drawing board of the plain style: no thin things, and lamps that light the ground."""

from collections.abc import Sequence

import numpy as np

from worldbridge.models.procedural.daylight import Daylight
from worldbridge.models.procedural.draft import Draft
from worldbridge.models.procedural.props import PLAIN
from worldbridge.models.procedural.tiles import Color

__all__ = ["PlainDraft"]

_THINNEST_M = 0.08  # radius of the thinnest post: 5 pixels across at 8 m
# Balls of these colours are lamps in the themes that were laid out before there was a night.
_LAMP_COLORS: tuple[Color, ...] = ((1.0, 0.96, 0.82), (1.0, 0.94, 0.70))


class PlainDraft(Draft):
    """A scene under construction, at one time of day."""

    def __init__(
        self, materials: Sequence[str], rng: np.random.Generator, time: Daylight, tint: Color
    ) -> None:
        super().__init__(materials, rng)
        self.time, self._tint = time, tint
        self.pools: list[tuple[float, float, float]] = []  # x, z, strength of light on the ground

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
        super().post(x, y0, z, y1, max(radius, _THINNEST_M), color, second, pattern, yaw, tilt)

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
        if color in _LAMP_COLORS:
            self.pools.append((x, z, 1.0))
            color = self._glow(color)
        super().ball(x, y, z, size, color, yaw, tilt, second, pattern)

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
        super().ball(x, y, z, size, self._glow(color))

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
