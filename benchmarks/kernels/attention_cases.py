"""Attention of a few new tokens to a long context, rotation and KV write, and the last norm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import bias as causal

from worldbridge.benchmarks.kernels.case import (
    NORM_EPS,
    Case,
    Maker,
    Operands,
    Sizes,
    error_floor,
    type_name,
)
from worldbridge.kernels.attention import (
    AttentionWorkspace,
    decode_attention,
    reference_decode_attention,
)
from worldbridge.kernels.norm import reference_rms_norm, rms_norm
from worldbridge.kernels.rope import reference_rope_write, rope_write
from worldbridge.models.transformer.positions import apply_rotary

__all__ = ["attention_cases", "norm_cases", "rope_cases"]

_SPARE = 64  # entries of the ring beyond the context, for draft tokens


def attention_cases(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    pair = 2 * sizes.kv_heads * sizes.head_dim * dtype.itemsize
    for batch in sizes.batches:
        for context in sizes.contexts:
            for tokens in sizes.tokens:
                yield Case(
                    kernel="decode_attention",
                    what=f"context {context:,}",
                    shape={"batch": batch, "tokens": tokens, "context": context},
                    weights=type_name(dtype),
                    activations=type_name(dtype),
                    bytes_moved=batch * context * pair,
                    formula="batch * context * kv_heads * head_dim * 2 of keys and values",
                    make=partial(_attention_operands, maker, sizes, dtype, batch, context, tokens),
                    floor=error_floor(dtype),
                )


def _attention_operands(
    maker: Maker, sizes: Sizes, dtype: torch.dtype, batch: int, context: int, tokens: int
) -> Operands:
    """Return operands in which the new tokens end the context and see all of it before them."""
    q = maker.normal(batch, tokens, sizes.heads, sizes.head_dim, dtype=dtype)
    ring = (batch, sizes.kv_heads, context + _SPARE, sizes.head_dim)
    keys, values = maker.normal(*ring, dtype=dtype), maker.normal(*ring, dtype=dtype)
    positions = torch.full((batch,), context - tokens, device=maker.device)
    workspace = AttentionWorkspace.allocate(batch, tokens, sizes.heads, keys)
    entries = torch.arange(context + _SPARE, device=maker.device)
    mask = entries <= (context - tokens + torch.arange(tokens, device=maker.device))[:, None]
    return Operands(
        ours=partial(
            decode_attention,
            q,
            keys,
            values,
            positions,
            out=torch.empty_like(q),
            workspace=workspace,
        ),
        baselines={
            "torch, SDPA with enable_gqa over the context": partial(
                _grouped, q, keys[:, :, :context], values[:, :, :context]
            ),
            "as published: heads repeated over the whole static cache, masked": partial(
                _repeated, q, keys, values, mask
            ),
        },
        reference=partial(_attention_reference, q, keys, values, positions),
    )


def _grouped(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with SDPA. A single token sees everything; several need a lower-right mask."""
    tokens = q.shape[1]
    bias = None if tokens == 1 else causal.causal_lower_right(tokens, keys.shape[2])
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, attn_mask=bias, enable_gqa=True
    )
    return out.transpose(1, 2)


def _repeated(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    group = q.shape[2] // keys.shape[1]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        keys.repeat_interleave(group, dim=1),
        values.repeat_interleave(group, dim=1),
        attn_mask=mask,
    )
    return out.transpose(1, 2)


