"""Bookkeeping of speculative decoding on the device: gather inputs, accept tokens, scatter drafts.

Each session has a draft buffer that holds, in order, the newest token of the previous latent, the
accepted tokens and drafts of the latent being decoded, and padding. `num_accepted` tokens of the
latent are final. Each step feeds the buffer from that offset on and replaces the drafts behind it
with sampled tokens:

1. `gather_inputs` reads the tokens to feed, the drafts to compare, and their entries and positions;
2. `accept_drafts` writes the sampled tokens to the buffer, advances `num_accepted` and counts;
3. `scatter_drafts` writes the Medusa heads' drafts behind them.

A session whose `num_accepted` equals the latent's size (or lies outside 0..size-1) is idle. It gets
zeros at position -1, at which other kernels write nothing, and its own state does not change. The
host may therefore enqueue more steps than a latent needs instead of waiting for its completion.

Bytes moved: a few hundred per session. Bound by launch overhead.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels.checks import (
    check_device,
    check_dtype,
    check_integers,
    check_strides,
    check_tensor,
    require,
)

__all__ = [
    "DraftBuffer",
    "DraftTargets",
    "StepInputs",
    "accept_drafts",
    "accept_kernel",
    "check_buffer",
    "gather_inputs",
    "gather_kernel",
    "reference_accept_drafts",
    "reference_gather_inputs",
    "reference_scatter_drafts",
    "scatter_drafts",
    "scatter_kernel",
]


# --- kernels ---------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count", "width"])
def gather_kernel(
    buffer,
    num_accepted,
    first_entries,
    first_positions,
    tokens,
    drafts,
    entries,
    positions,
    limits,
    buffer_stride,
    size,
    width,
    count,
    BLOCK: tl.constexpr,
):
    """Program: one session."""
    session = tl.program_id(0).to(tl.int64)
    offset = tl.load(num_accepted + session)
    idle = (offset < 0) | (offset >= size)
    start = buffer + session * buffer_stride + tl.where(idle, 0, offset)
    token = tl.arange(0, BLOCK)
    value = tl.load(start + token, mask=token < count, other=0)
    tl.store(tokens + session * count + token, tl.where(idle, 0, value), mask=token < count)
    compared = token < count - 1
    draft = tl.load(start + 1 + token, mask=compared, other=0)
    tl.store(drafts + session * (count - 1) + token, draft, mask=compared)
    tl.store(entries + session, tl.where(idle, -1, tl.load(first_entries + session) + offset))
    position = tl.load(first_positions + session) + offset
    tl.store(positions + session, tl.where(idle, -1, position))
    tl.store(limits + session, tl.where(idle, 0, tl.minimum(size - offset, width)))


@triton.jit(do_not_specialize=["count", "width"])
def accept_kernel(
    buffer,
    num_accepted,
    first_positions,
    counts,
    sampled,
    accepted,
    target_rows,
    target_offsets,
    target_positions,
    buffer_stride,
    counts_stride,
    size,
    width,
    count,
    HEADS: tl.constexpr,
    FOLLOW: tl.constexpr,
    TARGETS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """Program: one session. HEADS is the number of heads that are counted."""
    session = tl.program_id(0).to(tl.int64)
    offset = tl.load(num_accepted + session)
    row = tl.zeros_like(offset)
    target = tl.full((), size, tl.int64)
    if (offset >= 0) & (offset < size):
        gain = tl.load(accepted + session)
        token = tl.arange(0, BLOCK)
        index = offset + 1 + token
        written = (token < width) & (index <= size)
        value = tl.load(sampled + session * count + token, mask=written, other=0)
        tl.store(buffer + session * buffer_stride + index, value, mask=written)
        tl.store(num_accepted + session, offset + gain)

        own = counts + session * counts_stride
        tl.store(own, tl.load(own) + 1)
        tl.store(own + 1, tl.load(own + 1) + gain)
        by_heads = offset > 0
        if not FOLLOW:
            by_heads = offset < 0  # never
        carried = tl.where(by_heads, tl.zeros_like(gain), gain - 1)
        tl.store(own + 2, tl.load(own + 2) + carried)
        if HEADS > 0:
            head = tl.arange(0, BLOCK_HEADS)
            compared = head < tl.where(by_heads, tl.minimum(size - offset - 1, HEADS), 0)
            matched = compared & (head + 1 < gain)
            old = tl.load(own + 3 + head, mask=compared, other=0)
            tl.store(own + 3 + head, old + 1, mask=compared)
            old = tl.load(own + 3 + HEADS + head, mask=matched, other=0)
            tl.store(own + 3 + HEADS + head, old + 1, mask=matched)

        row = gain - 1
        if not FOLLOW:
            row = tl.zeros_like(gain) + width - 1
        target = offset + row
    if TARGETS:
        tl.store(target_rows + session, session * count + row)
        tl.store(target_offsets + session, target)
        unfinished = target + 1 < size  # otherwise no token is left to draft
        position = tl.load(first_positions + session) + target
        tl.store(target_positions + session, tl.where(unfinished, position, -1))


@triton.jit
def scatter_kernel(
    buffer,
    drafts,
    target_offsets,
    target_positions,
    buffer_stride,
    size,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program: one session. Draft 0 stands for a token that is known already."""
    session = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)
    offset = tl.load(target_offsets + session) + head
    end = tl.where(tl.load(target_positions + session) >= 0, size, 0)
    written = (head >= 1) & (head <= HEADS) & (offset >= 0) & (offset < end)
    draft = tl.load(drafts + session * (HEADS + 1) + head, mask=written, other=0)
    tl.store(buffer + session * buffer_stride + 1 + offset, draft, mask=written)


