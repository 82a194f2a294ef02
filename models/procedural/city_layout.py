"""Street plans and street furniture of the city's localities."""

import math

from worldbridge.models.procedural.city_styles import FACADES, SIGN_COLORS
from worldbridge.models.procedural.draft import CELLS, Draft, PlainDraft, tinted
from worldbridge.models.procedural.props import BANDS, SECTORS, STRIPES
from worldbridge.models.procedural.tiles import Color

__all__ = ["LOCALITIES", "lay_out_city"]

LOCALITIES = ("new_york", "paris", "tokyo", "marrakesh")
_STREET = {"new_york": 6, "paris": 6, "tokyo": 4, "marrakesh": 3}  # cells of 2 m
_IRON: Color = (0.16, 0.18, 0.20)


def lay_out_city(draft: PlainDraft, locality: str) -> None:
    """Lay out streets, buildings and furniture; every second scene has a square in its middle."""
    rng, width = draft.rng, _STREET[locality]
    bands = ((1, 3), (9, 11), (19, 21), (25, 25)) if width < 6 else ((1, 3, 5), (11, 13), (21, 23))
    columns = [int(rng.choice(b)) for b in bands]
    rows = [int(rng.choice(b)) for b in bands]
    _lots(draft, locality)
    for start in columns:
        draft.floor(start, 1, start + width, CELLS - 1, "sidewalk")
    for start in rows:
        draft.floor(1, start, CELLS - 1, start + width, "sidewalk")
    if locality != "marrakesh":
        _roads(draft, columns, rows, width)
    square = rng.random() < 0.5
    if square:
        _square(draft, locality, columns, rows, width)
    _furnish(draft, locality, columns, rows, width)


def _roads(draft: Draft, columns: list[int], rows: list[int], width: int) -> None:
    end = width - 1
    for start in columns:
        _road(draft, start, width, "z")
    for start in rows:
        _road(draft, start, width, "x")
    for column in columns:
        for row in rows:
            draft.floor(column + 1, row + 1, column + end, row + end, "road")
            draft.floor(column + 1, row, column + end, row + 1, "zebra_x")
            draft.floor(column + 1, row + end, column + end, row + width, "zebra_x")
            draft.floor(column, row + 1, column + 1, row + end, "zebra_z")
            draft.floor(column + end, row + 1, column + width, row + end, "zebra_z")


def _road(draft: Draft, start: int, width: int, axis: str) -> None:
    def strip(a: int, b: int, name: str) -> None:
        if axis == "z":
            draft.floor(a, 1, b, CELLS - 1, name)
        else:
            draft.floor(1, a, CELLS - 1, b, name)

    if width == 6:
        strip(start + 1, start + 3, f"lane_{axis}_high")
        strip(start + 3, start + 5, f"lane_{axis}_low")
    else:
        strip(start + 1, start + 3, "road")


def _lots(draft: Draft, locality: str) -> None:
    rng = draft.rng
    z = 0
    while z < CELLS:
        depth, x = int(rng.integers(3, 6)), 0
        while x < CELLS:
            width = int(rng.integers(1, 4) if locality == "tokyo" else rng.integers(2, 6))
            _building(draft, locality, x, z, min(x + width, CELLS), min(z + depth, CELLS))
            x += width
        z += depth


def _building(draft: Draft, locality: str, x0: int, z0: int, x1: int, z1: int) -> None:
    rng = draft.rng
    wall = str(rng.choice(FACADES[locality]))
    if locality == "new_york":
        height = float(rng.choice([12, 16, 20, 28, 40, 60]))
        if rng.random() < 0.15:
            wall, height = f"billboard_{int(rng.integers(3))}", 16.0
        elif height >= 40:
            wall = str(rng.choice(["tower", "dark", "stone"]))
        draft.block(x0, z0, x1, z1, height, wall, "roof")
    elif locality == "paris":
        height = float(rng.choice([16, 16, 20]))
        draft.block(x0, z0, x1, z1, height, wall, "mansard")
        if x1 - x0 > 2 and z1 - z0 > 2:
            draft.block(x0 + 1, z0 + 1, x1 - 1, z1 - 1, height + 4, "mansard", "mansard")
    elif locality == "tokyo":
        if rng.random() < 0.3:
            wall = f"neon_{int(rng.integers(3))}"
        draft.block(x0, z0, x1, z1, float(rng.choice([8, 12, 16, 20, 32])), wall, "roof")
    elif rng.random() < 0.06:
        draft.block(x0, z0, x0 + 2, z0 + 2, 20.0, "minaret", "roof")
        draft.block(x0, z0 + 2, x1, z1, 8.0, wall, "roof")
    else:
        draft.block(x0, z0, x1, z1, float(rng.choice([4, 4, 8, 8])), wall, "roof")


