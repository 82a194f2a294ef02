"""Amusement park at dusk: striped booths and tents, balloons, carousels, a Ferris wheel."""

import math

import numpy as np

from worldbridge.models.procedural.draft import CELLS, Draft
from worldbridge.models.procedural.props import BANDS, SECTORS
from worldbridge.models.procedural.sky import Panorama
from worldbridge.models.procedural.tiles import Canvas, Color, Material

__all__ = ["HORIZON", "layout", "materials", "sky"]

HORIZON: Color = (0.98, 0.74, 0.56)
_PAIRS: dict[str, tuple[Color, Color]] = {
    "red": ((0.97, 0.95, 0.92), (0.86, 0.18, 0.20)),
    "blue": ((0.99, 0.84, 0.28), (0.18, 0.38, 0.76)),
    "green": ((0.97, 0.95, 0.90), (0.16, 0.60, 0.48)),
    "pink": ((1.0, 0.82, 0.86), (0.80, 0.30, 0.62)),
}
_BALLOONS: tuple[Color, ...] = (
    (0.93, 0.22, 0.26),
    (0.99, 0.80, 0.22),
    (0.24, 0.52, 0.90),
    (0.36, 0.74, 0.42),
    (0.94, 0.48, 0.74),
)


def materials() -> dict[str, Material]:
    made = {
        "plaza": Material(Canvas((0.80, 0.66, 0.60)).checks(2.0, (0.72, 0.58, 0.55))),
        "ring": Material(Canvas((0.58, 0.46, 0.58)).checks(1.0, (0.66, 0.54, 0.64))),
        "walk": Material(Canvas((0.90, 0.80, 0.66)).joints(2.0, 0.16, (0.80, 0.68, 0.56))),
        "tarp": Material(Canvas((0.80, 0.30, 0.28))),
    }
    for name, (light, dark) in _PAIRS.items():
        made[name] = Material(Canvas(light).stripes(1.0, dark).rect(-1, 3.5, 5, 5, dark))
        made[f"booth_{name}"] = Material(_booth(light, dark))
    return made


def _booth(light: Color, dark: Color) -> Canvas:
    """A stall: counter, dark opening with prizes, striped valance."""
    canvas = Canvas(light).stripes(1.0, dark).rect(0.25, 1.0, 3.75, 2.35, (0.30, 0.20, 0.30))
    for k, color in enumerate(_BALLOONS[:4]):
        canvas.disc(0.75 + 0.83 * k, 1.45, 0.3, color)
    return canvas.rect(-1, 0.85, 5, 1.08, (0.94, 0.86, 0.70))


def sky() -> Panorama:
    rng = np.random.default_rng(37)
    view = Panorama(HORIZON, (0.36, 0.32, 0.62))
    view.sun(60, 0.16, 0.085, (1.0, 0.92, 0.66), (1.0, 0.80, 0.50))
    for azimuth, up, width in ((15, 0.36, 46), (130, 0.42, 52), (215, 0.5, 40), (330, 0.3, 50)):
        view.cloud(azimuth, up, width, (0.98, 0.76, 0.70))
    view.hills(rng, 0.02, 0.10, (0.72, 0.50, 0.56))
    view.wheel(110, 0.50, 0.36, (0.42, 0.26, 0.44))
    view.wheel(290, 0.40, 0.28, (0.50, 0.30, 0.46))
    _coaster(view, 200)
    return view


def _coaster(view: Panorama, azimuth: float) -> None:
    """A roller coaster's track and its posts against the sky, 80 degrees wide."""
    x = view.offset(azimuth)
    track = 0.24 + 0.13 * np.sin(x * 0.16) + 0.05 * np.sin(x * 0.41 + 1.0)
    inside = (np.abs(x) < 40).astype(np.float32)
    post = (np.abs((x % 6) - 3) < 0.28).astype(np.float32) * (view.up < track)
    view.blend(inside * post, (0.56, 0.36, 0.50))
    view.blend(inside * ((0.014 - np.abs(view.up - track)) * 120 + 0.5), (0.88, 0.28, 0.34))


def layout(draft: Draft) -> None:
    rng = draft.rng
    draft.floor(0, 0, CELLS, CELLS, "plaza")
    _fence(draft)
    cross = int(rng.integers(13, 17))
    draft.floor(cross, 1, cross + 3, CELLS - 1, "walk")
    draft.floor(1, cross, CELLS - 1, cross + 3, "walk")
    rides = [(8, 8), (8, 23), (23, 8), (23, 23)]
    for k in rng.permutation(4)[: int(rng.integers(2, 4))].tolist():
        x, z = rides[k]
        _carousel(draft, x * 2.0 + rng.uniform(-2, 2), z * 2.0 + rng.uniform(-2, 2))
    for _ in range(34):
        _stall(draft, int(rng.integers(3, CELLS - 5)), int(rng.integers(3, CELLS - 5)), cross)
    for _ in range(16):
        _balloons(draft, float(rng.uniform(5, 59)), float(rng.uniform(5, 59)))
    for k in range(6, 60, 9):
        _lamp(draft, cross * 2 - 0.6, float(k))
        _lamp(draft, float(k), cross * 2 - 0.6)


