"""Hospital: teal and white corridors, handrails, doors, wards with beds, red-cross signs."""

import math

from worldbridge.models.procedural.draft import CELLS, Draft
from worldbridge.models.procedural.tiles import Canvas, Color, Material

__all__ = ["CEILING_M", "layout", "materials"]

CEILING_M = 3.2
_WHITE: Color = (0.93, 0.96, 0.96)
_TEAL: Color = (0.56, 0.80, 0.79)
_RED: Color = (0.86, 0.18, 0.20)
_CURTAINS: tuple[Color, ...] = ((0.42, 0.68, 0.86), (0.56, 0.80, 0.62), (0.96, 0.80, 0.52))


def materials() -> dict[str, Material]:
    made = {
        "floor": Material(_floor()),
        "guide_x": Material(_floor().rect(-1, 1.7, 5, 2.3, (0.30, 0.62, 0.74))),
        "guide_z": Material(_floor().rect(1.7, -1, 2.3, 5, (0.30, 0.62, 0.74))),
        "ward": Material(Canvas((0.80, 0.86, 0.80)).checks(2.0, (0.75, 0.82, 0.76))),
        "ceiling": Material(_ceiling()),
        "plain": Material(_wall(_TEAL)),
        "door": Material(_door()),
        "cross": Material(_cross()),
        "window": Material(_window()),
        "notice": Material(_notice()),
        "desk": Material(Canvas((0.90, 0.92, 0.92)).rect(-1, -1, 5, 0.75, (0.26, 0.58, 0.62))),
        "desktop": Material(Canvas((0.86, 0.78, 0.66))),
    }
    for k, color in enumerate(_CURTAINS):
        made[f"curtain_{k}"] = Material(_curtain(color))
    return made


def _floor() -> Canvas:
    return Canvas((0.86, 0.90, 0.91)).checks(2.0, (0.79, 0.85, 0.87))


def _ceiling() -> Canvas:
    canvas = Canvas((0.88, 0.91, 0.91)).joints(2.0, 0.08, (0.78, 0.82, 0.83))
    return canvas.rect(0.4, 0.55, 1.6, 1.45, (1, 1, 1)).rect(2.4, 2.55, 3.6, 3.45, (1, 1, 1))


def _wall(lower: Color) -> Canvas:
    canvas = Canvas(_WHITE).rect(-1, -1, 5, 1.25, lower).rect(-1, -1, 5, 0.18, (0.36, 0.48, 0.50))
    canvas.rect(-1, 0.92, 5, 1.12, (0.24, 0.50, 0.54))
    return canvas.rect(-1, 2.95, 5, 5, (0.84, 0.90, 0.90))


def _door() -> Canvas:
    canvas = _wall(_TEAL).rect(0.85, -1, 3.15, 2.4, (0.60, 0.66, 0.68))
    for u in (1.0, 2.04):
        canvas.rect(u, -1, u + 0.96, 2.25, (0.90, 0.74, 0.50))
    for u in (1.3, 2.34):
        canvas.rect(u, 1.3, u + 0.36, 2.0, (0.62, 0.82, 0.90))
    return canvas


def _cross() -> Canvas:
    canvas = _wall(_TEAL).rect(1.0, 1.3, 3.0, 2.9, (1, 1, 1))
    return canvas.rect(1.75, 1.45, 2.25, 2.75, _RED).rect(1.35, 1.85, 2.65, 2.35, _RED)


def _window() -> Canvas:
    canvas = _wall(_TEAL).rect(0.6, 1.25, 3.4, 2.75, (0.98, 0.99, 1.0))
    canvas.rect(0.75, 1.4, 3.25, 2.6, (0.60, 0.82, 0.96))
    return canvas.rect(0.75, 1.4, 3.25, 1.75, (0.56, 0.76, 0.52)).rect(1.93, 1.4, 2.07, 2.6, _WHITE)


def _notice() -> Canvas:
    canvas = _wall(_TEAL).rect(0.8, 1.4, 2.2, 2.6, (0.30, 0.46, 0.72))
    canvas.rect(0.95, 1.55, 1.5, 2.2, (0.96, 0.96, 0.90))
    canvas.rect(1.6, 1.9, 2.05, 2.45, (0.98, 0.80, 0.36))
    return canvas.rect(2.6, 1.4, 3.4, 2.4, (0.96, 0.72, 0.62))


def _curtain(color: Color) -> Canvas:
    darker = (color[0] * 0.86, color[1] * 0.86, color[2] * 0.9)
    canvas = Canvas(color).stripes(0.8, darker).rect(-1, -1, 5, 0.2, (0.72, 0.76, 0.76))
    return canvas.rect(-1, 2.5, 5, 5, _WHITE)


