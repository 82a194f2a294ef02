"""Sky panoramas: colour over azimuth and elevation, with soft clouds, a sun and far silhouettes.

Columns cover the full turn (azimuth grows to the left, as yaw does), rows cover elevation
tangents from 0 (horizon) to `SKY_TOP`.
"""

import numpy as np

from worldbridge.models.procedural.tiles import Color, Image

__all__ = ["SKY_COLUMNS", "SKY_ROWS", "SKY_TOP", "Panorama"]

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
