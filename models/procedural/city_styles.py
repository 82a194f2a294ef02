"""Four localities of the city: facades, ground and signs of New York, Paris, Tokyo, Marrakesh.

A facade repeats every 2 m, the size of a map cell, so that it fits buildings of any width. The
lower tile is the ground floor, the upper one is repeated above it.
"""

from collections.abc import Mapping

from worldbridge.models.procedural.draft import tinted
from worldbridge.models.procedural.tiles import (
    WINDOW_GLOW,
    Canvas,
    Color,
    HardCanvas,
    Material,
    glowing,
)

__all__ = ["FACADES", "SIGN_COLORS", "city_materials"]

SIGN_COLORS: tuple[Color, ...] = (
    (0.93, 0.20, 0.24),
    (0.16, 0.45, 0.90),
    (0.99, 0.80, 0.16),
    (0.16, 0.68, 0.42),
    (0.93, 0.36, 0.70),
)
_NEW_YORK: Mapping[str, Color] = {
    "brick": (0.64, 0.30, 0.24),
    "brown": (0.47, 0.31, 0.24),
    "stone": (0.74, 0.71, 0.66),
    "tower": (0.46, 0.58, 0.68),
    "dark": (0.36, 0.37, 0.42),
    "sand": (0.80, 0.66, 0.48),
}
_PARIS: Mapping[str, Color] = {
    "lime": (0.92, 0.86, 0.74),
    "chalk": (0.95, 0.91, 0.82),
    "ash": (0.84, 0.79, 0.69),
}
_TOKYO: Mapping[str, Color] = {
    "white": (0.92, 0.92, 0.91),
    "tile": (0.70, 0.76, 0.80),
    "beige": (0.84, 0.77, 0.66),
    "gray": (0.56, 0.58, 0.62),
    "wood": (0.46, 0.30, 0.22),
}
_MARRAKESH: Mapping[str, Color] = {
    "salmon": (0.84, 0.52, 0.40),
    "terra": (0.76, 0.43, 0.32),
    "ochre": (0.90, 0.68, 0.44),
    "rose": (0.88, 0.60, 0.50),
}
FACADES: Mapping[str, tuple[str, ...]] = {
    "new_york": tuple(_NEW_YORK),
    "paris": tuple(_PARIS),
    "tokyo": tuple(_TOKYO),
    "marrakesh": tuple(_MARRAKESH),
}
_WHITE: Color = (0.93, 0.93, 0.90)
_ROADS: Mapping[str, tuple[Color, Color]] = {  # asphalt, sidewalk
    "new_york": ((0.27, 0.28, 0.31), (0.70, 0.70, 0.69)),
    "paris": ((0.47, 0.46, 0.46), (0.80, 0.76, 0.69)),
    "tokyo": ((0.36, 0.38, 0.43), (0.66, 0.64, 0.63)),
    "marrakesh": ((0.86, 0.68, 0.54), (0.82, 0.62, 0.48)),
}


def city_materials(locality: str, lit: bool) -> dict[str, Material]:
    """Paint the surfaces of a locality; `lit` makes windows and signs glow."""
    made = _ground(locality)
    walls = {"new_york": _new_york, "paris": _paris, "tokyo": _tokyo, "marrakesh": _marrakesh}
    return made | walls[locality](lit)


def _ground(locality: str) -> dict[str, Material]:
    asphalt, walk = _ROADS[locality]
    center = (0.95, 0.76, 0.20) if locality == "new_york" else _WHITE
    made = {
        "road": Material(HardCanvas(asphalt)),
        "zebra_x": Material(HardCanvas(asphalt).stripes(1.0, _WHITE)),
        "zebra_z": Material(HardCanvas(asphalt).stripes(1.0, _WHITE, upright=False)),
        "grass": Material(HardCanvas((0.44, 0.64, 0.33)).checks(2.0, (0.40, 0.59, 0.30))),
        "roof": Material(HardCanvas(tinted(walk, 0.75))),
        "sidewalk": Material(_paving(locality, walk)),
        "square": Material(HardCanvas(tinted(walk, 1.06)).checks(2.0, tinted(walk, 0.9))),
    }
    for side, at in (("low", 0.0), ("high", 3.8)):
        for axis in ("x", "z"):
            canvas = HardCanvas(asphalt)
            dash = (-1.0, 5.0) if locality == "new_york" else (0.8, 3.2)
            box = (at, dash[0], at + 0.2, dash[1])
            canvas.rect(*(box if axis == "z" else (box[1], box[0], box[3], box[2])), center)
            made[f"lane_{axis}_{side}"] = Material(canvas)
    return made


