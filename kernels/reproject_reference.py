"""Reprojection of a coloured point cloud in torch, which the numba and Triton versions equal.

A view is a plane of 63-bit keys, (height + 2) x (width + 2) with a border of zeros; 0 is an empty
pixel. From the highest bit on, a key holds

    14 bits  the nearness (1 / depth, float32) without its 17 lowest bits: steps of about 1 %
     8 bits  how near the point's scale is to that at its birth: 255 for the same; half of it
             in the further pixels of a point that covers several
    17 bits  the rest of the nearness
    24 bits  the index of the point

so the maximum of a pixel is the nearest point; of points at one depth, that which was seen from
about as near; of equal ones, the newest. All arithmetic is float32 in a fixed order, without fused
multiply-add, so that every version computes the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CHUNK",
    "GROWN",
    "INDEX_BITS",
    "TILE",
    "key_index",
    "key_nearness",
    "reference_append",
    "reference_fill",
    "reference_points",
    "reference_select",
    "reference_splat",
    "reference_vote",
    "tile_order",
]

INDEX_BITS = 24
LOW_BITS = 17
QUALITY_BITS = 8
HIGH_SHIFT = INDEX_BITS + LOW_BITS + QUALITY_BITS
MUCH_NEARER = 9  # steps of the 14 high bits: about 10 % nearer
GROWN = 1.15  # a point whose scale grew by more covers 2 x 2 pixels, else what is behind leaks
CLIP_NEARNESS = 20.0  # points nearer than 5 cm are clipped
CHUNK = 1024  # points that are culled and forgotten together
TILE = 32  # new points are stored tile by tile, so that a chunk is compact
RAMP = 0.05  # depth that changes by 5 % per pixel, on both sides, lies between two surfaces
NEARER, FARTHER = 1.1, 1.0 / 1.1  # ratios of nearness of two surfaces
VOTES = 2  # frames that have to contradict a point before it is removed
CROWDED = 7  # an old point before at least 7 of its 8 neighbours is a speck


def key_nearness(keys: Tensor) -> Tensor:
    """Return the nearness that keys hold, float32 of the same shape; 0 where a key is 0."""
    high = (keys >> HIGH_SHIFT) << LOW_BITS
    low = (keys >> INDEX_BITS) & ((1 << LOW_BITS) - 1)
    return (high | low).to(torch.int32).view(torch.float32)


def key_index(keys: Tensor) -> Tensor:
    """Return the point that keys hold, int64 of the same shape."""
    return keys & ((1 << INDEX_BITS) - 1)


def reference_splat(
    points: Tensor, birth_depth: Tensor, camera: Tensor, height: int, width: int
) -> Tensor:
    """Project points and keep the largest key of every pixel.

    A point that is seen from more than `GROWN` times nearer than at birth covers the three pixels
    beside its own that are nearest to it, too, where these lie inside.

    points float32 (N, 3) in metres; birth_depth float32 (N,), the depth at which a point was seen
    first, 0 for a point that is dead; camera float32 (13,): the right, up and forward axes, the
    position, and the focal length in pixels. Returns keys int64 (height + 2, width + 2).
    """
    c = [float(value) for value in camera]
    x, y, z = points[:, 0] - c[9], points[:, 1] - c[10], points[:, 2] - c[11]
    depth = (x * c[6] + y * c[7]) + z * c[8]
    near = torch.div(torch.ones_like(depth), depth)
    u = (((x * c[0] + y * c[1]) + z * c[2]) * near) * c[12] + 0.5 * width
    v = 0.5 * height - (((x * c[3] + y * c[4]) + z * c[5]) * near) * c[12]
    seen = (birth_depth > 0) & (near > 0) & (near < CLIP_NEARNESS)
    seen &= (u >= 0) & (u < width) & (v >= 0) & (v < height)
    index = seen.nonzero()[:, 0]
    near, ratio = near[index], (near * birth_depth)[index]
    keys = pack_keys(near, ratio, index)
    row, column = v[index].to(torch.int64), u[index].to(torch.int64)
    plane = torch.zeros((height + 2) * (width + 2), dtype=torch.int64, device=points.device)
    plane.scatter_reduce_(0, (row + 1) * (width + 2) + column + 1, keys, "amax")
    grown = ratio > _float32(GROWN)
    row, column, keys = row[grown], column[grown], lesser_keys(keys[grown])
    down = torch.where(v[index][grown] - row.float() >= 0.5, 1, -1)
    across = torch.where(u[index][grown] - column.float() >= 0.5, 1, -1)
    for y, x in ((row + down, column), (row, column + across), (row + down, column + across)):
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel = ((y + 1) * (width + 2) + x + 1)[inside]
        plane.scatter_reduce_(0, pixel, keys[inside], "amax")
    return plane.view(height + 2, width + 2)


def lesser_keys(keys: Tensor) -> Tensor:
    """Return the keys of points in the further pixels that they cover: with half the quality."""
    quality = (keys >> (INDEX_BITS + LOW_BITS)) & ((1 << QUALITY_BITS) - 1)
    return keys - ((quality - (quality >> 1)) << (INDEX_BITS + LOW_BITS))


def pack_keys(near: Tensor, ratio: Tensor, index: Tensor) -> Tensor:
    """Return the keys of points, int64; `ratio` is nearness now / nearness at birth."""
    bits = near.view(torch.int32).to(torch.int64)
    step = ((ratio - 1.0).abs() * 256.0).clamp(max=255.0).to(torch.int64)
    quality = 255 - step
    high = (bits >> LOW_BITS) << HIGH_SHIFT
    low = (bits & ((1 << LOW_BITS) - 1)) << INDEX_BITS
    return high | (quality << (INDEX_BITS + LOW_BITS)) | low | index


def reference_fill(keys: Tensor, born: Tensor, oldest: int) -> Tensor:
    """One pass over the cracks between the points of a view; returns new keys of the same shape.

    An empty pixel with at least 4 known neighbours takes the nearest of them, if 4 of them are at
    that depth; else the farthest, because what comes into view behind an edge is what is behind.
    A pixel behind at least 6 much nearer neighbours shows through a crack: it takes the nearest.
    A pixel much nearer than `CROWDED` known neighbours, born in frame `oldest` or before, is a
    speck: it takes the nearest of the neighbours.
    """
    around = _neighbours(keys)
    own = keys[1:-1, 1:-1]
    high, mine = around >> HIGH_SHIFT, own >> HIGH_SHIFT
    nearest = around.amax(0)
    farthest = torch.where(around > 0, around, 2**62).amin(0)
    nearer = (high >= mine + MUCH_NEARER).sum(0)
    farther = ((high > 0) & (high <= mine - MUCH_NEARER)).sum(0)
    agreeing = (high > (nearest >> HIGH_SHIFT) - MUCH_NEARER).sum(0)
    empty = own == 0
    old = born[key_index(own)] <= oldest if len(born) else torch.zeros_like(empty)
    crack = empty & (nearer >= 4)
    leak = ~empty & (nearer >= 6)
    speck = ~empty & (farther >= CROWDED) & old
    filler = torch.where(crack & (agreeing < 4), farthest, nearest)
    filled = torch.where(crack | leak | speck, filler, own)
    return F.pad(filled, (1, 1, 1, 1))


def _neighbours(keys: Tensor) -> Tensor:
    """The 8 neighbours of every pixel inside the border, (8, height, width)."""
    height, width = keys.shape[0] - 2, keys.shape[1] - 2
    steps = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack([keys[y : y + height, x : x + width] for y, x in steps])


def reference_select(
    keys: Tensor, nearness: Tensor, unseen: Tensor | None, closer: float, birth_depth: Tensor
) -> Tensor:
    """Return which pixels of a frame become points, bool (H, W).

    `keys`: what the memory shows at the frame's camera. New is what `unseen` says; without it,
    what the memory does not know and what stands before it with all its neighbours. New is, too,
    what is seen from `closer` times nearer than at birth. Pixels on a ramp between two surfaces
    are left out: they would float between them.
    """
    inside = keys[1:-1, 1:-1]
    known = inside != 0
    birth = birth_depth[key_index(inside)] if len(birth_depth) else torch.zeros_like(nearness)
    new = known & (nearness * birth > _float32(closer))
    if unseen is not None:
        new |= unseen
    else:
        farthest = -F.max_pool2d(-nearness[None, None], 3, stride=1, padding=1)[0, 0]
        new |= ~known | (farthest * _float32(FARTHER) > key_nearness(inside))
    return new & ~_ramps(nearness) & ~_ramps(nearness.T).T


def _ramps(nearness: Tensor) -> Tensor:
    """Whether a pixel lies between two surfaces of its row, where depth changes step by step."""
    ramps = torch.zeros_like(nearness, dtype=torch.bool)
    if nearness.shape[1] < 7:
        return ramps
    steps = nearness[:, 1:] - nearness[:, :-1]
    before, after = steps[:, 2:-3], steps[:, 3:-2]
    inner = torch.minimum(before.abs(), after.abs())
    flat = torch.minimum(steps[:, :-5].abs(), steps[:, 5:].abs()) < 0.5 * inner
    steep = inner > _float32(RAMP) * nearness[:, 3:-3]
    ramps[:, 3:-3] = steep & flat & ((before > 0) == (after > 0))
    return ramps


def reference_vote(
    keys: Tensor, nearness: Tensor, unseen: Tensor | None, birth_depth: Tensor, votes: Tensor
) -> None:
    """Count contradictions in `votes` and end points by a `birth_depth` of 0.

    `keys`: of the points themselves, before cracks are filled. A point is contradicted by a frame
    in which all is farther where the point stands, and is removed after `VOTES` frames; a point
    where `unseen` says that something new is there is removed at once.
    """
    inside = keys[1:-1, 1:-1]
    known = inside != 0
    around = F.max_pool2d(nearness[None, None], 3, stride=1, padding=1)[0, 0]
    against = known & (around * _float32(NEARER) < key_nearness(inside))
    if unseen is not None:
        birth_depth[key_index(inside[known & unseen])] = 0.0
        against &= ~unseen
    index = key_index(inside[against])
    votes[index] += 1
    birth_depth[index[votes[index] >= VOTES]] = 0.0


def reference_append(
    new: Tensor, nearness: Tensor, camera: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what becomes points, in order of storage.

    The ranks (N,) of the new pixels in `tile_order`, these pixels (N,), their points (N, 3) and
    their depths (N,).
    """
    height, width = new.shape
    order = tile_order(height, width, new.device)
    rank = new.reshape(-1)[order].nonzero()[:, 0]
    pixel = order[rank]
    depth = torch.div(torch.ones_like(nearness), nearness).reshape(-1)[pixel]
    cameras = camera.to(new.device)[None]
    points = reference_points(pixel, depth, cameras, torch.zeros_like(pixel), height, width)
    return rank, pixel, points, depth


