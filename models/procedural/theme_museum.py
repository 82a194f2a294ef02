"""Museum: parquet halls, off-white walls with framed paintings, statues, benches, skylights."""

import math

import numpy as np

from worldbridge.models.procedural.draft import CELLS, Draft
from worldbridge.models.procedural.tiles import Canvas, Color, Material

__all__ = ["CEILING_M", "layout", "materials"]

CEILING_M = 4.0
_WALLS: dict[str, Color] = {
    "ivory": (0.93, 0.90, 0.84),
    "red": (0.66, 0.24, 0.22),
    "green": (0.30, 0.46, 0.40),
    "blue": (0.30, 0.40, 0.58),
}
_GOLD: Color = (0.80, 0.62, 0.28)
_STONE: Color = (0.90, 0.88, 0.84)
_BRONZE: Color = (0.50, 0.38, 0.26)
_PAINTINGS = 4


def materials() -> dict[str, Material]:
    made = {
        "parquet": Material(_parquet((0.74, 0.52, 0.32), (0.66, 0.45, 0.27))),
        "marble": Material(Canvas((0.86, 0.84, 0.80)).checks(2.0, (0.74, 0.72, 0.70))),
        "carpet": Material(Canvas((0.62, 0.22, 0.24)).rect(0.3, 0.3, 3.7, 3.7, (0.68, 0.28, 0.28))),
        "ceiling": Material(_skylight()),
    }
    for name, color in _WALLS.items():
        made[name] = Material(_wall(color))
        for k in range(_PAINTINGS):
            made[f"{name}_{k}"] = Material(_painting(_wall(color), k))
    return made


def _parquet(light: Color, dark: Color) -> Canvas:
    canvas = Canvas(light)
    for u, v in ((0, 0), (2, 2)):
        for k in (0, 1):
            canvas.rect(u + k, v, u + k + 0.5, v + 2, dark)
            canvas.rect((u + 2) % 4, v + k, (u + 2) % 4 + 2, v + k + 0.5, dark)
    return canvas


def _skylight() -> Canvas:
    canvas = Canvas((0.86, 0.83, 0.78)).rect(0.7, 0.7, 3.3, 3.3, (0.62, 0.60, 0.57))
    return canvas.rect(0.85, 0.85, 3.15, 3.15, (0.90, 0.97, 1.0)).rect(
        1.94, 0.85, 2.06, 3.15, (0.66, 0.66, 0.66)
    )


def _wall(color: Color) -> Canvas:
    canvas = Canvas(color).shade_v(0.93, 1.04)
    canvas.rect(-1, -1, 5, 0.28, (0.42, 0.28, 0.18))
    return canvas.rect(-1, 3.62, 5, 5, (0.95, 0.93, 0.88))


def _painting(canvas: Canvas, kind: int) -> Canvas:
    canvas.rect(0.55, 0.85, 3.45, 3.15, _GOLD)
    inner = (0.75, 1.05, 3.25, 2.95)
    if kind == 0:  # landscape: sky, sun, hills
        canvas.rect(*inner, (0.98, 0.76, 0.42)).disc(2.5, 2.35, 0.32, (0.98, 0.95, 0.80))
        canvas.rect(0.75, 1.05, 3.25, 1.55, (0.20, 0.44, 0.44))
        canvas.triangle(1.55, 1.5, 0.8, 1.0, (0.36, 0.36, 0.58))
    elif kind == 1:  # geometric composition
        canvas.rect(*inner, (0.95, 0.94, 0.90)).rect(0.75, 1.05, 1.7, 1.9, (0.16, 0.36, 0.72))
        canvas.rect(1.9, 1.75, 3.25, 2.95, (0.86, 0.20, 0.18))
        canvas.rect(2.6, 1.05, 3.25, 1.5, (0.98, 0.82, 0.20))
        canvas.rect(1.72, 1.05, 1.86, 2.95, (0.1, 0.1, 0.12))
    elif kind == 2:  # portrait
        canvas.rect(*inner, (0.22, 0.34, 0.34)).triangle(2, 1.05, 0.95, 1.5, (0.50, 0.16, 0.28))
        canvas.disc(2.0, 2.3, 0.36, (0.93, 0.74, 0.58), 1.25)
        canvas.rect(1.6, 2.5, 2.4, 2.78, (0.28, 0.16, 0.10))
    else:  # abstract discs
        canvas.rect(*inner, (0.14, 0.18, 0.40)).disc(1.5, 2.0, 0.62, (0.98, 0.62, 0.20))
        canvas.disc(2.5, 2.25, 0.5, (0.90, 0.30, 0.42)).disc(2.2, 1.5, 0.3, (0.40, 0.82, 0.78))
    return canvas


