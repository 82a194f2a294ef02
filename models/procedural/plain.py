"""Plain scenes: the sharp, flat style in which the neural worlds are trained and begin.

A plain scene is made of few large flat shapes with hard edges and mild haze. Its theme is one of
`PLAIN_THEMES`; "city" alone is one of the localities, chosen by the seed. Day, dusk and night are
chosen by the seed as well, unless they are given. The scenes of `build_scene` stay as they are.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.procedural import theme_hospital, theme_museum, theme_park, theme_zoo
from worldbridge.models.procedural.city_layout import LOCALITIES, lay_out_city
from worldbridge.models.procedural.city_styles import city_materials
from worldbridge.models.procedural.draft import CELL_M, CELLS, SOLID_M, PlainDraft
from worldbridge.models.procedural.props import BANDS, SECTORS, PropArrays
from worldbridge.models.procedural.scene import (
    GROUND_LIGHT_PX,
    THEMES,
    Scene,
    ThemeLook,
    cell_tables,
    ground_light,
)
from worldbridge.models.procedural.sky import BACKDROPS, TIMES, Daylight, paint_sky
from worldbridge.models.procedural.tiles import (
    WINDOW_GLOW,
    Color,
    Material,
    glowing,
    pack_glowing,
    plain_levels,
)

__all__ = ["PLAIN_THEMES", "build_plain_scene", "plain_place", "plain_time", "vary"]


# -- what makes the scenes of a theme differ: other halls, rides and enclosures --------------------

_BONE: Color = (0.93, 0.89, 0.78)
_RIDES: tuple[tuple[Color, Color], ...] = (
    ((0.93, 0.25, 0.28), (0.98, 0.95, 0.90)),
    ((0.20, 0.48, 0.88), (0.99, 0.84, 0.30)),
    ((0.20, 0.66, 0.50), (0.98, 0.95, 0.90)),
    ((0.60, 0.32, 0.78), (0.99, 0.78, 0.32)),
)


def vary(draft: PlainDraft, theme: str) -> None:
    """Add the variants of a theme."""
    {"museum": _museum, "zoo": _zoo, "hospital": _hospital, "amusement_park": _park}[theme](draft)


def _spots(draft: PlainDraft, count: int, radius: float) -> list[tuple[float, float]]:
    """Find up to `count` free discs of `radius` metres, clear of everything placed so far."""
    found: list[tuple[float, float]] = []
    reach = math.ceil(radius / 2)
    for _ in range(40 * count):
        cx, cz = (int(v) for v in draft.rng.integers(reach + 1, CELLS - reach - 1, 2))
        x, z = cx * 2 + 1.0, cz * 2 + 1.0
        free = draft.is_free(cx - reach, cz - reach, cx + reach + 1, cz + reach + 1)
        apart = all(math.hypot(x - a, z - b) > 3 * radius for a, b in found)
        if free and apart and draft.clear_of_obstacles(x, z, radius):
            found.append((x, z))
        if len(found) == count:
            break
    return found


def _museum(draft: PlainDraft) -> None:
    """Either columned halls, or dinosaur skeletons, or large abstract sculptures."""
    kind = int(draft.rng.integers(3))
    for k, (x, z) in enumerate(_spots(draft, (10, 4, 6)[kind], (0.7, 2.4, 1.2)[kind])):
        if kind == 0:
            draft.box(x, 0, z, 0.4, (0.6, 0.6), (0.78, 0.75, 0.70))
            draft.post(x, 0.4, z, 3.6, 0.42, (0.93, 0.91, 0.86))
            draft.box(x, 3.6, z, 4.0, (0.6, 0.6), (0.78, 0.75, 0.70))
            draft.obstacle(x, z, 0.7)
        elif kind == 1:
            _skeleton(draft, x, z)
        else:
            color, second = _RIDES[k % 4]
            draft.box(x, 0, z, 0.25, (0.9, 0.9), (0.32, 0.32, 0.34))
            draft.ball(x, 1.1, z, (0.7, 0.85, 0.7), color)
            draft.ball(x + 0.2, 2.3, z, (0.5, 0.5, 0.5), second)
            draft.cone(x - 0.2, 2.6, z, 3.6, 0.4, color)
            draft.obstacle(x, z, 1.1)


def _skeleton(draft: PlainDraft, x: float, z: float) -> None:
    draft.box(x, 0, z, 0.2, (1.0, 2.4), (0.36, 0.30, 0.26))
    for k in range(7):
        at = (k - 3) * 0.6
        size = 0.62 - 0.12 * abs(k - 3)
        draft.ball(x, 1.75 - 0.05 * abs(k - 3) ** 2, z + at, (size, size * 1.2, 0.12), _BONE)
    draft.ball(x, 2.55, z - 2.3, (0.3, 0.3, 0.6), _BONE)
    draft.ball(x, 2.0, z - 1.7, (0.14, 0.75, 0.16), _BONE, 0.0, 0.5)
    draft.ball(x, 1.1, z + 2.3, (0.12, 0.14, 0.9), _BONE, 0.0, 0.2)
    for side in (-0.45, 0.45):
        for at in (-0.7, 0.9):
            draft.post(x + side, 0.2, z + at, 1.6, 0.11, _BONE)
    for at in (-1.6, 0.0, 1.6):
        draft.obstacle(x, z + at, 1.2)


def _hospital(draft: PlainDraft) -> None:
    """Stretchers, waiting chairs and plants along the corridors."""
    for k, (x, z) in enumerate(_spots(draft, 8, 0.8)):
        if k % 3 == 0:
            draft.box(x, 0.75, z, 0.95, (0.38, 0.95), (0.95, 0.96, 0.97))
            draft.box(x, 0.35, z, 0.5, (0.30, 0.85), (0.30, 0.52, 0.62))
            for side in (-0.3, 0.3):
                draft.post(x + side, 0, z, 0.75, 0.08, (0.55, 0.60, 0.63))
            draft.obstacle(x, z, 0.95)
        elif k % 3 == 1:
            for side in (-0.6, 0.0, 0.6):
                color = (0.24, 0.52, 0.72) if side else (0.93, 0.62, 0.26)
                draft.box(x + side, 0.35, z, 0.5, (0.26, 0.26), color)
                draft.box(x + side, 0.5, z - 0.24, 1.0, (0.26, 0.06), color)
            draft.obstacle(x, z, 0.9)
        else:
            draft.post(x, 0, z, 0.5, 0.3, (0.93, 0.93, 0.92))
            draft.ball(x, 1.05, z, (0.5, 0.65, 0.5), (0.26, 0.56, 0.32))
            draft.obstacle(x, z, 0.45)


def _zoo(draft: PlainDraft) -> None:
    """Kiosks, picnic tables and signposts on the paths and lawns."""
    for k, (x, z) in enumerate(_spots(draft, 7, 1.0)):
        color, second = _RIDES[k % 4]
        if k % 3 == 0:
            draft.box(x, 0, z, 2.1, (0.8, 0.8), (0.93, 0.86, 0.68))
            draft.glow_box(x, 1.05, z, 1.75, (0.83, 0.6), (1.0, 0.86, 0.52))
            draft.cone(x, 2.1, z, 3.2, 1.4, color, second, SECTORS)
        elif k % 3 == 1:
            draft.post(x, 0, z, 2.4, 0.1, (0.48, 0.32, 0.19))
            draft.box(x + 0.35, 1.9, z, 2.35, (0.6, 0.08), (0.20, 0.46, 0.30))
            draft.box(x - 0.3, 1.4, z, 1.8, (0.55, 0.08), (0.90, 0.66, 0.24), 0.9)
        else:
            draft.lamp(x, 2.9, z, 0.3, (1.0, 0.94, 0.72))
            draft.post(x, 0, z, 2.7, 0.1, (0.24, 0.36, 0.28))
        draft.obstacle(x, z, 1.1 if k % 3 == 0 else 0.3)


def _park(draft: PlainDraft) -> None:
    """A drop tower, a ride with swings, teacups and popcorn carts."""
    for k, (x, z) in enumerate(_spots(draft, 5, 2.6)):
        color, second = _RIDES[int(draft.rng.integers(4))]
        if k % 3 == 0:  # drop tower
            draft.box(x, 0, z, 0.5, (1.6, 1.6), (0.58, 0.56, 0.66))
            draft.post(x, 0.5, z, 13.0, 0.55, second, color, BANDS)
            seat = float(draft.rng.uniform(3, 9))
            draft.post(x, seat, z, seat + 1.0, 1.3, color)
            draft.lamp(x, 13.4, z, 0.7, (1.0, 0.86, 0.40), pool=0.0)
            draft.obstacle(x, z, 1.9)
        elif k % 3 == 1:  # teacups
            draft.post(x, 0, z, 0.2, 2.6, (0.80, 0.72, 0.80))
            for j in range(4):
                turn = j * math.pi / 2 + 0.5
                cx, cz = x + 1.5 * math.cos(turn), z + 1.5 * math.sin(turn)
                draft.post(cx, 0.2, cz, 1.0, 0.75, _RIDES[j][0])
                draft.ball(cx, 1.0, cz, (0.75, 0.1, 0.75), _RIDES[j][1])
            draft.obstacle(x, z, 2.7)
        else:  # swings
            draft.post(x, 0, z, 5.4, 0.35, second, color, BANDS)
            draft.cone(x, 4.6, z, 6.0, 2.4, color, second, SECTORS)
            for j in range(6):
                turn = j * math.pi / 3
                cx, cz = x + 2.2 * math.cos(turn), z + 2.2 * math.sin(turn)
                draft.box(cx, 1.5, cz, 2.0, (0.28, 0.28), _RIDES[j % 4][0], turn)
                draft.post(cx, 2.0, cz, 4.7, 0.05, (0.86, 0.84, 0.80))
            draft.obstacle(x, z, 2.5)
    for x, z in _spots(draft, 4, 1.0):
        draft.box(x, 0.4, z, 1.1, (0.7, 0.45), (0.90, 0.22, 0.24))
        draft.glow_box(x, 1.1, z, 1.9, (0.62, 0.4), (1.0, 0.86, 0.50))
        draft.box(x, 1.9, z, 2.1, (0.8, 0.55), (0.97, 0.95, 0.90))
        draft.obstacle(x, z, 0.9)


# -- scenes ----------------------------------------------------------------------------------------

PLAIN_THEMES = (*THEMES, *(f"city/{name}" for name in LOCALITIES))
_FOG_M = 62.0


@dataclass(frozen=True, slots=True)
class _Indoors:
    ceiling_m: float
    fog_color: Color


_INDOORS: Mapping[str, _Indoors] = {
    "museum": _Indoors(theme_museum.CEILING_M, (0.86, 0.80, 0.72)),
    "hospital": _Indoors(theme_hospital.CEILING_M, (0.88, 0.94, 0.95)),
}
_LAYOUTS: Mapping[str, Callable[[PlainDraft], None]] = {
    "museum": theme_museum.layout,
    "zoo": theme_zoo.layout,
    "hospital": theme_hospital.layout,
    "amusement_park": theme_park.layout,
}
_MATERIALS: Mapping[str, Callable[[], Mapping[str, Material]]] = {
    "museum": theme_museum.materials,
    "zoo": theme_zoo.materials,
    "hospital": theme_hospital.materials,
    "amusement_park": theme_park.materials,
}
# What glows when it is dark, by the colour that it has in daylight.
_GLOWS: Mapping[str, Mapping[Color, Color]] = {
    "museum": {(0.90, 0.97, 1.0): glowing((1.0, 0.95, 0.82))},
    "hospital": {
        (1.0, 1.0, 1.0): glowing((0.97, 1.0, 1.0)),
        (0.86, 0.18, 0.20): glowing((0.93, 0.20, 0.22)),
        (0.60, 0.82, 0.96): (0.10, 0.14, 0.30),
        (0.56, 0.76, 0.52): (0.07, 0.11, 0.16),
    },
    "zoo": {(0.44, 0.66, 0.76): WINDOW_GLOW},
    "amusement_park": {(0.30, 0.20, 0.30): glowing((0.98, 0.78, 0.42))},
}


def plain_place(theme: str, seed: int) -> str:
    """Return the place of a scene: a theme, or a locality such as "city/paris".

    Raises ValueError for a theme that is not in `PLAIN_THEMES`.
    """
    if theme not in PLAIN_THEMES:
        raise ValueError(f"expected a theme among {', '.join(PLAIN_THEMES)}; got {theme!r}")
    return f"city/{LOCALITIES[seed % len(LOCALITIES)]}" if theme == "city" else theme


def plain_time(seed: int) -> Daylight:
    """Return the time of day of a scene: half of them by day, a quarter each at dusk and night."""
    return TIMES[(0, 1, 0, 2)[(seed // len(LOCALITIES)) % 4]]


def build_plain_scene(
    theme: str, seed: int, time: Daylight | None = None, device: torch.device | str = "cpu"
) -> Scene:
    """Build the plain scene of a theme and seed; equal arguments give equal scenes.

    Raises ValueError for a theme that is not in `PLAIN_THEMES`.
    """
    place, time = plain_place(theme, seed), time or plain_time(seed)
    look = _look(place, time.name, str(device))
    rng = np.random.default_rng([PLAIN_THEMES.index(place), 7919, seed & 0xFFFFFFFF])
    indoors = place in _INDOORS
    tint = time.indoor_tint if indoors else time.tint
    draft = PlainDraft(look.materials, rng, time, tint)
    if place.startswith("city/"):
        lay_out_city(draft, place.removeprefix("city/"))
    else:
        _LAYOUTS[place](draft)
        vary(draft, place)
    jitter = rng.uniform(0.97, 1.03, 3)
    height, rows = cell_tables(draft, look)
    return Scene(
        theme=theme,
        seed=seed,
        look=look,
        height=draft.height,
        cell_rows=rows.to(device),
        cell_height=height.to(device),
        light=_with_pools(ground_light(draft, look), draft).to(device),
        props=PropArrays(tuple(draft.prims)),
        obstacles=tuple(draft.obstacles),
        tint=(float(jitter[0]) * tint[0], float(jitter[1]) * tint[1], float(jitter[2]) * tint[2]),
        sky_turn=float(rng.uniform(0, 2 * np.pi)),
        solid=tuple(tuple(bool(h > SOLID_M) for h in row) for row in draft.height),
    )


def _with_pools(light: Tensor, draft: PlainDraft) -> Tensor:
    """Brighten the ground below lamps, in two hard steps."""
    if not draft.time.lamps:
        return light
    axis = (torch.arange(GROUND_LIGHT_PX) + 0.5) * (CELLS * CELL_M / GROUND_LIGHT_PX)
    pools = torch.zeros(GROUND_LIGHT_PX, GROUND_LIGHT_PX)
    for x, z, strength in draft.pools:
        square = (axis[None] - x) ** 2 + (axis[:, None] - z) ** 2
        step = 0.6 * (square < 2.6**2).float() + 0.4 * (square < 1.5**2).float()
        torch.maximum(pools, strength * step, out=pools)
    return light * (1.0 + draft.time.lamps * pools.view(-1))


@lru_cache(maxsize=24)
def _look(place: str, time_name: str, device: str) -> ThemeLook:
    time = next(t for t in TIMES if t.name == time_name)
    names, tiles = _tiles(place, time.lit)
    parts, fog_color, fog_m = [tiles.reshape(-1, 4)], (0.0, 0.0, 0.0), _FOG_M
    ceiling = None
    if place in _INDOORS:
        inside = _INDOORS[place]
        r, g, b = (c * t for c, t in zip(inside.fog_color, time.indoor_tint, strict=True))
        fog_color, ceiling = (r, g, b), inside.ceiling_m
    else:
        backdrop = BACKDROPS[place]
        sky = paint_sky(backdrop, time, seed=len(place))
        glow = np.ones((*sky.shape[:2], 1), np.float32)  # no light tints the sky
        parts.append(pack_glowing(np.concatenate([sky, glow], -1)).reshape(-1, 4))
        fog_color = backdrop.horizon_at(time)
    atlas = torch.from_numpy(np.concatenate(parts)).view(torch.int32).reshape(-1)
    return ThemeLook(names, atlas.to(device), len(parts[0]), fog_color, fog_m, ceiling, glows=True)


@lru_cache(maxsize=16)
def _tiles(place: str, lit: bool) -> tuple[tuple[str, ...], np.ndarray]:
    if place.startswith("city/"):
        made = city_materials(place.removeprefix("city/"), lit)
        return tuple(made), plain_levels(made, {})
    made = dict(_MATERIALS[place]())
    return tuple(made), plain_levels(made, _GLOWS[place] if lit else {})
