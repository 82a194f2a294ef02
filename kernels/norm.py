"""RMS norm of a few rows, into another type if wanted.

Products with one-byte weights take float16, and a residual stream does not fit into float16 before
it is normalized; Medusa heads need the normalized state itself. Everywhere else the product
includes the norm (`skinny_gemm`, `norm_eps`).

Bytes moved: each row is read and written once, 8 KB each way at 4096 channels in bfloat16. Bound by
launch overhead.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels.checks import FLOATS, check_device, check_integers, check_tensor

__all__ = ["reference_rms_norm", "rms_norm", "rms_norm_kernel"]


@triton.jit(do_not_specialize=["count"])
def rms_norm_kernel(
    x,
    weight,
    rows,
    out,
    count,
    x_stride,
    out_stride,
    size,
    eps,
    BLOCK: tl.constexpr,
    WEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
):
    """Program: one row of `out`."""
    target = tl.program_id(0).to(tl.int64)
    source = target
    if ROWS:
        # an invalid number on the device must not address memory outside x
        source = tl.minimum(tl.maximum(tl.load(rows + target), 0), count - 1)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    value = tl.load(x + source * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, axis=0) / size + eps)
    if WEIGHT:
        value = value * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if HALF:  # what the weight scales may exceed float16; NaN stays NaN
        value = tl.where(value > 65504.0, 65504.0, tl.where(value < -65504.0, -65504.0, value))
    tl.store(out + target * out_stride + columns, value.to(out.dtype.element_ty), mask=inside)


def rms_norm(
    x: Tensor,
    eps: float,
    *,
    weight: Tensor | None = None,
    rows: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight for each row of x [n, k], rounded once.

    Args:
        x: [n, k], of a floating dtype.
        eps: Added to the mean square.
        weight: [k].
        rows: int64 [m], read on the device: only these rows, so the result is [m, k].
        out: Of any floating dtype; float16 saturates instead of becoming infinite.

    Raises:
        KernelArgumentError: A shape, stride, dtype or device does not fit.
    """
    check_tensor("x", x, FLOATS, (None, None))
    count, size = x.shape
    if weight is not None:
        check_tensor("weight", weight, FLOATS, (size,))
    if rows is not None:
        check_integers("rows", rows, None)
    taken = count if rows is None else len(rows)
    if out is None:
        out = torch.empty((taken, size), dtype=x.dtype, device=x.device)
    check_tensor("out", out, FLOATS, (taken, size))
    check_device(x=x, weight=weight, rows=rows, out=out)
    rms_norm_kernel[(taken,)](
        x,
        weight,
        rows,
        out,
        count,
        x.stride(0),
        out.stride(0),
        size,
        eps,
        BLOCK=triton.next_power_of_2(size),
        WEIGHT=weight is not None,
        ROWS=rows is not None,
        HALF=out.dtype == torch.float16,
        num_warps=8,
        num_stages=1,
        enable_fp_fusion=True,
    )
    return out


def reference_rms_norm(
    x: Tensor,
    eps: float,
    *,
    weight: Tensor | None = None,
    rows: Tensor | None = None,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """Compute `rms_norm` in `precision`."""
    x = (x if rows is None else x[rows]).to(precision)
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x if weight is None else x * weight.to(precision)