def _paving(locality: str, walk: Color) -> Canvas:
    if locality == "marrakesh":
        return HardCanvas(walk).checks(1.0, tinted(walk, 0.93))
    if locality == "tokyo":
        return (
            HardCanvas(walk)
            .rect(-1, 1.8, 5, 2.2, (0.93, 0.78, 0.25))
            .joints(2.0, 0.1, tinted(walk, 0.85))
        )
    return HardCanvas(walk).joints(2.0, 0.12, tinted(walk, 0.84))


def _glass(lit: bool, on: bool, dark: Color = (0.27, 0.35, 0.45)) -> Color:
    """The colour of a pane: glowing when somebody is at home."""
    return WINDOW_GLOW if lit and on else dark


def _new_york(lit: bool) -> dict[str, Material]:
    made = {}
    for k, (name, wall) in enumerate(_NEW_YORK.items()):
        lower = HardCanvas(tinted(wall, 0.72)).rect(-1, 3.45, 5, 5, tinted(wall, 1.15))
        for cell in (0.0, 2.0):
            lower.rect(cell + 0.2, 0.5, cell + 1.8, 2.45, _glass(lit, True, (0.44, 0.56, 0.62)))
        lower.rect(-1, 2.6, 5, 3.3, (SIGN_COLORS[k % 5], (0.15, 0.35, 0.25))[k % 2])
        lower.rect(2.5, -1, 3.5, 2.45, (0.20, 0.16, 0.15))
        upper = HardCanvas(wall)
        for cell in (0.0, 2.0):
            on = (cell > 0) == bool(k % 2)
            if name in ("tower", "dark"):
                upper.rect(cell + 0.12, 0.3, cell + 1.88, 3.5, _glass(lit, on, (0.30, 0.44, 0.58)))
                upper.rect(-1, 1.75, 5, 2.0, tinted(wall, 0.8))
            else:
                upper.rect(cell + 0.45, 0.7, cell + 1.55, 3.0, _glass(lit, on))
                upper.rect(cell + 0.3, 3.0, cell + 1.7, 3.25, tinted(wall, 1.35))
                upper.rect(cell + 0.3, 0.5, cell + 1.7, 0.72, tinted(wall, 1.35))
        if name in ("brick", "brown"):  # fire escapes
            upper.rect(0.2, 0.25, 2.0, 0.48, (0.13, 0.13, 0.15))
            upper.rect(0.2, 0.48, 0.36, 1.3, (0.13, 0.13, 0.15))
            upper.rect(1.84, 0.48, 2.0, 1.3, (0.13, 0.13, 0.15))
        made[name] = Material(lower, upper)
    for k in range(3):
        upper = HardCanvas((0.14, 0.14, 0.17))
        a, b = SIGN_COLORS[k], SIGN_COLORS[(k + 2) % 5]
        upper.rect(0.15, 0.2, 3.85, 3.8, glowing(a) if lit else a)
        upper.disc(1.3, 2.3, 0.85, glowing(_WHITE) if lit else _WHITE)
        upper.rect(2.1, 0.7, 3.5, 1.5, glowing(b) if lit else b)
        made[f"billboard_{k}"] = Material(
            HardCanvas((0.22, 0.22, 0.25)).rect(
                0.3, 0.5, 3.7, 2.8, _glass(lit, True, (0.44, 0.56, 0.62))
            ),
            upper,
        )
    return made