def _fence(draft: Draft) -> None:
    names = list(_PAIRS)
    for start in range(0, CELLS, 4):
        for x0, z0, x1, z1 in (
            (start, 0, start + 4, 1),
            (start, CELLS - 1, start + 4, CELLS),
            (0, start, 1, start + 4),
            (CELLS - 1, start, CELLS, start + 4),
        ):
            name = names[int(draft.rng.integers(len(names)))]
            wall = name if draft.rng.random() < 0.4 else f"booth_{name}"
            draft.block(x0, z0, x1, z1, float(draft.rng.choice([2.6, 3.2, 4.0])), wall, "tarp")


def _stall(draft: Draft, x: int, z: int, cross: int) -> None:
    """A square booth of 4 m with a pointed roof, where there is room around it."""
    x, z = x // 2 * 2, z // 2 * 2
    near = [(x - 2, x + 4, cross, cross + 3), (z - 2, z + 4, cross, cross + 3)]
    on_walk = any(x0 + 2 < b and x1 - 2 > a for x0, x1, a, b in near)
    if on_walk or not draft.is_free(x - 2, z - 2, x + 4, z + 4):
        return
    if not draft.clear_of_obstacles(x * 2 + 2.0, z * 2 + 2.0, 5.0):
        return
    name = list(_PAIRS)[int(draft.rng.integers(len(_PAIRS)))]
    light, dark = _PAIRS[name]
    draft.block(x, z, x + 2, z + 2, 2.8, f"booth_{name}", "tarp")
    apex = float(draft.rng.uniform(4.4, 5.6))
    draft.cone(x * 2 + 2.0, 2.6, z * 2 + 2.0, apex, 3.1, light, dark, SECTORS)
    draft.ball(x * 2 + 2.0, apex + 0.1, z * 2 + 2.0, 0.25, _BALLOONS[1])


def _carousel(draft: Draft, x: float, z: float) -> None:
    light, dark = _PAIRS[list(_PAIRS)[int(draft.rng.integers(len(_PAIRS)))]]
    cx, cz = int(x // 2), int(z // 2)
    draft.floor(cx - 3, cz - 3, cx + 4, cz + 4, "ring")
    draft.post(x, 0, z, 0.35, 3.4, (0.62, 0.34, 0.42))
    draft.ball(x, 0.35, z, (3.4, 0.06, 3.4), (0.86, 0.74, 0.58))
    draft.post(x, 0.35, z, 3.4, 0.8, light, dark, SECTORS)
    draft.post(x, 3.0, z, 3.55, 3.6, dark, light, SECTORS)
    draft.cone(x, 3.5, z, 5.8, 3.8, light, dark, SECTORS)
    draft.ball(x, 5.9, z, 0.35, (0.99, 0.84, 0.28))
    for k in range(6):
        turn = k * math.pi / 3 + 0.3
        hx, hz = x + 2.5 * math.cos(turn), z - 2.5 * math.sin(turn)
        draft.post(hx, 0.35, hz, 3.1, 0.06, (0.99, 0.88, 0.50))
        color = _BALLOONS[k % 5]
        draft.ball(hx, 1.35, hz, (0.26, 0.3, 0.62), color, turn)
        draft.ball(
            hx - 0.6 * math.sin(turn),
            1.75,
            hz - 0.6 * math.cos(turn),
            (0.15, 0.34, 0.2),
            color,
            turn,
            0.5,
        )
    draft.obstacle(x, z, 3.5)


def _balloons(draft: Draft, x: float, z: float) -> None:
    cx, cz = int(x // 2), int(z // 2)
    if not draft.is_free(cx, cz, cx + 1, cz + 1) or not draft.clear_of_obstacles(x, z, 1.2):
        return
    draft.post(x, 0, z, 0.35, 0.22, (0.50, 0.36, 0.46))
    draft.post(x, 0.35, z, 2.3, 0.02, (0.90, 0.86, 0.80))
    for k in range(4):
        turn = k * math.pi / 2 + 0.4
        color = _BALLOONS[int(draft.rng.integers(5))]
        draft.ball(
            x + 0.36 * math.cos(turn),
            2.55 + 0.28 * (k % 2),
            z + 0.36 * math.sin(turn),
            (0.3, 0.37, 0.3),
            color,
        )
    draft.obstacle(x, z, 0.3)


def _lamp(draft: Draft, x: float, z: float) -> None:
    cx, cz = int(x // 2), int(z // 2)
    if not (draft.clear_of_obstacles(x, z, 0.6) and draft.is_free(cx - 1, cz - 1, cx + 2, cz + 2)):
        return
    draft.post(x, 0, z, 3.4, 0.09, (0.93, 0.90, 0.88), (0.86, 0.2, 0.24), BANDS)
    draft.ball(x, 3.6, z, 0.34, (1.0, 0.94, 0.70))
    draft.obstacle(x, z, 0.15)
