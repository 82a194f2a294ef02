"""Zoo: sandy paths through lawns, hedged and rocky enclosures, elephants, giraffes, flamingos."""

import math

import numpy as np

from worldbridge.models.procedural.draft import CELLS, Draft, tinted
from worldbridge.models.procedural.props import BANDS, PATCHES, STRIPES
from worldbridge.models.procedural.sky import Panorama
from worldbridge.models.procedural.tiles import Canvas, Color, Material

__all__ = ["HORIZON", "layout", "materials", "sky"]

HORIZON: Color = (0.86, 0.93, 0.90)
_LEAVES: tuple[Color, ...] = ((0.26, 0.52, 0.28), (0.36, 0.60, 0.26), (0.48, 0.62, 0.24))


def materials() -> dict[str, Material]:
    grass = Canvas((0.50, 0.70, 0.34)).checks(2.0, (0.46, 0.66, 0.32))
    return {
        "grass": Material(grass),
        "path": Material(Canvas((0.88, 0.78, 0.58)).joints(2.0, 0.14, (0.82, 0.71, 0.52))),
        "sand": Material(Canvas((0.84, 0.68, 0.42)).checks(2.0, (0.80, 0.64, 0.40))),
        "water": Material(Canvas((0.34, 0.66, 0.78)).stripes(2.0, (0.40, 0.72, 0.82), False)),
        "hedge": Material(
            Canvas((0.22, 0.46, 0.24)).shade_v(0.85, 1.5).stripes(2.0, (0.25, 0.51, 0.27))
        ),
        "fence": Material(_fence()),
        "rock": Material(_rock()),
        "rocktop": Material(Canvas((0.72, 0.68, 0.62)).checks(1.0, (0.67, 0.63, 0.58))),
        "house": Material(_house(), Canvas((0.78, 0.42, 0.28))),
        "thatch": Material(Canvas((0.80, 0.66, 0.36))),
    }


def _rock() -> Canvas:
    canvas = Canvas((0.62, 0.58, 0.54)).rect(0.2, -1, 1.8, 0.75, (0.70, 0.66, 0.61))
    return canvas.rect(2.3, -1, 3.7, 0.55, (0.55, 0.51, 0.48))


def _fence() -> Canvas:
    canvas = Canvas((0.40, 0.56, 0.30))
    canvas.rect(-1, 0.62, 5, 0.92, (0.62, 0.42, 0.24)).rect(-1, 0.2, 5, 0.42, (0.62, 0.42, 0.24))
    for u in (0.0, 2.0):
        canvas.rect(u + 0.85, -1, u + 1.15, 1.2, (0.50, 0.33, 0.19))
    return canvas


def _house() -> Canvas:
    canvas = Canvas((0.90, 0.80, 0.60)).rect(-1, 3.3, 5, 5, (0.62, 0.32, 0.22))
    canvas.rect(0.4, -1, 1.5, 2.3, (0.46, 0.30, 0.20)).rect(2.2, 1.1, 3.5, 2.3, (0.44, 0.66, 0.76))
    return canvas.rect(-1, 2.6, 5, 3.0, (0.34, 0.62, 0.40))


def sky() -> Panorama:
    rng = np.random.default_rng(23)
    view = Panorama(HORIZON, (0.36, 0.66, 0.90))
    view.sun(120, 0.7, 0.06, (1.0, 0.98, 0.86), (1.0, 0.97, 0.84))
    for azimuth, up, width in ((20, 0.36, 52), (80, 0.5, 34), (200, 0.33, 44), (285, 0.48, 48)):
        view.cloud(azimuth, up, width, (1.0, 1.0, 1.0))
    view.hills(rng, 0.06, 0.22, (0.62, 0.78, 0.70))
    view.hills(rng, 0.03, 0.13, (0.50, 0.70, 0.54))
    return view