def reference_points(
    pixel: Tensor, depth: Tensor, cameras: Tensor, view: Tensor, height: int, width: int
) -> Tensor:
    """Return the points (N, 3) of pixels (N,) at depths (N,), seen by cameras[view], (V, 13)."""
    c = [cameras[:, i][view] for i in range(13)]
    x = (pixel % width).to(torch.float32)
    y = torch.div(pixel, width, rounding_mode="floor").to(torch.float32)
    right = torch.div(x + 0.5 - 0.5 * width, c[12]) * depth
    up = torch.div((0.5 * height - 0.5) - y, c[12]) * depth
    axes = [((right * c[i] + up * c[3 + i]) + depth * c[6 + i]) + c[9 + i] for i in range(3)]
    return torch.stack(axes, 1)


def tile_order(height: int, width: int, device: torch.device) -> Tensor:
    """Return all pixels, tile by tile."""
    y = torch.arange(height, device=device)[:, None].expand(height, width)
    x = torch.arange(width, device=device)[None].expand(height, width)
    tile = (y // TILE) * -(-width // TILE) + x // TILE
    return torch.argsort(tile.reshape(-1), stable=True)


def _float32(value: float) -> float:
    """The value that it has in float32, which all versions compute with."""
    return float(torch.tensor(value, dtype=torch.float32))
