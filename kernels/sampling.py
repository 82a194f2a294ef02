"""Sample tokens and verify drafts on the device: top-k, top-p, Gumbel-argmax, prefix match.

There is no sort, no random state, and nothing for which the host has to wait. Up to three launches:

1. `peaks_kernel`, with top-k only: the largest logit of every 64 codes. The k-th largest of these
   bounds the k-th largest logit from below, so few candidates remain.
2. `threshold_kernel`, one program per row: bisects for the smallest logit that is kept. Of every
   interval it takes the elements nearest to the middle, so the number of passes is about the number
   of bits of the number of candidates, at most 32.
3. `sample_kernel`: argmax of logit / temperature + noise over the kept codes. Noise is computed
   only where a code is kept. A session's last program to finish compares tokens with drafts.

The rule is that of a sorted list: the `top_k` most likely codes are kept, and of these the nucleus
up to and including the code that crosses `top_p`. Codes with equal logits are kept or dropped
together, so the result does not depend on the order of codes.

Noise belongs to positions: uniform numbers come from Philox4x64-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3") with key (seed, 0) and block counter
position * ceil(codes / 8) + code / 8 + 1, eight codes per block. So drafts, batches and the
order of decoding never change a token.

Bytes moved: V * itemsize per row and launch. Each pass of the bisection reads the row again, from
the L2 cache, or with top-k the candidates alone. 64 rows of 64,000 float32 logits are 16.4 MB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from worldbridge.kernels.checks import (
    FLOATS,
    check_device,
    check_integers,
    check_tensor,
    check_workspace,
    require,
)

__all__ = [
    "SamplingWorkspace",
    "sample_kernel",
    "sampling_thresholds",
    "peaks_kernel",
    "philox_uniform",
    "reference_filter",
    "reference_sample_and_verify",
    "sample_and_verify",
    "threshold_kernel",
]

_GROUP = 64  # codes that share a peak
_LOWEST = tl.constexpr(-(2**31))
_HIGHEST = tl.constexpr(2**31 - 1)


# --- kernels ---------------------------------------------------------------------------------


@triton.jit
def _key(value):
    """Return an int32 that orders as the float does; both zeros are equal."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _value(key):
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _load(source, lanes, count, temperature, SCALED: tl.constexpr):
    value = tl.load(source + lanes, mask=lanes < count, other=float("-inf")).to(tl.float32)
    if SCALED:
        value = tl.div_rn(value, temperature)  # rounds as torch does
    return value