# --- launchers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DraftBuffer:
    """Decoding state of a batch of sessions. Tensors are int64, with one row per session.

    The third column of `counts` counts accepted drafts that no head made (Jacobi drafts); the
    columns after it say, per head, how many of its drafts were compared and how many matched.
    """

    tokens: Tensor  # [B, at least size + tokens fed per step]
    num_accepted: Tensor  # [B], final tokens of the latent
    first_entries: Tensor  # [B], ring entry of the buffer's first token
    first_positions: Tensor  # [B], absolute position of the latent's first token
    counts: Tensor  # [B, 3 + 2 * heads]: steps, accepted tokens, see above
    size: int  # tokens per latent
    width: int  # tokens sampled per step, at most the tokens fed

    def first(self, sessions: int) -> DraftBuffer:
        """Return views of the first `sessions` sessions."""
        views: dict[str, Any] = {name: x[:sessions] for name, x in self.tensors().items()}
        return dataclasses.replace(self, **views)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, for checks."""
        return {name: getattr(self, name) for name in DraftBuffer.__slots__[:5]}

    def clone(self) -> DraftBuffer:
        """Copy what a step changes; share the rest."""
        changed = ("tokens", "num_accepted", "counts")
        return dataclasses.replace(self, **{name: getattr(self, name).clone() for name in changed})

    @property
    def heads(self) -> int:
        return (self.counts.shape[1] - 3) // 2


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Inputs of one step, int64. Idle sessions have entry and position -1 and limit 0."""

    tokens: Tensor  # [B, T], fed
    drafts: Tensor  # [B, T - 1], the drafts among them
    entries: Tensor  # [B], ring entry of the first token fed
    positions: Tensor  # [B], absolute position of the first token sampled
    limits: Tensor  # [B], the most tokens that may be accepted

    @classmethod
    def allocate(cls, sessions: int, tokens: int, device: torch.device) -> StepInputs:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        one = [zeros(sessions) for _ in range(3)]
        return cls(zeros(sessions, tokens), zeros(sessions, tokens - 1), *one)

    def first(self, sessions: int) -> StepInputs:
        """Return views of the first `sessions` sessions."""
        return StepInputs(*(getattr(self, name)[:sessions] for name in StepInputs.__slots__))


@dataclass(frozen=True, slots=True)
class DraftTargets:
    """The row from which the heads draft, per session, int64 [B] each."""

    rows: Tensor  # among all B * T rows of the step
    offsets: Tensor  # index in the latent of the token that this row decides
    positions: Tensor  # absolute position of that token, -1 if no token is left to draft

    @classmethod
    def allocate(cls, sessions: int, device: torch.device) -> DraftTargets:
        return cls(*(torch.zeros(sessions, dtype=torch.int64, device=device) for _ in range(3)))

    def first(self, sessions: int) -> DraftTargets:
        """Return views of the first `sessions` sessions."""
        return DraftTargets(*(getattr(self, name)[:sessions] for name in DraftTargets.__slots__))


