"""Every kernel that a step of the 4B launches, compiled for the H100 and H200 without one here."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import MAX_SHARED_BYTES, CompiledKernel, compile_launches
from worldbridge.kernels import attention, norm, rope, sampling, skinny_gemm
from worldbridge.kernels import speculative as feed
from worldbridge.kernels import wavefront as stairs
from worldbridge.models.transformer.config import cosmos_4b_320p
from worldbridge.runtime.decoding.executors.cuda.layers import CudaLayers, StepShape
from worldbridge.runtime.decoding.executors.cuda.step import CudaStep, WavefrontStep
from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights, LayerWeights, Matrix
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.decoding.schedule import WavefrontSchedule

CONFIG = dataclasses.replace(cosmos_4b_320p(), n_layers=1)  # all layers are alike
MODULES = [m.__name__ for m in (attention, feed, norm, rope, sampling, skinny_gemm, stairs)]
BFLOAT = torch.bfloat16


def matrix(n: int, k: int, dtype: torch.dtype) -> Matrix:
    scale = torch.empty(n) if dtype.itemsize == 1 else None
    return Matrix(torch.empty(n, k, dtype=dtype), scale)  # never touched: takes no memory


def step_of(
    width: int,
    heads: int,
    dtype: torch.dtype,
    sampling: Sampling,
    row_lag: int | None = None,
    players: int = 1,
) -> CudaLayers:
    """One layer of the published 4B, at its sizes."""
    query, keys = CONFIG.n_heads * 128, CONFIG.n_kv_heads * 128
    size = torch.empty(128, dtype=BFLOAT)
    layer = LayerWeights(
        matrix(query + 2 * keys, 4096, dtype),
        size,
        size,
        matrix(4096, query, dtype),
        matrix(2 * 14336, 4096, dtype),
        matrix(4096, 14336, dtype),
        None,
    )
    fp8 = dtype == torch.float8_e4m3fn
    weights = CudaWeights(
        torch.empty(64000, 4096, dtype=BFLOAT),
        (layer,),
        torch.empty(4096, dtype=BFLOAT),
        matrix(64000, 4096, dtype),
        matrix(heads * 4096, 4096, dtype) if heads else None,
        torch.float16 if fp8 else BFLOAT,
        torch.float32 if fp8 else BFLOAT,
    )
    rings = torch.empty(1, players, 8, 5 * 640 + width, 128, dtype=BFLOAT)
    shape = StepShape(players, width, width, 640, follow=heads > 0)
    if row_lag is not None:
        schedule = WavefrontSchedule(20, 32, row_lag, width)
        return WavefrontStep(CONFIG, weights, rings, rings, sampling, shape, schedule)
    return CudaStep(CONFIG, weights, rings, rings, sampling, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("players", "width", "heads", "dtype", "launches"),
    [
        # take; qkv, rope, attention, out, gate and up, down; norm; output; threshold, draw; keep
        (1, 1, 0, BFLOAT, 12),
        # heads before the output, which is read once; threshold, draw, place
        (1, 10, 9, BFLOAT, 12 + 4),
        (2, 10, 9, BFLOAT, 12 + 4),
        (3, 10, 9, BFLOAT, 12 + 6),  # too many: norm, heads, output, threshold, draw, place
        (8, 10, 9, BFLOAT, 12 + 6),
        (1, 16, 0, BFLOAT, 12),
        (1, 64, 0, BFLOAT, 12),
        (1, 10, 9, torch.float8_e4m3fn, 12 + 4 + 2),  # two more norms
        (8, 10, 9, torch.float8_e4m3fn, 12 + 6 + 2),
        (1, 10, 9, torch.int8, 12 + 4),
    ],
)
def test_a_step_of_the_4b_compiles_for_hopper_without_spills(
    players: int, width: int, heads: int, dtype: torch.dtype, launches: int
) -> None:
    step = step_of(width, heads, dtype, Sampling(1.0, 0.8, 64000), players=players)
    found = compile_launches(lambda: step.run(players), *MODULES)
    assert len(found) == launches
    check(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("players", "rows", "dtype", "launches"),
    [
        (1, 20, BFLOAT, 12),
        (1, 32, BFLOAT, 12),
        (1, 20, torch.float8_e4m3fn, 12 + 2),  # two more norms
        (8, 20, BFLOAT, 12),  # 160 rows: every matrix is read once
        (13, 20, BFLOAT, 12 + 5),  # 260: all five are read twice
    ],
)
def test_a_step_along_diagonals_compiles_without_spills(
    players: int, rows: int, dtype: torch.dtype, launches: int
) -> None:
    """k = 1, whose steps are the widest: a row for each row of the latent."""
    step = step_of(rows, 0, dtype, Sampling(1.0, 0.8, 64000), row_lag=1, players=players)
    found = compile_launches(lambda: step.run(players), *MODULES)
    assert len(found) == launches
    assert [found[0].name, found[-1].name] == ["gather_wave_kernel", "accept_wave_kernel"]
    check(found)


def check(found: list[CompiledKernel]) -> None:
    for kernel in found:
        assert not kernel.spills, f"{kernel.name}: {kernel.stack_bytes} bytes of stack"
        assert kernel.shared_bytes <= MAX_SHARED_BYTES, kernel.name
    for kernel in found:
        if kernel.name in ("skinny_gemm_kernel", "attention_kernel"):
            assert kernel.instructions("wgmma.mma_async") and not kernel.instructions("mma.sync")
            assert kernel.instructions("cp.async.c[ag]"), kernel.name
