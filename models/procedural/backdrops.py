"""Far silhouettes behind each outdoor place: skylines, hills, towers, mountains, rides."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.procedural.daylight import Backdrop
from worldbridge.models.procedural.sky import Panorama
from worldbridge.models.procedural.tiles import Color, Image

__all__ = ["BACKDROPS"]

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