def _square(
    draft: PlainDraft, locality: str, columns: list[int], rows: list[int], width: int
) -> None:
    """Clear the blocks in the middle for a square with a landmark."""
    x0, x1 = columns[1] + width, columns[2]
    z0, z1 = rows[1] + width, rows[2]
    if locality == "marrakesh":
        x0, z0, x1, z1 = x0 - 3, z0 - 3, x1 + 3, z1 + 3
    draft.floor(x0, z0, x1, z1, "square")
    x, z = float(x0 + x1), float(z0 + z1)
    {"new_york": _statue, "paris": _column, "tokyo": _torii, "marrakesh": _fountain}[locality](
        draft, x, z
    )
    for cx in range(x0, x1):
        for cz in range(z0, z1):
            px, pz = cx * 2 + 1.0, cz * 2 + 1.0
            if math.hypot(px - x, pz - z) < 5.0 or draft.rng.random() > 0.3:
                continue
            if (cx in (x0, x1 - 1) or cz in (z0, z1 - 1)) and locality != "marrakesh":
                _tree(draft, locality, px, pz)
            elif locality == "marrakesh" and draft.rng.random() < 0.6:
                _stall(draft, px, pz)
            elif locality == "paris":
                _cafe(draft, px, pz)


def _statue(draft: PlainDraft, x: float, z: float) -> None:
    draft.box(x, 0, z, 1.6, (1.5, 1.5), (0.62, 0.60, 0.58))
    draft.cone(x, 1.6, z, 4.6, 0.8, (0.34, 0.58, 0.50))
    draft.ball(x, 4.8, z, 0.42, (0.34, 0.58, 0.50))
    draft.ball(x + 0.7, 4.6, z, (0.16, 0.9, 0.16), (0.34, 0.58, 0.50))
    draft.obstacle(x, z, 2.0)


def _column(draft: PlainDraft, x: float, z: float) -> None:
    draft.box(x, 0, z, 1.2, (1.6, 1.6), (0.82, 0.78, 0.70))
    draft.post(x, 1.2, z, 9.0, 0.6, (0.30, 0.46, 0.40))
    draft.ball(x, 9.4, z, 0.7, (0.93, 0.76, 0.30))
    draft.obstacle(x, z, 2.1)


def _torii(draft: PlainDraft, x: float, z: float) -> None:
    red: Color = (0.90, 0.26, 0.14)
    for side in (-2.6, 2.6):
        draft.post(x + side, 0, z, 5.0, 0.3, red)
        draft.box(x + side, 0, z, 0.5, (0.42, 0.42), _IRON)
        draft.obstacle(x + side, z, 0.4)
    draft.box(x, 5.0, z, 5.5, (3.8, 0.36), red)
    draft.box(x, 5.5, z, 5.75, (4.0, 0.42), _IRON)
    draft.box(x, 3.9, z, 4.25, (2.9, 0.2), red)


def _fountain(draft: PlainDraft, x: float, z: float) -> None:
    draft.post(x, 0, z, 0.7, 2.4, (0.16, 0.50, 0.54), (0.92, 0.88, 0.78), SECTORS)
    draft.ball(x, 0.7, z, (2.1, 0.05, 2.1), (0.36, 0.68, 0.78))
    draft.post(x, 0.7, z, 1.9, 0.3, (0.92, 0.88, 0.78))
    draft.ball(x, 1.95, z, (0.9, 0.2, 0.9), (0.16, 0.50, 0.54))
    draft.obstacle(x, z, 2.6)


