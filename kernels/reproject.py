"""Reprojection of a coloured point cloud on a GPU: the bits of `reproject_reference`.

One launch projects the points and takes the maximum of 63-bit keys per pixel by atomics; one
launch per pass fills cracks. Products and sums are not contracted, and divisions are rounded as on
a CPU, so that keys are equal bit for bit.

Bytes moved: 16 per point, 8 per point that is seen (atomics in the L2 cache); 16 per pixel and
pass, whose 9 reads are cached.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels import reproject_reference as ref
from worldbridge.kernels.checks import check_device, check_dtype, check_shape, check_strides

__all__ = ["fill", "fill_kernel", "splat", "splat_kernel"]

_BLOCK = 256
_INDEX_BITS = tl.constexpr(ref.INDEX_BITS)
_LOW_BITS = tl.constexpr(ref.LOW_BITS)
_QUALITY_SHIFT = tl.constexpr(ref.INDEX_BITS + ref.LOW_BITS)
_HIGH_SHIFT = tl.constexpr(ref.HIGH_SHIFT)
_LOW_MASK = tl.constexpr((1 << ref.LOW_BITS) - 1)
_INDEX_MASK = tl.constexpr((1 << ref.INDEX_BITS) - 1)
_CLIP = tl.constexpr(ref.CLIP_NEARNESS)
_GROWN = tl.constexpr(ref.GROWN)
_MUCH_NEARER = tl.constexpr(ref.MUCH_NEARER)
_CROWDED = tl.constexpr(ref.CROWDED)
_BEYOND = tl.constexpr(2**62)


@triton.jit
def splat_kernel(points, birth_depth, camera, plane, count, height, width, BLOCK: tl.constexpr):
    """Program (block of points)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    stored = i < count
    x = tl.load(points + i * 3, mask=stored, other=0.0) - tl.load(camera + 9)
    y = tl.load(points + i * 3 + 1, mask=stored, other=0.0) - tl.load(camera + 10)
    z = tl.load(points + i * 3 + 2, mask=stored, other=0.0) - tl.load(camera + 11)
    birth = tl.load(birth_depth + i, mask=stored, other=0.0)
    focal = tl.load(camera + 12)
    depth = (x * tl.load(camera + 6) + y * tl.load(camera + 7)) + z * tl.load(camera + 8)
    near = tl.div_rn(tl.full((BLOCK,), 1.0, tl.float32), depth)
    right = (x * tl.load(camera) + y * tl.load(camera + 1)) + z * tl.load(camera + 2)
    up = (x * tl.load(camera + 3) + y * tl.load(camera + 4)) + z * tl.load(camera + 5)
    wide, high = width * 1.0, height * 1.0
    u = (right * near) * focal + 0.5 * wide
    v = 0.5 * high - (up * near) * focal
    seen = (birth > 0.0) & (near > 0.0) & (near < _CLIP)
    seen = seen & (u >= 0.0) & (u < wide) & (v >= 0.0) & (v < high)
    column = tl.where(seen, u, 0.0).to(tl.int32)
    row = tl.where(seen, v, 0.0).to(tl.int32)
    step = tl.minimum(tl.abs(near * birth - 1.0) * 256.0, 255.0)
    quality = 255 - tl.where(seen, step, 0.0).to(tl.int64)
    bits = near.to(tl.int32, bitcast=True).to(tl.int64)
    key = (bits >> _LOW_BITS) << _HIGH_SHIFT
    key = key | ((bits & _LOW_MASK) << _INDEX_BITS)
    key = key | i.to(tl.int64)
    at = plane + (row + 1) * (width + 2) + column + 1
    tl.atomic_max(at, key | (quality << _QUALITY_SHIFT), mask=seen)
    grown = seen & (near * birth > _GROWN)
    key = key | ((quality >> 1) << _QUALITY_SHIFT)
    down = tl.where(v - row.to(tl.float32) >= 0.5, 1, -1)
    across = tl.where(u - column.to(tl.float32) >= 0.5, 1, -1)
    high_enough = grown & (row + down >= 0) & (row + down < height)
    wide_enough = grown & (column + across >= 0) & (column + across < width)
    below = at + down * (width + 2)
    tl.atomic_max(below, key, mask=high_enough)
    tl.atomic_max(below + across, key, mask=high_enough & wide_enough)
    tl.atomic_max(at + across, key, mask=wide_enough)


