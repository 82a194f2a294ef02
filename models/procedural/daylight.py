"""Times of day: how bright and how coloured the light is, the haze and the sky behind a scene."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldbridge.models.procedural.sky import SKY_COLUMNS, Panorama
from worldbridge.models.procedural.tiles import Color, Image

__all__ = ["DAY", "DUSK", "NIGHT", "TIMES", "Backdrop", "Daylight", "paint_sky"]


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