@triton.jit
def peaks_kernel(
    logits,
    peaks,
    row_stride,
    vocabulary,
    groups,
    temperature,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Program (chunk of BLOCK groups, row)."""
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lanes = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    row = tl.program_id(1).to(tl.int64)
    value = _load(logits + row * row_stride, lanes, vocabulary, temperature, SCALED)
    tl.store(peaks + row * groups + group, tl.max(value, axis=1), mask=group < groups)


@triton.jit
def _kth(keys, k):
    """Return the k-th largest of a block of keys: the largest x that k of them reach."""
    low = tl.full((), _LOWEST, tl.int32)
    high = tl.full((), _HIGHEST, tl.int32)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)  # rounds up; never overflows
        enough = tl.sum((keys >= middle).to(tl.int32), axis=0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low


@triton.jit
def _gather(
    logits, candidates, vocabulary, bound, temperature, BLOCK: tl.constexpr, SCALED: tl.constexpr
):
    """Copy values not below the bound to the front of `candidates`; return their number."""
    count = 0
    for start in range(0, vocabulary, BLOCK):
        lanes = start + tl.arange(0, BLOCK)
        value = _load(logits, lanes, vocabulary, temperature, SCALED)
        take = ((_key(value) >= bound) & (lanes < vocabulary)).to(tl.int32)
        place = count + tl.cumsum(take, axis=0) - take
        tl.store(candidates + place, value, mask=take != 0)
        count += tl.sum(take, axis=0)
    return count


@triton.jit
def _above(
    source,
    count,
    temperature,
    middle,
    top,
    BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    MASS: tl.constexpr,
):
    """Return the number or mass of what is above `middle`, and the nearest keys on both sides."""
    sums = tl.zeros((BLOCK,), tl.float32)
    above = tl.full((BLOCK,), _HIGHEST, tl.int32)
    below = tl.full((BLOCK,), _LOWEST, tl.int32)
    for start in range(0, count, BLOCK):
        lanes = start + tl.arange(0, BLOCK)
        value = _load(source, lanes, count, temperature, SCALED)
        key = tl.where(lanes < count, _key(value), _LOWEST)
        higher = key > middle
        if MASS:
            sums += tl.where(higher, tl.exp(value - top), 0.0)
        else:
            sums += higher.to(tl.float32)
        above = tl.minimum(above, tl.where(higher, key, _HIGHEST))
        below = tl.maximum(below, tl.where(higher, _LOWEST, key))
    return tl.sum(sums, axis=0), tl.min(above, axis=0), tl.max(below, axis=0)


@triton.jit
def _smallest(
    source,
    count,
    temperature,
    low,
    high,
    most,
    top,
    BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    MASS: tl.constexpr,
):
    """Return the smallest key above which lies no more than `most`.

    `high` is the key of an element that is kept; nothing up to `low` is.
    """
    searching = low < high
    while searching:
        middle = (low & high) + ((low ^ high) >> 1)  # rounds down; never overflows
        total, above, below = _above(source, count, temperature, middle, top, BLOCK, SCALED, MASS)
        kept = total <= most  # then so is the next element below, if there is one
        more = below > low
        searching = tl.where(kept, more, above != high)
        high = tl.where(kept, tl.where(more, below, above), high)
        low = tl.where(kept, low, middle)
    return high


@triton.jit
def _row_threshold(
    source,
    count,
    low,
    temperature,
    top_k,
    top_p,
    BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
):
    _, _, high = _above(source, count, temperature, _HIGHEST, 0.0, BLOCK, SCALED, False)
    top = _value(high)
    result = high
    if TOP_K:
        most = (top_k - 1).to(tl.float32)
        result = _smallest(source, count, temperature, low, high, most, top, BLOCK, SCALED, False)
        low = result - 1
    if TOP_P:
        mass, _, _ = _above(source, count, temperature, low, top, BLOCK, SCALED, True)
        result = _smallest(
            source, count, temperature, low, high, mass * top_p, top, BLOCK, SCALED, True
        )
    return _value(result)


@triton.jit(do_not_specialize=["top_k"])  # 1 would become a constant, which cannot be converted
def threshold_kernel(
    logits,
    peaks,
    candidates,
    thresholds,
    row_stride,
    vocabulary,
    groups,
    temperature,
    top_k,
    top_p,
    BLOCK: tl.constexpr,
    PEAKS: tl.constexpr,
    SCALED: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    COMPACT: tl.constexpr,
):
    """Program: one row. PEAKS is the number of groups, rounded up to a power of two."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    low = tl.full((), _LOWEST, tl.int32)
    if COMPACT:
        group = tl.arange(0, PEAKS)
        peak = tl.load(peaks + row * groups + group, mask=group < groups, other=float("-inf"))
        bound = _kth(tl.where(group < groups, _key(peak), _LOWEST), top_k)
        candidates += row * vocabulary
        count = _gather(logits, candidates, vocabulary, bound, temperature, BLOCK, SCALED)
        tl.debug_barrier()  # other threads read what this one wrote
        result = _row_threshold(
            candidates, count, bound - 1, temperature, top_k, top_p, BLOCK, False, TOP_K, TOP_P
        )
    else:
        result = _row_threshold(
            logits, vocabulary, low, temperature, top_k, top_p, BLOCK, SCALED, TOP_K, TOP_P
        )
    tl.store(thresholds + row, result)


@triton.jit
def _philox(counter, seed):
    """Return four 64-bit words per counter, whose upper 192 bits are zero, for key (seed, 0)."""
    a = counter
    b = tl.zeros_like(counter)
    c = tl.zeros_like(counter)
    d = tl.zeros_like(counter)
    first = seed
    second = tl.zeros_like(seed)
    for _ in tl.static_range(10):
        high_a = tl.umulhi(a, tl.full(a.shape, 0xD2E7470EE14C6C93, tl.uint64))
        low_a = a * 0xD2E7470EE14C6C93
        high_c = tl.umulhi(c, tl.full(c.shape, 0xCA5A826395121157, tl.uint64))
        low_c = c * 0xCA5A826395121157
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first += 0x9E3779B97F4A7C15
        second += 0xBB67AE8584CAA73B
    return a, b, c, d


@triton.jit
def _gumbel(counter, seed, GROUPS: tl.constexpr):
    """Return Gumbel noise [GROUPS, 8] from 24 bits of each half word, the lower half first."""
    a, b, c, d = _philox(counter, seed)
    words = tl.join(tl.join(a, c), tl.join(b, d))  # a, b, c, d in the order of memory
    bits = tl.reshape(tl.join((words >> 8) & 0xFFFFFF, words >> 40), (GROUPS, 8))
    uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * 5.9604644775390625e-08  # 2 ** -24
    # the largest number plus a half rounds to 1, whose noise would be infinite
    return -tl.log(-tl.log(tl.minimum(uniform, 0.999999940395355224609375)))  # 1 - 2 ** -24


@triton.jit
def _chunk_best(
    logits,
    first,
    vocabulary,
    threshold,
    temperature,
    counter,
    seed,
    GROUPS: tl.constexpr,
    SCALED: tl.constexpr,
    GREEDY: tl.constexpr,
):
    """Return score and code of the best of GROUPS * 8 codes; the lower code of equal ones."""
    group = tl.arange(0, GROUPS)
    lane = first + group[:, None] * 8 + tl.arange(0, 8)[None, :]
    score = _load(logits, lane, vocabulary, temperature, SCALED and not GREEDY)
    if not GREEDY:
        kept = (score >= threshold) & (lane < vocabulary)
        noise = tl.zeros((GROUPS, 8), tl.float32)
        if tl.max(tl.max(kept.to(tl.int32), axis=1), axis=0) > 0:  # mostly not
            noise = _gumbel(counter + group.to(tl.uint64), seed, GROUPS)
        score = tl.where(kept, score + noise, float("-inf"))
    best = tl.max(tl.max(score, axis=1), axis=0)
    code = tl.where((score == best) & (lane < vocabulary), lane, _HIGHEST)
    return best, tl.min(tl.min(code, axis=1), axis=0)


@triton.jit
def _verify(
    scores,
    codes,
    tokens,
    drafts,
    accepted,
    session,
    count,
    chunks,
    limit,
    vocabulary,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    DRAFTS: tl.constexpr,
):
    """Write a session's tokens, from the best of its chunks, and how many are accepted."""
    token = tl.arange(0, BLOCK_TOKENS)
    chunk = tl.arange(0, BLOCK_CHUNKS)
    inside = (token < count)[:, None] & (chunk < chunks)[None, :]
    place = (session * count + token)[:, None] * chunks + chunk[None, :]
    # .cg: other programs wrote these during this launch
    score = tl.load(scores + place, mask=inside, other=float("-inf"), cache_modifier=".cg")
    code = tl.load(codes + place, mask=inside, other=_HIGHEST, cache_modifier=".cg")
    best = tl.max(score, axis=1)
    sampled = tl.min(tl.where(score == best[:, None], code, _HIGHEST), axis=1)
    sampled = tl.minimum(sampled, vocabulary - 1).to(tl.int64)  # if all logits are NaN
    tl.store(tokens + session * count + token, sampled, mask=token < count)
    right = count - 1
    if DRAFTS:
        compared = token < count - 1
        draft = tl.load(drafts + session * (count - 1) + token, mask=compared, other=-1)
        wrong = compared & (draft != sampled)
        right = tl.min(tl.where(wrong, token, count - 1), axis=0)
    tl.store(accepted + session, tl.minimum((right + 1).to(tl.int64), limit))


@triton.jit
def sample_kernel(
    logits,
    thresholds,
    positions,
    seeds,
    drafts,
    limits,
    tokens,
    accepted,
    scores,
    codes,
    counters,
    batch_stride,
    token_stride,
    vocabulary,
    temperature,
    GROUPS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    SCALED: tl.constexpr,
    GREEDY: tl.constexpr,
    ALL: tl.constexpr,
    DRAFTS: tl.constexpr,
    LIMITS: tl.constexpr,
):
    """Program (chunk of GROUPS * 8 codes, token, session). `counters`, int32 [B], stays zero."""
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    token, count = tl.program_id(1), tl.num_programs(1)
    session = tl.program_id(2)
    position = tl.load(positions + session)
    row = session * count + token
    if position >= 0:
        threshold = float("-inf")
        if not ALL:
            threshold = tl.load(thresholds + row)
        blocks = (vocabulary + 7) // 8  # of noise, per position
        counter = (position + token).to(tl.uint64) * blocks.to(tl.uint64) + 1
        counter += (chunk * GROUPS).to(tl.uint64)
        source = logits + session.to(tl.int64) * batch_stride + token * token_stride
        score, code = _chunk_best(
            source,
            chunk * GROUPS * 8,
            vocabulary,
            threshold,
            temperature,
            counter,
            tl.load(seeds + session).to(tl.uint64),
            GROUPS,
            SCALED,
            GREEDY,
        )
        tl.store(scores + row * chunks + chunk, score)
        tl.store(codes + row * chunks + chunk, code)
        tl.debug_barrier()  # every thread must have written its scores before one thread counts
        if tl.atomic_add(counters + session, 1, sem="acq_rel") == chunks * count - 1:
            limit = count.to(tl.int64)
            if LIMITS:
                limit = tl.load(limits + session)
            _verify(
                scores,
                codes,
                tokens,
                drafts,
                accepted,
                session,
                count,
                chunks,
                limit,
                vocabulary,
                BLOCK_TOKENS,
                BLOCK_CHUNKS,
                DRAFTS,
            )
            tl.store(counters + session, 0)
    else:
        if chunk == 0:
            tl.store(tokens + row, tl.full((), -1, tl.int64))
            tl.store(accepted + session, tl.full((), 0, tl.int64))


# --- launchers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplingWorkspace:
    """Memory between the launches, for any call that is not larger.

    `counters` must be zero before the first call; every call leaves them at zero.
    """

    peaks: Tensor  # float32
    candidates: Tensor  # float32
    thresholds: Tensor  # float32
    scores: Tensor  # float32
    codes: Tensor  # int32
    counters: Tensor  # int32

    @classmethod
    def allocate(
        cls, batch: int, tokens: int, vocabulary: int, device: torch.device | str, chunk: int = 4096
    ) -> SamplingWorkspace:
        rows = batch * tokens
        best = rows * triton.cdiv(vocabulary, chunk)

        def floats(size: int) -> Tensor:
            return torch.empty(size, dtype=torch.float32, device=device)

        return cls(
            peaks=floats(rows * triton.cdiv(vocabulary, _GROUP)),
            candidates=floats(rows * vocabulary),
            thresholds=floats(rows),
            scores=floats(best),
            codes=torch.empty(best, dtype=torch.int32, device=device),
            counters=torch.zeros(batch, dtype=torch.int32, device=device),
        )


def sample_and_verify(
    logits: Tensor,
    positions: Tensor,
    seeds: Tensor,
    drafts: Tensor | None = None,
    *,
    limits: Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 0.9,
    top_k: int = 32,
    out: tuple[Tensor, Tensor] | None = None,
    workspace: SamplingWorkspace | None = None,
    chunk: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Sample tokens int64 [B, T] and accept a prefix of each session's; return both, int64 [B].

    Args:
        logits: [B, T, V]; row [b, t] decides the token at absolute position `positions[b]` + t.
        positions: int64 [B], negative for idle sessions (tokens -1, none accepted).
        seeds: int64 [B], taken as 64 bits.
        drafts: int64 [B, T - 1] that were fed; [b, t] is the draft of token [b, t]. A token is
            accepted if every draft before it matches, so at least one is; all without drafts.
        limits: int64 [B], the most tokens that a session may accept; by default T.
        temperature: At 0 the most likely code is taken, the lowest of equal ones.
        top_p: In (0, 1].
        top_k: At least 1.
        out: Tokens and accepted numbers; allocated if left out.
        workspace: Allocated if left out.
        chunk: Codes per program; never changes a token.

    Raises:
        KernelArgumentError: A shape, stride, dtype, device or setting does not fit.
    """
    batch, tokens, vocabulary = _check(logits, positions, seeds, drafts, limits, chunk)
    _check_settings(temperature, top_p, top_k)
    if workspace is None:
        workspace = SamplingWorkspace.allocate(batch, tokens, vocabulary, logits.device, chunk)
    needed = SamplingWorkspace.allocate(batch, tokens, vocabulary, "meta", chunk)
    check_workspace(workspace, needed)
    if out is None:
        out = positions.new_empty((batch, tokens)), positions.new_empty(batch)
    check_integers("tokens", out[0], batch, tokens)
    check_integers("accepted", out[1], batch)
    sessions = {"positions": positions, "seeds": seeds, "drafts": drafts, "limits": limits}
    outputs = {"tokens": out[0], "accepted": out[1], "workspace": workspace.scores}
    check_device(logits=logits, **sessions, **outputs)
    keep_all = temperature == 0 or (top_p == 1 and top_k >= vocabulary)
    if not keep_all:
        _find_thresholds(logits, workspace, temperature, top_p, top_k)
    chunks = triton.cdiv(vocabulary, chunk)
    sample_kernel[chunks, tokens, batch](
        logits,
        workspace.thresholds,
        positions,
        seeds,
        drafts,
        limits,
        *out,
        workspace.scores,
        workspace.codes,
        workspace.counters,
        logits.stride(0),
        logits.stride(1),
        vocabulary,
        float(temperature),
        GROUPS=chunk // 8,
        BLOCK_TOKENS=triton.next_power_of_2(tokens),
        BLOCK_CHUNKS=triton.next_power_of_2(chunks),
        SCALED=temperature != 1,
        GREEDY=temperature == 0,
        ALL=keep_all,
        DRAFTS=drafts is not None and tokens > 1,
        LIMITS=limits is not None,
        # by default the assembler takes 128 for single tokens without limits, and spills
        num_warps=4,
        num_stages=1,
        maxnreg=160,
        enable_fp_fusion=False,
    )
    return out


def sampling_thresholds(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 0.9,
    top_k: int = 32,
    workspace: SamplingWorkspace | None = None,
) -> Tensor:
    """Return the smallest logit / temperature that is kept, float32 [B, T], of logits [B, T, V]."""
    _check_logits(logits)
    _check_settings(temperature, top_p, top_k)
    batch, tokens, vocabulary = logits.shape
    if temperature == 0 or (top_p == 1 and top_k >= vocabulary):
        return torch.full((batch, tokens), -torch.inf, device=logits.device)
    if workspace is None:
        workspace = SamplingWorkspace.allocate(batch, tokens, vocabulary, logits.device)
    check_device(logits=logits, workspace=workspace.thresholds)
    _find_thresholds(logits, workspace, temperature, top_p, top_k)
    return workspace.thresholds[: batch * tokens].view(batch, tokens).clone()


def _find_thresholds(
    logits: Tensor, workspace: SamplingWorkspace, temperature: float, top_p: float, top_k: int
) -> None:
    batch, tokens, vocabulary = logits.shape
    rows, groups = batch * tokens, triton.cdiv(vocabulary, _GROUP)
    flat = logits.view(rows, vocabulary) if logits.is_contiguous() else logits.flatten(0, 1)
    block = min(4096, max(64, triton.next_power_of_2(vocabulary)))
    compact = top_k < vocabulary and top_k <= groups
    if compact:
        peak_block = min(64, triton.next_power_of_2(groups))
        peaks_kernel[triton.cdiv(groups, peak_block), rows](
            flat,
            workspace.peaks,
            flat.stride(0),
            vocabulary,
            groups,
            float(temperature),
            BLOCK=peak_block,
            GROUP=_GROUP,
            SCALED=temperature != 1,
            # by default the assembler takes 48 under triton 3.6, and spills two of 51
            num_warps=4,
            num_stages=1,
            maxnreg=80,
            enable_fp_fusion=False,
        )
    threshold_kernel[(rows,)](
        flat,
        workspace.peaks,
        workspace.candidates,
        workspace.thresholds,
        flat.stride(0),
        vocabulary,
        groups,
        float(temperature),
        top_k,
        float(top_p),
        BLOCK=block,
        PEAKS=triton.next_power_of_2(groups),
        SCALED=temperature != 1,
        TOP_K=top_k < vocabulary,
        TOP_P=top_p < 1,
        COMPACT=compact,
        # By default the assembler takes 80 registers for float32 and spills one (triton 3.9); with
        # 128 it spills twelve (3.6). There are fewer programs than multiprocessors, so giving each
        # thread all the registers that it can have costs nothing.
        num_warps=8,
        num_stages=2,
        maxnreg=255,
        enable_fp_fusion=False,
    )


def _check_logits(logits: Tensor) -> None:
    check_tensor("logits", logits, FLOATS, (None, None, None))


def _check(
    logits: Tensor,
    positions: Tensor,
    seeds: Tensor,
    drafts: Tensor | None,
    limits: Tensor | None,
    chunk: int,
) -> tuple[int, int, int]:
    _check_logits(logits)
    batch, tokens, vocabulary = logits.shape
    check_integers("positions", positions, batch)
    check_integers("seeds", seeds, batch)
    if drafts is not None and not (tokens == 1 and drafts.numel() == 0):
        check_integers("drafts", drafts, batch, tokens - 1)
    if limits is not None:
        check_integers("limits", limits, batch)
    fits = chunk >= 64 and chunk & (chunk - 1) == 0
    require(fits, "chunk", "a power of two of at least 64", chunk, "leave it out")
    return batch, tokens, vocabulary


def _check_settings(temperature: float, top_p: float, top_k: int) -> None:
    for name, fits, expected, value in (
        ("temperature", temperature >= 0, "a number of at least 0", temperature),
        ("top_p", 0 < top_p <= 1, "a number in (0, 1]", top_p),
        ("top_k", top_k >= 1, "at least 1", top_k),
    ):
        require(fits, name, expected, value, "choose a value in that range")


# --- references ------------------------------------------------------------------------------


def philox_uniform(seed: int, position: int, codes: int) -> Tensor:
    """Return the uniform numbers in (0, 1) of one position, float32 [codes], by NumPy."""
    blocks = triton.cdiv(codes, 8)
    generator = np.random.Philox(key=np.array([seed & (2**64 - 1), 0], dtype=np.uint64))
    generator.advance(position * blocks)
    raw = generator.random_raw(4 * blocks).view(np.uint32)[:codes]
    numbers = torch.from_numpy((raw >> np.uint32(8)).astype(np.float32))
    return numbers.add_(0.5).mul_(2.0**-24).clamp_(max=1 - 2.0**-24)


def reference_filter(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 0.9,
    top_k: int = 32,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """Return which codes of a row [V] are kept, by sorting; equal logits are treated alike."""
    scaled = (logits.float() / temperature).to(precision)
    ranked = scaled.sort(descending=True).values
    ranked = ranked[ranked >= ranked[min(top_k, len(ranked)) - 1]]
    probability = ranked.softmax(-1)
    before = probability.cumsum(-1) - probability
    return scaled >= ranked[before <= top_p].min()


def reference_sample_and_verify(
    logits: Tensor,
    positions: Tensor,
    seeds: Tensor,
    drafts: Tensor | None = None,
    *,
    limits: Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 0.9,
    top_k: int = 32,
) -> tuple[Tensor, Tensor]:
    """Compute `sample_and_verify` on the CPU, row by row."""
    batch, count, vocabulary = logits.shape
    tokens = torch.full((batch, count), -1, dtype=torch.int64)
    accepted = torch.zeros(batch, dtype=torch.int64)
    for b in range(batch):
        if int(positions[b]) < 0:
            continue
        for t in range(count):
            row = logits[b, t].float().cpu()
            if temperature == 0:
                tokens[b, t] = row.argmax()
                continue
            uniform = philox_uniform(int(seeds[b]), int(positions[b]) + t, vocabulary)
            score = row / temperature - (-uniform.log()).log()
            kept = reference_filter(row, temperature=temperature, top_p=top_p, top_k=top_k)
            tokens[b, t] = score.masked_fill(~kept, -torch.inf).argmax()
        right = count - 1
        if drafts is not None:
            right = int((tokens[b, :-1] == drafts[b].cpu()).long().cumprod(0).sum())
        accepted[b] = min(right + 1, count if limits is None else int(limits[b]))
    return tokens.to(logits.device), accepted.to(logits.device)