def _stall(draft: PlainDraft, x: float, z: float) -> None:
    """A market stall: counter with heaps of spice below a striped cloth."""
    a, b = (int(k) for k in draft.rng.choice(5, 2, replace=False))
    yaw = float(draft.rng.choice([0.0, math.pi / 2]))
    draft.box(x, 0, z, 0.8, (0.9, 0.6), (0.52, 0.33, 0.20), yaw)
    draft.box(x, 2.2, z, 2.45, (1.15, 0.95), SIGN_COLORS[a], yaw, (0.95, 0.90, 0.80), STRIPES)
    for k in (-0.55, 0.0, 0.55):
        px, pz = x + k * math.cos(yaw), z - k * math.sin(yaw)
        draft.cone(
            px,
            0.8,
            pz,
            1.15,
            0.27,
            ((0.90, 0.52, 0.12), SIGN_COLORS[b], (0.66, 0.20, 0.14))[int((k + 0.6) / 0.5)],
        )
    for k in (-0.85, 0.85):
        px, pz = x + k * math.cos(yaw), z - k * math.sin(yaw)
        draft.post(px, 0.8, pz, 2.2, 0.08, (0.40, 0.26, 0.17))
    draft.obstacle(x, z, 1.2)


def _cafe(draft: PlainDraft, x: float, z: float) -> None:
    draft.post(x, 0, z, 0.72, 0.09, _IRON)
    draft.post(x, 0.68, z, 0.78, 0.5, (0.93, 0.92, 0.88))
    draft.post(x, 0.78, z, 2.3, 0.07, (0.88, 0.86, 0.80))
    draft.cone(x, 2.1, z, 2.9, 1.3, (0.80, 0.18, 0.18), (0.95, 0.92, 0.86), SECTORS)
    for side in (-0.85, 0.85):
        draft.box(x + side, 0, z, 0.45, (0.22, 0.22), (0.70, 0.20, 0.18))
        draft.box(x + side * 1.25, 0.45, z, 0.95, (0.06, 0.22), (0.70, 0.20, 0.18))
    draft.obstacle(x, z, 1.2)


def _furnish(
    draft: PlainDraft, locality: str, columns: list[int], rows: list[int], width: int
) -> None:
    for upright, starts, others in ((True, columns, rows), (False, rows, columns)):
        crossing = {o + k for o in others for k in range(-1, width + 1)}
        for start in starts:
            for k in range(2, CELLS - 2):
                if k in crossing:
                    continue
                for cell, inward in ((start, 1.0), (start + width - 1, -1.0)):
                    at, along = cell * 2 + 1.0, k * 2 + 1.0
                    x, z = (at, along) if upright else (along, at)
                    step = (inward, 0.0) if upright else (0.0, inward)
                    _kerb(draft, locality, (x, z), step, k)


def _kerb(
    draft: PlainDraft, locality: str, at: tuple[float, float], inward: tuple[float, float], k: int
) -> None:
    """Furnish one 2 m piece of sidewalk; `inward` points from the houses to the road."""
    (x, z), (ix, iz), rng = at, inward, draft.rng
    dice = rng.random()
    yaw = math.atan2(ix, iz)
    if k % 3 == 1:
        if locality != "marrakesh" and dice < 0.4:
            far = 2.5 if locality != "tokyo" else 1.75
            heading = yaw + math.pi / 2 if rng.random() < 0.5 else yaw - math.pi / 2
            _vehicle(draft, locality, x + far * ix, z + far * iz, heading)
        elif locality == "tokyo" and dice < 0.75:
            _neon(draft, x - 0.55 * ix, z - 0.55 * iz, yaw)
        return
    ex, ez = x + 0.35 * ix, z + 0.35 * iz
    if k % 3 == 0 and dice < 0.5 and locality != "marrakesh":
        _tree(draft, locality, ex, ez)
    elif k % 3 == 0 and dice < 0.85:
        _lamp(draft, locality, ex, ez)
    elif k % 3 == 2 and dice < 0.4:
        if locality == "new_york":
            draft.post(ex, 0, ez, 0.75, 0.17, (0.86, 0.20, 0.16))
            draft.ball(ex, 0.78, ez, 0.2, (0.86, 0.20, 0.16))
            draft.obstacle(ex, ez, 0.25)
        elif locality == "paris":
            draft.post(ex, 0, ez, 2.7, 0.55, (0.13, 0.36, 0.26), SIGN_COLORS[int(dice * 12)], BANDS)
            draft.cone(ex, 2.7, ez, 3.6, 0.75, (0.10, 0.28, 0.21))
            draft.obstacle(ex, ez, 0.65)
        elif locality == "tokyo":
            _vending(draft, x - 0.5 * ix, z - 0.5 * iz, yaw)
        else:
            _pots(draft, x - 0.45 * ix, z - 0.45 * iz)