def layout(draft: Draft) -> None:
    """Three by three halls with wide doorways; each hall has its wall colour and floor."""
    rng = draft.rng
    draft.floor(0, 0, CELLS, CELLS, "parquet")
    draft.border(CEILING_M, "ivory")
    cuts = [0, 2 * int(rng.integers(4, 7)), 2 * int(rng.integers(9, 12)), CELLS - 1]
    rows = [0, 2 * int(rng.integers(4, 7)), 2 * int(rng.integers(9, 12)), CELLS - 1]
    _hang(draft, cuts, rows)
    for k in (1, 2):
        _doorways(draft, cuts[k], rows, upright=True)
        _doorways(draft, rows[k], cuts, upright=False)
    for i in range(3):
        for j in range(3):
            _furnish(draft, cuts[i] + 1, rows[j] + 1, cuts[i + 1], rows[j + 1])


def _hang(draft: Draft, cuts: list[int], rows: list[int]) -> None:
    """Walls with a painting on every second 4 m panel, in one colour per wall line."""
    names = list(_WALLS)
    lines = [(True, c) for c in cuts] + [(False, r) for r in rows]
    for upright, at in lines:
        color = names[0] if draft.rng.random() < 0.5 else names[int(draft.rng.integers(1, 4))]
        for panel in range(0, CELLS, 2):
            kind = int(draft.rng.integers(_PAINTINGS))
            name = f"{color}_{kind}" if draft.rng.random() < 0.75 else color
            if upright:
                draft.block(at, panel, at + 1, panel + 2, CEILING_M, name)
            else:
                draft.block(panel, at, panel + 2, at + 1, CEILING_M, name)
    draft.floor(0, 0, 0, 0, "parquet")


def _doorways(draft: Draft, at: int, spans: list[int], upright: bool) -> None:
    for low, high in zip(spans, spans[1:], strict=False):
        start = int(draft.rng.integers(low + 2, max(high - 4, low + 3)))
        if upright:
            draft.floor(at, start, at + 1, start + 3, "parquet")
        else:
            draft.floor(start, at, start + 3, at + 1, "parquet")


def _furnish(draft: Draft, x0: int, z0: int, x1: int, z1: int) -> None:
    rng = draft.rng
    floor = str(rng.choice(["parquet", "parquet", "marble", "carpet"]))
    if floor != "parquet":
        draft.floor(x0, z0, x1, z1, floor)
    cx, cz = x0 + x1, z0 + z1
    kind = int(rng.integers(4))
    if kind == 0:
        _statue(draft, cx, cz)
        for dx, dz in ((-4.0, 0.0), (4.0, 0.0)):
            _bench(draft, cx + dx, cz + dz, math.pi / 2)
    elif kind == 1:
        for dx in (-3.0, 3.0):
            _vase(draft, cx + dx, cz)
    elif kind == 2:
        _statue(draft, cx - 3.0, cz - 2.0)
        _statue(draft, cx + 3.0, cz + 2.0)
    else:
        _bench(draft, cx, cz, 0.0)
        _vase(draft, x0 * 2 + 1.2, z0 * 2 + 1.2)


def _plinth(draft: Draft, x: float, z: float, top: float) -> None:
    draft.box(x, 0, z, 0.15, (0.62, 0.62), (0.70, 0.68, 0.66))
    draft.box(x, 0.15, z, top, (0.48, 0.48), (0.82, 0.80, 0.78))
    draft.obstacle(x, z, 0.75)


def _statue(draft: Draft, x: float, z: float) -> None:
    color = _STONE if draft.rng.random() < 0.6 else _BRONZE
    yaw = float(draft.rng.uniform(0, 6.28))
    _plinth(draft, x, z, 0.9)
    side = np.array([math.cos(yaw), -math.sin(yaw)])
    draft.cone(x, 0.9, z, 2.5, 0.42, color)
    draft.ball(x, 1.98, z, (0.34, 0.42, 0.24), color, yaw)
    draft.ball(x, 2.62, z, (0.19, 0.25, 0.2), color, yaw)
    for sign in (-1, 1):
        ax, az = x + sign * 0.38 * side[0], z + sign * 0.38 * side[1]
        lift = 0.35 if sign > 0 else 0.0
        draft.ball(ax, 1.9 + lift, az, (0.1, 0.42, 0.11), color, yaw)


def _vase(draft: Draft, x: float, z: float) -> None:
    color: Color = [(0.20, 0.42, 0.68), (0.72, 0.32, 0.22), (0.24, 0.56, 0.46)][
        int(draft.rng.integers(3))
    ]
    _plinth(draft, x, z, 1.0)
    draft.ball(x, 1.42, z, (0.36, 0.44, 0.36), color)
    draft.post(x, 1.7, z, 2.05, 0.14, color)
    draft.ball(x, 2.06, z, (0.22, 0.05, 0.22), color)


def _bench(draft: Draft, x: float, z: float, yaw: float) -> None:
    draft.box(x, 0.35, z, 0.5, (1.1, 0.35), (0.36, 0.22, 0.16), yaw)
    for k in (-0.8, 0.8):
        bx, bz = x + k * math.cos(yaw), z - k * math.sin(yaw)
        draft.box(bx, 0, bz, 0.35, (0.12, 0.3), (0.22, 0.20, 0.20), yaw)
        draft.obstacle(bx, bz, 0.45)
    draft.obstacle(x, z, 0.5)
