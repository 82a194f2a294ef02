"""What `bench kernels` compares and counts; the kernels themselves run in tests/kernels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs triton: pip install triton")

import torch

from worldbridge.benchmarks.kernels import bench
from worldbridge.benchmarks.kernels.bench import KERNELS, bench_kernels, check_kernels
from worldbridge.benchmarks.kernels.case import CHECKED, PUBLISHED, Case, Maker
from worldbridge.benchmarks.machine import DATASHEET, datasheet_bandwidth, percent
from worldbridge.benchmarks.timing import ColdLaunches, copies_for, rotated
from worldbridge.runtime.errors import NoDeviceError

CPU = torch.device("cpu")
WEIGHTS = (torch.bfloat16, torch.float8_e4m3fn, torch.int8)


def quiet(stage: str, share: float) -> None:
    pass


def published(*only: str) -> list[Case]:
    return list(bench._cases(Maker(CPU), PUBLISHED, torch.bfloat16, WEIGHTS, only))


def test_every_kernel_has_cases_at_the_shapes_of_the_4b_model() -> None:
    cases = published()
    assert {case.kernel for case in cases} == set(KERNELS)
    shapes = {
        (case.what, case.shape["n"], case.shape["k"])
        for case in cases
        if case.kernel == "skinny_gemm"
    }
    assert shapes == {
        ("qkv", 6144, 4096),
        ("o", 4096, 4096),
        ("gate_up", 28672, 4096),
        ("down", 4096, 14336),
        ("lm_head", 64000, 4096),
    }
    rows = {case.shape["rows"] for case in cases if case.kernel == "skinny_gemm"}
    assert rows == {1, 10, 64, 128}


def test_bytes_are_those_that_have_to_be_moved() -> None:
    moved = {
        (case.what, case.weights): case.bytes_moved
        for case in published("skinny_gemm")
        if case.shape["rows"] == 10
    }
    assert moved["gate_up", "bf16"] == 2 * (28672 * 4096 + 10 * (4096 + 14336))
    assert moved["gate_up", "fp8"] == 28672 * 4096 + 2 * 10 * (4096 + 14336)
    assert moved["down", "int8"] == 4096 * 14336 + 2 * 10 * (14336 + 4096 + 4096)
    attention = [c for c in published("decode_attention") if c.shape["context"] == 3200]
    assert {c.bytes_moved for c in attention if c.shape["batch"] == 1} == {8 * 3200 * 128 * 2 * 2}


def test_quick_runs_fewer_shapes() -> None:
    quick = bench._quicker(PUBLISHED)
    fewer = list(bench._cases(Maker(CPU), quick, torch.bfloat16, WEIGHTS, ()))
    assert 0 < len(fewer) < 0.6 * len(published())
    assert {case.kernel for case in fewer} == set(KERNELS)


def test_memory_leaves_the_cache_between_two_uses() -> None:
    for moved in (1, 10**5, 13 * 10**6, 5 * 10**8):
        copies = copies_for(moved, cache=50 * 2**20)
        assert 2 <= copies <= 64
        assert copies == 64 or (copies - 1) * moved >= 5 * 50 * 2**20


@pytest.mark.parametrize("sets", [1, 2, 3, 7, 8, 9, 64])
def test_a_graph_has_eight_launches_or_more_in_whole_rounds(sets: int) -> None:
    launches = [functools.partial(int, number) for number in range(sets)]
    turns = [launch() for launch in rotated(launches)]
    assert turns == list(range(sets)) * (len(turns) // sets)
    assert 8 <= len(turns) < 8 + sets


def test_an_error_up_to_twice_torchs_is_allowed_and_that_of_one_rounding() -> None:
    case = next(bench._cases(Maker(CPU), CHECKED, torch.bfloat16, WEIGHTS, ("skinny_gemm",)))
    once = torch.finfo(torch.bfloat16).eps / 2
    assert case.limit(0.0) == case.limit(0.4 * once) == once
    assert case.limit(3 * once) == 6 * once
    drawn = next(bench._cases(Maker(CPU), CHECKED, torch.bfloat16, WEIGHTS, ("sample_and_verify",)))
    assert drawn.limit(0.25) == 0.0  # another token is another token, whatever torch draws


def test_peaks_are_known_by_the_drivers_names() -> None:
    assert datasheet_bandwidth("NVIDIA H100 80GB HBM3") == 3.35e12
    assert datasheet_bandwidth("NVIDIA H200") == 4.8e12
    assert datasheet_bandwidth("NVIDIA H200 MIG 1g.18gb") is None
    assert percent(2.4e12, DATASHEET["NVIDIA H200"]) == 50.0 and percent(1.0, None) is None


@pytest.mark.usefixtures("interpreter")
def test_a_check_compares_with_float64_and_with_torch() -> None:
    result = check_kernels("cpu", only=["rms_norm", "indices_to_codes"], progress=quiet)
    assert result["within_limits"] and result["runs_in"] == "Triton's interpreter"
    assert {case["activations"] for case in result["cases"]} == {"float32", "float16"}
    for case in result["cases"]:
        assert 0 <= case["error"]["ours"] <= case["limit"]
        assert 0 <= case["error"]["torch"] <= 4 * case["limit"]


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda out: out * (1 + 1e-5),
        lambda out: torch.where(torch.arange(out.numel()).view(out.shape) == 3, torch.nan, out),
    ],
    ids=["a little too large", "not a number"],
)
def test_a_wrong_kernel_is_found(spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Of every kernel that computes floating-point numbers, its first case."""
    for kernel in ("skinny_gemm", "rms_norm", "decode_attention"):
        weights = (torch.float32,)
        case = next(bench._cases(Maker(CPU), CHECKED, torch.float32, weights, (kernel,)))
        assert bench._checked(case)["within_limit"]
        wrong = dataclasses.replace(case, make=_spoiled(case, spoil))
        assert not bench._checked(wrong)["within_limit"], kernel


