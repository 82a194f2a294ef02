"""Rendering: what a camera in a scene sees, as RGB images in true perspective."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.procedural import actions
from worldbridge.models.procedural.camera import CameraState
from worldbridge.models.procedural.draft import CELL_M, CELLS, TOP_ROW_SHIFT
from worldbridge.models.procedural.prop_draw import draw_props
from worldbridge.models.procedural.raycast import (
    AXIS_X_BIT,
    SKY_BIT,
    Events,
    View,
    first_hits,
    make_view,
    trace_columns,
)
from worldbridge.models.procedural.scene import GROUND_LIGHT_PX, Scene
from worldbridge.models.procedural.sky import SKY_COLUMNS, SKY_ROWS, SKY_TOP
from worldbridge.models.procedural.tiles import LEVELS, TILE_M, TILE_PX

__all__ = ["SKY_NEARNESS", "render", "render_batch", "render_rgbd"]

# The nearness of the sky, 1 / metres: exact in half precision, and farther than any scene is wide.
SKY_NEARNESS = 1.0 / 256.0
# Where a ray runs along a wall's line. Infinity would make the blend with a floor not a number.
_PARALLEL_M = 1e6

# Brightness of walls by (axis bit, direction bit): planes of constant z and x seen from -, then +.
_FACE_LIGHT = (0.80, 1.0, 0.93, 0.72)
_TEXELS_PER_M = TILE_PX / TILE_M


def render(
    scene: Scene,
    state: CameraState,
    height: int = actions.IMAGE_HEIGHT,
    width: int = actions.IMAGE_WIDTH,
) -> Tensor:
    """The view of one camera, uint8 [3, height, width] RGB on the scene's device."""
    return render_rgbd(scene, state, height, width)[0]


def render_rgbd(
    scene: Scene,
    state: CameraState,
    height: int = actions.IMAGE_HEIGHT,
    width: int = actions.IMAGE_WIDTH,
) -> tuple[Tensor, Tensor]:
    """Return the view of one camera and its nearness.

    RGB uint8 [3, height, width]; nearness float32 [height, width] = 1 / metres along the optical
    axis (the camera's -Z, not the ray), and `SKY_NEARNESS` where the sky is seen.
    """
    view = make_view(state, actions.FOV_Y_DEG, height, width, scene.device)
    events = trace_columns(
        scene.cell_height, scene.cell_rows, state.x, state.z, actions.EYE_HEIGHT_M, view
    )
    hits = first_hits(events, view)
    image = torch.empty(3, height, width, device=scene.device)
    nearness = torch.empty(height, width, device=scene.device)  # 1 / depth along the optical axis
    for rows in _bands(view):
        band = _Band(scene, state, view, events, rows, rows.start < view.horizon)
        depth = band.draw(hits, image[:, rows])
        torch.div(view.level[rows, None], depth, out=nearness[rows])
    draw_props(scene, state, view, image, nearness)
    if scene.look.focus_px > 1:
        image = _out_of_focus(image, scene.look.focus_px)
    nearness.clamp_(min=SKY_NEARNESS)
    return image.clamp_(0.0, 255.0).to(torch.uint8), nearness


def _out_of_focus(image: Tensor, size: int) -> Tensor:
    """Average over squares of `size` pixels, then interpolate back; [3, H, W]."""
    small = F.avg_pool2d(image[None], size, ceil_mode=True)
    return F.interpolate(small, size=image.shape[1:], mode="bilinear", align_corners=False)[0]


def render_batch(
    scene: Scene,
    states: Sequence[CameraState],
    height: int = actions.IMAGE_HEIGHT,
    width: int = actions.IMAGE_WIDTH,
) -> Tensor:
    """The views of many cameras, uint8 [N, 3, height, width].

    One at a time on purpose: a frame's buffers fit in the processor's cache, and every frame is
    bit for bit what `render` gives.
    """
    frames = torch.empty(len(states), 3, height, width, dtype=torch.uint8, device=scene.device)
    for frame, state in zip(frames, states, strict=True):
        frame.copy_(render(scene, state, height, width))
    return frames