def gather_inputs(buffer: DraftBuffer, out: StepInputs) -> None:
    """Fill `out` with the sessions' next inputs. Raises KernelArgumentError."""
    sessions, count = _check_inputs(buffer, out)
    gather_kernel[(sessions,)](
        buffer.tokens,
        buffer.num_accepted,
        buffer.first_entries,
        buffer.first_positions,
        out.tokens,
        out.drafts,
        out.entries,
        out.positions,
        out.limits,
        buffer.tokens.stride(0),
        buffer.size,
        buffer.width,
        count,
        BLOCK=triton.next_power_of_2(count),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def accept_drafts(
    buffer: DraftBuffer,
    sampled: Tensor,
    accepted: Tensor,
    *,
    follow: bool,
    targets: DraftTargets | None = None,
) -> None:
    """Write sampled tokens to the buffer and advance each session by its accepted ones.

    Args:
        buffer: State to update in place.
        sampled: int64 [B, T], the step's tokens.
        accepted: int64 [B], how many of them, from the first on, are final (at least 1).
        follow: Whether drafts come from heads and follow the last final token (Medusa). Otherwise
            heads draft behind the last sampled token, beyond the drafts already in the buffer.
        targets: Filled with the rows from which the heads draft next, if given.

    Raises:
        KernelArgumentError: A shape, stride, dtype or device does not fit.
    """
    sessions, count = _check_sampled(buffer, sampled, accepted)
    unused = buffer.num_accepted
    filled = targets or DraftTargets(unused, unused, unused)
    _check_targets(filled, sessions)
    check_device(sampled=sampled, accepted=accepted, rows=filled.rows, **buffer.tensors())
    accept_kernel[(sessions,)](
        buffer.tokens,
        buffer.num_accepted,
        buffer.first_positions,
        buffer.counts,
        sampled,
        accepted,
        filled.rows,
        filled.offsets,
        filled.positions,
        buffer.tokens.stride(0),
        buffer.counts.stride(0),
        buffer.size,
        buffer.width,
        count,
        HEADS=buffer.heads,
        FOLLOW=follow,
        TARGETS=targets is not None,
        BLOCK=triton.next_power_of_2(count),
        BLOCK_HEADS=triton.next_power_of_2(max(1, buffer.heads)),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def scatter_drafts(buffer: DraftBuffer, drafts: Tensor, targets: DraftTargets) -> None:
    """Write drafts [B, 1 + heads] behind the targets; the first column is not used.

    Raises KernelArgumentError.
    """
    sessions = len(buffer.tokens)
    check_integers("drafts", drafts, sessions, None)
    _check_targets(targets, sessions)
    check_device(tokens=buffer.tokens, drafts=drafts, offsets=targets.offsets)
    heads = drafts.shape[1] - 1
    scatter_kernel[(sessions,)](
        buffer.tokens,
        drafts,
        targets.offsets,
        targets.positions,
        buffer.tokens.stride(0),
        buffer.size,
        HEADS=heads,
        BLOCK=triton.next_power_of_2(heads + 1),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def _check_inputs(buffer: DraftBuffer, out: StepInputs) -> tuple[int, int]:
    check_integers("tokens", out.tokens, len(buffer.tokens), None)
    sessions, count = out.tokens.shape
    _check_buffer(buffer, sessions, count)
    if count > 1:
        check_integers("drafts", out.drafts, sessions, count - 1)
    for name in ("entries", "positions", "limits"):
        check_integers(name, getattr(out, name), sessions)
    outputs = {f"out.{name}": getattr(out, name) for name in StepInputs.__slots__}
    check_device(**buffer.tensors(), **outputs)
    return sessions, count


def _check_sampled(buffer: DraftBuffer, sampled: Tensor, accepted: Tensor) -> tuple[int, int]:
    check_integers("sampled", sampled, len(buffer.tokens), None)
    sessions, count = sampled.shape
    _check_buffer(buffer, sessions, count)
    check_integers("accepted", accepted, sessions)
    check_tensor("counts", buffer.counts, [torch.int64], (sessions, 3 + 2 * buffer.heads))
    return sessions, count


def _check_buffer(buffer: DraftBuffer, sessions: int, count: int) -> None:
    check_buffer(buffer, sessions, count)
    expected, remedy = f"1 to {count}, the tokens fed", "feed at least the tokens that are sampled"
    require(1 <= buffer.width <= count, "width", expected, buffer.width, remedy)


def check_buffer(buffer: DraftBuffer, sessions: int, count: int) -> None:
    """Check a buffer that leaves room for `count` tokens behind each offset of a latent."""
    for name in ("num_accepted", "first_entries", "first_positions"):
        check_integers(name, getattr(buffer, name), sessions)
    check_dtype("buffer.tokens", buffer.tokens, [torch.int64])
    check_strides("buffer.tokens", buffer.tokens, None, 1)
    found, expected = buffer.tokens.shape[1], f"at least {buffer.size} + {count} per session"
    fits, remedy = found >= buffer.size + count, "leave room for the tokens beyond a latent's end"
    require(fits, "buffer.tokens", expected, found, remedy)


def _check_targets(targets: DraftTargets, sessions: int) -> None:
    for name in DraftTargets.__slots__:
        check_integers(name, getattr(targets, name), sessions)


# --- references ------------------------------------------------------------------------------


def reference_gather_inputs(buffer: DraftBuffer, count: int) -> StepInputs:
    """Compute what `gather_inputs` writes, session by session."""
    out = StepInputs.allocate(len(buffer.tokens), count, buffer.tokens.device)
    for b, offset in enumerate(buffer.num_accepted.tolist()):
        idle = not 0 <= offset < buffer.size
        start = 0 if idle else offset
        tokens = buffer.tokens[b, start : start + count]
        out.tokens[b], out.drafts[b] = (0 if idle else tokens), tokens[1:]
        out.entries[b] = -1 if idle else buffer.first_entries[b] + offset
        out.positions[b] = -1 if idle else buffer.first_positions[b] + offset
        out.limits[b] = 0 if idle else min(buffer.size - offset, buffer.width)
    return out


def reference_accept_drafts(
    buffer: DraftBuffer, sampled: Tensor, accepted: Tensor, *, follow: bool
) -> tuple[DraftBuffer, DraftTargets]:
    """Return the state that `accept_drafts` leaves, as a copy, and the targets it fills."""
    after = buffer.clone()
    targets = DraftTargets.allocate(len(buffer.tokens), buffer.tokens.device)
    heads = buffer.heads
    pairs = zip(buffer.num_accepted.tolist(), accepted.tolist(), strict=True)
    for b, (offset, gain) in enumerate(pairs):
        row, target = 0, buffer.size
        if 0 <= offset < buffer.size:
            end = min(buffer.width, buffer.size - offset)
            after.tokens[b, offset + 1 : offset + 1 + end] = sampled[b, :end]
            after.num_accepted[b] += gain
            by_heads = follow and offset > 0
            carried = 0 if by_heads else gain - 1
            after.counts[b, :3] += torch.tensor([1, gain, carried]).to(sampled)
            if by_heads:
                after.counts[b, 3 : 3 + min(heads, buffer.size - offset - 1)] += 1
                after.counts[b, 3 + heads : 3 + heads + min(heads, gain - 1)] += 1
            row = gain - 1 if follow else buffer.width - 1
            target = offset + row
        targets.rows[b], targets.offsets[b] = b * sampled.shape[1] + row, target
        unfinished = target + 1 < buffer.size
        targets.positions[b] = buffer.first_positions[b] + target if unfinished else -1
    return after, targets


def reference_scatter_drafts(buffer: DraftBuffer, drafts: Tensor, targets: DraftTargets) -> Tensor:
    """Return the buffer's tokens [B, n] as `scatter_drafts` leaves them."""
    tokens = buffer.tokens.clone()
    for b, offset in enumerate(targets.offsets.tolist()):
        for head in range(1, drafts.shape[1]):
            if targets.positions[b] >= 0 and 0 <= offset + head < buffer.size:
                tokens[b, 1 + offset + head] = drafts[b, head]
    return tokens