def layout(draft: Draft) -> None:
    """Corridors cut through a solid building; wards and open bays off them."""
    rng = draft.rng
    draft.floor(0, 0, CELLS, CELLS, "floor")
    _panels(draft)
    columns, rows = (
        [2 * int(rng.integers(low, high)) for low, high in ((1, 3), (6, 9), (13, 15))]
        for _ in range(2)
    )
    for at in columns:
        _corridor(draft, at, upright=True)
    for at in rows:
        _corridor(draft, at, upright=False)
    for x0, x1 in zip([c + 4 for c in columns], columns[1:], strict=False):
        for z0, z1 in zip([r + 4 for r in rows], rows[1:], strict=False):
            _wing(draft, x0, z0, x1 - 2, z1 - 2)


def _panels(draft: Draft) -> None:
    """Fill everything with wall; 4 m panels alternate between doors, signs, windows, plain."""
    names = ["plain", "door", "door", "cross", "window", "notice", "plain"]
    for z in range(0, CELLS, 2):
        for x in range(0, CELLS, 2):
            draft.block(x, z, x + 2, z + 2, CEILING_M, str(draft.rng.choice(names)))


def _corridor(draft: Draft, at: int, upright: bool) -> None:
    """A corridor 4 m wide with a coloured guide line along its middle."""
    if upright:
        draft.floor(at, 2, at + 2, CELLS - 2, "guide_z")
    else:
        draft.floor(2, at, CELLS - 2, at + 2, "guide_x")


def _wing(draft: Draft, x0: int, z0: int, x1: int, z1: int) -> None:
    """A room between corridors: a ward with beds or a lobby with a desk, open on two sides."""
    draft.floor(x0, z0, x1, z1, "ward")
    middle_x, middle_z = (x0 + x1) // 2, (z0 + z1) // 2
    middle_x, middle_z = middle_x // 2 * 2, middle_z // 2 * 2
    draft.floor(x0 - 2, middle_z, x1 + 2, middle_z + 2, "ward")
    draft.floor(middle_x, z0 - 2, middle_x + 2, z1 + 2, "ward")
    if draft.rng.random() < 0.7:
        _ward(draft, x0, z0, x1, z1)
    else:
        _lobby(draft, middle_x, middle_z)
        draft.floor(x0 - 2, z0 - 2, x1 + 2, z0, "floor")


def _ward(draft: Draft, x0: int, z0: int, x1: int, z1: int) -> None:
    curtain = f"curtain_{int(draft.rng.integers(3))}"
    for wall_z, inward in ((z0, 1), (z1 - 1, -1)):
        for x in range(x0, x1, 3):
            if not draft.is_free(x, wall_z, x + 1, wall_z + 1):
                continue
            gate = draft.height[wall_z - inward, x] == 0
            if gate:
                continue
            z = wall_z * 2 + 1 + 0.7 * inward
            _bed(draft, x * 2 + 1, z, 0.0 if inward > 0 else math.pi)
            if x + 1 < x1 and draft.height[wall_z - inward, x + 1] > 0:
                draft.block(x + 1, wall_z, x + 2, wall_z + 1, 2.5, curtain)


def _bed(draft: Draft, x: float, z: float, yaw: float) -> None:
    """A bed whose head is towards -z (turned by yaw)."""
    c = math.cos(yaw)
    blanket = _CURTAINS[int(draft.rng.integers(3))]
    draft.box(x, 0.3, z, 0.5, (0.5, 1.05), (0.66, 0.70, 0.72), yaw)
    draft.box(x, 0.5, z, 0.68, (0.46, 1.0), (0.97, 0.97, 0.98), yaw)
    draft.box(x, 0.66, z + 0.35 * c, 0.72, (0.48, 0.66), blanket, yaw)
    draft.ball(x, 0.74, z - 0.7 * c, (0.3, 0.1, 0.2), (1, 1, 1), yaw)
    draft.box(x, 0.2, z - 1.08 * c, 1.05, (0.5, 0.05), (0.50, 0.60, 0.64), yaw)
    draft.post(x + 0.75, 0, z - 0.8 * c, 1.9, 0.04, (0.60, 0.66, 0.70))
    draft.ball(x + 0.75, 1.8, z - 0.8 * c, (0.13, 0.2, 0.08), (0.90, 0.62, 0.58))
    for k in (-0.6, 0.1, 0.8):
        draft.obstacle(x, z + k * c, 0.55)


def _lobby(draft: Draft, x: int, z: int) -> None:
    draft.block(x - 1, z, x + 2, z + 1, 1.05, "desk", "desktop")
    for dx in (-4.0, 4.0):
        px, pz = x * 2 + 1 + dx, z * 2 + 5.0
        draft.post(px, 0, pz, 0.55, 0.28, (0.90, 0.50, 0.36))
        draft.ball(px, 1.05, pz, (0.5, 0.6, 0.5), (0.32, 0.60, 0.34))
        draft.obstacle(px, pz, 0.5)
