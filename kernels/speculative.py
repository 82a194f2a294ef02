"""The bookkeeping of speculative decoding, on the device: what is fed, and what becomes of it.

A session's line of tokens, its feed, holds in order the newest token of the latent before, the
tokens or guesses of the latent being drawn, and padding. `done` tokens of the latent are final.
Each step feeds the line from there on, and what is drawn replaces the guesses behind it:

1. `gather_inputs` reads what is fed, the drafts that will be compared, and where all that stands;
2. `accept_drafts` writes the draws into the line, moves `done` and counts;
3. `scatter_drafts` writes what heads guess behind that.

A session whose `done` is the latent's size (or anything outside 0..size-1) is idle: it is fed
zeros at position -1, at which other kernels write nothing, and these here change nothing of it. So
a host that cannot wait to learn whether a latent is complete may launch more steps than it needs.

Bytes moved: a few hundred per session. Bound by their launches.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

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

__all__ = [
    "StepInputs",
    "DraftBuffer",
    "DraftTargets",
    "accept_kernel",
    "accept_drafts",
    "scatter_drafts",
    "scatter_kernel",
    "reference_accept_drafts",
    "reference_scatter_drafts",
    "reference_gather_inputs",
    "gather_kernel",
    "gather_inputs",
]


# --- the kernels -----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count", "width"])
def gather_kernel(
    line,
    done,
    places,
    positions,
    tokens,
    drafts,
    slots,
    drawn_at,
    limits,
    line_stride,
    size,
    width,
    count,
    BLOCK: tl.constexpr,
):
    """Program: one session."""
    session = tl.program_id(0).to(tl.int64)
    final = tl.load(done + session)
    idle = (final < 0) | (final >= size)
    start = line + session * line_stride + tl.where(idle, 0, final)
    token = tl.arange(0, BLOCK)
    fed = tl.load(start + token, mask=token < count, other=0)
    tl.store(tokens + session * count + token, tl.where(idle, 0, fed), mask=token < count)
    compared = token < count - 1
    guess = tl.load(start + 1 + token, mask=compared, other=0)
    tl.store(drafts + session * (count - 1) + token, guess, mask=compared)
    tl.store(slots + session, tl.where(idle, -1, tl.load(places + session) + final))
    tl.store(drawn_at + session, tl.where(idle, -1, tl.load(positions + session) + final))
    tl.store(limits + session, tl.where(idle, 0, tl.minimum(size - final, width)))


@triton.jit(do_not_specialize=["count", "width"])
def accept_kernel(
    line,
    done,
    positions,
    counts,
    drawn,
    accepted,
    rows,
    bases,
    guessed_at,
    line_stride,
    counts_stride,
    size,
    width,
    count,
    HEADS: tl.constexpr,
    FOLLOW: tl.constexpr,
    GUESS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """Program: one session. HEADS is how many heads are counted."""
    session = tl.program_id(0).to(tl.int64)
    final = tl.load(done + session)
    row = tl.zeros_like(final)
    base = tl.full((), size, tl.int64)
    if (final >= 0) & (final < size):
        gain = tl.load(accepted + session)
        token = tl.arange(0, BLOCK)
        behind = final + 1 + token
        kept = (token < width) & (behind <= size)
        draw = tl.load(drawn + session * count + token, mask=kept, other=0)
        tl.store(line + session * line_stride + behind, draw, mask=kept)
        tl.store(done + session, final + gain)

        own = counts + session * counts_stride
        tl.store(own, tl.load(own) + 1)
        tl.store(own + 1, tl.load(own + 1) + gain)
        drafted = final > 0
        if not FOLLOW:
            drafted = final < 0  # never
        carried = tl.where(drafted, tl.zeros_like(gain), gain - 1)
        tl.store(own + 2, tl.load(own + 2) + carried)
        if HEADS > 0:
            head = tl.arange(0, BLOCK_HEADS)
            tried = tl.where(drafted, tl.minimum(size - final - 1, HEADS), 0)
            asked = head < tried
            right = asked & (head + 1 < gain)
            was = tl.load(own + 3 + head, mask=asked, other=0)
            tl.store(own + 3 + head, was + 1, mask=asked)
            was = tl.load(own + 3 + HEADS + head, mask=right, other=0)
            tl.store(own + 3 + HEADS + head, was + 1, mask=right)

        row = gain - 1
        if not FOLLOW:
            row = tl.zeros_like(gain) + width - 1
        base = final + row
    if GUESS:
        tl.store(rows + session, session * count + row)
        tl.store(bases + session, base)
        ahead = base + 1 < size  # else there is nothing left to be guessed
        tl.store(guessed_at + session, tl.where(ahead, tl.load(positions + session) + base, -1))


@triton.jit
def scatter_kernel(
    line, guesses, bases, guessed_at, line_stride, size, HEADS: tl.constexpr, BLOCK: tl.constexpr
):
    """Program: one session. Guess 0 is of the token that is known already."""
    session = tl.program_id(0).to(tl.int64)
    base = tl.load(bases + session)
    head = tl.arange(0, BLOCK)
    place = base + head
    end = tl.where(tl.load(guessed_at + session) >= 0, size, 0)
    written = (head >= 1) & (head <= HEADS) & (place >= 0) & (place < end)
    guess = tl.load(guesses + session * (HEADS + 1) + head, mask=written, other=0)
    tl.store(line + session * line_stride + 1 + place, guess, mask=written)


# --- the launchers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DraftBuffer:
    """Where the sessions of a batch stand. All int64; one row, or one number, for each of them.

    `line` [B, at least size + tokens fed]; `done` [B]; `places` [B], the slot of the line's first
    token in the session's ring; `positions` [B], the absolute position of the latent's first token;
    `counts` [B, 3 + 2 * heads]: forwards, their tokens, tokens kept from guesses that were not of
    a head, then how many drafts of each head were tried, and how many were right.
    """

    line: Tensor
    done: Tensor
    places: Tensor
    positions: Tensor
    counts: Tensor
    size: int  # tokens of a latent
    width: int  # of the tokens fed, how many are drawn behind

    def first(self, sessions: int) -> DraftBuffer:
        """Of the first `sessions` sessions."""
        return dataclasses.replace(
            self,
            line=self.line[:sessions],
            done=self.done[:sessions],
            places=self.places[:sessions],
            positions=self.positions[:sessions],
            counts=self.counts[:sessions],
        )

    @property
    def heads(self) -> int:
        return (self.counts.shape[1] - 3) // 2


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one step feeds, int64: `tokens` [B, T], `drafts` [B, T - 1] (the guesses among them),
    `slots` [B] and `positions` [B] of the first token in the ring and of the first token drawn (-1:
    idle), `limits` [B], how many draws may become final."""

    tokens: Tensor
    drafts: Tensor
    slots: Tensor
    positions: Tensor
    limits: Tensor

    @classmethod
    def allocate(cls, sessions: int, tokens: int, device: torch.device) -> StepInputs:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        one = [zeros(sessions) for _ in range(3)]
        return cls(zeros(sessions, tokens), zeros(sessions, tokens - 1), *one)

    def first(self, sessions: int) -> StepInputs:
        tensors = (self.tokens, self.drafts, self.slots, self.positions, self.limits)
        return StepInputs(*(tensor[:sessions] for tensor in tensors))