def _paris(lit: bool) -> dict[str, Material]:
    made = {}
    fronts: tuple[Color, ...] = ((0.48, 0.13, 0.18), (0.12, 0.23, 0.38), (0.11, 0.31, 0.24))
    awnings: tuple[Color, ...] = ((0.80, 0.18, 0.18), (0.93, 0.90, 0.84), (0.84, 0.62, 0.24))
    iron: Color = (0.17, 0.18, 0.21)
    for k, (name, wall) in enumerate(_PARIS.items()):
        lower = HardCanvas(fronts[k]).rect(-1, 3.5, 5, 5, tinted(wall, 0.9))
        lower.rect(0.25, 0.6, 1.75, 2.2, _glass(lit, True, (0.50, 0.58, 0.62)))
        lower.rect(2.45, -1, 3.55, 2.4, _glass(lit, False, (0.30, 0.24, 0.22)))
        lower.rect(-1, 2.45, 5, 3.15, awnings[k])
        lower.rect(1.0, 3.2, 3.0, 3.45, (0.86, 0.70, 0.34))
        upper = HardCanvas(wall)
        for cell in (0.0, 2.0):
            on = (cell > 0) == bool(k % 2)
            upper.rect(cell + 0.2, 0.15, cell + 1.8, 3.0, _glass(False, False, (0.70, 0.74, 0.74)))
            upper.rect(
                cell + 0.55, 0.15, cell + 1.45, 2.9, _glass(lit, on or k == 1, (0.34, 0.42, 0.50))
            )
            upper.rect(cell + 0.3, 3.05, cell + 1.7, 3.3, tinted(wall, 1.1))
        upper.rect(-1, 0.1, 5, 0.75, iron)
        for u in range(4):
            upper.rect(u + 0.2, 0.22, u + 0.8, 0.62, tinted(wall, 0.72))
        upper.rect(-1, 3.7, 5, 5, tinted(wall, 0.84))
        made[name] = Material(lower, upper)
    slate: Color = (0.38, 0.43, 0.53)
    dormer = HardCanvas(slate)
    for cell in (0.0, 2.0):
        dormer.rect(cell + 0.5, 0.4, cell + 1.5, 2.4, (0.88, 0.85, 0.78))
        dormer.rect(cell + 0.7, 0.5, cell + 1.3, 2.1, _glass(lit, cell > 0))
    made["mansard"] = Material(HardCanvas(slate), dormer)
    return made


def _tokyo(lit: bool) -> dict[str, Material]:
    made = {}
    for k, (name, wall) in enumerate(_TOKYO.items()):
        sign = SIGN_COLORS[k % 5]
        lower = HardCanvas(tinted(wall, 0.8))
        lower.rect(0.15, -1, 1.85, 2.3, _glass(lit, True, (0.56, 0.68, 0.72)))
        lower.rect(2.2, 0.0, 3.8, 2.2, (0.30, 0.33, 0.37))
        for u in (2.2, 2.75, 3.3):  # curtains over a door
            lower.rect(u, 1.5, u + 0.5, 2.3, SIGN_COLORS[(k + 1) % 5])
        lower.rect(-1, 2.5, 5, 3.5, glowing(sign) if lit else sign)
        for u in (0.3, 1.2, 2.3, 3.2):  # characters
            lower.rect(u, 2.7, u + 0.55, 3.3, glowing(_WHITE) if lit else _WHITE)
        upper = HardCanvas(wall)
        if k % 2:
            upper.rect(-1, 1.0, 5, 2.9, _glass(lit, k == 1, (0.36, 0.46, 0.54)))
            upper.rect(1.85, 1.0, 2.15, 2.9, tinted(wall, 0.85))
            upper.rect(-0.1, 1.0, 0.15, 2.9, tinted(wall, 0.85))
        else:
            for cell in (0.0, 2.0):
                on = (cell > 0) == bool(k % 4)
                upper.rect(cell + 0.25, 1.1, cell + 1.75, 2.9, _glass(lit, on, (0.36, 0.46, 0.54)))
            upper.rect(-1, 0.2, 5, 0.85, tinted(wall, 0.82))  # balconies
        made[name] = Material(lower, upper)
    for k in range(3):
        a, b = SIGN_COLORS[(k + 1) % 5], SIGN_COLORS[(k + 3) % 5]
        upper = HardCanvas((0.20, 0.21, 0.25))
        for u, color in ((0.15, a), (2.15, b)):
            upper.rect(u, 0.15, u + 1.7, 3.85, glowing(color) if lit else color)
            for v in (0.5, 1.6, 2.7):
                upper.rect(u + 0.45, v, u + 1.25, v + 0.75, glowing(_WHITE) if lit else _WHITE)
        made[f"neon_{k}"] = Material(
            HardCanvas((0.30, 0.30, 0.34)).rect(
                0.2, 0.3, 3.8, 3.0, _glass(lit, True, (0.60, 0.74, 0.78))
            ),
            upper,
        )
    made["vermilion"] = Material(HardCanvas((0.88, 0.28, 0.16)).rect(-1, 2.6, 5, 3.2, _WHITE))
    made["eaves"] = Material(HardCanvas((0.25, 0.32, 0.34)))
    return made


