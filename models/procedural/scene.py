"""Scenes: what a theme and a seed make, ready to be rendered and walked in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.procedural import (
    theme_city,
    theme_hospital,
    theme_museum,
    theme_park,
    theme_zoo,
)
from worldbridge.models.procedural.draft import (
    CELL_M,
    CELLS,
    SOLID_M,
    TOP_ROW_SHIFT,
    Draft,
    light_map,
)
from worldbridge.models.procedural.props import PropArrays
from worldbridge.models.procedural.sky import Panorama
from worldbridge.models.procedural.tiles import Color, Material, pack_rgb, tile_levels

__all__ = [
    "GROUND_LIGHT_PX",
    "THEMES",
    "Scene",
    "ThemeLook",
    "build_scene",
    "cell_tables",
    "ground_light",
    "soften",
]

THEMES = ("city", "museum", "zoo", "hospital", "amusement_park")
GROUND_LIGHT_PX = 512


@dataclass(frozen=True, slots=True)
class ThemeLook:
    """What all scenes of a theme share: painted surfaces, sky, haze."""

    materials: tuple[str, ...]
    atlas: Tensor  # int32 [n], packed RGB: all tiles at all levels, then the sky panorama
    sky_offset: int  # where the panorama begins in the atlas
    fog_color: Color
    fog_range_m: float
    ceiling_m: float | None  # None outdoors
    detail_loss: int = 0  # levels by which textures are softer than their distance asks for
    focus_px: int = 1  # side of the squares over which the finished picture is averaged
    glows: bool = False  # the fourth byte of a texel is its share of light of its own


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One world: a 32 x 32 map of 2 m cells in [0, 64) m along x and z, and props on it."""

    theme: str
    seed: int
    look: ThemeLook
    height: NDArray[np.float32]  # [z, x] metres; 0 is walkable ground
    cell_rows: Tensor  # int32 [cells + 1]: tile of the wall | tile of the top << 8; last: ceiling
    cell_height: Tensor  # float32 [cells + 1]; the last stands for outside the map
    light: Tensor  # float32 [GROUND_LIGHT_PX ** 2], brightness of the ground
    props: PropArrays
    obstacles: tuple[tuple[float, float, float], ...]  # x, z, radius
    tint: Color
    sky_turn: float  # radians by which the panorama is turned
    solid: tuple[tuple[bool, ...], ...] = field(repr=False)  # [z][x]

    @property
    def device(self) -> torch.device:
        return self.cell_rows.device

    @property
    def extent_m(self) -> float:
        return CELLS * CELL_M

    def is_solid(self, x: float, z: float) -> bool:
        """Whether the cell under (x, z) stops a walker; outside the map everything does."""
        column, row = int(x // CELL_M), int(z // CELL_M)
        return not (0 <= column < CELLS and 0 <= row < CELLS) or self.solid[row][column]


def soften(scene: Scene) -> Scene:
    """The same scene in soft focus: blurred textures, nearer haze, no fine edges.

    What a small neural world can hold: a latent of a few thousand bits has no room for the rest.
    """
    look = scene.look
    soft = replace(look, detail_loss=4, focus_px=6, fog_range_m=look.fog_range_m / 4)
    return replace(scene, look=soft)


@dataclass(frozen=True, slots=True)
class _Theme:
    materials: Callable[[], Mapping[str, Material]]
    layout: Callable[[Draft], None]
    sky: Callable[[], Panorama] | None
    fog_color: Color
    fog_range_m: float
    ceiling_m: float | None = None


_OUTSIDE_M = -1.0e5
_OUTDOOR_FOG_M = 75.0
_BY_NAME: Mapping[str, _Theme] = {
    "city": _Theme(
        theme_city.materials, theme_city.layout, theme_city.sky, theme_city.HORIZON, _OUTDOOR_FOG_M
    ),
    "museum": _Theme(
        theme_museum.materials,
        theme_museum.layout,
        None,
        (0.86, 0.80, 0.72),
        70.0,
        theme_museum.CEILING_M,
    ),
    "zoo": _Theme(
        theme_zoo.materials, theme_zoo.layout, theme_zoo.sky, theme_zoo.HORIZON, _OUTDOOR_FOG_M
    ),
    "hospital": _Theme(
        theme_hospital.materials,
        theme_hospital.layout,
        None,
        (0.88, 0.94, 0.95),
        60.0,
        theme_hospital.CEILING_M,
    ),
    "amusement_park": _Theme(
        theme_park.materials, theme_park.layout, theme_park.sky, theme_park.HORIZON, _OUTDOOR_FOG_M
    ),
}


def build_scene(theme: str, seed: int, device: torch.device | str = "cpu") -> Scene:
    """The scene of `theme` and `seed`; equal arguments give equal scenes.

    Raises ValueError for a theme that is not in `THEMES`.
    """
    if theme not in _BY_NAME:
        raise ValueError(f"expected a theme among {', '.join(THEMES)}; got {theme!r}")
    place = torch.device(device)
    look = _theme_look(theme, str(place))
    rng = np.random.default_rng([THEMES.index(theme), seed & 0xFFFFFFFF])
    draft = Draft(look.materials, rng)
    _BY_NAME[theme].layout(draft)
    jitter = rng.uniform(0.95, 1.05, 3)
    cell_height, cell_rows = cell_tables(draft, look)
    return Scene(
        theme=theme,
        seed=seed,
        look=look,
        height=draft.height,
        cell_rows=cell_rows.to(place),
        cell_height=cell_height.to(place),
        light=ground_light(draft, look).to(place),
        props=PropArrays(tuple(draft.prims)),
        obstacles=tuple(draft.obstacles),
        tint=(float(jitter[0]), float(jitter[1]), float(jitter[2])),
        sky_turn=float(rng.uniform(0, 2 * np.pi)),
        solid=tuple(tuple(bool(h > SOLID_M) for h in row) for row in draft.height),
    )


@lru_cache(maxsize=16)
def _theme_look(name: str, device: str) -> ThemeLook:
    theme = _BY_NAME[name]
    materials = theme.materials()
    tiles = tile_levels(materials).reshape(-1, 4)
    parts = [tiles]
    if theme.sky is not None:
        parts.append(pack_rgb(theme.sky().image).reshape(-1, 4))
    atlas = torch.from_numpy(np.concatenate(parts)).view(torch.int32).reshape(-1)
    return ThemeLook(
        materials=tuple(materials),
        atlas=atlas.to(device),
        sky_offset=len(tiles),
        fog_color=theme.fog_color,
        fog_range_m=theme.fog_range_m,
        ceiling_m=theme.ceiling_m,
    )


def cell_tables(draft: Draft, look: ThemeLook) -> tuple[Tensor, Tensor]:
    """Return the heights and the tile numbers of all cells, and of what is outside the map.

    Each material owns two tiles (lowest 4 m, above); tops use the first.
    """
    ceiling = 2 * look.materials.index("ceiling") if look.ceiling_m is not None else 0
    packed = (draft.wall * 2 | draft.top * 2 << TOP_ROW_SHIFT).reshape(-1)
    packed = np.append(packed, ceiling | ceiling << TOP_ROW_SHIFT)
    height = torch.from_numpy(np.append(draft.height, _OUTSIDE_M)).float()
    return height, torch.from_numpy(packed.astype(np.int32))


def ground_light(draft: Draft, look: ThemeLook) -> Tensor:
    coarse = torch.from_numpy(light_map(draft.height, draft.prims, look.ceiling_m is not None))
    fine = torch.nn.functional.interpolate(
        coarse[None, None], size=(GROUND_LIGHT_PX, GROUND_LIGHT_PX), mode="bilinear"
    )
    return fine.reshape(-1).contiguous()
