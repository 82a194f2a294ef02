"""Attention of a few new tokens over a ring-buffer KV cache: split-KV, GQA-packed.

What decoding needs beyond general attention kernels:

- *Packed heads.* The query heads that share a key head, for all new tokens, are rows of one
  matrix, so each key is read once for all of them.
- *Splits at fixed entries.* A split is `split` consecutive entries of the ring. Its partial result
  depends on nothing else, and the program that finishes last combines partial results in
  ascending order. So the number of programs, the length of the ring and the other sessions of the
  batch never change a result, and one launch shape serves all lengths.
- *Lengths on the device.* Each session's position is read from memory. Splits without a visible
  entry return at once.
- *Rings.* Keys carry their rotation, so only visibility matters, not their order. With
  `positions`, position p is in entry p mod S, and a query sees the `window` newest positions up to
  its own. Rejected drafts need no undo: their entries count as written only after they are written
  again. That requires `window + T - 1 <= S`, which the launcher checks.
  With `mask`, for wavefront decoding, every query says which entries it sees.

Packed rows are processed in tiles of `block_rows`. Rows do not influence each other, so tokens fed
one by one and tokens fed together give equal results as long as `block_rows` is the same.

Bytes moved: 2 * Hkv * D * itemsize per visible entry and session, once per `block_rows` packed rows
(later ones mostly from the L2 cache), plus (D + 2) * 4 per packed row and split with visible
entries, written and read in L2. At batch 1, 3,200 entries and 8 key heads of 128 in bfloat16:
13.1 MB.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    check_workspace,
    interpreting,
    require,
)

__all__ = [
    "AttentionWorkspace",
    "attention_kernel",
    "decode_attention",
    "reference_decode_attention",
]

MAX_TOKENS = 64


@triton.jit
def _split(
    q,
    keys,
    values,
    mask,
    begin,
    ring,
    head,
    max_age,
    limit,
    window,
    scale,
    kv_entry,
    mask_token,
    token,
    lag,
    BLOCK_D: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
    MASKED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Return maximum, sum and weighted values of one split; scores are base-2 exponents."""
    columns = tl.arange(0, BLOCK_D)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for offset in range(0, SPLIT, BLOCK):
        entries = begin + offset + tl.arange(0, BLOCK)
        if MASKED:
            seen = (
                tl.load(
                    mask + token[:, None] * mask_token + entries[None, :],
                    mask=(lag[:, None] >= 0) & (entries < limit)[None, :],
                    other=0,
                )
                != 0
            )
            used = tl.max(seen.to(tl.int32), axis=0) != 0
        else:
            # positions between the entry and the last new token
            age = head - entries
            age = tl.where(age < 0, age + ring, age)
            used = (entries < limit) & (age <= max_age)
            back = age[None, :] - lag[:, None]  # between the entry and the row's own token
            seen = used[None, :] & (back >= 0) & (back < window)
        # invisible entries may hold NaN, which a weight of 0 would not remove
        loaded = used[:, None] & (columns < SIZE)[None, :]
        offset_kv = entries[:, None] * kv_entry + columns[None, :]
        k = tl.load(keys + offset_kv, mask=loaded, other=0.0)
        v = tl.load(values + offset_kv, mask=loaded, other=0.0)
        if UPCAST:  # the interpreter computes bfloat16 products wrongly
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(score - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(weight, axis=1)
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(weight.to(v.dtype), v, mixed, input_precision="ieee")
        top = higher
    return top, total, mixed


@triton.jit
def _combine(
    partial,
    tops,
    totals,
    target,
    rows,
    splits,
    all_rows,
    SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add the splits in ascending order and write rows of `target`, COLUMNS channels at a time.

    The loads use .cg because other programs write the partial results during this launch.
    """
    inside = rows < all_rows
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    for split in range(0, splits):
        index = split * all_rows + rows
        top = tl.load(tops + index, mask=inside, other=float("-inf"), cache_modifier=".cg")
        highest = tl.maximum(highest, top)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    for first in tl.static_range(0, BLOCK_D, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        total = tl.zeros((ROWS,), tl.float32)
        mixed = tl.zeros((ROWS, COLUMNS), tl.float32)
        for split in range(0, splits):
            index = split * all_rows + rows
            top = tl.load(tops + index, mask=inside, other=float("-inf"), cache_modifier=".cg")
            counts = top > float("-inf")  # otherwise nothing was visible, and nothing written
            weight = tl.exp2(top - base)
            total += weight * tl.load(totals + index, mask=counts, other=0.0, cache_modifier=".cg")
            part = partial + (index[:, None] * BLOCK_D + columns[None, :])
            part = tl.load(part, mask=counts[:, None], other=0.0, cache_modifier=".cg")
            mixed += weight[:, None] * part
        mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
        written = inside[:, None] & (columns < SIZE)[None, :]
        tl.store(target + columns[None, :], mixed.to(target.dtype.element_ty), mask=written)


@triton.jit(do_not_specialize=["tokens", "window"])
def attention_kernel(
    q,
    keys,
    values,
    out,
    positions,
    mask,
    slots,
    partial,
    tops,
    totals,
    counters,
    tokens,
    ring,
    capacity,
    window,
    splits,
    scale,
    q_batch,
    q_token,
    q_head,
    out_batch,
    out_token,
    kv_slot,
    kv_head,
    kv_entry,
    mask_batch,
    mask_token,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
    MASKED: tl.constexpr,
    SLOTS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (tile of packed rows, worker, session and key head).

    `counters`, int32, one per tile, session and key head, must be zero and is left at zero.
    """
    worker, workers = tl.program_id(1), tl.num_programs(1)
    session, kv = tl.program_id(2) // KV_HEADS, tl.program_id(2) % KV_HEADS
    all_rows = tokens * GROUP
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < all_rows
    token = rows // GROUP
    # tokens after the row's own; padding rows precede everything
    lag = tl.where(inside, tokens - 1 - token, -1)
    columns = tl.arange(0, BLOCK_D)
    within = inside[:, None] & (columns < SIZE)[None, :]
    heads = kv * GROUP + rows % GROUP

    slot = session.to(tl.int64)
    if SLOTS:
        slot = tl.load(slots + session)
    # an invalid number on the device must not address memory outside the cache
    alive = (slot >= 0) & (slot < capacity)
    head = 0  # the entry of the last new token
    max_age = ring - 1  # of the oldest position that any row sees
    if MASKED:
        mask += session.to(tl.int64) * mask_batch
    else:
        position = tl.load(positions + session)
        alive = alive & (position >= 0)
        last = tl.maximum(position, 0) + tokens - 1
        head = (last % ring).to(tl.int32)
        max_age = tl.minimum(last, window + tokens - 2).to(tl.int32)
    slot = tl.where(alive, slot, 0)
    limit = tl.where(alive, ring, 0)  # entries from here on do not exist
    start = session.to(tl.int64) * q_batch + token[:, None] * q_token + heads[:, None] * q_head
    query = tl.load(q + start + columns[None, :], mask=within, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    shared = slot * kv_slot + kv * kv_head

    base = tl.program_id(2).to(tl.int64) * splits * all_rows
    partial += base * BLOCK_D
    tops += base
    totals += base
    for split in range(worker, splits, workers):
        begin = split * SPLIT
        visible = begin < limit
        if not MASKED:
            end = begin + SPLIT
            oldest = head - max_age  # an entry; below zero it wraps
            visible = visible & (
                ((begin <= head) & (end > oldest)) | ((oldest < 0) & (end > oldest + ring))
            )
        index = split * all_rows + rows
        if visible:
            top, total, mixed = _split(
                query,
                keys + shared,
                values + shared,
                mask,
                begin,
                ring,
                head,
                max_age,
                limit,
                window,
                scale,
                kv_entry,
                mask_token,
                token,
                lag,
                BLOCK_D,
                SIZE,
                ROWS,
                BLOCK,
                SPLIT,
                MASKED,
                UPCAST,
            )
            tl.store(tops + index, top, mask=inside)
            tl.store(totals + index, total, mask=inside)
            part = partial + (index[:, None] * BLOCK_D + columns[None, :])
            tl.store(part, mixed, mask=inside[:, None])
        else:
            tl.store(tops + index, tl.full((ROWS,), float("-inf"), tl.float32), mask=inside)

    tl.debug_barrier()  # every thread must have written its part before one thread counts
    counter = counters + tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    if tl.atomic_add(counter, 1, sem="acq_rel") == workers - 1:
        target = out + session.to(tl.int64) * out_batch + token[:, None] * out_token
        target += heads[:, None] * SIZE
        _combine(
            partial,
            tops,
            totals,
            target,
            rows,
            splits,
            all_rows,
            SIZE,
            BLOCK_D,
            ROWS,
            min(32, BLOCK_D),
        )
        tl.store(counter, 0)


@dataclass(frozen=True, slots=True)
class AttentionWorkspace:
    """Memory for partial results, shared by all layers and by any call that is not larger.

    `counters` must be zero before the first call; every call leaves them at zero.
    """

    partial: Tensor  # float32, weighted values
    tops: Tensor  # float32, maxima
    totals: Tensor  # float32, sums
    counters: Tensor  # int32

    @classmethod
    def allocate(
        cls,
        batch: int,
        tokens: int,
        heads: int,
        keys: Tensor,
        *,
        block_rows: int = 64,
        split: int = 256,
    ) -> AttentionWorkspace:
        """Allocate for queries [batch, tokens, heads, D] and keys [capacity, Hkv, S, D]."""
        _, kv_heads, ring, size = keys.shape
        rows = tokens * (heads // kv_heads)
        entries = batch * kv_heads * triton.cdiv(ring, split) * rows
        counters = batch * kv_heads * triton.cdiv(rows, block_rows)
        return cls(
            keys.new_empty(entries * triton.next_power_of_2(size), dtype=torch.float32),
            keys.new_empty(entries, dtype=torch.float32),
            keys.new_empty(entries, dtype=torch.float32),
            keys.new_zeros(counters, dtype=torch.int32),
        )


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    slots: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    out: Tensor | None = None,
    workspace: AttentionWorkspace | None = None,
    workers: int | None = None,
    block_rows: int = 64,
    split: int = 256,
) -> Tensor:
    """Attend queries [B, T, H, D] to the cached keys and values and return [B, T, H, D].

    The rings must hold the new tokens already (see `rope_write`).

    Args:
        q: Queries; T is at most 64.
        keys: [capacity, Hkv, S, D], one ring per slot.
        values: As keys.
        positions: int64 [B], of each session's first query. A negative position marks an idle
            session, whose output is zero.
        mask: bool [B, T, S], or [1, T, S] for all sessions: which entries each query sees, instead
            of positions. A query that sees nothing gives zero.
        slots: int64 [B], each session's slot; by default session b has slot b.
        window: How many positions a query sees, including its own; by default all that are safe,
            S - T + 1.
        scale: Multiplies scores; by default D ** -0.5.
        out: Of any floating dtype; allocated with q's dtype if left out.
        workspace: Allocated if left out, which costs another launch.
        workers: Programs that share the splits of a session and head, by default one per split.
            Never changes the result.
        block_rows: Packed rows per tile, a power of two.
        split: Entries per split, a power of two. Changes the result's rounding.

    Raises:
        KernelArgumentError: A shape, stride, dtype, device or value does not fit.
    """
    batch, tokens, heads, size = _check(q, keys, values, block_rows, split)
    capacity, kv_heads, ring, _ = keys.shape
    window = _check_visibility(q, keys, positions, mask, slots, window)
    splits = triton.cdiv(ring, split)
    workers = splits if workers is None else workers
    expected, remedy = f"1 to {splits}, the number of splits", "leave it out for one per split"
    require(1 <= workers <= splits, "workers", expected, workers, remedy)
    if out is None:
        out = torch.empty((batch, tokens, heads, size), dtype=q.dtype, device=q.device)
    check_tensor("out", out, FLOATS, (batch, tokens, heads, size), (None, None, size, 1))
    like = keys if workspace is None else keys.to("meta")
    needed = AttentionWorkspace.allocate(
        batch, tokens, heads, like, block_rows=block_rows, split=split
    )
    if workspace is None:
        workspace = needed
    check_workspace(workspace, needed)
    chosen = {"positions": positions, "mask": mask, "slots": slots}
    check_device(q=q, keys=keys, values=values, out=out, partial=workspace.partial, **chosen)
    group = heads // kv_heads
    grid = (triton.cdiv(tokens * group, block_rows), workers, batch * kv_heads)
    attention_kernel[grid](
        q,
        keys,
        values,
        out,
        positions,
        None if mask is None else mask.view(torch.uint8),
        slots,
        workspace.partial,
        workspace.tops,
        workspace.totals,
        workspace.counters,
        tokens,
        ring,
        capacity,
        window,
        splits,
        (size**-0.5 if scale is None else scale) * 1.4426950408889634,  # log2(e)
        *q.stride()[:3],
        *out.stride()[:2],
        *keys.stride()[:3],
        0 if mask is None or len(mask) == 1 else mask.stride(0),
        0 if mask is None else mask.stride(1),
        KV_HEADS=kv_heads,
        GROUP=group,
        SIZE=size,
        BLOCK_D=triton.next_power_of_2(size),
        ROWS=block_rows,
        BLOCK=min(32, split),
        SPLIT=split,
        MASKED=mask is not None,
        SLOTS=slots is not None,
        UPCAST=interpreting(),
        num_warps=4,
        num_stages=3,
        enable_fp_fusion=True,
    )
    return out


def _check(
    q: Tensor, keys: Tensor, values: Tensor, block_rows: int, split: int
) -> tuple[int, int, int, int]:
    check_tensor("q", q, FLOATS, (None, None, None, None))
    check_rings(keys, values, q.dtype, q.shape[3])
    batch, tokens, heads, size = q.shape
    fits, got = keys.shape[2] * keys.stride(2) < 2**31, f"strides {keys.stride()}"
    remedy = "lay keys out as [capacity, Hkv, S, D]"
    require(fits, "keys", "rings with 32-bit offsets", got, remedy)
    require(size >= 16, "q", "heads of at least 16 channels", size, "call the torch reference")
    expected, remedy = f"1 to {MAX_TOKENS} tokens", "use scaled_dot_product_attention instead"
    require(tokens <= MAX_TOKENS, "q", expected, tokens, remedy)
    expected, remedy = f"a multiple of {keys.shape[1]} heads", "pass one group per key head"
    require(heads % keys.shape[1] == 0, "q", expected, heads, remedy)
    for name, value in (("block_rows", block_rows), ("split", split)):
        fits = value >= 16 and value & (value - 1) == 0
        require(fits, name, "a power of two of at least 16", value, "leave it out")
    return batch, tokens, heads, size


def _check_visibility(
    q: Tensor,
    keys: Tensor,
    positions: Tensor | None,
    mask: Tensor | None,
    slots: Tensor | None,
    window: int | None,
) -> int:
    """Check the arguments that say which entries are visible, and return the window."""
    (batch, tokens), ring = q.shape[:2], keys.shape[2]
    if (positions is None) == (mask is None) or (mask is not None and window is not None):
        given = {"positions": positions, "mask": mask, "window": window}
        got = " and ".join(name for name, value in given.items() if value is not None)
        expected = "either positions (and perhaps a window), or a mask"
        require(False, "positions", expected, got or "none of them", "pass one of the two")
    check_slots(batch, keys, slots)
    if positions is not None:
        check_integers("positions", positions, batch)
    if mask is not None:
        sizes = (1 if len(mask) == 1 else batch, tokens, ring)
        check_tensor("mask", mask, [torch.bool], sizes)
        return ring
    most = ring - tokens + 1
    window = most if window is None else window
    expected = f"1 to {most}, which leaves {tokens - 1} of {ring} entries to drafts"
    remedy = "use a longer ring or a shorter window"
    require(1 <= window <= most, "window", expected, window, remedy)
    return window


def reference_decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    slots: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """Compute `decode_attention` densely in `precision`."""
    batch, tokens, heads, size = q.shape
    ring = keys.shape[2]
    if mask is None:
        assert positions is not None
        window = ring - tokens + 1 if window is None else window
        mask = _visible(positions, tokens, ring, window)
    group = heads // keys.shape[1]
    owners = torch.arange(batch, device=q.device) if slots is None else slots
    seen = mask.expand(batch, -1, -1)[:, None]  # [B, 1, T, S]
    used = seen.any(2)[..., None]
    k, v = (
        # invisible entries may hold NaN
        torch.where(used, x[owners].to(precision), 0.0).repeat_interleave(group, dim=1)
        for x in (keys, values)
    )
    score = q.to(precision).transpose(1, 2) @ k.transpose(2, 3)
    score = score * (size**-0.5 if scale is None else scale)
    weight = score.masked_fill(~seen, -torch.inf).softmax(-1)
    weight = torch.where(seen.any(-1, keepdim=True), weight, 0.0)
    return (weight @ v).transpose(1, 2)


def _visible(positions: Tensor, tokens: int, ring: int, window: int) -> Tensor:
    """Return [B, T, S]: whether an entry's position lies in a query's window."""
    query = positions[:, None] + torch.arange(tokens, device=positions.device)
    last = query[:, -1:]
    held = last - (last - torch.arange(ring, device=positions.device)) % ring  # [B, S]
    seen = (held[:, None] <= query[..., None]) & (held[:, None] > query[..., None] - window)
    return seen & (held >= 0)[:, None] & (positions >= 0)[:, None, None]