@triton.jit
def fill_kernel(keys, born, filled, height, width, oldest, BLOCK: tl.constexpr):
    """Program (block of pixels, those of the border included, which stay 0)."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    stride = width + 2
    row, column = pixel // stride, pixel % stride
    inside = (row > 0) & (row <= height) & (column > 0) & (column <= width)
    own = tl.load(keys + pixel, mask=inside, other=0)
    mine = own >> _HIGH_SHIFT
    nearest = tl.full((BLOCK,), 0, tl.int64)
    farthest = tl.full((BLOCK,), _BEYOND, tl.int64)
    nearer = tl.full((BLOCK,), 0, tl.int32)
    farther = tl.full((BLOCK,), 0, tl.int32)
    for step in tl.static_range(9):
        if step != 4:
            at = pixel + (step // 3 - 1) * stride + step % 3 - 1
            key = tl.load(keys + at, mask=inside, other=0)
            high = key >> _HIGH_SHIFT
            nearest = tl.maximum(nearest, key)
            farthest = tl.minimum(farthest, tl.where(key > 0, key, _BEYOND))
            nearer += (high >= mine + _MUCH_NEARER).to(tl.int32)
            farther += ((high > 0) & (high <= mine - _MUCH_NEARER)).to(tl.int32)
    limit = (nearest >> _HIGH_SHIFT) - _MUCH_NEARER
    agreeing = tl.full((BLOCK,), 0, tl.int32)
    for step in tl.static_range(9):
        if step != 4:
            at = pixel + (step // 3 - 1) * stride + step % 3 - 1
            high = tl.load(keys + at, mask=inside, other=0) >> _HIGH_SHIFT
            agreeing += (high > limit).to(tl.int32)
    empty = own == 0
    index = own & _INDEX_MASK
    old = tl.load(born + index, mask=inside & (own > 0), other=oldest + 1) <= oldest
    crack = empty & (nearer >= 4)
    replaced = crack | ((own > 0) & ((nearer >= 6) | ((farther >= _CROWDED) & old)))
    filler = tl.where(crack & (agreeing < 4), farthest, nearest)
    key = tl.where(inside & replaced, filler, own)
    tl.store(filled + pixel, key, mask=pixel < (height + 2) * stride)


def splat(points: Tensor, birth_depth: Tensor, camera: Tensor, height: int, width: int) -> Tensor:
    """`reference_splat` on a GPU. Raises `KernelArgumentError`."""
    check_dtype("points", points, [torch.float32])
    check_dtype("birth_depth", birth_depth, [torch.float32])
    plane = torch.zeros(height + 2, width + 2, dtype=torch.int64, device=points.device)
    count = len(points)
    if count == 0:
        return plane
    check_shape("points", points, None, 3)
    check_shape("birth_depth", birth_depth, count)
    check_shape("camera", camera, 13)
    check_strides("points", points, 3, 1)
    check_strides("birth_depth", birth_depth, 1)
    placed = camera.to(points.device)
    check_device(points=points, birth_depth=birth_depth, camera=placed)
    splat_kernel[(triton.cdiv(count, _BLOCK),)](
        points,
        birth_depth,
        placed,
        plane,
        count,
        height,
        width,
        BLOCK=_BLOCK,
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=False,
    )
    return plane


def fill(keys: Tensor, born: Tensor, oldest: int) -> Tensor:
    """`reference_fill` on a GPU. Raises `KernelArgumentError`."""
    check_dtype("keys", keys, [torch.int64])
    check_dtype("born", born, [torch.int32])
    check_shape("keys", keys, None, None)
    check_strides("keys", keys, keys.shape[1], 1)
    check_device(keys=keys, born=born)
    filled = torch.empty_like(keys)
    fill_kernel[(triton.cdiv(keys.numel(), _BLOCK),)](
        keys,
        born,
        filled,
        keys.shape[0] - 2,
        keys.shape[1] - 2,
        oldest,
        BLOCK=_BLOCK,
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=False,
    )
    return filled