def _marrakesh(lit: bool) -> dict[str, Material]:
    made = {}
    turquoise: Color = (0.14, 0.52, 0.54)
    blue: Color = (0.16, 0.33, 0.66)
    for k, (name, wall) in enumerate(_MARRAKESH.items()):
        tile, wood = (turquoise, blue)[k % 2], (0.40, 0.24, 0.15)
        lower = HardCanvas(wall).rect(-1, -1, 5, 0.7, tinted(wall, 0.8))
        lower.rect(0.3, -1, 1.7, 1.9, tile).disc(1.0, 1.95, 0.82, tile)
        lower.rect(0.5, -1, 1.5, 1.8, wood).disc(1.0, 1.9, 0.6, wood)
        if k % 2:  # a second arch; otherwise a niche of tiles
            lower.rect(2.3, -1, 3.7, 1.9, tinted(wall, 1.12)).disc(
                3.0, 1.95, 0.82, tinted(wall, 1.12)
            )
            lower.rect(2.5, -1, 3.5, 1.8, _glass(lit, True, (0.30, 0.18, 0.14)))
        else:
            lower.rect(2.4, 0.9, 3.6, 2.3, (0.93, 0.88, 0.76)).rect(2.6, 1.1, 3.4, 2.1, tile)
        lower.rect(-1, 3.1, 5, 3.4, tinted(wall, 1.14))
        upper = HardCanvas(wall).rect(-1, 3.4, 5, 5, tinted(wall, 0.86))
        upper.rect(2.55, 0.9, 3.45, 2.3, _glass(lit, True, (0.24, 0.18, 0.17)))
        upper.rect(2.3, 0.9, 2.55, 2.3, tile).rect(3.45, 0.9, 3.7, 2.3, tile)
        for u in (0.0, 1.0, 2.0, 3.0):  # battlements
            upper.rect(u, 3.4, u + 0.5, 5, tinted(wall, 1.1))
        made[name] = Material(lower, upper)
    tower: Color = (0.86, 0.58, 0.42)
    upper = HardCanvas(tower).rect(0.4, 0.6, 3.6, 3.2, tinted(tower, 0.86))
    for u in (1.1, 2.9):
        upper.rect(u - 0.35, 0.9, u + 0.35, 2.4, _glass(lit, True, (0.26, 0.19, 0.18)))
        upper.disc(u, 2.4, 0.45, _glass(lit, True, (0.26, 0.19, 0.18)))
    made["minaret"] = Material(
        HardCanvas(tower).rect(0.6, -1, 3.4, 2.6, tinted(tower, 0.8)),
        upper.rect(-1, 3.5, 5, 5, turquoise),
    )
    made["zellige"] = Material(
        HardCanvas((0.92, 0.88, 0.78))
        .checks(0.5, turquoise)
        .rect(-1, 0.9, 5, 5, (0.86, 0.80, 0.70))
    )
    made["water"] = Material(HardCanvas((0.30, 0.62, 0.74)))
    return made