def _bands(view: View) -> list[slice]:
    """The rows above and below the horizon, without an empty one."""
    bands = (slice(0, view.horizon), slice(view.horizon, view.height))
    return [rows for rows in bands if rows.start < rows.stop]


@dataclass(frozen=True, slots=True)
class _Band:
    """The rows above the horizon (walls, sky or ceiling) or below it (walls, ground, low tops)."""

    scene: Scene
    state: CameraState
    view: View
    events: Events
    rows: slice
    above: bool

    @property
    def open_sky(self) -> bool:
        return self.above and self.scene.look.ceiling_m is None

    def draw(self, hits: Tensor, image: Tensor) -> Tensor:
        """Paint `image` [3, h, W] (0..255); returns the level forward distance [h, W]."""
        view, state = self.view, self.state
        u, column, entry = self._entries(hits)
        code = self.events.code.view(-1).index_select(0, entry).view(u.shape)
        line = self.events.distance.view(-1).index_select(0, entry).view(u.shape)
        dx = u * view.right[0] + (view.forward[0] + 1e-7)
        dz = u * view.right[1] + (view.forward[1] + 1e-7)
        along_x = (code >> AXIS_X_BIT & 1).float()
        depth = (line / torch.lerp(dz, dx, along_x)).abs_().clamp_(max=_PARALLEL_M)
        top = self._tops(code, entry, depth)
        if top is not None:
            along_x *= 1.0 - top
        x, z = depth * dx + state.x, depth * dz + state.z
        y = depth * view.slope[self.rows, None] + actions.EYE_HEIGHT_M
        index = self._texels(code, top, along_x, depth, x, y, z)
        light = self._light(code, top, x, y, z)
        fog = (depth * (1.0 / self.scene.look.fog_range_m)).clamp_(max=1.0)
        fog = fog * fog * 0.85
        if self.open_sky:
            sky = code >> SKY_BIT
            index += sky * (self._panorama(u, column) - index)
            clear = 1.0 - sky.float()
            fog *= clear
            light = (light - 1.0) * clear + 1.0
        self._paint(image, index, light, fog)
        return depth

    def _entries(self, hits: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Right offset u [h, W], table column [h * W] (None: the same), flat event index."""
        view, columns = self.view, hits.shape[1]
        if columns == view.width:
            return view.a.expand(hits[self.rows].shape), None, hits[self.rows].reshape(-1)
        u = (1.0 / view.level[self.rows, None]) * view.a
        column = (u * (1.0 / view.step) + columns / 2).to(torch.int32).clamp_(0, columns - 1)
        row = torch.arange(self.rows.start, self.rows.stop, device=u.device, dtype=torch.int32)
        flat = (column + row[:, None] * columns).view(-1)
        return u, column.view(-1), hits.view(-1).index_select(0, flat)

    def _tops(self, code: Tensor, entry: Tensor, depth: Tensor) -> Tensor | None:
        """Where the ray ends on a horizontal face, float 0/1; corrects `depth` there in place."""
        slope = self.view.slope[self.rows, None]
        eye, ceiling = actions.EYE_HEIGHT_M, self.scene.look.ceiling_m
        if self.above:
            if ceiling is None:
                return None
            top = (code >> SKY_BIT).float()
            depth.lerp_((ceiling - eye) / slope.clamp(min=1e-5), top)
            return top
        rise = self.events.rise.view(-1).index_select(0, entry).view(depth.shape)
        # Ground is never a wall; between two columns of the table the comparison alone may say so.
        top = ((depth * slope > rise) | (rise < 0.1 - eye)).float()
        depth.lerp_(rise / slope.clamp(max=-1e-5), top)
        return top

    def _texels(
        self,
        code: Tensor,
        top: Tensor | None,
        along_x: Tensor,
        depth: Tensor,
        x: Tensor,
        y: Tensor,
        z: Tensor,
    ) -> Tensor:
        """Index into the atlas of tiles, int32 [h, W]."""
        across, up = torch.lerp(x, z, along_x), y
        spread = depth * (self.view.step * _TEXELS_PER_M * math.sqrt(2.0))
        if top is None:
            row = (code & 255) + (y >= TILE_M).to(torch.int32)
        else:
            up = torch.lerp(y, z, top)
            stretch = self.view.slope[self.rows, None].abs().clamp_(min=1e-5).rsqrt_() - 1.0
            spread *= top * stretch + 1.0
            row = code >> (top * TOP_ROW_SHIFT).to(torch.int32) & 255
        # The exponent bits of the footprint in texels are its logarithm.
        level = (spread.view(torch.int32) >> 23) - (127 - self.scene.look.detail_loss)
        level = level.clamp_(0, LEVELS - 1)
        tu = (across * _TEXELS_PER_M).to(torch.int32) & (TILE_PX - 1)
        tv = (up * _TEXELS_PER_M).to(torch.int32) & (TILE_PX - 1)
        return ((row * LEVELS + level) * TILE_PX + tv) * TILE_PX + tu

    def _light(self, code: Tensor, top: Tensor | None, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Brightness: walls by the way they face and by height, ground by its light map."""
        faces = torch.tensor(_FACE_LIGHT, device=code.device)
        facing = faces.index_select(0, (code >> AXIS_X_BIT & 3).view(-1)).view(x.shape)
        wall = facing * (y * 0.06 + 0.82).clamp_(max=1.04)
        if top is None:
            return wall
        if self.above:
            return torch.lerp(wall, torch.ones_like(wall), top)
        scale = GROUND_LIGHT_PX / (CELLS * CELL_M)
        spot = (z * scale).to(torch.int32) * GROUND_LIGHT_PX + (x * scale).to(torch.int32)
        spot = spot.clamp_(0, GROUND_LIGHT_PX**2 - 1).view(-1)
        ground = self.scene.light.index_select(0, spot).view(x.shape)
        return torch.lerp(wall, ground, top)

    def _panorama(self, u: Tensor, column: Tensor | None) -> Tensor:
        """Index into the atlas of the sky behind each pixel, int32 [h, W]."""
        view = self.view
        turn = self.state.yaw - self.scene.sky_turn + 8 * math.pi
        per_column = (turn - view.u.atan()) * (SKY_COLUMNS / (2 * math.pi))
        azimuth = per_column.to(torch.int32) & (SKY_COLUMNS - 1)
        if column is not None:
            azimuth = azimuth.index_select(0, column).view(u.shape)
        level = (u * u + 1.0).rsqrt_()
        up = level * (view.slope[self.rows, None] * (SKY_ROWS / SKY_TOP))
        row = up.to(torch.int32).clamp_(0, SKY_ROWS - 1)
        return row * SKY_COLUMNS + azimuth + self.scene.look.sky_offset

    def _paint(self, image: Tensor, index: Tensor, light: Tensor, fog: Tensor) -> None:
        look = self.scene.look
        texels = look.atlas.index_select(0, index.view(-1))
        rgb = texels.view(torch.uint8).view(*index.shape, 4)
        clear = 1.0 - fog
        gain = light * clear
        if look.glows:
            glow = rgb[..., 3] * (1.0 / 255.0)
            for channel, (tint, haze) in enumerate(
                zip(self.scene.tint, look.fog_color, strict=True)
            ):
                lit = torch.lerp(gain * tint, clear, glow)
                torch.mul(rgb[..., channel], lit, out=image[channel])
                image[channel].add_(fog, alpha=haze * 255.0)
            return
        for channel, (tint, haze) in enumerate(zip(self.scene.tint, look.fog_color, strict=True)):
            torch.mul(rgb[..., channel], gain, out=image[channel])
            image[channel].mul_(tint).add_(fog, alpha=haze * 255.0)
