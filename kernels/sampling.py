"""Drawing tokens and checking drafts on the device: top-k, top-p, Gumbel-argmax, prefix match.

No sort, no random state, nothing that the host has to wait for. Up to three launches:

1. `peaks_kernel`: the largest logit of every 64 codes. The k-th largest of these bounds the k-th
   largest logit from below, so few codes are left to look at. Only with top-k.
2. `threshold_kernel`, one program per row: bisects for the smallest logit that is kept. Of every
   interval it takes the elements nearest to the middle, so it ends after about as many passes as
   the number of candidates has bits, 32 at the most.
3. `sample_kernel`: argmax of logit / temperature + noise over what is kept. Noise is computed where
   something is kept and nowhere else. The program of a session that ends last compares tokens
   with drafts.

The rule is that of a sorted list: the `top_k` most likely codes are kept, and of these the nucleus,
the code that crosses `top_p` included. Codes whose logits are equal are kept or dropped together,
so what is kept does not depend on the order of codes; a sort would have to choose among them.

Noise belongs to positions: uniform numbers come from Philox4x64-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3") with key (seed, 0) and block counter
position * ceil(codes / 8) + code / 8 + 1, eight codes to a block. Drafts, batches and the order of
decoding therefore change no token.

Bytes moved: V * itemsize per row and launch; the bisection reads the row again for every pass, from
the L2 cache, or with top-k only the few candidates. 64 rows of 64,000 float32 logits are 16.4 MB.
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
    KernelArgumentError,
    check_device,
    check_dtype,
    check_integers,
    check_shape,
    check_strides,
    check_workspace,
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


# --- the kernels -----------------------------------------------------------------------------


@triton.jit
def _key(value):
    """An int32 that orders as the float does. Both zeros are one."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _value(key):
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _load(source, lanes, count, temperature, SCALED: tl.constexpr):
    value = tl.load(source + lanes, mask=lanes < count, other=float("-inf")).to(tl.float32)
    if SCALED:
        value = tl.div_rn(value, temperature)  # as exact as torch, so that both see equal numbers
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
    """The k-th largest of a block of keys: the largest x that k of them reach."""
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
    """Copies what is not below the bound to the front of `candidates`; how many that is."""
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
    """Number or mass of what is above `middle`, and the keys next to it: above, and not above."""
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
    """The smallest key above which lies no more than `most`.

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
        tl.debug_barrier()  # other threads read what was just written
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
    """Four 64-bit words for every counter (its upper 192 bits zero), key (seed, 0)."""
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
    """Gumbel noise [GROUPS, 8]: 24 bits of every half of the words, the lower half first."""
    a, b, c, d = _philox(counter, seed)
    words = tl.join(tl.join(a, c), tl.join(b, d))  # a, b, c, d in the order of memory
    bits = tl.reshape(tl.join((words >> 8) & 0xFFFFFF, words >> 40), (GROUPS, 8))
    uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * 5.9604644775390625e-08  # 2 ** -24
    # the largest number plus a half is rounded up to 1, whose noise would be infinite
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
    """Score and code of the best of GROUPS * 8 codes; the lower code of equal ones."""
    group = tl.arange(0, GROUPS)
    lane = first + group[:, None] * 8 + tl.arange(0, 8)[None, :]
    score = _load(logits, lane, vocabulary, temperature, SCALED and not GREEDY)
    if not GREEDY:
        kept = (score >= threshold) & (lane < vocabulary)
        noise = tl.zeros((GROUPS, 8), tl.float32)
        if tl.max(tl.max(kept.to(tl.int32), axis=1), axis=0) > 0:  # mostly nothing is
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
    """Tokens of a session from the best of its chunks, and how many of them are final."""
    token = tl.arange(0, BLOCK_TOKENS)
    chunk = tl.arange(0, BLOCK_CHUNKS)
    inside = (token < count)[:, None] & (chunk < chunks)[None, :]
    place = (session * count + token)[:, None] * chunks + chunk[None, :]
    # .cg: others wrote them during this launch
    score = tl.load(scores + place, mask=inside, other=float("-inf"), cache_modifier=".cg")
    code = tl.load(codes + place, mask=inside, other=_HIGHEST, cache_modifier=".cg")
    best = tl.max(score, axis=1)
    drawn = tl.min(tl.where(score == best[:, None], code, _HIGHEST), axis=1)
    drawn = tl.minimum(drawn, vocabulary - 1).to(tl.int64)  # logits that are no numbers
    tl.store(tokens + session * count + token, drawn, mask=token < count)
    right = count - 1
    if DRAFTS:
        compared = token < count - 1
        draft = tl.load(drafts + session * (count - 1) + token, mask=compared, other=-1)
        wrong = compared & (draft != drawn)
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
        tl.debug_barrier()  # the scores have to be written before one thread says so
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


# --- the launchers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplingWorkspace:
    """Memory between the launches. Serves any call that is not larger.

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
    """Tokens int64 [B, T] and how many of each session's are final, int64 [B].

    logits [B, T, V], of which [b, t] decides the token at absolute position `positions[b]` + t;
    positions int64 [B], negative for idle sessions (tokens -1, none accepted); seeds int64 [B],
    taken as 64 bits. `drafts` int64 [B, T - 1] are the guesses that were fed: drafts[b, t] was
    the guess for token [b, t]. A token is final if every guess before it was right, so at least
    one is. `limits` int64 [B] is how many a session can take at most (default T). Without drafts
    every token is final. temperature 0 takes the most likely code, the lowest of equals.

    `out` (tokens, accepted) is written instead of new tensors. `chunk` codes are drawn by one
    program; it never changes a token.

    Raises KernelArgumentError when shapes, strides, types or settings do not fit.
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
    check_device(
        logits=logits,
        positions=positions,
        seeds=seeds,
        tokens=out[0],
        accepted=out[1],
        workspace=workspace.scores,
        drafts=drafts,
        limits=limits,
    )
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
        # here the assembler chose 128 for single tokens without limits, and spilled too
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
    """The smallest logit / temperature that is kept, float32 [B, T], for logits [B, T, V]."""
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
            # told no number, the assembler chose 48 behind triton 3.6, and spilled two of 51
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
        # Told no number of registers, the assembler chose 80 for float32 and spilled one (behind
        # triton 3.9); told 128, it spilled twelve (behind 3.6). There is one program a row, far
        # fewer than multiprocessors, so it costs nothing to let it have all that a thread can.
        num_warps=8,
        num_stages=2,
        maxnreg=255,
        enable_fp_fusion=False,
    )


def _check_logits(logits: Tensor) -> None:
    check_dtype("logits", logits, FLOATS)
    check_shape("logits", logits, None, None, None)
    check_strides("logits", logits, None, None, 1)


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
    if chunk < 64 or chunk & (chunk - 1):
        raise KernelArgumentError(
            "chunk", expected="a power of two of at least 64", got=str(chunk), remedy="leave it out"
        )
    return batch, tokens, vocabulary


def _check_settings(temperature: float, top_p: float, top_k: int) -> None:
    for name, fits, expected, value in (
        ("temperature", temperature >= 0, "a number of at least 0", temperature),
        ("top_p", 0 < top_p <= 1, "a number in (0, 1]", top_p),
        ("top_k", top_k >= 1, "at least 1", top_k),
    ):
        if not fits:
            raise KernelArgumentError(
                name, expected=expected, got=str(value), remedy="choose a value in that range"
            )


# --- the reference ---------------------------------------------------------------------------


def philox_uniform(seed: int, position: int, codes: int) -> Tensor:
    """Uniform numbers in (0, 1) of one position, float32 [codes], from NumPy's generator."""
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
    """Which codes of a row [V] may be drawn, by sorting. Codes that tie share their fate."""
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
    """What `sample_and_verify` is measured against, on the CPU, row by row."""
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