def layout(draft: Draft) -> None:
    rng = draft.rng
    draft.floor(0, 0, CELLS, CELLS, "grass")
    draft.border(2.6, "hedge")
    columns, rows = _path_lines(rng), _path_lines(rng)
    for at in columns:
        draft.floor(at, 1, at + 3, CELLS - 1, "path")
    for at in rows:
        draft.floor(1, at, CELLS - 1, at + 3, "path")
    for x0, x1 in _gaps(columns):
        for z0, z1 in _gaps(rows):
            _enclosure(draft, x0, z0, x1, z1)
    for k in range(1, CELLS - 1, 3):
        for x, z in ((k, 0), (k, CELLS - 1), (0, k), (CELLS - 1, k)):
            if rng.random() < 0.7:
                _tree(draft, x * 2 + 1, z * 2 + 1, rng.uniform(5, 7.5))


def _path_lines(rng: np.random.Generator) -> list[int]:
    return [int(rng.integers(1, 4)), int(rng.integers(13, 17)), int(rng.integers(26, 28))]


def _gaps(lines: list[int]) -> list[tuple[int, int]]:
    return [(a + 3, b) for a, b in zip(lines, lines[1:], strict=False)]


def _tree(draft: Draft, x: float, z: float, height: float) -> None:
    draft.tree(x, z, height, _LEAVES[int(draft.rng.integers(len(_LEAVES)))])


def _enclosure(draft: Draft, x0: int, z0: int, x1: int, z1: int) -> None:
    """A fenced yard with animals of one kind, lawn and trees around it."""
    rng = draft.rng
    x0, z0, x1, z1 = x0 + 1, z0 + 1, x1 - 1, z1 - 1
    kind = int(rng.integers(4))
    edge = ("rock", "fence", "hedge", "fence")[kind]
    ground = ("sand", "grass", "water", "sand")[kind]
    draft.block(
        x0,
        z0,
        x1,
        z1,
        0.85 if edge != "hedge" else 0.7,
        edge,
        "rocktop" if edge == "rock" else "hedge",
    )
    draft.floor(x0 + 1, z0 + 1, x1 - 1, z1 - 1, ground)
    _trees_around(draft, x0, z0, x1, z1)
    if rng.random() < 0.4:
        draft.block(x1 - 4, z1 - 4, x1 - 1, z1 - 1, 4.0, "house", "thatch")
    count = (2, 2, 5, 3)[kind]
    for _ in range(count):
        place = _free_place(draft, x0 * 2 + 4.2, z0 * 2 + 4.2, x1 * 2 - 4.2, z1 * 2 - 4.2)
        if place is not None:
            (_elephant, _giraffe, _flamingo, _zebra)[kind](draft, *place)


def _trees_around(draft: Draft, x0: int, z0: int, x1: int, z1: int) -> None:
    for x, z in ((x0 - 1, z0 - 1), (x1, z0 - 1), (x0 - 1, z1), (x1, z1)):
        if draft.rng.random() < 0.65:
            _tree(draft, x * 2 + 1, z * 2 + 1, draft.rng.uniform(4, 6))