def _spoiled(case: Case, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
    def make() -> Any:
        operands = case.make()
        return dataclasses.replace(operands, ours=lambda: spoil(operands.ours()))

    return make


@pytest.mark.usefixtures("interpreter")
def test_what_a_kernel_leaves_elsewhere_is_compared_too() -> None:
    """Keys and values in their rings, and the count of right guesses."""
    for kernel in ("rope_write", "sample_and_verify"):
        cases = bench._cases(Maker(CPU), CHECKED, torch.float32, (torch.float32,), (kernel,))
        case = next(c for c in cases if c.shape["tokens"] > 1)
        operands = case.make()
        expected = operands.reference()
        found = bench._gathered(operands.ours(), operands.ours_left)
        assert found.shape == expected.shape
        theirs = next(iter(operands.baselines.values()))()
        torchs = case.error(bench._gathered(theirs, operands.torch_left), expected)
        assert torchs <= 1e-6
        assert case.error(found, expected) <= case.limit(torchs)
        found[-1] += 1
        assert case.error(found, expected) > case.limit(torchs), kernel


def test_without_a_gpu_nothing_is_timed() -> None:
    with pytest.raises(NoDeviceError, match="only be timed on a GPU.*--check"):
        bench_kernels("cpu", only=(), quick=True, progress=quiet)


def test_on_a_cpu_a_check_needs_the_interpreter() -> None:
    with pytest.raises(NoDeviceError, match="TRITON_INTERPRET=1 from before triton was imported"):
        check_kernels("cpu", only=(), progress=quiet)


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="no kernel 'gemm': expected one of skinny_gemm"):
        check_kernels("cpu", only=["gemm"], progress=quiet)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.timeout(600)
def test_on_a_gpu_every_kernel_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PUBLISHED", CHECKED)
    monkeypatch.setattr(bench, "_quicker", lambda sizes: sizes)
    result = bench_kernels("cuda", only=(), quick=True, progress=quiet)
    assert {case["kernel"] for case in result["cases"]} == set(KERNELS)
    for case in result["cases"]:
        assert 0 < case["ms"]["p10"] <= case["ms"]["p50"] <= case["ms"]["p90"]
        assert case["baselines"][0]["times_ours"] > 0 and case["gb_per_second"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_a_copy_takes_as_long_as_its_bytes() -> None:
    device, size = torch.device("cuda"), 256 * 2**20
    source = torch.zeros(2, size, dtype=torch.uint8, device=device)
    timer = ColdLaunches(device, 2 * size, 10)
    launches = [lambda i=i: source[i % 2].clone() for i in range(timer.copies)]  # type: ignore[misc]
    times = timer.time(launches)
    assert 0.05e12 < 2 * size / (times["p50"] / 1000) < 20e12
