"""Sampling kernels: the reference's tokens, the sampler's in use, support, frequencies, drafts."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

import triton
import triton.language as tl

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import sampling
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.sampling import (
    SamplingWorkspace,
    _gumbel,
    philox_uniform,
    reference_filter,
    reference_sample_and_verify,
    sample_and_verify,
    sampling_thresholds,
)
from worldbridge.runtime.decoding import Sampling, position_noise, sample
from worldbridge.runtime.decoding.sampling import gumbel

interpreted = pytest.mark.usefixtures("interpreter")
SETTINGS: list[dict[str, Any]] = [
    {"top_p": 1.0, "top_k": 10**6},
    {"top_p": 0.9, "top_k": 32},
    {"top_p": 0.6, "top_k": 10**6, "temperature": 0.7},
    {"top_p": 1.0, "top_k": 3, "temperature": 1.3},
    {"top_p": 0.5, "top_k": 2},
    {"temperature": 0.0},
]


def poisoned(batch: int, tokens: int, codes: int, chunk: int) -> SamplingWorkspace:
    workspace = SamplingWorkspace.allocate(batch, tokens, codes, "cpu", chunk)
    for name in ("peaks", "candidates", "thresholds", "scores"):
        getattr(workspace, name).fill_(torch.nan)
    workspace.codes.fill_(-(10**9))
    return workspace


def in_use(logits: Tensor, positions: Tensor, seeds: Tensor, settings: dict[str, Any]) -> Tensor:
    """Tokens [B, T] by the sampler and the noise of the decoders."""
    batch, tokens, codes = logits.shape
    lanes = -(-codes // 8) * 8
    rows = []
    for b in range(batch):
        uniform = position_noise(int(seeds[b]), int(positions[b]), tokens, lanes)
        rows.append(sample(logits[b].float(), gumbel(uniform[:, :codes]), Sampling(**settings)))
    return torch.stack(rows)


def test_reference_noise_is_the_noise_in_use() -> None:
    for seed, position, codes in ((7, 0, 64), (-3, 10**12, 50), (2**63 - 1, 12345, 8)):
        lanes = -(-codes // 8) * 8
        expected = position_noise(seed, position, 1, lanes)[0, :codes]
        assert torch.equal(philox_uniform(seed, position, codes), expected)


@interpreted
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("codes", [8, 150])
def test_tokens_are_those_of_the_reference_and_of_the_sampler_in_use(
    codes: int, settings: dict[str, Any]
) -> None:
    torch.manual_seed(codes)
    batch, tokens = 2, 2
    wide = torch.randn(batch, tokens + 1, codes + 3) * 2
    logits = wide[:, 1:, 3:]
    positions, seeds = torch.tensor([0, 10**11]), torch.tensor([5, -(2**62)])
    out = torch.full((batch, tokens), -77), torch.full((batch,), -77)
    found = sample_and_verify(
        logits,
        positions,
        seeds,
        out=out,
        chunk=64,
        **settings,
        workspace=poisoned(batch, tokens, codes, 64),
    )
    expected = reference_sample_and_verify(logits, positions, seeds, **settings)
    assert found is out
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert torch.equal(found[0], in_use(logits, positions, seeds, settings))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_tie_and_ties_share_their_fate(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    logits = (torch.randn(1, 3, 150) * 2).to(dtype)
    assert len(logits[0, 0].unique()) < 150
    for settings in ({"top_p": 0.8, "top_k": 10**6}, {"top_p": 0.9, "top_k": 2}):
        thresholds = sampling_thresholds(logits, **settings)
        for t in range(3):
            kept = reference_filter(logits[0, t], **settings)
            assert torch.equal(logits[0, t].float() >= thresholds[0, t], kept)
    found = sample_and_verify(logits, torch.tensor([3]), torch.tensor([4]), chunk=64)
    expected = reference_sample_and_verify(logits, torch.tensor([3]), torch.tensor([4]))
    assert torch.equal(found[0], expected[0])


@interpreted
@pytest.mark.parametrize("seed", range(6))
def test_support_is_that_of_a_sorted_list(seed: int) -> None:
    choose = random.Random(seed)
    torch.manual_seed(seed)
    codes = choose.choice([30, 129, 300])
    logits = torch.randn(1, 2, codes) * choose.choice([0.1, 1.0, 6.0])
    temperature, top_p = choose.choice([1.0, 0.6]), choose.uniform(0.05, 0.99)
    top_k = choose.choice([1, 4, 32, codes - 1, codes])
    thresholds = sampling_thresholds(logits, temperature=temperature, top_p=top_p, top_k=top_k)
    for t in range(2):
        kept = logits[0, t] / temperature >= thresholds[0, t]
        # a nucleus that ends within rounding of top_p may have one code more or less
        fewest, most = (
            reference_filter(logits[0, t], temperature=temperature, top_p=p, top_k=top_k)
            for p in (top_p - 1e-5, top_p + 1e-5)
        )
        assert bool((fewest <= kept).all()) and bool((kept <= most).all())
        assert 1 <= int(kept.sum()) <= top_k


@interpreted
@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
def test_extreme_rows() -> None:
    rows = torch.stack(
        [
            torch.zeros(100),  # all equal: all kept
            torch.full((100,), -torch.inf).index_fill(0, torch.tensor([9, 40]), 1.0),
            torch.zeros(100).index_fill(0, torch.tensor([70]), 3e38),
            torch.full((100,), -3e38).index_fill(0, torch.tensor([1]), -2.9e38),
            torch.cat([torch.tensor([0.0, -0.0]), torch.full((98,), -50.0)]),  # one zero
        ]
    )[None]
    for settings in ({"top_p": 0.9, "top_k": 2}, {"top_p": 0.9, "top_k": 100}):
        thresholds = sampling_thresholds(rows, **settings)[0]
        kept = [set((rows[0, t] >= thresholds[t]).nonzero()[:, 0].tolist()) for t in range(5)]
        assert kept == [set(range(100)), {9, 40}, {70}, {1}, {0, 1}]
    drawn, _ = sample_and_verify(rows, torch.tensor([0]), torch.tensor([0]), chunk=64)
    assert int(drawn[0, 1]) in (9, 40) and drawn[0, 2:4].tolist() == [70, 1]
    broken = torch.full((1, 1, 100), torch.nan)  # a token all the same, for what indexes by it
    for temperature in (0.0, 1.0):
        drawn, _ = sample_and_verify(
            broken, torch.tensor([0]), torch.tensor([0]), temperature=temperature, chunk=64
        )
        assert 0 <= int(drawn) < 100


SKEWED = torch.tensor([1.0, 0.0, -1.0, 1.5, 0.8, -2.0, 0.2, 0.1])


def surprise(drawn: Tensor, logits: Tensor, kept: Tensor, temperature: float = 1.0) -> float:
    """Chi-square of draws against the kept codes' probabilities, over its 0.999 quantile (by the
    formula of Wilson and Hilferty, 1931). Fails at once where something else was drawn."""
    counts = drawn.flatten().bincount(minlength=len(logits))
    assert not counts[~kept].any(), "drawn, and not among those that are kept"
    scaled = (logits.double() / temperature).masked_fill(~kept, -torch.inf)
    expected = scaled.softmax(-1)[kept] * drawn.numel()
    assert float(expected.min()) >= 5, "too few draws for a chi-square"
    statistic = float(((counts[kept] - expected).square() / expected).sum())
    freedom = int(kept.sum()) - 1
    spread = 2 / (9 * freedom)
    return statistic / (freedom * (1 - spread + 3.0902 * math.sqrt(spread)) ** 3)


@triton.jit
def _noise_kernel(out, first, seed, POSITIONS: tl.constexpr):
    """Noise of consecutive positions, for a vocabulary of one block."""
    position = first + tl.arange(0, POSITIONS)
    noise = _gumbel(position.to(tl.uint64) + 1, tl.load(seed).to(tl.uint64), POSITIONS)
    tl.store(out + tl.arange(0, POSITIONS)[:, None] * 8 + tl.arange(0, 8)[None, :], noise)


@interpreted
@pytest.mark.parametrize("logits", [torch.zeros(8), SKEWED], ids=["equal", "skewed"])
def test_frequencies_of_many_positions(logits: Tensor) -> None:
    """16,384 draws from the noise of four seeds; it is the one that draws, as the first show."""
    drawn = []
    for seed in (0, 7, -5, 2**62 + 1):
        noise = torch.full((4096, 8), torch.nan)
        _noise_kernel[(1,)](noise, 0, torch.tensor([seed]), POSITIONS=4096)
        drawn.append((logits + noise).argmax(1))
        given = logits.expand(1, 4, 8), torch.tensor([0]), torch.tensor([seed])
        tokens, _ = sample_and_verify(*given, top_p=1.0, top_k=8, chunk=64)
        assert torch.equal(tokens[0], drawn[-1][:4])
    everything = torch.ones(8, dtype=torch.bool)
    assert surprise(torch.stack(drawn), logits, everything) < 1
    for ahead in (1, 2, 8):  # neighbours are independent
        pairs = torch.stack([8 * own[ahead:] + own[:-ahead] for own in drawn])
        both = (logits[:, None] + logits[None, :]).flatten()
        likely = both.softmax(-1) * pairs.numel() >= 5
        among = pairs[likely[pairs]]
        assert surprise(among, both, likely) < 1


@pytest.mark.slow
@interpreted
def test_frequencies_follow_the_distribution() -> None:
    """2,400 draws by the whole kernel, of 40 sequences that one launch draws."""
    positions, seeds = torch.arange(40) * 10**6, torch.arange(40)
    drawn, _ = sample_and_verify(
        SKEWED.expand(40, 60, 8), positions, seeds, temperature=0.8, top_p=1.0, top_k=8, chunk=64
    )
    assert surprise(drawn, SKEWED, torch.ones(8, dtype=torch.bool), 0.8) < 1


@interpreted
@pytest.mark.parametrize("settings", [{"top_p": 0.7, "top_k": 8}, {"top_p": 1.0, "top_k": 5}])
def test_only_what_is_kept_is_drawn_and_all_of_it(settings: dict[str, Any]) -> None:
    drawn, _ = sample_and_verify(
        SKEWED.expand(8, 25, 8), torch.arange(8) * 99, torch.arange(8), chunk=64, **settings
    )
    kept = reference_filter(SKEWED, **settings)
    assert surprise(drawn, SKEWED, kept) < 1 and 3 <= int(kept.sum()) <= 5


@interpreted
def test_what_is_drawn_was_kept_whatever_the_logits() -> None:
    """Rows that differ, in one launch; codes more than one program draws."""
    torch.manual_seed(8)
    logits = torch.randn(5, 12, 200) * torch.logspace(-1, 1, 12)[None, :, None]
    for settings in ({"top_p": 0.6, "top_k": 200}, {"top_p": 0.95, "top_k": 3}):
        drawn, _ = sample_and_verify(
            logits, torch.arange(5), torch.arange(5), chunk=128, **settings
        )
        for row, token in zip(logits.flatten(0, 1), drawn.flatten().tolist(), strict=True):
            # a nucleus that ends within rounding of top_p may have one code more
            most = reference_filter(row, top_p=settings["top_p"] + 1e-5, top_k=settings["top_k"])
            assert bool(most[token])


@interpreted
def test_chunks_neighbours_and_the_number_of_rows_never_change_a_token() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 3, 150)
    positions, seeds = torch.tensor([40, 7]), torch.tensor([1, 2])
    whole, _ = sample_and_verify(logits, positions, seeds, chunk=64)
    for chunk in (128, 256):
        assert torch.equal(sample_and_verify(logits, positions, seeds, chunk=chunk)[0], whole)
    for b in range(2):
        for t in range(3):
            alone, _ = sample_and_verify(
                logits[b : b + 1, t : t + 1], positions[b : b + 1] + t, seeds[b : b + 1], chunk=64
            )
            assert int(alone) == int(whole[b, t])


@interpreted
def test_counts_the_prefix_of_right_drafts() -> None:
    torch.manual_seed(4)
    tokens, settings = 5, {"top_p": 1.0, "top_k": 40, "chunk": 64}
    logits = torch.randn(1, tokens, 40).expand(8, tokens, 40)
    positions, seeds = torch.full((8,), 11), torch.full((8,), 3)
    drawn, accepted = sample_and_verify(logits, positions, seeds, **settings)
    assert accepted.tolist() == [tokens] * 8
    drafts = drawn[:, :-1].clone()
    for b in range(tokens - 1):
        drafts[b, b] += 1  # session b's draft b is wrong, all others are right
    drafts[0, 2] += 1  # what follows the first wrong one does not count
    positions[7] = -1
    limits = torch.tensor([9, 9, 9, 9, 9, 2, 1, 9])
    found = sample_and_verify(logits, positions, seeds, drafts, limits=limits, **settings)
    assert found[1].tolist() == [1, 2, 3, 4, 5, 2, 1, 0]
    assert torch.equal(found[0][:7], drawn[:7]) and found[0][7].tolist() == [-1] * tokens
    settings.pop("chunk")
    expected = reference_sample_and_verify(
        logits, positions, seeds, drafts, limits=limits, **settings
    )
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@interpreted
@pytest.mark.parametrize("width", [2, 4])
def test_speculation_draws_what_one_by_one_draws(width: int) -> None:
    """A toy model whose logits depend on the two tokens before; drafts are left-over draws."""
    torch.manual_seed(5)
    table, length, settings = torch.randn(12, 12, 12), 9, {"top_p": 0.9, "top_k": 6, "chunk": 64}
    seed = torch.tensor([77])

    def run(width: int) -> tuple[list[int], int]:
        known, proposed, forwards = [3, 5], [0] * (length + width), 0
        while len(known) < length + 2:
            feed = [*known, *proposed[: width - 1]]
            rows = [table[feed[i - 1], feed[i]] for i in range(len(known) - 1, len(feed))]
            first = torch.tensor([len(known)])
            drafts = torch.tensor([proposed[: width - 1]]) if width > 1 else None
            drawn, accepted = sample_and_verify(
                torch.stack(rows)[None], first, seed, drafts, **settings
            )
            count = int(accepted)
            known += drawn[0, :count].tolist()
            proposed = [*drawn[0, count:].tolist(), *[0] * (length + width)]
            forwards += 1
        return known[: length + 2], forwards

    assert run(width)[0] == run(1)[0]


@interpreted
def test_a_workspace_serves_one_call_after_the_other() -> None:
    torch.manual_seed(6)
    workspace = poisoned(2, 3, 150, 64)
    for batch, tokens in ((2, 3), (1, 1), (2, 2)):
        given = torch.randn(batch, tokens, 150), torch.arange(batch), torch.arange(batch)
        found = sample_and_verify(*given, workspace=workspace, chunk=64)
        assert torch.equal(found[0], sample_and_verify(*given, chunk=64)[0])
        assert not workspace.counters.any()


def _arguments() -> dict[str, Any]:
    return {
        "logits": torch.randn(2, 3, 40),
        "positions": torch.tensor([0, 1]),
        "seeds": torch.tensor([0, 1]),
        "drafts": torch.zeros(2, 2, dtype=torch.int64),
    }


@interpreted
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"logits": torch.randn(3, 40)}, "logits"),
        ({"logits": torch.randn(2, 3, 40).double()}, "logits"),
        ({"logits": torch.randn(2, 3, 80)[..., ::2]}, "logits"),
        ({"positions": torch.tensor([0, 1]).int()}, "positions"),
        ({"positions": torch.tensor([0])}, "positions"),
        ({"seeds": torch.tensor([0.0, 1.0])}, "seeds"),
        ({"drafts": torch.zeros(2, 3, dtype=torch.int64)}, "drafts"),
        ({"drafts": torch.zeros(2, 2)}, "drafts"),
        ({"limits": torch.zeros(3, dtype=torch.int64)}, "limits"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"chunk": 100}, "chunk"),
        ({"chunk": 32}, "chunk"),
        ({"out": (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))}, "tokens"),
        ({"out": (torch.zeros(2, 3).long(), torch.zeros(3, dtype=torch.int64))}, "accepted"),
    ],
)
def test_refuses_what_it_cannot_take(change: dict[str, Any], name: str) -> None:
    with pytest.raises(KernelArgumentError) as caught:
        sample_and_verify(**{**_arguments(), **change})
    assert caught.value.message == name


@interpreted
def test_refuses_a_workspace_that_is_too_small() -> None:
    workspace = SamplingWorkspace.allocate(2, 3, 40, "cpu")
    small = dataclasses.replace(workspace, candidates=workspace.candidates[1:])
    with pytest.raises(KernelArgumentError, match="candidates"):
        sample_and_verify(**_arguments(), workspace=small)


def test_refuses_the_cpu_without_an_interpreter() -> None:
    with pytest.raises(KernelArgumentError, match="CUDA"):
        sample_and_verify(**_arguments())
    with pytest.raises(KernelArgumentError, match="CUDA"):
        sampling_thresholds(torch.randn(1, 1, 40))


@pytest.mark.parametrize(
    ("settings", "launches"),
    [
        ({}, 3),
        ({"temperature": 0.9}, 3),
        ({"top_p": 1.0}, 3),
        ({"top_k": 5_000}, 2),  # more than there are peaks
        ({"top_k": 64_000, "top_p": 0.8, "temperature": 0.9}, 2),
        ({"temperature": 0}, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_compiles_for_hopper_without_spills(
    settings: dict[str, Any], launches: int, dtype: torch.dtype
) -> None:
    logits = torch.zeros(1, 10, 64_000, dtype=dtype)
    numbers, drafts = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 9, dtype=torch.int64)
    found = compile_launches(
        lambda: sample_and_verify(logits, numbers, numbers, drafts, **settings), sampling.__name__
    )
    assert len(found) == launches
    for kernel in found:
        assert not kernel.spills, kernel.name
    assert found[-1].instructions("atom.*acq_rel")
    # 64-bit products of the noise; logarithms as exact as torch's, not lg2.approx
    assert bool(found[-1].instructions("mul.hi.u64")) == (settings.get("temperature") != 0)
    assert not found[-1].instructions("lg2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", SETTINGS)
def test_gpu_tokens_are_those_of_the_reference(settings: dict[str, Any]) -> None:
    torch.manual_seed(7)
    logits = torch.randn(4, 8, 64_000, device="cuda") * 2
    positions = torch.tensor([0, 5, 10**9, -1], device="cuda")
    seeds = torch.tensor([1, -2, 3, 4], device="cuda")
    drafts = sample_and_verify(logits, positions, seeds, **settings)[0][:, :-1].clone()
    drafts[1, 3] += 1
    found = sample_and_verify(logits, positions, seeds, drafts, **settings)
    assert found[1].tolist() == [8, 4, 8, 0]
    expected, _ = reference_sample_and_verify(logits, positions, seeds, **settings)
    # the device's logarithm and exponential differ from the host's in the last bit
    assert float((found[0] == expected).float().mean()) >= 31 / 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", SETTINGS[:4])
def test_gpu_frequencies_of_262144_draws(settings: dict[str, Any]) -> None:
    torch.manual_seed(9)
    logits = torch.randn(100).mul(1.5).sort().values
    seeds = torch.arange(4096, device="cuda") - 2048
    given = logits.cuda().expand(4096, 64, 100), seeds.abs() * 10**9, seeds
    drawn = sample_and_verify(*given, **settings)[0].cpu()
    temperature = settings.get("temperature", 1.0)
    kept = reference_filter(logits, **settings)
    assert surprise(drawn, logits, kept, temperature) < 1
    assert len(drawn.unique(dim=0)) == 4096  # no two sequences alike
