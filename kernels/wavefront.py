"""The bookkeeping of diagonal decoding, on the device: what a step feeds, and what becomes of it.

A latent is drawn in a fixed number of steps, and tables made once say what each of them feeds:
which places of the latent, with the tokens of which places, and how many of these rows draw. A
session's `done` counts its steps:

1. `gather_wave` reads what is fed, where it goes, whose noise it draws with and what it sees;
2. `accept_wave` writes the draws into the session's line and moves `done` on.

A row sees everything before the latent, and of the latent what was written: the places before its
own whose token has been fed, up to this very step, and its own. That follows from the step in which
each place is written, so the masks of all steps are one number for each place of a latent.

A session whose `done` is not the number of a step is idle: its rows are fed zeros at slot -1, at
which other kernels write nothing, see nothing and draw nothing, and nothing of it changes.

Bytes moved: one for each row and slot of the ring, 66 KB per session with 20 rows and 3,300 slots.
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
from worldbridge.kernels.speculative import DraftBuffer

__all__ = [
    "WaveInputs",
    "WaveTables",
    "accept_wave",
    "accept_wave_kernel",
    "reference_accept_wave",
    "reference_gather_wave",
    "gather_wave",
    "gather_wave_kernel",
]

_SLOTS = 1024  # of a mask, written at a time


# --- the kernels -----------------------------------------------------------------------------


@triton.jit
def gather_wave_kernel(
    line,
    done,
    firsts,
    positions,
    seeds,
    places,
    sources,
    drawing,
    written,
    tokens,
    slots,
    drawn_at,
    row_seeds,
    mask,
    line_stride,
    stairs,
    ring,
    BLOCK: tl.constexpr,
):
    """Program (session, row)."""
    session, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tl.num_programs(1)
    step = tl.load(done + session)
    idle = (step < 0) | (step >= stairs)
    stair = tl.where(idle, 0, step)
    place = tl.where(idle, -1, tl.load(places + stair * rows + row))
    fed = place >= 0
    here = session * rows + row
    token = tl.load(line + session * line_stride + tl.load(sources + stair * rows + row))
    tl.store(tokens + here, tl.where(fed, token, 0))
    first = tl.load(firsts + session)
    tl.store(slots + here, tl.where(fed, first + place, -1))
    draws = fed & (row < tl.load(drawing + stair))
    tl.store(drawn_at + here, tl.where(draws, tl.load(positions + session) + place, -1))
    tl.store(row_seeds + here, tl.load(seeds + session))
    for begin in range(0, ring, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        other = slot - first  # a place of the latent, or before it
        inside = (other >= 0) & (other <= place)
        when = tl.load(written + other, mask=inside, other=0)
        seen = (other < 0) | (inside & ((when <= step) | (other == place)))
        seen = (seen & fed).to(tl.uint8)
        tl.store(mask + here * ring + slot, seen, mask=slot < ring)


@triton.jit
def accept_wave_kernel(
    line,
    done,
    counts,
    places,
    drawing,
    drawn,
    line_stride,
    counts_stride,
    stairs,
    rows,
    BLOCK: tl.constexpr,
):
    """Program: one session."""
    session = tl.program_id(0).to(tl.int64)
    step = tl.load(done + session)
    if (step >= 0) & (step < stairs):
        gain = tl.load(drawing + step)
        row = tl.arange(0, BLOCK)
        draws = (row < rows) & (row < gain)
        place = tl.load(places + step * rows + row, mask=draws, other=0)
        token = tl.load(drawn + session * rows + row, mask=draws, other=0)
        tl.store(line + session * line_stride + 1 + place, token, mask=draws)
        tl.store(done + session, step + 1)
        own = counts + session * counts_stride
        tl.store(own, tl.load(own) + 1)
        tl.store(own + 1, tl.load(own + 1) + gain)


# --- the launchers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WaveTables:
    """The steps of a latent of `size` tokens, int64. Place i leads to token i of the latent, and
    holds token i - 1; place 0 holds the newest token of the latent before."""

    places: Tensor  # [steps, rows] where each row is fed; -1: a row that is there for padding
    sources: Tensor  # [steps, rows] the places whose tokens are fed there, 0 for padding
    drawing: Tensor  # [steps] how many rows, the first ones, draw
    written: Tensor  # [size] the step in which each place gets the token that belongs there

    @property
    def rows(self) -> int:
        return self.places.shape[1]


@dataclass(frozen=True, slots=True)
class WaveInputs:
    """What one step feeds, for each row: int64 [B, rows] tokens, slots of the ring (-1: none),
    absolute positions of the tokens drawn (-1: none) and seeds; bool [B, rows, S] what it sees."""

    tokens: Tensor
    slots: Tensor
    positions: Tensor
    seeds: Tensor
    mask: Tensor

    @classmethod
    def allocate(cls, sessions: int, rows: int, ring: int, device: torch.device) -> WaveInputs:
        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        tokens, slots, positions, seeds = (zeros(torch.int64, sessions, rows) for _ in range(4))
        return cls(tokens, slots, positions, seeds, zeros(torch.bool, sessions, rows, ring))

    def first(self, sessions: int) -> WaveInputs:
        tensors = (self.tokens, self.slots, self.positions, self.seeds, self.mask)
        return WaveInputs(*(tensor[:sessions] for tensor in tensors))


def gather_wave(feed: DraftBuffer, tables: WaveTables, seeds: Tensor, out: WaveInputs) -> None:
    """Fill `out` with what the sessions feed next; seeds int64 [B], taken as 64 bits.

    Of `feed`, `done` counts steps and `width` is not used. Raises KernelArgumentError.
    """
    sessions = _check_feed(feed, tables)
    _check_integers("seeds", seeds, sessions)
    for name in ("tokens", "slots", "positions", "seeds"):
        _check_integers(f"out.{name}", getattr(out, name), sessions, tables.rows)
    check_dtype("mask", out.mask, [torch.bool])
    check_shape("mask", out.mask, sessions, tables.rows, None)
    ring = out.mask.shape[2]
    check_strides("mask", out.mask, tables.rows * ring, ring, 1)
    check_device(
        line=feed.line,
        done=feed.done,
        first=feed.places,
        positions=feed.positions,
        seeds=seeds,
        places=tables.places,
        sources=tables.sources,
        drawing=tables.drawing,
        written=tables.written,
        tokens=out.tokens,
        mask=out.mask,
    )
    gather_wave_kernel[sessions, tables.rows](
        feed.line,
        feed.done,
        feed.places,
        feed.positions,
        seeds,
        tables.places,
        tables.sources,
        tables.drawing,
        tables.written,
        out.tokens,
        out.slots,
        out.positions,
        out.seeds,
        out.mask.view(torch.uint8),
        feed.line.stride(0),
        len(tables.places),
        ring,
        BLOCK=min(_SLOTS, triton.next_power_of_2(ring)),
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=True,
    )


def accept_wave(feed: DraftBuffer, tables: WaveTables, drawn: Tensor) -> None:
    """Take over what the rows drew, int64 [B, rows]. Raises KernelArgumentError."""
    sessions = _check_feed(feed, tables)
    _check_integers("drawn", drawn, sessions, tables.rows)
    check_dtype("counts", feed.counts, [torch.int64])
    check_shape("counts", feed.counts, sessions, 3)
    check_strides("counts", feed.counts, None, 1)
    check_device(
        line=feed.line,
        done=feed.done,
        counts=feed.counts,
        places=tables.places,
        drawing=tables.drawing,
        drawn=drawn,
    )
    accept_wave_kernel[(sessions,)](
        feed.line,
        feed.done,
        feed.counts,
        tables.places,
        tables.drawing,
        drawn,
        feed.line.stride(0),
        feed.counts.stride(0),
        len(tables.places),
        tables.rows,
        BLOCK=triton.next_power_of_2(tables.rows),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def _check_feed(feed: DraftBuffer, tables: WaveTables) -> int:
    sessions, steps = len(feed.line), len(tables.places)
    for name in ("done", "places", "positions"):
        _check_integers(name, getattr(feed, name), sessions)
    check_dtype("line", feed.line, [torch.int64])
    check_strides("line", feed.line, None, 1)
    if feed.line.shape[1] < feed.size + 1:
        raise KernelArgumentError(
            "line",
            expected=f"at least {feed.size} + 1 tokens per session",
            got=str(feed.line.shape[1]),
            remedy="leave room for the token before the latent",
        )
    _check_integers("tables.places", tables.places, None, None)
    _check_integers("tables.sources", tables.sources, steps, tables.rows)
    _check_integers("tables.drawing", tables.drawing, steps)
    _check_integers("tables.written", tables.written, feed.size)
    return sessions


def _check_integers(name: str, tensor: Tensor, *shape: int | None) -> None:
    check_dtype(name, tensor, [torch.int64])
    check_shape(name, tensor, *shape)
    strides = (tensor.shape[1], 1) if len(shape) == 2 else (1,)
    check_strides(name, tensor, *strides)


# --- the reference ---------------------------------------------------------------------------


def reference_gather_wave(
    feed: DraftBuffer, tables: WaveTables, seeds: Tensor, ring: int
) -> WaveInputs:
    """What `gather_wave` fills in, row by row."""
    out = WaveInputs.allocate(len(feed.line), tables.rows, ring, feed.line.device)
    out.slots.fill_(-1)
    out.positions.fill_(-1)
    for b, step in enumerate(feed.done.tolist()):
        out.seeds[b] = seeds[b]
        if not 0 <= step < len(tables.places):
            continue
        first = int(feed.places[b])
        for row, place in enumerate(tables.places[step].tolist()):
            if place < 0:
                continue
            out.tokens[b, row] = feed.line[b, tables.sources[step, row]]
            out.slots[b, row] = first + place
            if row < int(tables.drawing[step]):
                out.positions[b, row] = feed.positions[b] + place
            there = (tables.written <= step) & (torch.arange(feed.size) <= place)
            there[place] = True
            out.mask[b, row, :first] = True
            out.mask[b, row, first : first + feed.size] = there[: ring - first]
    return out


def reference_accept_wave(feed: DraftBuffer, tables: WaveTables, drawn: Tensor) -> DraftBuffer:
    """What `accept_wave` makes of the feed, as a copy."""
    after = dataclasses.replace(
        feed, line=feed.line.clone(), done=feed.done.clone(), counts=feed.counts.clone()
    )
    for b, step in enumerate(feed.done.tolist()):
        if 0 <= step < len(tables.places):
            gain = int(tables.drawing[step])
            after.line[b, 1 + tables.places[step, :gain]] = drawn[b, :gain]
            after.done[b] += 1
            after.counts[b, :2] += torch.tensor([1, gain])
    return after
