"""Weights of one byte: float8 e4m3 or int8, with one float32 scale per row (output channel).

A row is divided by its largest magnitude, so that it uses the whole range of the format; the scale
multiplies the product, after the sum over the row. A product moves half the bytes of bfloat16.

Error per weight, for a row whose largest magnitude is m: int8 rounds to multiples of m / 127, so
at most m / 254; e4m3 keeps four significant bits, so at most 2^-4 of the weight itself, or
m / 448 * 2^-10 for the smallest.
"""

from __future__ import annotations

import torch

from worldbridge.kernels.checks import check_dtype, check_shape

__all__ = ["dequantize_rows", "fold_norm", "quantize_rows"]

_LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}


def quantize_rows(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize weight (n, k) to `dtype` (float8_e4m3fn or int8); return it and its scales (n,).

    The weight has a floating dtype, the scales are float32. A row of zeros gets scale 1.
    Raises KernelArgumentError.
    """
    check_dtype("weight", weight, (torch.bfloat16, torch.float16, torch.float32, torch.float64))
    check_shape("weight", weight, None, None)
    check_dtype("dtype", torch.empty(0, dtype=dtype), tuple(_LARGEST))
    rows = weight.to(torch.float32)
    largest = rows.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / _LARGEST[dtype], torch.ones_like(largest))
    # Division can end a rounding error above the largest number, which e4m3 would make NaN.
    steps = (rows / scale[:, None]).clamp(-_LARGEST[dtype], _LARGEST[dtype])
    return (steps.round() if dtype == torch.int8 else steps).to(dtype), scale


def dequantize_rows(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the float32 weight (n, k) of quantized rows and their scales."""
    return rows.to(torch.float32) * scale[:, None]


def fold_norm(weight: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Fold a norm's weight `gamma` (k,) into weight (n, k): (x * gamma) @ W.T = x @ (W * gamma).T.

    Rounded once, to the weight's dtype; fold before quantizing. Raises KernelArgumentError.
    """
    check_shape("gamma", gamma, weight.shape[1])
    return (weight.to(torch.float32) * gamma.to(torch.float32)).to(weight.dtype)
