"""City: asphalt streets with lane markings, sidewalks, window-grid buildings, trees and cars."""

import math

import numpy as np

from worldbridge.models.procedural.draft import CELLS, Draft, tinted
from worldbridge.models.procedural.sky import Panorama
from worldbridge.models.procedural.tiles import Canvas, Color, Material

__all__ = ["HORIZON", "layout", "materials", "sky"]

HORIZON: Color = (0.80, 0.88, 0.95)
_ASPHALT: Color = (0.33, 0.35, 0.39)
_PAINT: Color = (0.90, 0.90, 0.86)
_GLASS: Color = (0.36, 0.50, 0.64)
_WALLS: dict[str, Color] = {
    "brick": (0.72, 0.38, 0.30),
    "cream": (0.93, 0.85, 0.68),
    "teal": (0.36, 0.62, 0.62),
    "mustard": (0.88, 0.68, 0.32),
    "slate": (0.45, 0.52, 0.62),
    "rose": (0.86, 0.60, 0.60),
    "white": (0.90, 0.90, 0.88),
    "olive": (0.56, 0.62, 0.42),
}
_AWNINGS: tuple[Color, ...] = ((0.80, 0.25, 0.24), (0.20, 0.48, 0.40), (0.92, 0.72, 0.30))
_CARS: tuple[Color, ...] = (
    (0.85, 0.22, 0.20),
    (0.20, 0.42, 0.78),
    (0.95, 0.80, 0.25),
    (0.92, 0.93, 0.94),
    (0.22, 0.60, 0.45),
)


def materials() -> dict[str, Material]:
    made = {
        "road": Material(Canvas(_ASPHALT)),
        "sidewalk": Material(Canvas((0.72, 0.71, 0.69)).joints(2.0, 0.10, (0.60, 0.59, 0.58))),
        "grass": Material(Canvas((0.46, 0.66, 0.34)).checks(2.0, (0.43, 0.62, 0.32))),
        "roof": Material(Canvas((0.55, 0.54, 0.55))),
        "zebra_x": Material(Canvas(_ASPHALT).stripes(1.0, _PAINT)),
        "zebra_z": Material(Canvas(_ASPHALT).stripes(1.0, _PAINT, upright=False)),
    }
    for side, at in (("low", 0.0), ("high", 3.85)):
        made[f"lane_z_{side}"] = Material(_lane(at, along_v=True))
        made[f"lane_x_{side}"] = Material(_lane(at, along_v=False))
    for k, (name, color) in enumerate(_WALLS.items()):
        made[name] = Material(_shop(color, _AWNINGS[k % 3]), _windows(color, k % 3))
    return made


def _lane(at: float, along_v: bool) -> Canvas:
    """Half a road: the dashed centre line at `at`, a solid kerb line at the other side."""
    canvas = Canvas(_ASPHALT)
    kerb = 3.55 if at == 0.0 else 0.30
    strips = ((at, 0.15, 0.8, 3.2, _PAINT), (kerb, 0.15, -1.0, 5.0, (0.86, 0.72, 0.32)))
    for start, width, v0, v1, color in strips:
        if along_v:
            canvas.rect(start, v0, start + width, v1, color)
        else:
            canvas.rect(v0, start, v1, start + width, color)
    return canvas


def _shop(wall: Color, awning: Color) -> Canvas:
    canvas = Canvas(tinted(wall, 0.82)).rect(0.35, 0.5, 2.45, 2.5, (0.55, 0.68, 0.74))
    canvas.rect(0.35, 0.5, 2.45, 0.75, tinted(wall, 0.6))
    canvas.rect(2.8, -1, 3.7, 2.5, (0.36, 0.30, 0.28))
    canvas.rect(0.1, 2.6, 3.9, 3.25, awning).rect(-1, 3.55, 5, 5, tinted(wall, 1.1))
    return canvas


