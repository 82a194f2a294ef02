"""QK norm, rotary embedding, and the write of keys and values to the KV cache, in one pass.

Each layer of a decode step has one fused QKV projection. Its queries and keys are normalized per
head and rotated by their (time, height, width) position, and keys and values are stored where
attention reads them. As separate operations these are about ten launches over a few kilobytes each.

The rotation pairs channel i with channel i + D/2. Which of the D/2 angles belong to time, height
and width (44, 42 and 42 of 128 channels in the published sizes) depends only on the tables.

Bytes moved per token, at E bytes per element: (H + 2 Hkv) D E read and as many written, plus 4 D of
tables; 24 KB each way for 32 + 16 heads of 128 in bfloat16. Bound by launch overhead.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels.checks import (
    FLOATS,
    check_device,
    check_integers,
    check_rings,
    check_slots,
    check_tensor,
    require,
)

__all__ = ["reference_rope_write", "rope_write", "rope_write_kernel"]

_HEADS = 4  # per program: enough programs to fill a device at ten tokens


@triton.jit
def _norm_rotate(first, second, weight, cos, sin, columns, eps, HALF: tl.constexpr):
    """Apply the RMS norm over both halves of the heads, its weight, and the rotation."""
    inside = columns < HALF
    square = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    scale = tl.rsqrt(square / (2 * HALF) + eps)[:, None]
    weight_first = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    weight_second = tl.load(weight + HALF + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    a, b = first * scale * weight_first, second * scale * weight_second
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def rope_write_kernel(
    qkv,
    out,
    keys,
    values,
    q_weight,
    k_weight,
    cos,
    sin,
    positions,
    entries,
    rows,
    slots,
    tokens,
    table_rows,
    ring,
    capacity,
    eps,
    qkv_batch,
    qkv_token,
    out_batch,
    out_token,
    kv_slot,
    kv_head,
    kv_entry,
    table_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    EXPLICIT: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Program (session and token, block of heads); the blocks of key heads come last."""
    session = tl.program_id(0) // tokens
    token = tl.program_id(0) % tokens
    block = tl.program_id(1)
    if EXPLICIT:
        entry = tl.load(entries + tl.program_id(0))
        row = tl.load(rows + tl.program_id(0))
    else:
        first_position = tl.load(positions + session)
        row = first_position + token
        entry = tl.where(first_position >= 0, row % ring, -1)
    slot = session.to(tl.int64)
    if SLOTS:
        slot = tl.load(slots + session)
    # an invalid number on the device must not address memory outside the cache
    writes = (entry >= 0) & (entry < ring) & (slot >= 0) & (slot < capacity)
    row = tl.minimum(tl.maximum(row, 0), table_rows - 1)

    columns = tl.arange(0, BLOCK_HALF)
    inside = columns < HALF
    angle_cos = tl.load(cos + row * table_stride + columns, mask=inside, other=0.0)[None, :]
    angle_sin = tl.load(sin + row * table_stride + columns, mask=inside, other=0.0)[None, :]
    source = qkv + session.to(tl.int64) * qkv_batch + token * qkv_token
    heads = tl.arange(0, BLOCK_HEADS)[:, None]
    query_blocks: tl.constexpr = (HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
    if block < query_blocks:
        heads += block * BLOCK_HEADS
        mask = (heads < HEADS) & inside[None, :]
        origin = source + heads * (2 * HALF) + columns[None, :]
        a = tl.load(origin, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(origin + HALF, mask=mask, other=0.0).to(tl.float32)
        a, b = _norm_rotate(a, b, q_weight, angle_cos, angle_sin, columns, eps, HALF)
        target = out + session.to(tl.int64) * out_batch + token * out_token
        target += heads * (2 * HALF) + columns[None, :]
        tl.store(target, a.to(out.dtype.element_ty), mask=mask)
        tl.store(target + HALF, b.to(out.dtype.element_ty), mask=mask)
    else:
        heads += (block - query_blocks) * BLOCK_HEADS
        mask = (heads < KV_HEADS) & inside[None, :]
        origin = source + (HEADS + heads) * (2 * HALF) + columns[None, :]
        a = tl.load(origin, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(origin + HALF, mask=mask, other=0.0).to(tl.float32)
        a, b = _norm_rotate(a, b, k_weight, angle_cos, angle_sin, columns, eps, HALF)
        offset = slot * kv_slot + heads * kv_head + entry * kv_entry + columns[None, :]
        written = (heads < tl.where(writes, KV_HEADS, 0)) & inside[None, :]
        tl.store(keys + offset, a.to(keys.dtype.element_ty), mask=written)
        tl.store(keys + offset + HALF, b.to(keys.dtype.element_ty), mask=written)
        origin += KV_HEADS * (2 * HALF)
        value_first = tl.load(origin, mask=mask, other=0.0)
        value_second = tl.load(origin + HALF, mask=mask, other=0.0)
        tl.store(values + offset, value_first, mask=written)
        tl.store(values + offset + HALF, value_second, mask=written)


def rope_write(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor | None = None,
    *,
    entries: Tensor | None = None,
    rows: Tensor | None = None,
    slots: Tensor | None = None,
    eps: float = 1e-5,
    out: Tensor | None = None,
) -> Tensor:
    """Return rotated queries [B, T, H, D] and write keys and values to their rings.

    All tensors but the tables have one floating dtype. Arithmetic is float32 and rounds once. The
    destination of each token is read on the device, from `positions` or from `entries` and `rows`.
    A negative position or entry writes nothing, so a batch may contain idle sessions.

    Args:
        qkv: [B, T, (H + 2 Hkv) * D], rows of queries, keys, values.
        q_weight: [D], of the query norm.
        k_weight: [D], of the key norm.
        cos: float32 [n, D/2], one table row per position.
        sin: As cos.
        keys: [capacity, Hkv, S, D], one ring per slot; written in place.
        values: As keys.
        positions: int64 [B], of each session's first token. Token t uses table row position + t (at
            most the last row) and entry (position + t) mod S.
        entries: int64 [B, T], the ring entry of each token (wavefront decoding).
        rows: int64 [B, T], the table row of each token; given together with `entries`.
        slots: int64 [B], each session's slot; by default session b has slot b.
        eps: Of both norms.
        out: Queries; allocated if left out.

    Raises:
        KernelArgumentError: A shape, stride, dtype or device does not fit.
    """
    batch, tokens, _ = _check(qkv, q_weight, k_weight, cos, sin, keys, values)
    _check_destinations(batch, tokens, keys, positions, entries, rows, slots)
    capacity, kv_heads, ring, size = keys.shape
    heads = qkv.shape[2] // size - 2 * kv_heads
    if out is None:
        out = torch.empty((batch, tokens, heads, size), dtype=qkv.dtype, device=qkv.device)
    check_tensor("out", out, [qkv.dtype], (batch, tokens, heads, size), (None, None, size, 1))
    destinations = {"positions": positions, "entries": entries, "rows": rows, "slots": slots}
    tables = {"cos": cos, "sin": sin, "q_weight": q_weight, "k_weight": k_weight}
    check_device(qkv=qkv, keys=keys, values=values, out=out, **tables, **destinations)
    grid = (batch * tokens, triton.cdiv(heads, _HEADS) + triton.cdiv(kv_heads, _HEADS))
    rope_write_kernel[grid](
        qkv,
        out,
        keys,
        values,
        q_weight,
        k_weight,
        cos,
        sin,
        positions,
        entries,
        rows,
        slots,
        tokens,
        len(cos),
        ring,
        capacity,
        eps,
        *qkv.stride()[:2],
        *out.stride()[:2],
        *keys.stride()[:3],
        cos.stride(0),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=size // 2,
        BLOCK_HALF=triton.next_power_of_2(size // 2),
        BLOCK_HEADS=_HEADS,
        EXPLICIT=entries is not None,
        SLOTS=slots is not None,
        num_warps=2,
        num_stages=1,
        enable_fp_fusion=True,
    )
    return out


def _check(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
) -> tuple[int, int, int]:
    check_tensor("qkv", qkv, FLOATS, (None, None, None))
    check_rings(keys, values, qkv.dtype)
    _, kv_heads, ring, size = keys.shape
    batch, tokens, width = qkv.shape
    fits = size % 2 == 0 and width % size == 0 and width // size > 2 * kv_heads
    expected = f"(H + 2 * {kv_heads}) heads of {size} channels (as keys), an even number"
    remedy = "concatenate queries, keys and values in this order"
    require(fits, "qkv", expected, f"{width} columns", remedy)
    expected = f"at most {ring} tokens, the ring's entries"
    require(tokens <= ring, "qkv", expected, tokens, "use a longer ring")
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        check_tensor(name, weight, [qkv.dtype], (size,))
    check_tensor("cos", cos, [torch.float32], (None, size // 2))
    check_tensor("sin", sin, [torch.float32], (len(cos), size // 2), cos.stride())
    return batch, tokens, width


def _check_destinations(
    batch: int,
    tokens: int,
    keys: Tensor,
    positions: Tensor | None,
    entries: Tensor | None,
    rows: Tensor | None,
    slots: Tensor | None,
) -> None:
    if (entries is None) != (rows is None) or (entries is None) == (positions is None):
        names = {"positions": positions, "entries": entries, "rows": rows}
        got = " and ".join(name for name, tensor in names.items() if tensor is not None)
        expected = "either positions, or entries and rows"
        require(False, "positions", expected, got or "none of them", "pass one of the two")
    check_slots(batch, keys, slots)
    for name, tensor, shape in (
        ("positions", positions, (batch,)),
        ("entries", entries, (batch, tokens)),
        ("rows", rows, (batch, tokens)),
    ):
        if tensor is not None:
            check_integers(name, tensor, *shape)


def reference_rope_write(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor | None = None,
    *,
    entries: Tensor | None = None,
    rows: Tensor | None = None,
    slots: Tensor | None = None,
    eps: float = 1e-5,
    precision: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `rope_write` in `precision`; return queries and copies of keys and values."""
    batch, tokens, _ = qkv.shape
    _, kv_heads, ring, size = keys.shape
    if entries is None or rows is None:
        assert positions is not None
        rows = positions[:, None] + torch.arange(tokens, device=qkv.device)
        entries = torch.where(positions[:, None] >= 0, rows % ring, -1)
    rows = rows.clamp(0, len(cos) - 1)
    heads = qkv.to(precision).unflatten(-1, (-1, size))
    count = heads.shape[2] - 2 * kv_heads
    angles = [table.to(precision)[rows][:, :, None] for table in (cos, sin)]
    q, k, v = heads.split([count, kv_heads, kv_heads], dim=2)
    q = _rotate(_norm(q, q_weight, eps), *angles)
    k = _rotate(_norm(k, k_weight, eps), *angles)
    keys, values = keys.to(precision, copy=True), values.to(precision, copy=True)
    for b in range(batch):
        slot = b if slots is None else int(slots[b])
        for t in range(tokens):
            entry = int(entries[b, t])
            if entry >= 0:
                keys[slot, :, entry], values[slot, :, entry] = k[b, t], v[b, t]
    return q, keys, values


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(x)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
