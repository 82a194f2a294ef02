"""Both ends of the tokenizer's decoder: codes from indices, and I420 frames from Haar patches.

The frame kernel does in one pass two levels of an inverse Haar transform, the rounding to bytes,
and the conversion to planar YUV 4:2:0, the form in which frames leave the worker. A patch is 4 x 4
pixels in 4 frames. With both levels together, pixel p of a patch is the sum over its 64 bands b of
(-1)^popcount(p & b) times the band, a Walsh-Hadamard transform: bands and pixels are numbered by
the bits (time, height, width) of the coarse level and then of the fine one, and a set bit of b
stands for a difference. So it is one product with a matrix of signs, which the kernel derives from
indices. The four pixels that share a chroma value have consecutive numbers.

Bytes moved: lookup, 8 per index and D * itemsize for its code. Frames, per patch, 192 * itemsize
read and 96 written: for 8 frames of 320 x 512 in bfloat16 7.9 MB and 2 MB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels.checks import (
    FLOATS,
    check_device,
    check_dtype,
    check_tensor,
    interpreting,
    require,
)

__all__ = [
    "indices_to_codes",
    "patches_to_i420",
    "lookup_kernel",
    "i420_kernel",
    "reference_indices_to_codes",
    "reference_patches_to_i420",
    "reference_detokenize",
]

_SIZE = 4  # pixels along a side of a patch, and frames: two levels
_BLOCK = 32  # patches per program

# BT.601, limited range, as 16-bit fractions for full-range RGB: round(value * 2**16 / 255)
_Y_RED, _Y_GREEN, _Y_BLUE = tl.constexpr(16829), tl.constexpr(33039), tl.constexpr(6416)
_U_RED, _U_GREEN, _U_BLUE = tl.constexpr(-9714), tl.constexpr(-19070), tl.constexpr(28784)
_V_RED, _V_GREEN, _V_BLUE = tl.constexpr(28784), tl.constexpr(-24103), tl.constexpr(-4681)


@triton.jit
def lookup_kernel(
    indices, codes, count, stride, LEVELS: tl.constexpr, DIGITS: tl.constexpr, BLOCK: tl.constexpr
):
    """Program: BLOCK indices. Digit n of L levels stands for (n - L // 2) / (L // 2)."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    rest = tl.load(indices + place, mask=inside, other=0).to(tl.int32)
    for digit in tl.static_range(DIGITS):
        steps = rest % LEVELS[digit] - LEVELS[digit] // 2
        half = tl.full((BLOCK,), LEVELS[digit] // 2, tl.float32)
        code = tl.div_rn(steps.to(tl.float32), half)
        rest = rest // LEVELS[digit]
        target = codes + place.to(tl.int64) * stride + digit
        tl.store(target, code.to(codes.dtype.element_ty), mask=inside)


@triton.jit
def _channel(patches, colour, place, inside, band_stride, signs, UPCAST: tl.constexpr):
    """Return one colour of a block of patches as bytes, int32 [64 pixels, patches]."""
    band = tl.arange(0, 64)[:, None]
    source = patches + (band * 3 + colour) * band_stride + place[None, :]
    bands = tl.load(source, mask=inside[None, :], other=0.0)
    if UPCAST:  # the interpreter computes bfloat16 products wrongly
        bands = bands.to(tl.float32)
    # signs are exact in any type; tf32x3 leaves 22 bits of float32 bands
    pixels = tl.dot(signs.to(bands.dtype), bands, input_precision="tf32x3")
    pixels = tl.minimum(tl.maximum(pixels * 127.5 + 128.0, 0.0), 255.0)
    return pixels.to(tl.int32)


@triton.jit
def _four(x, BLOCK: tl.constexpr):
    """Sum the four pixels that share a chroma value: [64, patches] to [16, patches]."""
    return tl.sum(tl.reshape(x, (16, 4, BLOCK)), axis=1)


@triton.jit
def i420_kernel(
    patches,
    frames,
    height,
    width,
    dropped,
    batch_stride,
    time_stride,
    band_stride,
    row_stride,
    frame_batch,
    frame_stride,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (block of patches of a latent frame, latent frame, batch).

    Height and width count patches; the first `dropped` frames of a video are not written.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < height * width
    patch_row, patch_column = index // width, index % width
    time, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    patches += batch * batch_stride + time.to(tl.int64) * time_stride
    place = patch_row * row_stride + patch_column

    number = tl.arange(0, 64)
    common = number[:, None] & number[None, :]
    common ^= common >> 3  # parity of six bits
    common = (common ^ (common >> 1) ^ (common >> 2)) & 1
    signs = (1 - 2 * common).to(tl.float32)
    red = _channel(patches, 0, place, inside, band_stride, signs, UPCAST)
    green = _channel(patches, 1, place, inside, band_stride, signs, UPCAST)
    blue = _channel(patches, 2, place, inside, band_stride, signs, UPCAST)

    # bits of a pixel's number: time, row, column of the coarse level, then of the fine one
    frame = time * 4 + (number >> 5 & 1) * 2 + (number >> 2 & 1) - dropped
    y = patch_row[None, :] * 4 + ((number >> 4 & 1) * 2 + (number >> 1 & 1))[:, None]
    x = patch_column[None, :] * 4 + ((number >> 3 & 1) * 2 + (number & 1))[:, None]
    frames += batch * frame_batch
    start = frame.to(tl.int64)[:, None] * frame_stride
    shown = (frame >= 0)[:, None] & inside[None, :]
    luma = red * _Y_RED + green * _Y_GREEN + blue * _Y_BLUE + ((16 << 16) + (1 << 15)) >> 16
    tl.store(frames + start + y * (width * 4) + x, luma.to(tl.uint8), mask=shown)

    red, green, blue = _four(red, BLOCK), _four(green, BLOCK), _four(blue, BLOCK)
    number = tl.arange(0, 16)  # the same bits without the fine row and column
    frame = time * 4 + (number >> 3 & 1) * 2 + (number & 1) - dropped
    y = patch_row[None, :] * 2 + (number >> 2 & 1)[:, None]
    x = patch_column[None, :] * 2 + (number >> 1 & 1)[:, None]
    start = frame.to(tl.int64)[:, None] * frame_stride + height * width * 16
    target = frames + start + y * (width * 2) + x
    shown = (frame >= 0)[:, None] & inside[None, :]
    half = (128 << 18) + (1 << 17)  # sums of four have two more bits to shift away
    u = red * _U_RED + green * _U_GREEN + blue * _U_BLUE + half >> 18
    v = red * _V_RED + green * _V_GREEN + blue * _V_BLUE + half >> 18
    tl.store(target, u.to(tl.uint8), mask=shown)
    tl.store(target + height * width * 4, v.to(tl.uint8), mask=shown)


def indices_to_codes(
    indices: Tensor,
    levels: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Return the FSQ codes [..., D] of indices int64 [...]; the first digit is the fastest.

    Raises KernelArgumentError unless `indices` and `out` are contiguous, and the levels 1 to 8
    integers of at least 2.
    """
    levels = tuple(levels)
    fits = 1 <= len(levels) <= 8 and min(levels) >= 2 and math.prod(levels) < 2**31
    expected = "1 to 8 numbers of at least 2, of product below 2**31"
    require(fits, "levels", expected, levels, "pass the tokenizer's levels")
    shape = (*indices.shape, len(levels))
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=indices.device)
    dense = [torch.empty(t.shape, device="meta").stride() for t in (indices, out)]
    check_tensor("indices", indices, [torch.int64], [None] * indices.dim(), dense[0])
    check_dtype("out", out, [dtype])
    check_tensor("out", out, FLOATS, shape, dense[1])
    check_device(indices=indices, out=out)
    lookup_kernel[(triton.cdiv(indices.numel(), 256),)](
        indices,
        out,
        indices.numel(),
        len(levels),
        LEVELS=levels,
        DIGITS=len(levels),
        BLOCK=256,
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=False,
    )
    return out


def patches_to_i420(patches: Tensor, first: bool, *, out: Tensor | None = None) -> Tensor:
    """Return frames uint8 [B, F, H * W * 3 / 2] of Haar patches [B, T, 192, H / 4, W / 4].

    Channel b * 3 + c is band b of colour c. Pixels lie in [-1, 1] and are clamped to it. A frame is
    its Y, U and V planes. F is 4 * T, or 4 * T - 3 at the start of a video (`first`), whose first
    frame fills a patch alone.

    Raises KernelArgumentError for a shape, stride, dtype or device that does not fit.
    """
    check_tensor("patches", patches, FLOATS, (None, None, 3 * _SIZE**3, None, None))
    batch, times, _, height, width = patches.shape
    frames = _SIZE * times - (_SIZE - 1 if first else 0)
    size = height * width * _SIZE**2 * 3 // 2
    if out is None:
        out = torch.empty((batch, frames, size), dtype=torch.uint8, device=patches.device)
    check_tensor("out", out, [torch.uint8], (batch, frames, size))
    check_device(patches=patches, out=out)
    i420_kernel[triton.cdiv(height * width, _BLOCK), times, batch](
        patches,
        out,
        height,
        width,
        _SIZE - 1 if first else 0,
        *patches.stride()[:4],
        *out.stride()[:2],
        BLOCK=_BLOCK,
        UPCAST=interpreting(),
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=False,
    )
    return out


# --- references ------------------------------------------------------------------------------


def reference_indices_to_codes(
    indices: Tensor, levels: Sequence[int], dtype: torch.dtype = torch.float64
) -> Tensor:
    """Compute `indices_to_codes` in plain torch."""
    codes = []
    for level in levels:
        codes.append((indices % level - level // 2).to(dtype) / (level // 2))
        indices = indices // level
    return torch.stack(codes, dim=-1)


def reference_detokenize(
    patches: Tensor, first: bool, precision: torch.dtype = torch.float64
) -> Tensor:
    """Return the pixels [B, F, 3, H, W] of Haar patches, one level and one axis after the other."""
    x = patches.to(precision)
    for _ in range(2):
        bands = list(x.chunk(8, dim=2))
        for axis in (4, 3, 1):
            pairs = zip(bands[::2], bands[1::2], strict=True)
            bands = [
                torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)
                for low, high in pairs
            ]
        x = bands[0]
    return x[:, _SIZE - 1 :] if first else x


def reference_patches_to_i420(
    patches: Tensor, first: bool, precision: torch.dtype = torch.float64
) -> Tensor:
    """Compute `patches_to_i420` in `precision`."""
    pixels = reference_detokenize(patches, first, precision)
    rgb = pixels.mul(127.5).add(128).clamp(0, 255).to(torch.int64)
    fours = rgb.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).sum((4, 6))
    y = _mix(rgb, (65.481, 128.553, 24.966), 16, 16)
    u = _mix(fours, (-37.797, -74.203, 112.0), 128, 18)
    v = _mix(fours, (112.0, -93.786, -18.214), 128, 18)
    return torch.cat([plane.flatten(2) for plane in (y, u, v)], dim=-1).to(torch.uint8)


def _mix(planes: Tensor, weights: tuple[float, ...], offset: int, shift: int) -> Tensor:
    """Mix int64 [B, F, 3, h, w] to [B, F, h, w]: weights . planes + offset, rounded fixed point."""
    fixed = torch.tensor([round(w * (1 << 16) / 255) for w in weights], device=planes.device)
    mixed = (planes * fixed[:, None, None]).sum(2)
    return mixed + (offset << shift) + (1 << (shift - 1)) >> shift