def _free_place(
    draft: Draft, x0: float, z0: float, x1: float, z1: float
) -> tuple[float, float] | None:
    for _ in range(20):
        x, z = float(draft.rng.uniform(x0, x1)), float(draft.rng.uniform(z0, z1))
        cx, cz = int(x // 2), int(z // 2)
        if draft.clear_of_obstacles(x, z, 1.5) and draft.is_free(cx, cz, cx + 1, cz + 1):
            return x, z
    return None


class _Body:
    """Places parts in an animal's own frame: `ahead` along its heading, `side` to its right."""

    def __init__(self, draft: Draft, x: float, z: float, scale: float) -> None:
        self.draft, self.x, self.z, self.scale = draft, x, z, scale
        self.yaw = float(draft.rng.uniform(-math.pi, math.pi))

    def at(self, ahead: float, side: float) -> tuple[float, float]:
        s, c = math.sin(self.yaw), math.cos(self.yaw)
        return (
            self.x + self.scale * (-s * ahead + c * side),
            self.z + self.scale * (-c * ahead - s * side),
        )

    def ball(
        self,
        ahead: float,
        side: float,
        y: float,
        size: tuple[float, float, float],
        color: Color,
        tilt: float = 0.0,
        second: Color = (0, 0, 0),
        pattern: int = 0,
    ) -> None:
        x, z = self.at(ahead, side)
        k = self.scale
        self.draft.ball(
            x,
            y * k,
            z,
            (size[0] * k, size[1] * k, size[2] * k),
            color,
            self.yaw,
            tilt,
            second,
            pattern,
        )

    def legs(self, ahead: float, side: float, top: float, radius: float, color: Color) -> None:
        for a in (-ahead, ahead):
            for b in (-side, side):
                x, z = self.at(a, b)
                self.draft.post(x, 0, z, top * self.scale, radius * self.scale, color)


def _elephant(draft: Draft, x: float, z: float) -> None:
    body = _Body(draft, x, z, float(draft.rng.uniform(0.85, 1.15)))
    gray: Color = (0.56, 0.58, 0.64)
    body.legs(0.75, 0.5, 1.1, 0.27, tinted(gray, 0.9))
    body.ball(0, 0, 1.65, (0.9, 0.85, 1.4), gray)
    body.ball(1.55, 0, 2.1, (0.55, 0.62, 0.6), tinted(gray, 1.06))
    for side in (-0.68, 0.68):
        body.ball(1.35, side, 2.1, (0.42, 0.6, 0.12), tinted(gray, 0.86))
        body.ball(2.05, side * 0.4, 1.5, (0.07, 0.36, 0.07), (0.96, 0.94, 0.86), 0.6)
    body.ball(2.1, 0, 1.35, (0.17, 0.85, 0.19), gray, 0.12)
    draft.obstacle(x, z, 1.5 * body.scale)


def _giraffe(draft: Draft, x: float, z: float) -> None:
    body = _Body(draft, x, z, float(draft.rng.uniform(0.9, 1.1)))
    tan: Color = (0.93, 0.76, 0.42)
    brown: Color = (0.64, 0.38, 0.20)
    body.legs(0.65, 0.28, 1.9, 0.12, tan)
    body.ball(0, 0, 2.2, (0.48, 0.55, 1.0), tan, 0.0, brown, PATCHES)
    body.ball(1.25, 0, 3.45, (0.2, 1.45, 0.24), tan, 0.38, brown, PATCHES)
    body.ball(2.0, 0, 4.75, (0.2, 0.2, 0.42), tan, -0.3)
    draft.obstacle(x, z, 1.1 * body.scale)


def _flamingo(draft: Draft, x: float, z: float) -> None:
    body = _Body(draft, x, z, float(draft.rng.uniform(1.1, 1.5)))
    pink: Color = (0.98, 0.52, 0.58)
    body.draft.post(*_leg(body, 0.08), 0.03 * body.scale, (0.90, 0.40, 0.44))
    body.draft.post(*_leg(body, -0.08), 0.03 * body.scale, (0.90, 0.40, 0.44))
    body.ball(0, 0, 0.95, (0.22, 0.24, 0.38), pink, 0.15)
    body.ball(0.40, 0, 1.3, (0.06, 0.34, 0.07), tinted(pink, 1.06), 0.25)
    body.ball(0.52, 0, 1.66, (0.1, 0.09, 0.14), tinted(pink, 1.06))
    body.ball(0.68, 0, 1.6, (0.05, 0.05, 0.11), (0.20, 0.18, 0.20))
    draft.obstacle(x, z, 0.5)


def _leg(body: _Body, side: float) -> tuple[float, float, float, float]:
    x, z = body.at(0, side)
    return x, 0.0, z, 0.8 * body.scale


def _zebra(draft: Draft, x: float, z: float) -> None:
    body = _Body(draft, x, z, float(draft.rng.uniform(1.0, 1.2)))
    white: Color = (0.95, 0.94, 0.92)
    black: Color = (0.18, 0.18, 0.20)
    body.legs(0.5, 0.22, 0.85, 0.1, (0.80, 0.79, 0.78))
    body.ball(0, 0, 1.1, (0.4, 0.42, 0.85), white, 0.0, black, STRIPES)
    body.ball(0.78, 0, 1.5, (0.17, 0.52, 0.24), white, 0.6, black, BANDS)
    body.ball(1.15, 0, 1.85, (0.16, 0.17, 0.34), white, -0.35)
    draft.obstacle(x, z, 0.9)
