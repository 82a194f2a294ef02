"""The norm of a few rows against its float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import norm
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.norm import reference_rms_norm, rms_norm


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("size", [16, 48, 130])
@pytest.mark.parametrize("picked", [False, True])
def test_matches_the_reference(size: int, picked: bool) -> None:
    torch.manual_seed(size)
    x = (torch.randn(5, size + 3) * 7)[:, :size]  # rows apart
    weight = torch.randn(size)
    rows = torch.tensor([3, 0, 3]) if picked else None
    out = torch.full((3 if picked else 5, size), torch.nan)
    found = rms_norm(x, 1e-5, weight=weight, rows=rows, out=out)
    assert found is out
    expected = reference_rms_norm(x, 1e-5, weight=weight, rows=rows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    plain = rms_norm(x, 1e-5)
    torch.testing.assert_close(plain.double(), reference_rms_norm(x, 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("interpreter")
def test_a_stream_too_large_for_float16_fits_once_normalised() -> None:
    x = torch.randn(2, 32) * 1e6
    half = rms_norm(x, 1e-5, out=torch.empty(2, 32, dtype=torch.float16))
    torch.testing.assert_close(half, reference_rms_norm(x, 1e-5).half(), rtol=1e-3, atol=1e-4)
    steep = torch.full((32,), 1e6)
    steep[1] = -1e6
    ends = rms_norm(
        torch.ones(1, 32), 1e-5, weight=steep, out=torch.empty(1, 32, dtype=torch.float16)
    )
    assert ends[0, :2].tolist() == [65504.0, -65504.0]
    x[0, 5] = torch.nan
    assert bool(rms_norm(x, 1e-5, out=half)[0].isnan().all()) and bool(half[1].isfinite().all())


@pytest.mark.usefixtures("interpreter")
def test_a_wrong_row_reads_nothing_else() -> None:
    x = torch.randn(3, 16)
    found = rms_norm(x, 1e-5, rows=torch.tensor([-5, 99]))
    assert torch.equal(found, rms_norm(x, 1e-5)[[0, 2]])


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"x": torch.randn(3)}, "x"),
        ({"x": torch.randn(3, 16).double()}, "x"),
        ({"x": torch.randn(16, 3).T}, "x"),
        ({"weight": torch.randn(15)}, "weight"),
        ({"rows": torch.tensor([1], dtype=torch.int32)}, "rows"),
        ({"out": torch.randn(2, 16)}, "out"),
        ({"out": torch.randn(3, 16).double()}, "out"),
    ],
)
def test_refuses_what_it_cannot_take(change: dict[str, Any], name: str) -> None:
    with pytest.raises(KernelArgumentError) as caught:
        rms_norm(**{"x": torch.randn(3, 16), "eps": 1e-5, **change})
    assert caught.value.message == name


def test_refuses_the_cpu_without_an_interpreter() -> None:
    with pytest.raises(KernelArgumentError, match="CUDA"):
        rms_norm(torch.randn(3, 16), 1e-5)


@pytest.mark.parametrize("size", [4096, 5120])
def test_compiles_for_hopper_without_spills(size: int) -> None:
    x = torch.empty(10, size, dtype=torch.bfloat16)
    out = torch.empty(2, size, dtype=torch.float16)
    rows = torch.zeros(2, dtype=torch.int64)
    (found,) = compile_launches(
        lambda: rms_norm(x, 1e-5, weight=x[0], rows=rows, out=out), norm.__name__
    )
    assert not found.spills
    assert found.instructions("ld.global.v4|ld.global.v2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_error_is_at_most_that_of_torch() -> None:
    torch.manual_seed(1)
    x = torch.randn(64, 4096, device="cuda", dtype=torch.bfloat16)
    weight = torch.rand(4096, device="cuda", dtype=torch.bfloat16)
    exact = reference_rms_norm(x, 1e-5, weight=weight)
    plain = reference_rms_norm(x, 1e-5, precision=torch.float32).bfloat16() * weight
    found = rms_norm(x, 1e-5, weight=weight)
    assert (found.double() - exact).norm() <= (plain.double() - exact).norm()