def _tree(draft: PlainDraft, locality: str, x: float, z: float) -> None:
    height = float(draft.rng.uniform(4.2, 5.6))
    if locality == "tokyo":  # a cherry in flower
        draft.tree(x, z, height, (0.96, 0.66, 0.76))
    elif locality == "paris":
        draft.post(x, 0, z, 2.8, 0.2, (0.50, 0.42, 0.34))
        draft.box(x, 2.6, z, 5.4, (1.15, 1.15), (0.36, 0.56, 0.28))
        draft.obstacle(x, z, 0.35)
    elif locality == "marrakesh":
        _palm(draft, x, z)
    else:
        draft.tree(x, z, height, (0.30, 0.52, 0.26))


def _palm(draft: PlainDraft, x: float, z: float) -> None:
    top = float(draft.rng.uniform(4.2, 6.0))
    draft.post(x, 0, z, top, 0.2, (0.55, 0.38, 0.24))
    for k in range(5):
        turn = k * 2 * math.pi / 5
        draft.ball(
            x + 0.85 * math.cos(turn),
            top - 0.05,
            z + 0.85 * math.sin(turn),
            (0.26, 0.16, 1.05),
            (0.22, 0.50, 0.24),
            math.pi / 2 - turn,
            0.0,
        )
    draft.obstacle(x, z, 0.35)


def _lamp(draft: PlainDraft, locality: str, x: float, z: float) -> None:
    warm: Color = (1.0, 0.92, 0.70)
    if locality == "new_york":
        draft.post(x, 0, z, 5.0, 0.12, (0.22, 0.26, 0.24))
        draft.box(x, 3.3, z, 4.3, (0.22, 0.22), (0.95, 0.76, 0.16))
        for y, color in ((4.1, (0.94, 0.20, 0.16)), (3.5, (0.20, 0.80, 0.40))):
            draft.lamp(x, y, z, (0.27, 0.13, 0.27), color, pool=0.0)
        draft.lamp(x, 5.1, z, (0.3, 0.16, 0.3), warm)
    elif locality == "paris":
        draft.post(x, 0, z, 3.6, 0.1, _IRON)
        draft.ball(x, 0.3, z, (0.24, 0.3, 0.24), _IRON)
        draft.box(x, 3.2, z, 3.32, (0.75, 0.07), _IRON)
        for side in (-0.7, 0.7):
            draft.lamp(x + side, 3.62, z, 0.3, warm)
    elif locality == "tokyo":
        draft.post(x, 0, z, 4.6, 0.14, (0.60, 0.60, 0.60))
        draft.lamp(x, 3.2, z, (0.3, 0.42, 0.3), (0.98, 0.30, 0.22), pool=0.6)
        draft.lamp(x, 2.3, z, (0.3, 0.42, 0.3), (0.98, 0.30, 0.22), pool=0.0)
    else:
        draft.post(x, 0, z, 2.7, 0.09, (0.34, 0.22, 0.16))
        draft.lamp(x, 2.9, z, (0.24, 0.36, 0.24), (1.0, 0.72, 0.30))
    draft.obstacle(x, z, 0.2)


