"""Every kernel compiles when its integers are all 1.

The compiler makes a run-time argument of 1 a constant, so such a launch is a kernel of its own:
one row, one code, a stride of 1, or the top one of all codes. The interpreter does not do that.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import attention, norm, rope, sampling, skinny_gemm, wavefront
from worldbridge.kernels import detokenize as pixels
from worldbridge.kernels import speculative as feed

BFLOAT = torch.bfloat16
MODULES = [
    module.__name__
    for module in (attention, feed, norm, pixels, rope, sampling, skinny_gemm, wavefront)
]


def integers(*sizes: int) -> Tensor:
    return torch.zeros(sizes, dtype=torch.int64)


def products() -> None:
    x, weight = torch.empty(2, 64, dtype=BFLOAT), torch.empty(64, 64, dtype=BFLOAT)
    for overlap in (False, True):
        skinny_gemm.skinny_gemm(x, weight, norm_eps=1e-5, overlap=overlap)
    skinny_gemm.skinny_gemm(x, weight, epilogue="swiglu")
    skinny_gemm.skinny_gemm(x, weight, epilogue="residual", residual=x)
    out = torch.empty(2, 128, dtype=BFLOAT)[:, 64:]
    skinny_gemm.skinny_gemm(
        x, weight, epilogue="silu_residual", residual=x, copy_residual=True, out=out
    )
    skinny_gemm.skinny_gemm(x, weight.to(torch.int8), scale=torch.empty(64))
    skinny_gemm.skinny_gemm(x[:, :60], weight[:, :60])  # not a multiple of a step along k


def attentions() -> None:
    q, keys = torch.empty(2, 2, 4, 64, dtype=BFLOAT), torch.empty(2, 2, 64, 64, dtype=BFLOAT)
    attention.decode_attention(q, keys, keys, integers(2), slots=integers(2))
    attention.decode_attention(q, keys, keys, mask=torch.ones(2, 2, 64, dtype=torch.bool))


def ropes() -> None:
    keys = torch.empty(2, 2, 64, 64, dtype=BFLOAT)
    given = torch.empty(2, 2, 8 * 64, dtype=BFLOAT), keys[0, 0, 0], keys[0, 0, 0]
    table = torch.empty(9, 32)
    rope.rope_write(*given, table, table, keys, keys, integers(2), slots=integers(2))
    places = integers(2, 2)
    rope.rope_write(*given, table, table, keys, keys, entries=places, rows=places)


def norms() -> None:
    x = torch.empty(3, 64)
    norm.rms_norm(x, 1e-5)
    norm.rms_norm(x, 1e-5, weight=x[0], rows=integers(2), out=torch.empty(2, 64).half())


def samplers() -> None:
    logits, numbers = torch.empty(2, 3, 5000), integers(2)
    for top_k in (7, 300, 5000):  # with peaks, with more than there are peaks, and all codes
        sampling.sample_and_verify(
            logits, numbers, numbers, integers(2, 2), limits=numbers, top_k=top_k, temperature=0.9
        )
    sampling.sample_and_verify(logits, numbers, numbers, temperature=0)


def feeds() -> None:
    state = feed.DraftBuffer(
        integers(2, 20), integers(2), integers(2), integers(2), integers(2, 9), 12, width=4
    )
    targets = feed.DraftTargets.allocate(2, torch.device("cpu"))
    feed.gather_inputs(state, feed.StepInputs.allocate(2, 4, torch.device("cpu")))
    for follow in (False, True):
        feed.accept_drafts(state, integers(2, 4), integers(2), follow=follow, targets=targets)
    feed.scatter_drafts(state, integers(2, 4), targets)


def wavefronts() -> None:
    state = feed.DraftBuffer(
        integers(2, 20), integers(2), integers(2), integers(2), integers(2, 3), 12, width=4
    )
    tables = wavefront.WaveTables(integers(5, 4), integers(5, 4), integers(5), integers(12))
    fed = wavefront.WaveInputs.allocate(2, 4, 30, torch.device("cpu"))
    wavefront.gather_wave(state, tables, integers(2), fed)
    wavefront.accept_wave(state, tables, integers(2, 4))


def frames() -> None:
    pixels.indices_to_codes(integers(2, 30), (8, 8, 5), BFLOAT)
    pixels.patches_to_i420(torch.empty(1, 2, 192, 4, 4, dtype=BFLOAT), False)


@pytest.mark.parametrize(
    "launch",
    [products, attentions, ropes, norms, samplers, feeds, wavefronts, frames],
    ids=lambda launch: launch.__name__,
)
def test_compiles_with_ones(launch: Callable[[], None]) -> None:
    assert compile_launches(launch, *MODULES, ones=True)


def test_the_most_likely_code_alone() -> None:
    """top_k of 1, as a launcher passes it."""
    logits, numbers = torch.empty(1, 10, 64_000), integers(1)
    found = compile_launches(
        lambda: sampling.sample_and_verify(logits, numbers, numbers, top_k=1), *MODULES
    )
    assert [kernel.name for kernel in found] == [
        "peaks_kernel",
        "threshold_kernel",
        "sample_kernel",
    ]
    assert not any(kernel.spills for kernel in found)
