"""Sky panoramas: colour over azimuth and elevation, at three times of day, with far silhouettes.

Columns cover the full turn (azimuth grows to the left, as yaw does), rows cover elevation
tangents from 0 (horizon) to `SKY_TOP`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.procedural.tiles import Color, Image

__all__ = [
    "BACKDROPS",
    "Backdrop",
    "DAY",
    "DUSK",
    "Daylight",
    "NIGHT",
    "Panorama",
    "SKY_COLUMNS",
    "SKY_ROWS",
    "SKY_TOP",
    "TIMES",
    "paint_sky",
]


SKY_COLUMNS = 2048
SKY_ROWS = 320
SKY_TOP = 1.28


class Panorama:
    """A sky being painted; positions are degrees of azimuth and tangents of elevation."""

    def __init__(self, horizon: Color, zenith: Color) -> None:
        self.azimuth = ((np.arange(SKY_COLUMNS, dtype=np.float32) + 0.5) * 360 / SKY_COLUMNS)[None]
        rows = (np.arange(SKY_ROWS, dtype=np.float32) + 0.5) * SKY_TOP / SKY_ROWS
        self.up = rows[:, None]
        mix = np.clip(self.up / 0.9, 0, 1)[..., None] ** 0.7
        low, high = np.asarray(horizon, np.float32), np.asarray(zenith, np.float32)
        self.image: Image = np.repeat(low + (high - low) * mix, SKY_COLUMNS, axis=1)

    def blend(self, mask: Image, color: Color) -> None:
        weight = np.clip(mask, 0, 1)[..., None]
        self.image += weight * (np.asarray(color, np.float32) - self.image)

    def offset(self, azimuth: float) -> Image:
        """Signed degrees from `azimuth`, wrapped to +-180, [1, columns]."""
        result: Image = (self.azimuth - azimuth + 180) % 360 - 180
        return result

    def sun(self, azimuth: float, up: float, radius: float, color: Color, glow: Color) -> None:
        x = self.offset(azimuth) * np.float32(np.pi / 180)
        distance = np.sqrt(x**2 + (self.up - up) ** 2)
        self.blend(0.55 * np.exp(-((distance / (4.5 * radius)) ** 2)), glow)
        self.blend((radius - distance) * 60 + 0.5, color)

    def cloud(self, azimuth: float, up: float, width: float, color: Color) -> None:
        """A cumulus `width` degrees wide with a flat base: a row of puffs."""
        total: Image = np.zeros((SKY_ROWS, SKY_COLUMNS), np.float32)
        for at, size in ((-0.36, 0.55), (-0.12, 0.9), (0.14, 1.0), (0.38, 0.6)):
            x = self.offset(azimuth + at * width) / (0.30 * width)
            y = (self.up - up) / (0.0058 * width * size)
            total = np.maximum(total, size * (1.25 - np.sqrt(x**2 + y**2)))
        base = np.clip((self.up - up) * 14 + 0.55, 0, 1)
        self.blend(np.clip(total * 2.2, 0, 0.92) * base, color)

    def ridge(self, height: Image, color: Color) -> None:
        """A far silhouette: everything below `height` (elevation tangents, [columns])."""
        self.blend((height[None] - self.up) * 120 + 0.5, color)

    def skyline(self, rng: np.random.Generator, low: float, high: float, color: Color) -> None:
        """Far tower blocks of varying width and height all around."""
        height = np.zeros(SKY_COLUMNS, np.float32)
        at = 0
        while at < SKY_COLUMNS:
            width = int(rng.integers(18, 60))
            height[at : at + width] = rng.uniform(low, high)
            at += width
        self.ridge(height, color)

    def hills(self, rng: np.random.Generator, low: float, high: float, color: Color) -> None:
        """Smooth far hills all around."""
        turn = self.azimuth[0] * np.float32(np.pi / 180)
        wave: Image = np.zeros(SKY_COLUMNS, np.float32)
        for k, amount in ((2, 0.4), (3, 0.3), (7, 0.2), (13, 0.1)):
            wave += np.float32(amount) * np.sin(k * turn + rng.uniform(0, 6.28)).astype(np.float32)
        self.ridge((low + (high - low) * (wave * 0.5 + 0.5)).astype(np.float32), color)

    def wheel(self, azimuth: float, up: float, radius: float, frame: Color) -> None:
        """A Ferris wheel: legs, rim, spokes and coloured cabins; `radius` in tangents."""
        x = self.offset(azimuth) * np.float32(np.pi / 180)
        y = self.up - up
        distance, angle = np.sqrt(x**2 + y**2), np.arctan2(y, x)
        leg = np.abs(np.abs(x) - 0.45 * radius * np.clip(-y / up, 0, 1))
        self.blend(((0.018 - leg) * 120 + 0.5) * (y < 0), frame)
        spoke = np.abs(np.sin(angle * 6)) * distance / 6
        self.blend(((0.005 - spoke) * 150 + 0.5) * (distance < radius), frame)
        for ring in (radius, 0.62 * radius, 0.1 * radius):
            self.blend((0.013 - np.abs(distance - ring)) * 120 + 0.5, frame)
        colors = ((0.95, 0.3, 0.3), (1.0, 0.85, 0.3), (0.35, 0.75, 0.95), (0.6, 0.9, 0.45))
        for k in range(12):
            cx, cy = np.cos(k * np.pi / 6) * radius, np.sin(k * np.pi / 6) * radius - 0.03
            cabin = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
            self.blend((0.042 - cabin) * 90 + 0.5, colors[k % 4])


# -- times of day ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Daylight:
    """One time of day, outdoors and indoors."""

    name: str
    tint: Color  # multiplies every surface that does not glow
    indoor_tint: Color
    lamps: float  # how much lamps brighten the ground below them
    lit: bool  # windows and signs glow
    silhouette: tuple[Color, float]  # far shapes are mixed with this colour by this share

    def shade(self, color: Color) -> Color:
        """Return the colour of a far shape in this light."""
        haze, share = self.silhouette
        mixed = [c + (h - c) * share for c, h in zip(color, haze, strict=True)]
        return mixed[0], mixed[1], mixed[2]


DAY = Daylight("day", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0.0, False, ((0.0, 0.0, 0.0), 0.0))
DUSK = Daylight(
    "dusk", (0.94, 0.76, 0.72), (0.96, 0.88, 0.80), 0.35, True, ((0.45, 0.30, 0.42), 0.55)
)
NIGHT = Daylight(
    "night", (0.52, 0.55, 0.76), (0.66, 0.70, 0.82), 1.3, True, ((0.12, 0.14, 0.27), 0.78)
)
TIMES = (DAY, DUSK, NIGHT)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """What stands behind all scenes of a place: sky colours by day, and far silhouettes."""

    horizon: Color
    zenith: Color
    silhouettes: Callable[[Panorama, Callable[[Color], Color], np.random.Generator], None]
    clouds: int = 5

    def horizon_at(self, time: Daylight) -> Color:
        return {"day": self.horizon, "dusk": (0.97, 0.66, 0.48), "night": (0.20, 0.24, 0.42)}[
            time.name
        ]

    def zenith_at(self, time: Daylight) -> Color:
        return {"day": self.zenith, "dusk": (0.38, 0.32, 0.60), "night": (0.05, 0.07, 0.20)}[
            time.name
        ]


def paint_sky(backdrop: Backdrop, time: Daylight, seed: int) -> Image:
    """Paint the panorama of a place at a time of day, float [SKY_ROWS, SKY_COLUMNS, 3]."""
    rng = np.random.default_rng(seed)
    view = Panorama(backdrop.horizon_at(time), backdrop.zenith_at(time))
    if time is NIGHT:
        _stars(view, rng)
        _disc(view, 60.0, 0.62, 0.055, (0.96, 0.95, 0.86))
    elif time is DUSK:
        _disc(view, 60.0, 0.14, 0.085, (1.0, 0.93, 0.66))
    else:
        _disc(view, 60.0, 0.78, 0.06, (1.0, 0.98, 0.86))
    cloud = {"day": (0.98, 0.98, 1.0), "dusk": (0.96, 0.66, 0.60), "night": (0.16, 0.18, 0.30)}
    for k in range(backdrop.clouds):
        azimuth = 360.0 * (k + rng.uniform(0.1, 0.6)) / backdrop.clouds
        _cloud(view, rng, azimuth, rng.uniform(0.28, 0.62), rng.uniform(30, 52), cloud[time.name])
    backdrop.silhouettes(view, time.shade, rng)
    return view.image


def _disc(view: Panorama, azimuth: float, up: float, radius: float, color: Color) -> None:
    x = view.offset(azimuth) * np.float32(np.pi / 180)
    view.blend((np.sqrt(x**2 + (view.up - up) ** 2) < radius).astype(np.float32), color)


def _cloud(
    view: Panorama, rng: np.random.Generator, azimuth: float, up: float, width: float, color: Color
) -> None:
    """Paint a flat cloud with a hard edge: a row of discs above a level base."""
    mask = np.zeros(view.image.shape[:2], bool)
    for k in range(5):
        x = view.offset(azimuth + (k - 2) * 0.2 * width) * np.float32(np.pi / 180)
        radius = 0.0034 * width * (1.0 - 0.22 * abs(k - 2)) * rng.uniform(0.8, 1.15)
        mask |= (x / 1.5) ** 2 + (view.up - up) ** 2 < radius**2
    view.blend((mask & (view.up > up - 0.02)).astype(np.float32), color)


def _stars(view: Panorama, rng: np.random.Generator) -> None:
    rows, columns = view.image.shape[:2]
    for _ in range(150):
        row, column = int(rng.integers(rows // 6, rows - 4)), int(rng.integers(SKY_COLUMNS - 5))
        size = int(rng.integers(3, 5))
        view.image[row : row + size, column : column + size] = rng.uniform(0.6, 1.0)


# -- far silhouettes: skylines, hills, towers, mountains, rides ------------------------------------

_Shade = Callable[[Color], Color]


def _fill(view: Panorama, mask: NDArray[np.bool_], color: Color) -> None:
    view.blend(mask.astype(np.float32), color)


def _x(view: Panorama, azimuth: float) -> Image:
    """Radians to the left of `azimuth`, [1, columns]."""
    result: Image = view.offset(azimuth) * np.float32(np.pi / 180)
    return result


def _new_york(view: Panorama, shade: _Shade, rng: np.random.Generator) -> None:
    view.skyline(rng, 0.10, 0.34, shade((0.66, 0.74, 0.84)))
    for azimuth in (20.0, 150.0, 265.0):  # stepped towers with a needle
        x = np.abs(_x(view, azimuth))
        for half, top in ((0.09, 0.36), (0.06, 0.48), (0.03, 0.56), (0.007, 0.72)):
            _fill(view, (x < half) & (view.up < top), shade((0.56, 0.64, 0.75)))
    view.skyline(rng, 0.05, 0.2, shade((0.50, 0.58, 0.70)))


def _paris(view: Panorama, shade: _Shade, rng: np.random.Generator) -> None:
    view.skyline(rng, 0.05, 0.10, shade((0.74, 0.76, 0.80)))
    x, up, iron = np.abs(_x(view, 200.0)), view.up, shade((0.47, 0.38, 0.33))
    half = 0.016 + 0.19 * np.clip(1 - up / 0.62, 0, 1) ** 2.2
    arch = (x < 0.10) & (up < 0.10 * np.sqrt(np.clip(1 - (x / 0.10) ** 2, 0, 1)))
    _fill(view, (x < half) & (up < 0.72) & ~arch, iron)
    for level, wide in ((0.16, 0.16), (0.33, 0.085), (0.62, 0.035)):
        _fill(view, (np.abs(up - level) < 0.012) & (x < wide), iron)
    y, z = _x(view, 20.0), view.up - 0.16  # a white dome
    _fill(view, ((y / 0.9) ** 2 + z**2 < 0.10**2) & (z > 0), shade((0.95, 0.94, 0.92)))
    _fill(view, (np.abs(y) < 0.14) & (z <= 0), shade((0.90, 0.88, 0.85)))


def _tokyo(view: Panorama, shade: _Shade, rng: np.random.Generator) -> None:
    x = np.abs(_x(view, 90.0))
    cone = 0.34 - np.maximum(x - 0.05, 0) * 0.52
    _fill(view, view.up < cone, shade((0.50, 0.60, 0.76)))
    _fill(
        view, (view.up < cone) & (view.up > 0.24 + 0.02 * np.sin(x * 60)), shade((0.97, 0.97, 0.99))
    )
    view.skyline(rng, 0.06, 0.22, shade((0.68, 0.75, 0.84)))
    x, up = np.abs(_x(view, 250.0)), view.up
    half = 0.012 + 0.12 * np.clip(1 - up / 0.62, 0, 1) ** 1.8
    red = np.sin(up * 42) > 0
    _fill(view, (x < half) & (up < 0.74) & red, shade((0.93, 0.34, 0.18)))
    _fill(view, (x < half) & (up < 0.74) & ~red, shade((0.96, 0.95, 0.93)))
    view.skyline(rng, 0.03, 0.12, shade((0.54, 0.62, 0.72)))


def _marrakesh(view: Panorama, shade: _Shade, rng: np.random.Generator) -> None:
    turn = _x(view, 0.0)
    ridge = 0.16 + 0.035 * np.abs(np.sin(turn * 9)) + 0.045 * np.abs(np.sin(turn * 4 + 1))
    _fill(view, view.up < ridge, shade((0.68, 0.58, 0.66)))
    snow = ridge - 0.05 - 0.012 * np.sin(turn * 31)
    _fill(view, (view.up < ridge) & (view.up > np.maximum(snow, 0.17)), shade((0.98, 0.96, 0.96)))
    x, up, clay = np.abs(_x(view, 130.0)), view.up, shade((0.80, 0.52, 0.38))
    _fill(view, (x < 0.055) & (up < 0.44), clay)
    _fill(view, (x < 0.03) & (up < 0.54), clay)
    _fill(view, (x < 0.018) & (np.abs(up - 0.56) < 0.02), shade((0.20, 0.52, 0.50)))
    view.skyline(rng, 0.03, 0.10, shade((0.86, 0.62, 0.48)))


def _hills(view: Panorama, shade: _Shade, rng: np.random.Generator) -> None:
    for low, high, color in ((0.08, 0.24, (0.60, 0.77, 0.68)), (0.03, 0.14, (0.44, 0.66, 0.46))):
        turn = _x(view, 0.0)[0]
        wave = sum(a * np.sin(k * turn + rng.uniform(0, 6.28)) for k, a in ((2, 0.5), (5, 0.5)))
        height = low + (high - low) * (np.asarray(wave) * 0.5 + 0.5)
        _fill(view, view.up < height[None], shade(color))


def _rides(view: Panorama, shade: _Shade, rng: np.random.Generator) -> None:
    turn = _x(view, 0.0)
    _fill(view, view.up < 0.06 + 0.03 * np.sin(turn * 3), shade((0.48, 0.62, 0.54)))
    _wheel(view, shade, 110.0, 0.50, 0.36)
    _wheel(view, shade, 290.0, 0.40, 0.28)
    x = view.offset(200.0)
    track = 0.24 + 0.13 * np.sin(x * 0.16) + 0.05 * np.sin(x * 0.41 + 1.0)
    inside = np.abs(x) < 44
    _fill(view, inside & (np.abs((x % 8) - 4) < 0.5) & (view.up < track), shade((0.93, 0.92, 0.94)))
    _fill(view, inside & (np.abs(view.up - track) < 0.018), shade((0.88, 0.20, 0.26)))


def _wheel(view: Panorama, shade: _Shade, azimuth: float, up: float, radius: float) -> None:
    x, y = _x(view, azimuth), view.up - up
    distance, angle = np.sqrt(x**2 + y**2), np.arctan2(y, x)
    frame = shade((0.93, 0.93, 0.96))
    legs = np.abs(np.abs(x) - 0.45 * radius * np.clip(-y / up, 0, 1)) < 0.016
    _fill(view, legs & (y < 0), frame)
    _fill(view, (np.abs(np.sin(angle * 4)) * distance < 0.028) & (distance < radius), frame)
    for ring in (radius, 0.1 * radius):
        _fill(view, np.abs(distance - ring) < 0.016, frame)
    colors = ((0.95, 0.25, 0.28), (1.0, 0.82, 0.25), (0.25, 0.62, 0.95), (0.45, 0.80, 0.42))
    for k in range(8):
        cx, cy = np.cos(k * np.pi / 4) * radius, np.sin(k * np.pi / 4) * radius - 0.03
        _fill(view, (x - cx) ** 2 + (y - cy) ** 2 < 0.05**2, colors[k % 4])


BACKDROPS: Mapping[str, Backdrop] = {
    "city/new_york": Backdrop((0.80, 0.88, 0.96), (0.28, 0.54, 0.90), _new_york, 4),
    "city/paris": Backdrop((0.90, 0.92, 0.95), (0.54, 0.70, 0.90), _paris, 6),
    "city/tokyo": Backdrop((0.88, 0.93, 0.97), (0.44, 0.70, 0.92), _tokyo, 4),
    "city/marrakesh": Backdrop((0.97, 0.88, 0.74), (0.32, 0.58, 0.86), _marrakesh, 1),
    "zoo": Backdrop((0.86, 0.94, 0.94), (0.36, 0.66, 0.92), _hills, 5),
    "amusement_park": Backdrop((0.88, 0.94, 0.99), (0.38, 0.66, 0.94), _rides, 5),
}