def _attention_reference(q: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """Compute session by session: in float64 with repeated heads, all at once fill a GPU."""
    parts = [
        reference_decode_attention(q[b, None], keys[b, None], values[b, None], positions[b, None])
        for b in range(len(q))
    ]
    return torch.cat(parts)


# --- normalisation, rotation, write --------------------------------------------------------------


def rope_cases(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    heads = sizes.heads + 2 * sizes.kv_heads
    each = 2 * heads * sizes.head_dim * dtype.itemsize + 4 * sizes.head_dim
    for batch in sizes.batches:
        for tokens in sizes.tokens:
            yield Case(
                kernel="rope_write",
                what="QK norm, rotation, keys and values",
                shape={"batch": batch, "tokens": tokens, "heads": heads},
                weights=type_name(dtype),
                activations=type_name(dtype),
                bytes_moved=batch * tokens * each,
                formula="(heads + 2*kv_heads) * head_dim, read and written, + tables, per token",
                make=partial(_rope_operands, maker, sizes, dtype, batch, tokens),
                floor=error_floor(dtype),
            )


def _rope_operands(
    maker: Maker, sizes: Sizes, dtype: torch.dtype, batch: int, tokens: int
) -> Operands:
    size, context = sizes.head_dim, min(1024, sizes.contexts[0])
    width = (sizes.heads + 2 * sizes.kv_heads) * size
    qkv = maker.normal(batch, tokens, width, dtype=dtype)
    q_weight, k_weight = maker.normal(size, dtype=dtype), maker.normal(size, dtype=dtype)
    angles = maker.normal(context, size // 2, dtype=torch.float32, scale=3.0)
    cos, sin = angles.cos(), angles.sin()
    ring = (batch, sizes.kv_heads, context, size)
    rings = torch.zeros(4, *ring, dtype=dtype, device=maker.device)
    positions = torch.full((batch,), context // 2, device=maker.device)
    norms = (q_weight, k_weight, cos, sin)
    out = qkv.new_empty(batch, tokens, sizes.heads, size)
    places = torch.arange(context // 2, context // 2 + tokens, device=maker.device)
    return Operands(
        ours=partial(rope_write, qkv, *norms, rings[0], rings[1], positions, out=out),
        baselines={
            "torch, rms_norm, rotation, index_copy": partial(
                _rope, qkv, *norms, rings[2], rings[3], places
            )
        },
        reference=partial(_rope_reference, qkv, *norms, rings[0], rings[1], positions),
        ours_left=(rings[0], rings[1]),
        torch_left=(rings[2], rings[3]),
    )


def _rope(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Tensor,
) -> Tensor:
    kv_heads, size = keys.shape[1], keys.shape[3]
    heads = qkv.unflatten(-1, (-1, size)).transpose(1, 2)
    q, k, v = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    turn = cos[places].to(qkv.dtype), sin[places].to(qkv.dtype)
    q = apply_rotary(F.rms_norm(q, (size,), q_weight, NORM_EPS), *turn)
    k = apply_rotary(F.rms_norm(k, (size,), k_weight, NORM_EPS), *turn)
    keys.index_copy_(2, places, k)
    values.index_copy_(2, places, v)
    return q.transpose(1, 2)


def _rope_reference(qkv: Tensor, *rest: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in reference_rope_write(qkv, *rest)])


# --- the norm that no product takes over ---------------------------------------------------------


def norm_cases(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    for rows in sizes.rows:
        yield Case(
            kernel="rms_norm",
            what="the last norm",
            shape={"rows": rows, "dim": sizes.dim},
            weights=type_name(dtype),
            activations=type_name(dtype),
            bytes_moved=(2 * rows + 1) * sizes.dim * dtype.itemsize,
            formula="rows * dim, read and written, + the norm's weight",
            make=partial(_norm_operands, maker, rows, sizes.dim, dtype),
            floor=error_floor(dtype),
        )


def _norm_operands(maker: Maker, rows: int, dim: int, dtype: torch.dtype) -> Operands:
    x, weight = maker.normal(rows, dim, dtype=dtype), maker.normal(dim, dtype=dtype)
    return Operands(
        ours=partial(rms_norm, x, NORM_EPS, weight=weight, out=torch.empty_like(x)),
        baselines={"torch, rms_norm": partial(F.rms_norm, x, (dim,), weight, NORM_EPS)},
        reference=partial(reference_rms_norm, x, NORM_EPS, weight=weight),
    )