def _windows(wall: Color, style: int) -> Canvas:
    canvas = Canvas(wall)
    frame, dark = tinted(wall, 1.18), tinted(wall, 0.86)
    if style == 0:
        for u in (0.45, 2.45):
            canvas.rect(u - 0.15, 0.85, u + 1.25, 3.15, frame).rect(u, 1.0, u + 1.1, 3.0, _GLASS)
    elif style == 1:
        canvas.rect(-1, 1.0, 5, 2.8, _GLASS)
        for u in (-0.1, 1.9, 3.9):
            canvas.rect(u, 0, u + 0.2, 4, frame)
        canvas.rect(-1, -1, 5, 0.35, dark)
    else:
        for u in (0.4, 2.4):
            canvas.rect(u, 0.5, u + 1.2, 3.4, (0.42, 0.56, 0.66)).rect(u, 1.9, u + 1.2, 2.1, frame)
        canvas.rect(-1, 3.7, 5, 5, dark)
    return canvas


def sky() -> Panorama:
    rng = np.random.default_rng(11)
    view = Panorama(HORIZON, (0.35, 0.60, 0.92))
    view.sun(40, 0.62, 0.06, (1.0, 0.97, 0.85), (1.0, 0.96, 0.86))
    for azimuth, up, width in ((95, 0.34, 46), (165, 0.52, 36), (228, 0.28, 52), (310, 0.45, 40)):
        view.cloud(azimuth, up, width, (0.98, 0.98, 1.0))
    view.skyline(rng, 0.06, 0.24, (0.68, 0.77, 0.87))
    view.skyline(rng, 0.02, 0.13, (0.60, 0.69, 0.80))
    return view


def layout(draft: Draft) -> None:
    rng = draft.rng
    names = list(_WALLS)
    columns = [int(rng.choice(c)) for c in ((1, 3, 5), (11, 13, 15), (21, 23, 25))]
    rows = [int(rng.choice(c)) for c in ((1, 3, 5), (11, 13, 15), (21, 23, 25))]
    _lots(draft, names)
    for start in columns:
        draft.floor(start, 1, start + 6, CELLS - 1, "sidewalk")
    for start in rows:
        draft.floor(1, start, CELLS - 1, start + 6, "sidewalk")
    for start in columns:
        draft.floor(start + 1, 1, start + 3, CELLS - 1, "lane_z_high")
        draft.floor(start + 3, 1, start + 5, CELLS - 1, "lane_z_low")
    for start in rows:
        _cross_street(draft, start, columns)
    for start in columns:
        for row in rows:
            draft.floor(start + 1, row, start + 5, row + 1, "zebra_x")
            draft.floor(start + 1, row + 5, start + 5, row + 6, "zebra_x")
    _border(draft, names)
    _furnish(draft, columns, rows)


def _cross_street(draft: Draft, start: int, columns: list[int]) -> None:
    draft.floor(1, start + 1, CELLS - 1, start + 3, "lane_x_high")
    draft.floor(1, start + 3, CELLS - 1, start + 5, "lane_x_low")
    for column in columns:
        draft.floor(column + 1, start + 1, column + 5, start + 5, "road")
        draft.floor(column, start + 1, column + 1, start + 5, "zebra_z")
        draft.floor(column + 5, start + 1, column + 6, start + 5, "zebra_z")


def _lots(draft: Draft, names: list[str]) -> None:
    """Buildings everywhere, in lots of 4 to 8 m; streets are cut out afterwards."""
    rng = draft.rng
    z = 0
    while z < CELLS:
        depth, x = int(rng.integers(3, 6)), 0
        while x < CELLS:
            width = int(rng.integers(2, 5))
            x1, z1 = min(x + width, CELLS), min(z + depth, CELLS)
            if rng.random() < 0.16:
                draft.floor(x, z, x1, z1, "grass")
            else:
                height = float(rng.choice([8, 8, 12, 12, 16, 20, 28]))
                draft.block(x, z, x1, z1, height, str(rng.choice(names)), "roof")
            x += width
        z += depth


