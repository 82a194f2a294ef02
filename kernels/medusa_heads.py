"""Medusa heads: logits of several future tokens per row, by one pass over the unembedding.

Head j drafts the token j + 1 places after the next one. It is a residual block,
h_j = x + silu(x W_j^T), followed by the model's own unembedding (Cai et al., arXiv 2401.10774).
The unembedding is by far the largest weight here, so it is read once for the hidden state and all
heads together: two launches of the skinny product, the first of which writes the rows of the
second.

Bytes moved, for h heads of width d: `h * d * d` weights of the heads once, `vocab * d` of the
unembedding once, `rows * (h + 1) * vocab` logits written. At d 4096, vocab 64000 and 9 heads in
bfloat16: 302 MB and 524 MB.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from worldbridge.kernels.checks import check_shape, check_strides, require
from worldbridge.kernels.skinny_gemm import MAX_ROWS, Workspace, config_for, skinny_gemm

__all__ = ["medusa_heads", "medusa_workspace", "reference_medusa_heads", "max_medusa_rows"]


def max_medusa_rows(heads: int) -> int:
    """Return the most rows that `medusa_heads` takes, so that it reads the unembedding once."""
    return MAX_ROWS // (heads + 1)


def medusa_workspace(
    rows: int, heads: torch.Tensor, unembedding: torch.Tensor, programs: int | None = None
) -> Workspace:
    """Allocate what `medusa_heads` needs for up to `rows` rows with these weights."""
    count, width = _count_heads(heads)
    return Workspace.allocate(
        [
            (config_for(rows, heads.dtype), count * width, width),
            (config_for(rows * (count + 1), unembedding.dtype), unembedding.shape[0], width),
        ],
        heads.device,
        programs,
    )


def medusa_heads(
    x: torch.Tensor,
    heads: torch.Tensor,
    unembedding: torch.Tensor,
    *,
    head_scale: torch.Tensor | None = None,
    unembedding_scale: torch.Tensor | None = None,
    hidden: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    workspace: Workspace | None = None,
    programs: int | None = None,
    overlap: bool = False,
) -> torch.Tensor:
    """Return logits (rows, h + 1, vocab): of x itself at index 0, of head j at index j + 1.

    Args:
        x: (rows, d), the hidden state after the model's last norm; at most `max_medusa_rows` rows.
        heads: (h * d, d), the weights of the heads, stacked.
        unembedding: (vocab, d).
        head_scale: Of quantized heads.
        unembedding_scale: Of a quantized unembedding.
        hidden: (rows, h + 1, d), contiguous, receives the heads' hidden states.
        out: Contiguous; allocated if left out.
        workspace, programs, overlap: As for `skinny_gemm`.

    Raises:
        KernelArgumentError: A shape, stride, dtype or device does not fit.
    """
    check_shape("x", x, None, None)
    rows, width = x.shape
    count, _ = _count_heads(heads)
    check_shape("heads", heads, count * width, width)
    check_shape("unembedding", unembedding, None, width)
    vocab = unembedding.shape[0]
    expected = f"rows * (heads + 1) of at most {MAX_ROWS}"
    got = f"{rows} * ({count} + 1) = {rows * (count + 1)}"
    remedy = "feed fewer rows at a time or use fewer heads"
    require(rows <= max_medusa_rows(count), "x", expected, got, remedy)
    if hidden is None:
        hidden = torch.empty(rows, count + 1, width, dtype=x.dtype, device=x.device)
    if out is None:
        out = torch.empty(rows, count + 1, vocab, dtype=x.dtype, device=x.device)
    check_shape("hidden", hidden, rows, count + 1, width)
    check_strides("hidden", hidden, (count + 1) * width, width, 1)
    check_shape("out", out, rows, count + 1, vocab)
    check_strides("out", out, (count + 1) * vocab, vocab, 1)
    if workspace is None:
        workspace = medusa_workspace(rows, heads, unembedding, programs)
    launch = partial(skinny_gemm, workspace=workspace, programs=programs, overlap=overlap)
    launch(
        x,
        heads,
        scale=head_scale,
        residual=x,
        epilogue="silu_residual",
        copy_residual=True,
        out=hidden.view(rows, (count + 1) * width)[:, width:],
    )
    flat_hidden, flat_out = hidden.view(-1, width), out.view(-1, vocab)
    launch(flat_hidden, unembedding, scale=unembedding_scale, out=flat_out)
    return out


def _count_heads(heads: torch.Tensor) -> tuple[int, int]:
    """Return how many heads are stacked, and their width."""
    check_shape("heads", heads, None, None)
    stacked, width = heads.shape
    expected, got = "square weights, stacked: (heads * d, d)", f"shape {tuple(heads.shape)}"
    require(stacked % width == 0, "heads", expected, got, "stack them with torch.cat(weights)")
    return stacked // width, width


def reference_medusa_heads(
    x: torch.Tensor,
    heads: torch.Tensor,
    unembedding: torch.Tensor,
    *,
    head_scale: torch.Tensor | None = None,
    unembedding_scale: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Compute `medusa_heads` head by head in plain torch, in `dtype` or that of x."""
    dtype = dtype or x.dtype
    x, heads, unembedding = x.to(dtype), heads.to(dtype), unembedding.to(dtype)
    if head_scale is not None:
        heads = heads * head_scale.to(dtype)[:, None]
    if unembedding_scale is not None:
        unembedding = unembedding * unembedding_scale.to(dtype)[:, None]
    hidden = [x]
    for weight in heads.split(x.shape[1]):
        hidden.append(x + F.silu(x @ weight.T))
    return torch.stack(hidden, dim=1) @ unembedding.T
