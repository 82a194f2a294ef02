"""Which cell each pixel sees: exact ray traversal of the height grid, all columns at once.

With pitch, a pixel's ray still lies in an upright plane through the eye. Written as
(forward 1, right u, up s), its slope s depends only on the image row, and u is the image column
scaled by a factor of the row. So the grid is traversed once per entry of a fine table of u, and the
first cell hit by each (row, u) follows from the running maximum of the slopes below which cells
are visible.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worldbridge.models.procedural.camera import CameraState
from worldbridge.models.procedural.draft import CELL_M, CELLS

__all__ = ["AXIS_X_BIT", "SKY_BIT", "Events", "View", "first_hits", "make_view", "trace_columns"]

AXIS_X_BIT = 16  # the wall is a plane of constant x; bit 17: the ray runs towards larger x (or z)
SKY_BIT = 18
_FAR_M = 1.0e5


@dataclass(frozen=True, slots=True)
class View:
    """The camera's rays. `a` [W] and `b` [H] are image-plane coordinates at depth 1."""

    height: int
    width: int
    tan_half: float
    cos_pitch: float
    sin_pitch: float
    forward: tuple[float, float]  # (x, z) of the level heading
    right: tuple[float, float]
    a: Tensor
    b: Tensor
    level: Tensor  # [H] level forward metres per metre of depth along the optical axis
    slope: Tensor  # [H] rise per metre of level forward distance
    u: Tensor  # [C] right offset per metre of level forward distance, of the column table
    step: float  # size of a pixel at depth 1
    horizon: int  # rows above this one look up


@dataclass(frozen=True, slots=True)
class Events:
    """Per table column, the cells along its ray from near to far; the last one is sky or ceiling.

    code: wall tile row | top tile row << 8 | axis and direction bits | sky bit.
    """

    reach: Tensor  # [C, K] running maximum of the slopes below which something is visible
    distance: Tensor  # [C, K + 1] plane coordinate minus the eye's, along the plane's axis
    rise: Tensor  # [C, K + 1] cell height minus eye height
    code: Tensor  # int32 [C, K + 1]


def make_view(
    state: CameraState, fov_y: float, height: int, width: int, device: torch.device
) -> View:
    cp, sp = math.cos(state.pitch), math.sin(state.pitch)
    cy, sy = math.cos(state.yaw), math.sin(state.yaw)
    tan_half = math.tan(math.radians(fov_y) / 2)
    step = 2 * tan_half / height
    a = (torch.arange(width, device=device, dtype=torch.float32) + 0.5 - width / 2) * step
    b = (height / 2 - 0.5 - torch.arange(height, device=device, dtype=torch.float32)) * step
    level = cp - b * sp
    widest = (width / 2) / min(cp - tan_half * abs(sp), 1.0)
    columns = width if state.pitch == 0.0 else 2 * math.ceil(widest + 1)
    u = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5 - columns / 2) * step
    horizon = math.ceil(height / 2 - 0.5 + math.tan(state.pitch) / step)
    return View(
        height,
        width,
        tan_half,
        cp,
        sp,
        (-sy, -cy),
        (cy, -sy),
        a,
        b,
        level,
        (b * cp + sp) / level,
        u,
        step,
        min(max(horizon, 0), height),
    )


