"""Bookkeeping of wavefront decoding on the device: gather a wave's inputs, accept its tokens.

A latent is decoded in a fixed number of waves along its diagonals. Tables (`WaveTables`) say for
each wave which offsets of the latent are fed, with the tokens of which offsets, and how many of
these rows sample. Of the draft buffer, `num_accepted` counts waves here:

1. `gather_wave` reads the tokens to feed, their entries, noise positions, seeds and masks;
2. `accept_wave` writes the sampled tokens to the buffer and advances the session by one wave.

A row sees everything before the latent, the offsets of the latent before its own whose token has
been fed up to this wave, and its own offset. That follows from the wave in which each offset is
written, so one number per offset stands for the masks of all waves.

A session whose `num_accepted` is not the number of a wave is idle. Its rows get zeros at entry -1,
at which other kernels write, see and sample nothing, and its state does not change.

Bytes moved: one per row and entry of the ring, 66 KB per session for 20 rows and 3,300 entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels.checks import check_device, check_integers, check_tensor
from worldbridge.kernels.speculative import DraftBuffer, check_buffer

__all__ = [
    "WaveInputs",
    "WaveTables",
    "accept_wave",
    "accept_wave_kernel",
    "gather_wave",
    "gather_wave_kernel",
    "reference_accept_wave",
    "reference_gather_wave",
]

_ENTRIES = 1024  # of a mask, written at a time


# --- kernels ---------------------------------------------------------------------------------


@triton.jit
def gather_wave_kernel(
    buffer,
    num_accepted,
    first_entries,
    first_positions,
    seeds,
    offsets,
    sources,
    num_sampled,
    written,
    tokens,
    entries,
    positions,
    row_seeds,
    mask,
    buffer_stride,
    waves,
    ring,
    BLOCK: tl.constexpr,
):
    """Program (session, row)."""
    session, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tl.num_programs(1)
    step = tl.load(num_accepted + session)
    idle = (step < 0) | (step >= waves)
    wave = tl.where(idle, 0, step)
    offset = tl.where(idle, -1, tl.load(offsets + wave * rows + row))
    used = offset >= 0
    target = session * rows + row
    token = tl.load(buffer + session * buffer_stride + tl.load(sources + wave * rows + row))
    tl.store(tokens + target, tl.where(used, token, 0))
    first = tl.load(first_entries + session)
    tl.store(entries + target, tl.where(used, first + offset, -1))
    samples = used & (row < tl.load(num_sampled + wave))
    position = tl.load(first_positions + session) + offset
    tl.store(positions + target, tl.where(samples, position, -1))
    tl.store(row_seeds + target, tl.load(seeds + session))
    for begin in range(0, ring, BLOCK):
        entry = begin + tl.arange(0, BLOCK)
        other = entry - first  # an offset of the latent; negative: before the latent
        inside = (other >= 0) & (other <= offset)
        when = tl.load(written + other, mask=inside, other=0)
        seen = (other < 0) | (inside & ((when <= step) | (other == offset)))
        seen = (seen & used).to(tl.uint8)
        tl.store(mask + target * ring + entry, seen, mask=entry < ring)


@triton.jit
def accept_wave_kernel(
    buffer,
    num_accepted,
    counts,
    offsets,
    num_sampled,
    sampled,
    buffer_stride,
    counts_stride,
    waves,
    rows,
    BLOCK: tl.constexpr,
):
    """Program: one session."""
    session = tl.program_id(0).to(tl.int64)
    step = tl.load(num_accepted + session)
    if (step >= 0) & (step < waves):
        gain = tl.load(num_sampled + step)
        row = tl.arange(0, BLOCK)
        written = (row < rows) & (row < gain)
        offset = tl.load(offsets + step * rows + row, mask=written, other=0)
        token = tl.load(sampled + session * rows + row, mask=written, other=0)
        tl.store(buffer + session * buffer_stride + 1 + offset, token, mask=written)
        tl.store(num_accepted + session, step + 1)
        own = counts + session * counts_stride
        tl.store(own, tl.load(own) + 1)
        tl.store(own + 1, tl.load(own + 1) + gain)


# --- launchers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WaveTables:
    """The waves of a latent of `size` tokens, int64.

    Offset i holds token i - 1 of the latent and decides token i; offset 0 holds the newest token of
    the previous latent.
    """

    offsets: Tensor  # [waves, rows], where each row is fed; -1: padding
    sources: Tensor  # [waves, rows], the offset whose token is fed there; 0 for padding
    num_sampled: Tensor  # [waves], how many rows, from the first on, sample
    written: Tensor  # [size], the wave in which each offset gets its final token

    @property
    def rows(self) -> int:
        return self.offsets.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, for checks."""
        return {name: getattr(self, name) for name in WaveTables.__slots__}


