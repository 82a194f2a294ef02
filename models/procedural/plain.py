"""Plain scenes: the sharp, flat style in which the neural worlds are trained and begin.

A plain scene is made of few large flat shapes with hard edges and mild haze. Its theme is one of
`PLAIN_THEMES`; "city" alone is one of the localities, chosen by the seed. Day, dusk and night are
chosen by the seed as well, unless they are given. The scenes of `build_scene` stay as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.procedural import theme_hospital, theme_museum, theme_park, theme_zoo
from worldbridge.models.procedural.backdrops import BACKDROPS
from worldbridge.models.procedural.city_layout import LOCALITIES, lay_out_city
from worldbridge.models.procedural.city_styles import city_materials
from worldbridge.models.procedural.daylight import TIMES, Daylight, paint_sky
from worldbridge.models.procedural.draft import CELL_M, CELLS, SOLID_M
from worldbridge.models.procedural.plain_draft import PlainDraft
from worldbridge.models.procedural.plain_tiles import (
    WINDOW_GLOW,
    glowing,
    pack_glowing,
    plain_levels,
)
from worldbridge.models.procedural.plain_variants import vary
from worldbridge.models.procedural.props import PropArrays
from worldbridge.models.procedural.scene import (
    GROUND_LIGHT_PX,
    THEMES,
    Scene,
    ThemeLook,
    cell_tables,
    ground_light,
)
from worldbridge.models.procedural.tiles import Color, Material

__all__ = ["PLAIN_THEMES", "build_plain_scene", "plain_place", "plain_time"]

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