def trace_columns(
    height: Tensor, tile_rows: Tensor, x: float, z: float, eye: float, view: View
) -> Events:
    """Traverse the grid along every column of the view.

    height: float32 [cells + 1] (the last is far below everything and stands for "outside");
    tile_rows: int32 [cells + 1], wall row | top row << 8 of each cell.
    """
    dx = (view.forward[0] + view.u * view.right[0])[:, None]
    dz = (view.forward[1] + view.u * view.right[1])[:, None]
    x_lines, cell_x = _grid_lines(x, dx)
    z_lines, cell_z = _grid_lines(z, dz)
    at_x, at_z = x_lines / dx, z_lines / dz
    beside_z = ((z + at_x * dz) * (1 / CELL_M)).floor().to(torch.int32)
    beside_x = ((x + at_z * dx) * (1 / CELL_M)).floor().to(torch.int32)
    time, order = torch.cat([at_x, at_z], 1).sort(1)
    line = torch.cat([x_lines, z_lines], 1).gather(1, order)
    column, row = torch.cat([cell_x, beside_x], 1), torch.cat([beside_z, cell_z], 1)
    outside = ((column | row) & -CELLS) != 0
    cell = (row * CELLS + column).masked_fill_(outside, CELLS * CELLS)
    x_bits = 1 + 2 * (dx > 0).to(torch.int32)
    z_bits = 2 * (dz > 0).to(torch.int32)
    bits = torch.cat([x_bits.expand_as(cell_x), z_bits.expand_as(cell_z)], 1)
    code = (cell | (bits << 12)).gather(1, order)
    own = int(z // CELL_M) * CELLS + int(x // CELL_M)
    return _assemble(height, tile_rows, eye, time, line, code, own)


def _grid_lines(at: float, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distances [C, n] from `at` to the next grid lines, and the cells entered there."""
    first = int(at // CELL_M)
    ends = (float(direction[0]), float(direction[-1]))
    count = max(CELLS - first if max(ends) > 0 else 1, first + 1 if min(ends) < 0 else 1)
    k = torch.arange(count, device=direction.device, dtype=torch.int32)
    onward = direction > 0
    lines = torch.where(onward, (first + 1 + k) * CELL_M - at, (first - k) * CELL_M - at)
    return lines, torch.where(onward, first + 1 + k, first - 1 - k)


def _assemble(
    height: Tensor,
    tile_rows: Tensor,
    eye: float,
    time: Tensor,
    line: Tensor,
    code: Tensor,
    own_cell: int,
) -> Events:
    edge = (time.shape[0], 1)
    code = torch.cat([code.new_full(edge, own_cell), code, code.new_full(edge, CELLS * CELLS)], 1)
    line = torch.cat([line.new_zeros(edge), line, line.new_full(edge, _FAR_M)], 1)
    time = torch.cat(
        [time.new_full(edge, 1e-4), time.clamp_(1e-4, _FAR_M), time.new_full(edge, _FAR_M)], 1
    )
    cell = (code & 4095).reshape(-1)
    rise = height.index_select(0, cell).view_as(time) - eye
    packed = tile_rows.index_select(0, cell).view_as(code) | (code >> 12 << AXIS_X_BIT)
    packed[:, -1] |= 1 << SKY_BIT
    inner = rise[:, :-1]
    seen_below = inner / torch.where(inner > 0, time[:, :-1], time[:, 1:])
    return Events(seen_below.cummax(1).values, line, rise, packed)


def first_hits(events: Events, view: View) -> Tensor:
    """Flat index into the event tables of the first entry hit, int32 [H, C].

    A cell is missed by all rows whose slope is above its reach; counting these per row is a
    histogram over rows and a running sum, much cheaper than a search per pixel.
    """
    columns, entries = events.reach.shape
    top, bottom = float(view.slope[0]), float(view.slope[-1])
    s = events.reach.clamp(bottom - 0.01, top + 0.01)
    b = (s * view.cos_pitch - view.sin_pitch) / (view.cos_pitch + s * view.sin_pitch)
    row = (view.height / 2 - 0.5 - b * (1 / view.step)).ceil_().clamp_(0, view.height)
    flat = row.long() * columns
    flat += torch.arange(columns, device=flat.device)[:, None]
    counts = torch.zeros((view.height + 1) * columns, dtype=torch.int32, device=flat.device)
    minus = counts.new_full((1,), -1).expand(flat.numel())
    counts.scatter_add_(0, flat.reshape(-1), minus)
    table = counts.view(view.height + 1, columns)[: view.height]
    last = torch.arange(columns, device=flat.device, dtype=torch.int32) * (entries + 1) + entries
    table[0] += last
    return table.cumsum(0, dtype=torch.int32)