@dataclass(frozen=True, slots=True)
class WaveInputs:
    """Inputs of one wave, per row. Rows of idle sessions and padding have entry and position -1."""

    tokens: Tensor  # int64 [B, rows]
    entries: Tensor  # int64 [B, rows], of the ring
    positions: Tensor  # int64 [B, rows], absolute, of the token sampled; -1: none
    seeds: Tensor  # int64 [B, rows]
    mask: Tensor  # bool [B, rows, S], visible entries

    @classmethod
    def allocate(cls, sessions: int, rows: int, ring: int, device: torch.device) -> WaveInputs:
        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        tokens, entries, positions, seeds = (zeros(torch.int64, sessions, rows) for _ in range(4))
        return cls(tokens, entries, positions, seeds, zeros(torch.bool, sessions, rows, ring))

    def first(self, sessions: int) -> WaveInputs:
        """Return views of the first `sessions` sessions."""
        return WaveInputs(*(getattr(self, name)[:sessions] for name in WaveInputs.__slots__))


def gather_wave(buffer: DraftBuffer, tables: WaveTables, seeds: Tensor, out: WaveInputs) -> None:
    """Fill `out` with the sessions' next wave; seeds int64 [B] are taken as 64 bits.

    `buffer.width` is not used. Raises KernelArgumentError.
    """
    sessions = _check_buffer(buffer, tables)
    check_integers("seeds", seeds, sessions)
    for name in ("tokens", "entries", "positions", "seeds"):
        check_integers(f"out.{name}", getattr(out, name), sessions, tables.rows)
    ring = out.mask.shape[-1]
    strides = (tables.rows * ring, ring, 1)
    check_tensor("mask", out.mask, [torch.bool], (sessions, tables.rows, None), strides)
    outputs = {"out.tokens": out.tokens, "mask": out.mask}
    check_device(seeds=seeds, **buffer.tensors(), **tables.tensors(), **outputs)
    gather_wave_kernel[sessions, tables.rows](
        buffer.tokens,
        buffer.num_accepted,
        buffer.first_entries,
        buffer.first_positions,
        seeds,
        tables.offsets,
        tables.sources,
        tables.num_sampled,
        tables.written,
        out.tokens,
        out.entries,
        out.positions,
        out.seeds,
        out.mask.view(torch.uint8),
        buffer.tokens.stride(0),
        len(tables.offsets),
        ring,
        BLOCK=min(_ENTRIES, triton.next_power_of_2(ring)),
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=True,
    )


def accept_wave(buffer: DraftBuffer, tables: WaveTables, sampled: Tensor) -> None:
    """Write a wave's tokens, int64 [B, rows], and advance the sessions.

    Raises KernelArgumentError.
    """
    sessions = _check_buffer(buffer, tables)
    check_integers("sampled", sampled, sessions, tables.rows)
    check_tensor("counts", buffer.counts, [torch.int64], (sessions, 3))
    check_device(sampled=sampled, **buffer.tensors(), **tables.tensors())
    accept_wave_kernel[(sessions,)](
        buffer.tokens,
        buffer.num_accepted,
        buffer.counts,
        tables.offsets,
        tables.num_sampled,
        sampled,
        buffer.tokens.stride(0),
        buffer.counts.stride(0),
        len(tables.offsets),
        tables.rows,
        BLOCK=triton.next_power_of_2(tables.rows),
        num_warps=1,
        num_stages=1,
        enable_fp_fusion=True,
    )


def _check_buffer(buffer: DraftBuffer, tables: WaveTables) -> int:
    sessions, waves = len(buffer.tokens), len(tables.offsets)
    check_buffer(buffer, sessions, 1)
    check_integers("tables.offsets", tables.offsets, None, None)
    check_integers("tables.sources", tables.sources, waves, tables.rows)
    check_integers("tables.num_sampled", tables.num_sampled, waves)
    check_integers("tables.written", tables.written, buffer.size)
    return sessions


# --- references ------------------------------------------------------------------------------


def reference_gather_wave(
    buffer: DraftBuffer, tables: WaveTables, seeds: Tensor, ring: int
) -> WaveInputs:
    """Compute what `gather_wave` writes, row by row."""
    out = WaveInputs.allocate(len(buffer.tokens), tables.rows, ring, buffer.tokens.device)
    out.entries.fill_(-1)
    out.positions.fill_(-1)
    for b, wave in enumerate(buffer.num_accepted.tolist()):
        out.seeds[b] = seeds[b]
        if not 0 <= wave < len(tables.offsets):
            continue
        first = int(buffer.first_entries[b])
        for row, offset in enumerate(tables.offsets[wave].tolist()):
            if offset < 0:
                continue
            out.tokens[b, row] = buffer.tokens[b, tables.sources[wave, row]]
            out.entries[b, row] = first + offset
            if row < int(tables.num_sampled[wave]):
                out.positions[b, row] = buffer.first_positions[b] + offset
            seen = (tables.written <= wave) & (torch.arange(buffer.size) <= offset)
            seen[offset] = True
            out.mask[b, row, :first] = True
            out.mask[b, row, first : first + buffer.size] = seen[: ring - first]
    return out


def reference_accept_wave(buffer: DraftBuffer, tables: WaveTables, sampled: Tensor) -> DraftBuffer:
    """Return the state that `accept_wave` leaves, as a copy."""
    after = buffer.clone()
    for b, wave in enumerate(buffer.num_accepted.tolist()):
        if 0 <= wave < len(tables.offsets):
            gain = int(tables.num_sampled[wave])
            after.tokens[b, 1 + tables.offsets[wave, :gain]] = sampled[b, :gain]
            after.num_accepted[b] += 1
            after.counts[b, :2] += torch.tensor([1, gain])
    return after
