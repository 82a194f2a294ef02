"""Medusa heads: against float64, one read of the unembedding, and each row by itself."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton", reason="needs triton: pip install triton")

import torch

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.medusa_heads import medusa_heads, medusa_workspace, reference_medusa_heads
from worldbridge.kernels.quantize import quantize_rows

NAN = float("nan")


def _weights(count: int, width: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    heads = torch.randn(count * width, width) / width**0.5
    return heads, torch.randn(vocab, width) / width**0.5


@pytest.mark.parametrize(
    ("rows", "count", "width", "vocab", "programs"),
    [
        (1, 1, 16, 30, None),
        (3, 4, 100, 300, 3),
        (2, 9, 130, 257, 7),
        (12, 2, 600, 140, 5),
        (20, 9, 60, 90, 3),
    ],
)
def test_agrees_with_float64(
    interpreter: None, rows: int, count: int, width: int, vocab: int, programs: int | None
) -> None:
    torch.manual_seed(rows)
    heads, unembedding = _weights(count, width, vocab)
    x = torch.full((rows, width + 3), NAN)[:, :width].copy_(torch.randn(rows, width))
    hidden = torch.full((rows, count + 1, width), NAN)
    out = torch.full((rows, count + 1, vocab), NAN)
    workspace = medusa_workspace(rows, heads, unembedding, programs)
    workspace.partials.fill_(NAN)
    medusa_heads(
        x, heads, unembedding, hidden=hidden, out=out, workspace=workspace, programs=programs
    )
    expected = reference_medusa_heads(x, heads, unembedding, dtype=torch.float64)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(hidden[:, 0], x)
    assert not workspace.counters.any()


def test_every_head_is_its_own(interpreter: None) -> None:
    """Changing one head's weight changes that head's logits and nothing else."""
    torch.manual_seed(1)
    heads, unembedding = _weights(3, 64, 100)
    x = torch.randn(2, 64)
    before = medusa_heads(x, heads, unembedding)
    heads[64:128] *= 2
    after = medusa_heads(x, heads, unembedding)
    assert torch.equal(before[:, (0, 1, 3)], after[:, (0, 1, 3)])
    assert not torch.isclose(before[:, 2], after[:, 2]).all()


def test_programs_and_neighbours_never_change_a_row(interpreter: None) -> None:
    torch.manual_seed(2)
    heads, unembedding = _weights(2, 560, 200)
    x = torch.randn(5, 560)
    together = medusa_heads(x, heads, unembedding)
    assert torch.equal(medusa_heads(x, heads, unembedding, programs=1), together)
    assert torch.equal(medusa_heads(x, heads, unembedding, programs=11), together)
    assert torch.equal(medusa_heads(x[3:4], heads, unembedding)[0], together[3])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights(interpreter: None, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    heads, unembedding = _weights(2, 200, 150)
    heads, head_scale = quantize_rows(heads, dtype)
    unembedding, unembedding_scale = quantize_rows(unembedding, dtype)
    scales = {"head_scale": head_scale, "unembedding_scale": unembedding_scale}
    x = torch.randn(4, 200)
    found = medusa_heads(x, heads, unembedding, **scales)
    expected = reference_medusa_heads(x, heads, unembedding, **scales, dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def _refused(**changes: Any) -> str:
    heads, unembedding = _weights(2, 16, 40)
    given: dict[str, Any] = {"x": torch.zeros(3, 16), "heads": heads, "unembedding": unembedding}
    given |= changes
    with pytest.raises(KernelArgumentError) as caught:
        medusa_heads(given.pop("x"), given.pop("heads"), given.pop("unembedding"), **given)
    return str(caught.value)


def test_bad_arguments_are_refused(interpreter: None) -> None:
    zeros = torch.zeros
    assert "got 86 * (2 + 1) = 258" in _refused(x=zeros(86, 16))
    assert "expected square weights" in _refused(heads=zeros(33, 16))
    assert "heads: expected shape (64, 32), got shape (32, 16)" in _refused(
        x=zeros(3, 32), unembedding=zeros(40, 32)
    )
    assert "unembedding: expected shape (any, 16)" in _refused(unembedding=zeros(40, 17))
    assert "hidden: expected shape (3, 3, 16)" in _refused(hidden=zeros(3, 2, 16))
    assert "out: expected strides" in _refused(out=zeros(3, 40, 3).transpose(1, 2))
    assert "weight: expected torch.float32" in _refused(unembedding=zeros(40, 16).half())
    assert "scale: expected a scale exactly" in _refused(unembedding_scale=torch.ones(40))


def test_compiles_to_one_pass_over_the_unembedding() -> None:
    """Two launches for a 4B model with 9 heads and 10 rows; the second takes all 100 rows."""
    x = torch.empty(10, 4096, dtype=torch.bfloat16)
    heads = torch.empty(9 * 4096, 4096, dtype=torch.bfloat16)
    unembedding = torch.empty(64000, 4096, dtype=torch.bfloat16)
    kernels = compile_launches(
        lambda: medusa_heads(x, heads, unembedding), "worldbridge.kernels.skinny_gemm"
    )
    products = [kernel.instructions("wgmma.mma_async") for kernel in kernels]
    assert [len(found) for found in products] == [1, 1]
    assert "m64n16k16" in products[0][0] and "m64n128k16" in products[1][0]
    assert not any(kernel.spills for kernel in kernels)


@pytest.mark.gpu
def test_error_on_a_gpu_is_at_most_twice_torchs() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(4)
    weights = [weight.to("cuda", torch.bfloat16) for weight in _weights(9, 1024, 8000)]
    x = torch.randn(10, 1024, device="cuda", dtype=torch.bfloat16)
    exact = reference_medusa_heads(x, *weights, dtype=torch.float64)
    out = torch.full_like(exact, NAN, dtype=torch.bfloat16)
    medusa_heads(x, *weights, out=out)
    error, torchs = (
        float((found.double() - exact).norm())
        for found in (out, reference_medusa_heads(x, *weights))
    )
    assert error <= 2 * torchs
    assert torch.equal(medusa_heads(x[:1], *weights)[0], out[0])