def _border(draft: Draft, names: list[str]) -> None:
    for start in range(0, CELLS, 4):
        for x0, z0, x1, z1 in (
            (start, 0, start + 4, 1),
            (start, CELLS - 1, start + 4, CELLS),
            (0, start, 1, start + 4),
            (CELLS - 1, start, CELLS, start + 4),
        ):
            height = float(draft.rng.choice([8, 12, 16]))
            draft.block(x0, z0, x1, z1, height, str(draft.rng.choice(names)), "roof")


def _furnish(draft: Draft, columns: list[int], rows: list[int]) -> None:
    """Trees and lamps on the sidewalks, parked cars along the kerbs, trees on lawns."""
    crossing = {r + k for r in rows for k in range(-1, 7)}
    blocked = {c + k for c in columns for k in range(-1, 7)}
    for start in columns:
        for z in range(2, CELLS - 2):
            if z not in crossing:
                _kerb(draft, (start * 2 + 1.0, z * 2 + 1.0), (2.6, 0.0), 0.0, z)
                _kerb(draft, (start * 2 + 11.0, z * 2 + 1.0), (-2.6, 0.0), math.pi, z)
    for start in rows:
        for x in range(2, CELLS - 2):
            if x not in blocked:
                _kerb(draft, (x * 2 + 1.0, start * 2 + 1.0), (0.0, 2.6), math.pi / 2, x)
                _kerb(draft, (x * 2 + 1.0, start * 2 + 11.0), (0.0, -2.6), -math.pi / 2, x)
    lawn = draft.material("grass")
    for z, x in np.argwhere((draft.top == lawn) & (draft.height == 0)).tolist():
        if draft.rng.random() < 0.35:
            draft.tree(x * 2 + 1, z * 2 + 1, draft.rng.uniform(3.5, 5), (0.36, 0.60, 0.30))


def _kerb(
    draft: Draft, at: tuple[float, float], road: tuple[float, float], yaw: float, k: int
) -> None:
    x, z = at
    if k % 3 == 0:
        if draft.rng.random() < 0.6:
            draft.tree(x, z, draft.rng.uniform(3.8, 5.2), (0.34, 0.58, 0.30))
        else:
            _lamp(draft, x, z)
    elif k % 3 == 1 and draft.rng.random() < 0.4:
        _car(draft, x + road[0], z + road[1], yaw)


def _lamp(draft: Draft, x: float, z: float) -> None:
    draft.post(x, 0, z, 4.2, 0.09, (0.22, 0.26, 0.30))
    draft.ball(x, 4.35, z, 0.3, (1.0, 0.96, 0.82))
    draft.obstacle(x, z, 0.15)


def _car(draft: Draft, x: float, z: float, yaw: float) -> None:
    color = _CARS[int(draft.rng.integers(len(_CARS)))]
    sx, sz = math.sin(yaw), math.cos(yaw)
    draft.box(x, 0.32, z, 0.95, (0.88, 1.95), color, yaw)
    draft.box(
        x - 0.15 * sx,
        0.95,
        z - 0.15 * sz,
        1.42,
        (0.76, 1.05),
        tinted(color, 0.95),
        yaw,
        (0.24, 0.32, 0.40),
        0,
    )
    draft.box(x - 0.15 * sx, 1.0, z - 0.15 * sz, 1.32, (0.78, 1.07), (0.26, 0.34, 0.42), yaw)
    for ahead in (-1.2, 1.2):
        for side in (-0.86, 0.86):
            wx, wz = x + ahead * sx + side * sz, z + ahead * sz - side * sx
            draft.ball(wx, 0.36, wz, (0.12, 0.36, 0.36), (0.14, 0.14, 0.16), yaw)
    for ahead in (-1.0, 0.0, 1.0):
        draft.obstacle(x + ahead * sx, z + ahead * sz, 1.0)
