"""QK normalisation, rotary positions, and the write of keys and values into a ring, in one pass.

A decode step makes one fused projection per layer, and its queries and keys are normalised per
head, rotated by their place in (time, height, width), and, keys and values, stored where attention
reads them. As separate operations that is about ten launches over a few kilobytes each.

The rotation pairs channel i with i + D/2. Which of the D/2 angles belong to time, height and
width (44, 42 and 42 channels of 128 in the published sizes) is decided by who fills the tables.

Bytes moved per token, with E bytes per element: (H + 2 Hkv) D E read and as many written, and
4 D of tables; 24 KB of either at 32 + 16 heads of 128 in bfloat16. It is bound by its launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels.checks import (
    KernelArgumentError,
    check_device,
    check_dtype,
    check_shape,
    check_strides,
)

__all__ = ["reference_rope_write", "rope_write", "rope_write_kernel"]

_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_HEADS = 4  # per program: enough programs to fill a device at ten tokens


@triton.jit
def _turned(first, second, weight, cos, sin, columns, eps, HALF: tl.constexpr):
    """RMS norm over both halves of the heads, times the weight, then the rotation."""
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
    slots,
    rows,
    slabs,
    tokens,
    table_rows,
    ring,
    capacity,
    eps,
    qkv_batch,
    qkv_token,
    out_batch,
    out_token,
    kv_slab,
    kv_head,
    kv_slot,
    table_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    PLACED: tl.constexpr,
    SLABS: tl.constexpr,
):
    session = tl.program_id(0) // tokens
    token = tl.program_id(0) % tokens
    block = tl.program_id(1)
    if PLACED:
        slot = tl.load(slots + tl.program_id(0))
        row = tl.load(rows + tl.program_id(0))
    else:
        first_position = tl.load(positions + session)
        row = first_position + token
        slot = tl.where(first_position >= 0, row % ring, -1)
    slab = session.to(tl.int64)
    if SLABS:
        slab = tl.load(slabs + session)
    # a wrong number from the device must not reach memory that is not the ring's
    writes = (slot >= 0) & (slot < ring) & (slab >= 0) & (slab < capacity)
    row = tl.minimum(tl.maximum(row, 0), table_rows - 1)

    columns = tl.arange(0, BLOCK_HALF)
    inside = columns < HALF
    turn_cos = tl.load(cos + row * table_stride + columns, mask=inside, other=0.0)[None, :]
    turn_sin = tl.load(sin + row * table_stride + columns, mask=inside, other=0.0)[None, :]
    source = qkv + session.to(tl.int64) * qkv_batch + token * qkv_token
    heads = tl.arange(0, BLOCK_HEADS)[:, None]
    query_blocks: tl.constexpr = (HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
    if block < query_blocks:
        heads += block * BLOCK_HEADS
        mask = (heads < HEADS) & inside[None, :]
        place = source + heads * (2 * HALF) + columns[None, :]
        a = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(place + HALF, mask=mask, other=0.0).to(tl.float32)
        a, b = _turned(a, b, q_weight, turn_cos, turn_sin, columns, eps, HALF)
        target = out + session.to(tl.int64) * out_batch + token * out_token
        target += heads * (2 * HALF) + columns[None, :]
        tl.store(target, a.to(out.dtype.element_ty), mask=mask)
        tl.store(target + HALF, b.to(out.dtype.element_ty), mask=mask)
    else:
        heads += (block - query_blocks) * BLOCK_HEADS
        mask = (heads < KV_HEADS) & inside[None, :]
        place = source + (HEADS + heads) * (2 * HALF) + columns[None, :]
        a = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(place + HALF, mask=mask, other=0.0).to(tl.float32)
        a, b = _turned(a, b, k_weight, turn_cos, turn_sin, columns, eps, HALF)
        kept = slab * kv_slab + heads * kv_head + slot * kv_slot + columns[None, :]
        written = (heads < tl.where(writes, KV_HEADS, 0)) & inside[None, :]
        tl.store(keys + kept, a.to(keys.dtype.element_ty), mask=written)
        tl.store(keys + kept + HALF, b.to(keys.dtype.element_ty), mask=written)
        place += KV_HEADS * (2 * HALF)
        value_first = tl.load(place, mask=mask, other=0.0)
        value_second = tl.load(place + HALF, mask=mask, other=0.0)
        tl.store(values + kept, value_first, mask=written)
        tl.store(values + kept + HALF, value_second, mask=written)


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
    slots: Tensor | None = None,
    rows: Tensor | None = None,
    slabs: Tensor | None = None,
    eps: float = 1e-5,
    out: Tensor | None = None,
) -> Tensor:
    """Rotated queries [B, T, H, D]; keys and values go into their rings, in place.

    qkv [B, T, (H + 2 Hkv) * D] in rows of queries, keys, values; q_weight, k_weight [D]; cos, sin
    float32 [n, D/2]; keys, values [capacity, Hkv, S, D]. All but the tables have one floating-point
    type; arithmetic is float32 and rounds once.

    Where a token goes is read on the device. Either `positions` int64 [B], the position of each
    session's first token: token t takes table row position + t (at most the last one) and slot
    (position + t) mod S. Or, for token grids, `slots` and `rows` int64 [B, T]. A negative position
    or slot writes nothing, so idle sessions can take part. `slabs` int64 [B] says which ring is
    whose; without it session b has ring b.

    Raises KernelArgumentError when shapes, strides or types do not fit.
    """
    batch, tokens, _ = _check(qkv, q_weight, k_weight, cos, sin, keys, values)
    _check_places(batch, tokens, keys, positions, slots, rows, slabs)
    capacity, kv_heads, ring, size = keys.shape
    heads = qkv.shape[2] // size - 2 * kv_heads
    if out is None:
        out = torch.empty((batch, tokens, heads, size), dtype=qkv.dtype, device=qkv.device)
    check_shape("out", out, batch, tokens, heads, size)
    check_strides("out", out, None, None, size, 1)
    check_dtype("out", out, [qkv.dtype])
    given = {"positions": positions, "slots": slots, "rows": rows, "slabs": slabs}
    check_device(
        qkv=qkv,
        q_weight=q_weight,
        k_weight=k_weight,
        cos=cos,
        sin=sin,
        keys=keys,
        values=values,
        out=out,
        **{name: tensor for name, tensor in given.items() if tensor is not None},
    )
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
        slots,
        rows,
        slabs,
        tokens,
        len(cos),
        ring,
        capacity,
        eps,
        qkv.stride(0),
        qkv.stride(1),
        out.stride(0),
        out.stride(1),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        cos.stride(0),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=size // 2,
        BLOCK_HALF=triton.next_power_of_2(size // 2),
        BLOCK_HEADS=_HEADS,
        PLACED=slots is not None,
        SLABS=slabs is not None,
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
    check_dtype("qkv", qkv, _FLOATS)
    check_shape("qkv", qkv, None, None, None)
    check_strides("qkv", qkv, None, None, 1)
    check_shape("keys", keys, None, None, None, None)
    check_strides("keys", keys, None, None, None, 1)
    check_shape("values", values, *keys.shape)
    check_strides("values", values, *keys.stride())
    _, kv_heads, ring, size = keys.shape
    batch, tokens, width = qkv.shape
    if size % 2 or width % size or width // size <= 2 * kv_heads:
        raise KernelArgumentError(
            "qkv",
            expected=f"(H + 2 * {kv_heads}) heads of an even size, {size} by keys",
            got=f"{width} columns",
            remedy="fuse queries, keys and values into rows in this order",
        )
    if tokens > ring:
        raise KernelArgumentError(
            "qkv",
            expected=f"at most {ring} tokens, one per slot of the ring",
            got=f"{tokens}",
            remedy="use a longer ring",
        )
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        check_shape(name, weight, size)
        check_strides(name, weight, 1)
    for name, table in (("cos", cos), ("sin", sin)):
        check_dtype(name, table, [torch.float32])
        check_shape(name, table, None if name == "cos" else len(cos), size // 2)
        check_strides(name, table, cos.stride(0), 1)
    for name, tensor in (
        ("q_weight", q_weight),
        ("k_weight", k_weight),
        ("keys", keys),
        ("values", values),
    ):
        check_dtype(name, tensor, [qkv.dtype])
    return batch, tokens, width


def _check_places(
    batch: int,
    tokens: int,
    keys: Tensor,
    positions: Tensor | None,
    slots: Tensor | None,
    rows: Tensor | None,
    slabs: Tensor | None,
) -> None:
    if (slots is None) != (rows is None) or (slots is None) == (positions is None):
        names = {"positions": positions, "slots": slots, "rows": rows}
        given = [name for name, tensor in names.items() if tensor is not None]
        raise KernelArgumentError(
            "positions",
            expected="either positions, or slots and rows",
            got=" and ".join(given) or "none of them",
            remedy="say in one way where tokens go",
        )
    if slabs is None and batch > len(keys):
        raise KernelArgumentError(
            "keys",
            expected=f"a ring for each of {batch} sessions",
            got=f"{len(keys)} rings",
            remedy="pass a larger slab, or slabs",
        )
    for name, tensor, shape in (
        ("positions", positions, (batch,)),
        ("slots", slots, (batch, tokens)),
        ("rows", rows, (batch, tokens)),
        ("slabs", slabs, (batch,)),
    ):
        if tensor is not None:
            check_dtype(name, tensor, [torch.int64])
            check_shape(name, tensor, *shape)
            check_strides(name, tensor, *torch.empty(shape, device="meta").stride())


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
    slots: Tensor | None = None,
    rows: Tensor | None = None,
    slabs: Tensor | None = None,
    eps: float = 1e-5,
    precision: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `rope_write` is measured against: queries, keys and values in `precision`.

    Arguments as there; the rings that come back are copies.
    """
    batch, tokens, _ = qkv.shape
    _, kv_heads, ring, size = keys.shape
    if slots is None or rows is None:
        assert positions is not None
        rows = positions[:, None] + torch.arange(tokens, device=qkv.device)
        slots = torch.where(positions[:, None] >= 0, rows % ring, -1)
    rows = rows.clamp(0, len(cos) - 1)
    heads = qkv.to(precision).unflatten(-1, (-1, size))
    count = heads.shape[2] - 2 * kv_heads
    turn = [table.to(precision)[rows][:, :, None] for table in (cos, sin)]
    q, k, v = heads.split([count, kv_heads, kv_heads], dim=2)
    q = _rotate(_norm(q, q_weight, eps), *turn)
    k = _rotate(_norm(k, k_weight, eps), *turn)
    keys, values = keys.to(precision, copy=True), values.to(precision, copy=True)
    for b in range(batch):
        slab = b if slabs is None else int(slabs[b])
        for t in range(tokens):
            slot = int(slots[b, t])
            if slot >= 0:
                keys[slab, :, slot], values[slab, :, slot] = k[b, t], v[b, t]
    return q, keys, values


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(x)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