@dataclass(frozen=True, slots=True)
class DraftTargets:
    """From which row heads guess, int64 [B] each: `rows` among all B * T; `bases`, the place in the
    latent that this row decides; `positions`, that place's absolute position, or -1 where no place
    is left to be guessed."""

    rows: Tensor
    bases: Tensor
    positions: Tensor

    @classmethod
    def allocate(cls, sessions: int, device: torch.device) -> DraftTargets:
        return cls(*(torch.zeros(sessions, dtype=torch.int64, device=device) for _ in range(3)))

    def first(self, sessions: int) -> DraftTargets:
        return DraftTargets(self.rows[:sessions], self.bases[:sessions], self.positions[:sessions])


def gather_inputs(feed: DraftBuffer, out: StepInputs) -> None:
    """Fill `out` with what the sessions feed next. Raises KernelArgumentError."""
    sessions, count = _check_feed(feed, out)
    gather_kernel[(sessions,)](
        feed.line,
        feed.done,
        feed.places,
        feed.positions,
        out.tokens,
        out.drafts,
        out.slots,
        out.positions,
        out.limits,
        feed.line.stride(0),
        feed.size,
        feed.width,
        count,
        BLOCK=triton.next_power_of_2(count),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def accept_drafts(
    feed: DraftBuffer,
    drawn: Tensor,
    accepted: Tensor,
    *,
    follow: bool,
    guessing: DraftTargets | None = None,
) -> None:
    """Take over draws [B, T], of which the first `accepted` [B] (at least 1) are final.

    `follow`: guesses are of heads, and follow the last final token (Medusa); otherwise heads guess
    behind the last draw, where no earlier draw reaches. `guessing` is filled accordingly.
    Raises KernelArgumentError.
    """
    sessions, count = _check_drawn(feed, drawn, accepted)
    filled = guessing or DraftTargets(feed.done, feed.done, feed.done)
    _check_guessing(filled, sessions)
    check_device(
        line=feed.line,
        drawn=drawn,
        accepted=accepted,
        done=feed.done,
        rows=filled.rows,
        counts=feed.counts,
        positions=feed.positions,
    )
    accept_kernel[(sessions,)](
        feed.line,
        feed.done,
        feed.positions,
        feed.counts,
        drawn,
        accepted,
        filled.rows,
        filled.bases,
        filled.positions,
        feed.line.stride(0),
        feed.counts.stride(0),
        feed.size,
        feed.width,
        count,
        HEADS=feed.heads,
        FOLLOW=follow,
        GUESS=guessing is not None,
        BLOCK=triton.next_power_of_2(count),
        BLOCK_HEADS=triton.next_power_of_2(max(1, feed.heads)),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def scatter_drafts(feed: DraftBuffer, guesses: Tensor, guessing: DraftTargets) -> None:
    """Write guesses [B, 1 + heads] into the line; the first is of the known token and is not used.

    Raises KernelArgumentError.
    """
    sessions = len(feed.line)
    _check_integers("guesses", guesses, sessions, None)
    _check_guessing(guessing, sessions)
    check_device(line=feed.line, guesses=guesses, bases=guessing.bases)
    heads = guesses.shape[1] - 1
    scatter_kernel[(sessions,)](
        feed.line,
        guesses,
        guessing.bases,
        guessing.positions,
        feed.line.stride(0),
        feed.size,
        HEADS=heads,
        BLOCK=triton.next_power_of_2(heads + 1),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def _check_feed(feed: DraftBuffer, out: StepInputs) -> tuple[int, int]:
    _check_integers("tokens", out.tokens, len(feed.line), None)
    sessions, count = out.tokens.shape
    _check_state(feed, sessions, count)
    if count > 1:
        _check_integers("drafts", out.drafts, sessions, count - 1)
    for name in ("slots", "positions", "limits"):
        _check_integers(name, getattr(out, name), sessions)
    check_device(
        line=feed.line,
        done=feed.done,
        places=feed.places,
        positions=feed.positions,
        tokens=out.tokens,
        drafts=out.drafts,
        slots=out.slots,
        limits=out.limits,
    )
    return sessions, count


def _check_drawn(feed: DraftBuffer, drawn: Tensor, accepted: Tensor) -> tuple[int, int]:
    _check_integers("drawn", drawn, len(feed.line), None)
    sessions, count = drawn.shape
    _check_state(feed, sessions, count)
    _check_integers("accepted", accepted, sessions)
    check_dtype("counts", feed.counts, [torch.int64])
    check_shape("counts", feed.counts, sessions, 3 + 2 * feed.heads)
    check_strides("counts", feed.counts, None, 1)
    return sessions, count


def _check_state(feed: DraftBuffer, sessions: int, count: int) -> None:
    for name in ("done", "places", "positions"):
        _check_integers(name, getattr(feed, name), sessions)
    check_dtype("line", feed.line, [torch.int64])
    check_strides("line", feed.line, None, 1)
    if feed.line.shape[1] < feed.size + count:
        raise KernelArgumentError(
            "line",
            expected=f"at least {feed.size} + {count} tokens per session",
            got=str(feed.line.shape[1]),
            remedy="leave room for the guesses behind a latent's end",
        )
    if not 1 <= feed.width <= count:
        raise KernelArgumentError(
            "width",
            expected=f"1 to {count}, the tokens fed",
            got=str(feed.width),
            remedy="feed at least as many tokens as are drawn",
        )


def _check_guessing(guessing: DraftTargets, sessions: int) -> None:
    for name in DraftTargets.__slots__:
        _check_integers(name, getattr(guessing, name), sessions)


def _check_integers(name: str, tensor: Tensor, *shape: int | None) -> None:
    check_dtype(name, tensor, [torch.int64])
    check_shape(name, tensor, *shape)
    strides = (tensor.shape[1], 1) if len(shape) == 2 else (1,)
    check_strides(name, tensor, *strides)


# --- the reference ---------------------------------------------------------------------------


def reference_gather_inputs(feed: DraftBuffer, count: int) -> StepInputs:
    """What `gather_inputs` fills in, session by session."""
    out = StepInputs.allocate(len(feed.line), count, feed.line.device)
    for b, done in enumerate(feed.done.tolist()):
        idle = not 0 <= done < feed.size
        start = 0 if idle else done
        line = feed.line[b, start : start + count]
        out.tokens[b], out.drafts[b] = (0 if idle else line), line[1:]
        out.slots[b] = -1 if idle else feed.places[b] + done
        out.positions[b] = -1 if idle else feed.positions[b] + done
        out.limits[b] = 0 if idle else min(feed.size - done, feed.width)
    return out


def reference_accept_drafts(
    feed: DraftBuffer, drawn: Tensor, accepted: Tensor, *, follow: bool
) -> tuple[DraftBuffer, DraftTargets]:
    """What `accept_drafts` makes of the feed, as a copy, and where heads guess from."""
    after = dataclasses.replace(
        feed, line=feed.line.clone(), done=feed.done.clone(), counts=feed.counts.clone()
    )
    guessing = DraftTargets.allocate(len(feed.line), feed.line.device)
    heads = feed.heads
    for b, (done, gain) in enumerate(zip(feed.done.tolist(), accepted.tolist(), strict=True)):
        row, base = 0, feed.size
        if 0 <= done < feed.size:
            end = min(feed.width, feed.size - done)
            after.line[b, done + 1 : done + 1 + end] = drawn[b, :end]
            after.done[b] += gain
            drafted = follow and done > 0
            after.counts[b, :3] += torch.tensor([1, gain, 0 if drafted else gain - 1]).to(drawn)
            if drafted:
                after.counts[b, 3 : 3 + min(heads, feed.size - done - 1)] += 1
                after.counts[b, 3 + heads : 3 + heads + min(heads, gain - 1)] += 1
            row = gain - 1 if follow else feed.width - 1
            base = done + row
        guessing.rows[b], guessing.bases[b] = b * drawn.shape[1] + row, base
        guessing.positions[b] = feed.positions[b] + base if base + 1 < feed.size else -1
    return after, guessing


def reference_scatter_drafts(feed: DraftBuffer, guesses: Tensor, guessing: DraftTargets) -> Tensor:
    """The line [B, n] that `scatter_drafts` leaves."""
    line = feed.line.clone()
    for b, base in enumerate(guessing.bases.tolist()):
        for head in range(1, guesses.shape[1]):
            if guessing.positions[b] >= 0 and 0 <= base + head < feed.size:
                line[b, 1 + base + head] = guesses[b, head]
    return line