def _vehicle(draft: PlainDraft, locality: str, x: float, z: float, yaw: float) -> None:
    rng = draft.rng
    colors: dict[str, tuple[Color, ...]] = {
        "new_york": ((0.98, 0.78, 0.10), (0.98, 0.78, 0.10), (0.16, 0.17, 0.20)),
        "paris": ((0.24, 0.30, 0.42), (0.90, 0.90, 0.88), (0.66, 0.16, 0.18)),
        "tokyo": ((0.94, 0.94, 0.94), (0.12, 0.20, 0.42), (0.42, 0.66, 0.62)),
    }
    color = colors[locality][int(rng.integers(3))]
    length, height, half = (1.6, 1.75, 0.74) if locality == "tokyo" else (2.05, 1.45, 0.88)
    s, c = math.sin(yaw), math.cos(yaw)
    draft.box(x, 0.3, z, 0.92, (half, length), color, yaw)
    draft.box(
        x - 0.12 * s,
        0.92,
        z - 0.12 * c,
        height - 0.14,
        (half - 0.08, length * 0.56),
        (0.22, 0.29, 0.36),
        yaw,
    )
    draft.box(
        x - 0.12 * s,
        height - 0.14,
        z - 0.12 * c,
        height,
        (half - 0.06, length * 0.52),
        tinted(color, 0.95),
        yaw,
    )
    if locality == "new_york" and color[0] > 0.9:
        draft.lamp(x, height + 0.1, z, (0.3, 0.12, 0.16), (1.0, 0.95, 0.8), pool=0.0)
    for ahead in (-0.6 * length, 0.6 * length):
        for side in (-half, half):
            draft.ball(
                x + ahead * s + side * c,
                0.34,
                z + ahead * c - side * s,
                (0.12, 0.34, 0.34),
                (0.12, 0.12, 0.14),
                yaw,
            )
    for ahead in (-0.55 * length, 0.0, 0.55 * length):
        draft.obstacle(x + ahead * s, z + ahead * c, half + 0.1)


def _neon(draft: PlainDraft, x: float, z: float, yaw: float) -> None:
    """An upright sign that juts out from a facade above people's heads."""
    color = SIGN_COLORS[int(draft.rng.integers(5))]
    base = float(draft.rng.uniform(2.9, 3.6))
    top = base + float(draft.rng.uniform(2.4, 4.4))
    draft.glow_box(x, base, z, top, (0.14, 0.5), color, yaw)
    count = int((top - base) / 0.85)
    for k in range(count):
        y = base + 0.3 + 0.85 * k
        draft.glow_box(x, y, z, y + 0.5, (0.17, 0.27), (0.98, 0.97, 0.92), yaw)


def _vending(draft: PlainDraft, x: float, z: float, yaw: float) -> None:
    color: Color = ((0.88, 0.16, 0.18), (0.94, 0.94, 0.95), (0.14, 0.40, 0.80))[
        int(draft.rng.integers(3))
    ]
    draft.box(x, 0, z, 1.9, (0.5, 0.36), color, yaw)
    draft.glow_box(x, 0.95, z, 1.7, (0.42, 0.4), (0.90, 0.96, 1.0), yaw)
    draft.box(x, 0.35, z, 0.6, (0.38, 0.4), (0.16, 0.16, 0.18), yaw)
    draft.obstacle(x, z, 0.6)


def _pots(draft: PlainDraft, x: float, z: float) -> None:
    for k, color in enumerate(((0.78, 0.42, 0.26), (0.14, 0.42, 0.62))):
        px, pz = x + 0.7 * (k - 0.5), z + 0.5 * (k - 0.5)
        draft.ball(px, 0.4, pz, (0.32, 0.4, 0.32), color)
        draft.post(px, 0.7, pz, 0.92, 0.16, tinted(color, 0.85))
        draft.obstacle(px, pz, 0.4)
    if draft.rng.random() < 0.5:
        draft.ball(x - 0.35, 1.25, z - 0.25, (0.42, 0.45, 0.42), (0.25, 0.52, 0.26))
