"""The skinny product: against float64, and what may never change a result."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from typing import Any

import numpy
import pytest

pytest.importorskip("triton", reason="needs triton: pip install triton")

import torch

from tests.support.compile_kernels import MAX_SHARED_BYTES, CompiledKernel, compile_launches
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.quantize import dequantize_rows, fold_norm, quantize_rows
from worldbridge.kernels.skinny_gemm import (
    CHUNK,
    MAX_ROWS,
    PARTS,
    Epilogue,
    Workspace,
    config_for,
    interleave_rows,
    reference_skinny_gemm,
    skinny_gemm,
)

NAN = float("nan")
EPILOGUES: tuple[Epilogue, ...] = ("none", "residual", "swiglu", "silu_residual")
MODULE = "worldbridge.kernels.skinny_gemm"


def _inside(rows: int, columns: int, margin: int, dtype: torch.dtype) -> torch.Tensor:
    """A random matrix that lies in a wider one full of NaN."""
    wide = torch.full((rows, columns + margin), NAN, dtype=dtype)
    wide[:, :columns] = torch.randn(rows, columns)
    return wide[:, :columns]


def _residual(epilogue: Epilogue, rows: int, n: int, margin: int) -> torch.Tensor | None:
    columns = {"residual": n, "silu_residual": n // 2}.get(epilogue)
    return None if columns is None else _inside(rows, columns, margin, torch.float32)


def _poisoned(rows: int, n: int, k: int, programs: int) -> Workspace:
    config = config_for(rows, torch.float32)
    workspace = Workspace.allocate([(config, n, k)], torch.device("cpu"), programs)
    workspace.partials.fill_(NAN)
    workspace.squares.fill_(NAN)
    return workspace


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_float64(interpreter: None, seed: int) -> None:
    """Random shapes, strides and epilogues; every output cell written and none beside it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    epilogue = EPILOGUES[seed % 4]
    rows, n, k = draw.randint(1, 64), 2 * draw.randint(1, 150), draw.randint(1, 1300)
    programs = draw.randint(1, 6)
    norm_eps = draw.choice([None, 1e-5])
    x = _inside(rows, k, draw.randint(0, 5), torch.float32)
    weight = _inside(n, k, draw.randint(0, 5), torch.float32) / k**0.5
    residual = _residual(epilogue, rows, n, draw.randint(0, 5))
    options: dict[str, Any] = {"residual": residual, "epilogue": epilogue, "norm_eps": norm_eps}
    expected = reference_skinny_gemm(x, weight, **options, dtype=torch.float64)
    wide = torch.full((rows + 1, expected.shape[1] + 3), NAN)
    out = wide[:rows, : expected.shape[1]]
    workspace = _poisoned(rows, n, k, programs)
    returned = skinny_gemm(x, weight, **options, out=out, workspace=workspace, programs=programs)
    assert returned is out
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert wide[rows:].isnan().all() and wide[:, expected.shape[1] :].isnan().all()
    assert not workspace.counters.any(), "the next launch would count on"


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's exp, in silu
@pytest.mark.parametrize("epilogue", ["none", "swiglu"])
def test_number_of_programs_never_changes_a_result(interpreter: None, epilogue: Epilogue) -> None:
    """3 tiles of 3 chunks, the last chunk a short one: every way to cut 9 units that differs."""
    torch.manual_seed(1)
    x, weight = torch.randn(5, 2 * CHUNK + 40), torch.randn(300, 2 * CHUNK + 40)
    results = [
        skinny_gemm(
            x,
            weight,
            epilogue=epilogue,
            norm_eps=1e-5,
            programs=programs,
            workspace=_poisoned(5, 300, x.shape[1], programs),
        )
        for programs in (1, 2, 4, 5, 7, 9, 1000)
    ]
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize(
    "change", [{"block_n": 64}, {"block_k": 128}, {"tokens": 32}, {"block_k": 512}]
)
def test_other_tile_sizes_agree(interpreter: None, change: dict[str, int]) -> None:
    """Up to rounding: the interpreter sums a tile in an order that depends on its size."""
    torch.manual_seed(2)
    x, weight = torch.randn(3, CHUNK + 100), torch.randn(200, CHUNK + 100) / 25
    config = dataclasses.replace(config_for(3, torch.float32), **change)
    found = skinny_gemm(x, weight, config=config, programs=3)
    expected = reference_skinny_gemm(x, weight, dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy, of the planted NaN
def test_neighbours_never_change_a_row(interpreter: None) -> None:
    """Not their number, not their place, and not even NaN or infinity in them."""
    torch.manual_seed(3)
    x, weight = torch.randn(13, CHUNK + 64), torch.randn(140, CHUNK + 64)
    residual = torch.randn(13, 140)
    together = skinny_gemm(
        x, weight, residual=residual, epilogue="residual", norm_eps=1e-5, programs=3
    )
    for row in (0, 6, 12):
        alone = skinny_gemm(
            x[row : row + 1],
            weight,
            residual=residual[row : row + 1],
            epilogue="residual",
            norm_eps=1e-5,
            programs=3,
        )
        assert torch.equal(alone[0], together[row])
    spoiled = x.clone()
    spoiled[:6], spoiled[7:] = NAN, float("inf")
    among = skinny_gemm(
        spoiled, weight, residual=residual, epilogue="residual", norm_eps=1e-5, programs=3
    )
    assert torch.equal(among[6], together[6]) and among[0].isnan().all()


@pytest.mark.parametrize(("rows", "epilogue"), [(129, "swiglu"), (200, "residual"), (256, "none")])
def test_many_rows(interpreter: None, rows: int, epilogue: Epilogue) -> None:
    """More than the matrix unit takes at once: against float64, and each row as if alone."""
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, CHUNK + 70), torch.randn(100, CHUNK + 70) / 24
    options: dict[str, Any] = {"epilogue": epilogue, "norm_eps": 1e-5}
    residual = _residual(epilogue, rows, 100, 3)
    found = skinny_gemm(x, weight, residual=residual, programs=3, **options)
    expected = reference_skinny_gemm(x, weight, residual=residual, dtype=torch.float64, **options)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for part in (slice(0, 1), slice(rows - 1, rows), slice(60, 77)):
        own = None if residual is None else residual[part]
        alone = skinny_gemm(x[part], weight, residual=own, programs=3, **options)
        # the interpreter's own product rounds otherwise when it is of another shape
        torch.testing.assert_close(alone, found[part], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 20, 40, 100, 140])
def test_squares_of_the_norm_are_added_in_one_order(interpreter: None, rows: int) -> None:
    """That which is written down, to the bit, in any tile. Weights of one 1 leave only the norm."""
    torch.manual_seed(11)
    k = 3 * CHUNK
    x = (torch.randn(140, k) * torch.logspace(-3, 3, k)[torch.randperm(k)])[:rows]
    places = torch.tensor([5, 700, k - 1])
    weight = torch.zeros(3, k)
    weight[torch.arange(3), places] = 1.0
    found = skinny_gemm(x, weight, norm_eps=1e-5, programs=2)
    block, parts = config_for(rows, torch.float32).block_k, int(PARTS.value)
    squares = torch.zeros(rows)
    for chunk in x.split(CHUNK, dim=1):
        sums = torch.zeros(rows, parts)
        for step in chunk.split(block, dim=1):
            sums += _halved(step * step, parts)
        squares += _halved(sums, 1)[:, 0]
    mean = squares.numpy() / numpy.float32(k)  # whose division and root are exact for any length
    scale = numpy.float32(1) / numpy.sqrt(mean + numpy.float32(1e-5))
    assert torch.equal(found, x[:, places] * torch.from_numpy(scale)[:, None])


def _halved(values: torch.Tensor, columns: int) -> torch.Tensor:
    while values.shape[1] > columns:
        values = values[:, 0::2] + values[:, 1::2]
    return values


def test_residual_may_be_the_output(interpreter: None) -> None:
    torch.manual_seed(4)
    x, weight, stream = torch.randn(4, 600), torch.randn(130, 600), torch.randn(4, 130)
    expected = reference_skinny_gemm(
        x, weight, residual=stream, epilogue="residual", dtype=torch.float64
    )
    skinny_gemm(x, weight, residual=stream, epilogue="residual", out=stream, programs=2)
    torch.testing.assert_close(stream.double(), expected, rtol=1e-5, atol=1e-4)


def test_copied_residual_stands_in_front(interpreter: None) -> None:
    torch.manual_seed(5)
    x, weight = torch.randn(3, 40), torch.randn(2 * 140, 40) / 6
    residual = torch.randn(3, 140)
    buffer = torch.full((3, 3 * 140), NAN)
    skinny_gemm(
        x,
        weight,
        residual=residual,
        epilogue="silu_residual",
        copy_residual=True,
        out=buffer[:, 140:],
    )
    expected = reference_skinny_gemm(
        x, weight, residual=residual, epilogue="silu_residual", dtype=torch.float64
    )
    assert torch.equal(buffer[:, :140], residual)
    torch.testing.assert_close(buffer[:, 140:].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_byte_operands(interpreter: None, dtype: torch.dtype) -> None:
    """Read as they are; into float32, because the interpreter cannot round to bfloat16."""
    torch.manual_seed(6)
    x, weight = torch.randn(9, 300).to(dtype), torch.randn(150, 300).to(dtype)
    out = torch.full((9, 150), NAN)
    skinny_gemm(x, weight, out=out, programs=2)
    expected = reference_skinny_gemm(x, weight, dtype=torch.float64)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("epilogue", ["swiglu", "residual"])
def test_quantised_weights(interpreter: None, dtype: torch.dtype, epilogue: Epilogue) -> None:
    torch.manual_seed(7)
    weight, scale = quantize_rows(torch.randn(260, 700) * torch.rand(260, 1) / 20, dtype)
    x = torch.randn(6, 700).half()
    options: dict[str, Any] = {
        "scale": scale,
        "epilogue": epilogue,
        "residual": _residual(epilogue, 6, 260, 0),
    }
    expected = reference_skinny_gemm(x, weight, **options, dtype=torch.float64)
    out = torch.full(expected.shape, NAN)
    skinny_gemm(x, weight, **options, out=out, programs=4)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_quantisation_error_is_what_the_format_allows() -> None:
    torch.manual_seed(8)
    weight = torch.randn(50, 400) * torch.logspace(-6, 3, 50)[:, None]
    weight[7] = 0
    largest = weight.abs().amax(1, keepdim=True)
    rows, scale = quantize_rows(weight, torch.int8)
    error = (dequantize_rows(rows, scale) - weight).abs()
    assert (error <= largest / 254 * 1.0001).all() and (error > largest / 300).any()
    rows, scale = quantize_rows(weight, torch.float8_e4m3fn)
    back = dequantize_rows(rows, scale)
    error = (back - weight).abs()
    assert (error <= torch.maximum(weight.abs() / 16, largest / 448 / 1024) * 1.0001).all()
    assert (error > weight.abs() / 20).any()
    assert back.isfinite().all() and not back[7].any()
    # the row's largest weight survives, whatever its size
    assert torch.allclose(back.abs().amax(1, keepdim=True), largest, rtol=1e-6, atol=0)


def test_norm_weight_and_swiglu_layout_can_be_prepared_ahead() -> None:
    torch.manual_seed(9)
    x, gamma = torch.randn(4, 30).double(), torch.rand(30).double()
    gate, up = torch.randn(20, 30).double(), torch.randn(20, 30).double()
    normed = torch.nn.functional.rms_norm(x, (30,), gamma, 1e-5)
    expected = torch.nn.functional.silu(normed @ gate.T) * (normed @ up.T)
    weight = fold_norm(interleave_rows(gate, up), gamma)
    found = reference_skinny_gemm(x, weight, epilogue="swiglu", norm_eps=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def _refused(**changes: Any) -> str:
    given: dict[str, Any] = {"x": torch.zeros(3, 64), "weight": torch.zeros(32, 64), **changes}
    with pytest.raises(KernelArgumentError) as caught:
        skinny_gemm(given.pop("x"), given.pop("weight"), **given)
    assert caught.value.expected and caught.value.got and caught.value.remedy
    return str(caught.value)


def test_output_of_another_type_is_rounded_once(interpreter: None) -> None:
    torch.manual_seed(5)
    x, weight = torch.randn(3, 40), torch.randn(6, 40)
    half = torch.full((3, 6), NAN, dtype=torch.float16)
    skinny_gemm(x, weight, out=half)
    assert torch.equal(half, skinny_gemm(x, weight).half())


def test_swiglu_does_not_leave_float16(interpreter: None) -> None:
    """Products beyond its largest number stay finite; what is no number stays none."""
    x = torch.tensor([[1.0, 0.0], [NAN, 0.0]], dtype=torch.float16)
    gate = torch.tensor([[300.0, 0], [300.0, 0], [2.0, 0]], dtype=torch.float16)
    up = torch.tensor([[400.0, 0], [-400.0, 0], [3.0, 0]], dtype=torch.float16)
    found = skinny_gemm(x, interleave_rows(gate, up), epilogue="swiglu")
    silu = 2 / (1 + math.exp(-2))
    torch.testing.assert_close(
        found[0], torch.tensor([65504.0, -65504.0, 3 * silu], dtype=torch.float16)
    )
    assert bool(found[1].isnan().all())


def test_bad_arguments_are_refused(interpreter: None) -> None:
    zeros = torch.zeros
    assert "at most 256 rows, got 257" in _refused(x=zeros(257, 64))
    apart = torch.empty_strided((3, 64), (2**30, 1), device="meta")
    assert "x: expected 3 rows within 2^31 elements" in _refused(
        x=apart, weight=torch.empty(32, 64, device="meta")
    )
    assert "x: expected shape (any, any)" in _refused(x=zeros(0, 64))
    assert "x: expected shape (any, any)" in _refused(x=zeros(64))
    assert "x: expected strides (any, 1)" in _refused(x=zeros(64, 3).T)
    assert "x: expected torch.bfloat16 or" in _refused(x=zeros(3, 64).double())
    assert "weight: expected shape (any, 64)" in _refused(weight=zeros(32, 65))
    assert "weight: expected strides (any, 1)" in _refused(weight=zeros(64, 32).T)
    assert "weight: expected torch.float32 or" in _refused(weight=zeros(32, 64).half())
    assert "got no scale with torch.int8" in _refused(weight=zeros(32, 64).to(torch.int8))
    assert "got scale with torch.float32" in _refused(scale=torch.ones(32))
    int8 = {"weight": zeros(32, 64).to(torch.int8)}
    assert "scale: expected shape (32)" in _refused(**int8, scale=torch.ones(31))
    assert "scale: expected torch.float32" in _refused(**int8, scale=torch.ones(32).double())
    assert "epilogue: expected none or" in _refused(epilogue="gelu")
    assert "got no residual with epilogue residual" in _refused(epilogue="residual")
    assert "got residual with epilogue none" in _refused(residual=zeros(3, 32))
    assert "copy_residual=True" in _refused(
        residual=zeros(3, 32), epilogue="residual", copy_residual=True
    )
    assert "residual: expected shape (3, 32)" in _refused(
        residual=zeros(3, 16), epilogue="residual"
    )
    assert "divides 32" in _refused(residual=zeros(3, 5), epilogue="silu_residual")
    assert "even number of rows" in _refused(weight=zeros(31, 64), epilogue="swiglu")
    assert "out: expected shape (3, 32)" in _refused(out=zeros(3, 31))
    assert "out: expected torch.bfloat16 or" in _refused(out=zeros(3, 32).double())
    assert "out: expected strides (any, 1)" in _refused(out=zeros(32, 3).T)
    assert "out: expected rows 32 wide" in _refused(out=zeros(1, 32).expand(3, 32))
    assert "with 16 columns of their own" in _refused(
        residual=zeros(3, 16), epilogue="silu_residual", copy_residual=True, out=zeros(3, 32)
    )
    assert "programs: expected at least 1" in _refused(programs=0)
    empty = Workspace(zeros(0), zeros(0), zeros(0, dtype=torch.int32))
    assert "workspace.partials" in _refused(workspace=empty)
    assert "at least 3 tokens" in _refused(
        config=dataclasses.replace(config_for(1, torch.float32), tokens=2)
    )


def test_without_a_gpu_the_launcher_names_the_reference() -> None:
    with pytest.raises(KernelArgumentError, match="call the torch reference"):
        skinny_gemm(torch.zeros(1, 16), torch.zeros(16, 16))


# --- ahead of time, for sm_90 ----------------------------------------------------------------

HALF, BFLOAT, FLOAT = torch.float16, torch.bfloat16, torch.float32
FLOAT8, INT8 = torch.float8_e4m3fn, torch.int8


@dataclasses.dataclass(frozen=True)
class Product:
    """One of those that a decode step is made of."""

    epilogue: Epilogue
    norm: bool
    out: torch.dtype


def products_of(x: torch.dtype, weight: torch.dtype) -> list[Product]:
    """With weights of float8 the residual stream is float32, and is normed before."""
    norm, stream = weight != FLOAT8, FLOAT if weight == FLOAT8 else x
    return [
        Product("none", norm, x if norm else BFLOAT),  # queries, keys and values
        Product("residual", False, stream),  # behind attention, and down
        Product("swiglu", norm, x),  # gate and up
        Product("none", False, FLOAT),  # the unembedding
        Product("silu_residual", False, x),  # heads
    ]


# of the models that there are, every product at every tile; of others those that need most
GRID = [
    (x, weight, tokens, product)
    for x, weight, few in [
        (BFLOAT, BFLOAT, False),
        (HALF, FLOAT8, False),
        (BFLOAT, INT8, False),
        (HALF, HALF, True),
        (HALF, INT8, True),
    ]
    for tokens in (16, 32, 64, 128, 256)
    if tokens >= config_for(1, weight).tokens
    for product in products_of(x, weight)
    if not few or product.epilogue == "none"
] + [  # without matrix unit, slow to compile, and only ever used by tests
    (FLOAT, FLOAT, tokens, Product("none", True, FLOAT)) for tokens in (32, 256)
]


def _name(value: object) -> str:
    if isinstance(value, Product):
        return f"{value.epilogue}{'-norm' * value.norm}-{_name(value.out)}"
    return str(value).removeprefix("torch.")


def _compiled(
    x: torch.dtype, weight: torch.dtype, rows: int, product: Product, n: int = 4096
) -> CompiledKernel:
    """At the 4B's width."""
    k, epilogue = 4096, product.epilogue
    columns = n // 2 if epilogue in ("swiglu", "silu_residual") else n
    residual, out = None, torch.empty(rows, columns, dtype=product.out)
    if epilogue == "residual":
        residual = out
    elif epilogue == "silu_residual":
        residual = torch.empty(rows, columns, dtype=x)
        out = torch.empty(rows, columns + n, dtype=x)[:, columns:]
    (kernel,) = compile_launches(
        lambda: skinny_gemm(
            torch.empty(rows, k, dtype=x),
            torch.empty(n, k, dtype=weight),
            out=out,
            scale=torch.empty(n) if weight.itemsize == 1 else None,
            residual=residual,
            epilogue=epilogue,
            norm_eps=1e-5 if product.norm else None,
            copy_residual=epilogue == "silu_residual",
        ),
        MODULE,
    )
    return kernel


@pytest.mark.slow
@pytest.mark.parametrize(("x", "weight", "tokens", "product"), GRID, ids=_name)
def test_compiles_to_warpgroup_products_without_spills(
    x: torch.dtype, weight: torch.dtype, tokens: int, product: Product
) -> None:
    """Whatever a decode step can ask for, with any number of rows."""
    config = config_for(tokens, weight)
    assert config.tokens == tokens
    kernel = _compiled(x, weight, tokens, product)
    assert not kernel.spills, f"{kernel.stack_bytes} bytes of stack"
    assert kernel.instructions("cp.async.c[ag]"), "weights are not copied asynchronously"
    assert kernel.shared_bytes * config.programs_per_multiprocessor <= MAX_SHARED_BYTES
    # 64 Ki registers have to hold as many programs as are meant to run side by side
    used = kernel.registers * 32 * config.num_warps * config.programs_per_multiprocessor
    assert used <= 65536
    assert not kernel.instructions("mma.sync")
    if x != FLOAT:
        operand = {BFLOAT: "bf16.bf16", HALF: "f16.f16"}[x]
        assert kernel.instructions("wgmma.mma_async") == [  # two warpgroups share 256 tokens
            f"wgmma.mma_async.sync.aligned.m64n{min(128, tokens)}k16.f32.{operand}"
        ]


@pytest.mark.parametrize("rows", [1, 10])
def test_odd_sizes_compile_without_spills(rows: int) -> None:
    """A vocabulary that is no multiple of anything."""
    assert not _compiled(BFLOAT, BFLOAT, rows, Product("none", False, FLOAT), n=64001).spills


@pytest.mark.parametrize("weight", [FLOAT, BFLOAT, HALF, FLOAT8, INT8], ids=_name)
def test_the_number_of_rows_decides_nothing_that_rounds(weight: torch.dtype) -> None:
    """A step along k is part of what the result is; and a workspace for many rows does for few."""
    configs = [config_for(rows, weight) for rows in range(1, MAX_ROWS + 1)]
    assert len({config.block_k for config in configs}) == 1
    assert all(config.tokens >= rows for rows, config in enumerate(configs, 1))
    device = torch.device("cpu")
    for programs in (None, 132):
        for n, k in ((48, 48), (6144, 4096), (4096, 14336), (64000, 4096)):
            sizes = [
                [len(tensor) for tensor in (space.partials, space.squares, space.counters)]
                for rows in (1, 17, 33, 65, 129)
                for space in [Workspace.allocate([(configs[rows - 1], n, k)], device, programs)]
            ]
            for fewer, more in itertools.pairwise(sizes):
                assert all(a <= b for a, b in zip(fewer, more, strict=True)), (n, k, sizes)


def test_weights_are_fetched_before_the_kernel_before_has_ended() -> None:
    (kernel,) = compile_launches(
        lambda: skinny_gemm(
            torch.empty(10, 4096, dtype=torch.bfloat16),
            torch.empty(4096, 4096, dtype=torch.bfloat16),
            overlap=True,
        ),
        MODULE,
    )
    fetched = kernel.ptx.index("prefetch.global.L2")
    waited = kernel.ptx.index("griddepcontrol.wait")
    first_load = min(
        kernel.ptx.index(load) for load in ("cp.async.cg", "ld.global") if load in kernel.ptx
    )
    assert fetched < waited < first_load
    assert kernel.instructions("griddepcontrol.launch_dependents") and not kernel.spills


# --- on a GPU --------------------------------------------------------------------------------


def _on_gpu(rows: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(rows + n + k)
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / k**0.5
    return x, weight


def _distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.gpu
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(
    ("rows", "n", "k"), [(1, 4096, 4096), (10, 6144, 4096), (100, 1000, 700), (160, 4096, 4096)]
)
def test_error_on_a_gpu_is_at_most_twice_torchs(
    rows: int, n: int, k: int, epilogue: Epilogue
) -> None:
    x, weight = _on_gpu(rows, n, k)
    columns = {"residual": n, "silu_residual": n // 2}.get(epilogue)
    residual = None if columns is None else torch.randn_like(x[:, :1].expand(rows, columns))
    options: dict[str, Any] = {"residual": residual, "epilogue": epilogue, "norm_eps": 1e-5}
    exact = reference_skinny_gemm(x, weight, **options, dtype=torch.float64)
    out = torch.full_like(exact, NAN, dtype=torch.bfloat16)
    skinny_gemm(x, weight, **options, out=out)
    torchs = _distance(reference_skinny_gemm(x, weight, **options), exact)
    assert _distance(out, exact) <= 2 * torchs


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_error_of_quantised_weights_on_a_gpu(dtype: torch.dtype) -> None:
    x, weight = _on_gpu(10, 4096, 4096)
    rows, scale = quantize_rows(weight, dtype)
    x = x.half()
    exact = reference_skinny_gemm(x, rows, scale=scale, dtype=torch.float64)
    out = torch.full_like(exact, NAN, dtype=torch.float16)
    skinny_gemm(x, rows, scale=scale, out=out)
    assert _distance(out, exact) <= 2 * _distance(
        reference_skinny_gemm(x, rows, scale=scale), exact
    )


@pytest.mark.gpu
def test_nothing_changes_a_row_on_a_gpu() -> None:
    """Neither the number of programs, nor how many rows are fed, nor a replayed graph."""
    x, weight = _on_gpu(256, 6144, 4096)
    all_rows = skinny_gemm(x, weight, norm_eps=1e-5)
    for programs in (1, 7, 132, 528):
        assert torch.equal(skinny_gemm(x, weight, norm_eps=1e-5, programs=programs), all_rows)
    for rows in (1, 10, 16, 17, 33, 64, 65, 128, 129, 200):
        assert torch.equal(skinny_gemm(x[:rows], weight, norm_eps=1e-5), all_rows[:rows]), rows
    workspace = Workspace.allocate([(config_for(10, weight.dtype), 6144, 4096)], x.device)
    out = torch.full((10, 6144), NAN, device="cuda", dtype=torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    skinny_gemm(x[:10], weight, norm_eps=1e-5, out=out, workspace=workspace)  # compiled before
    with torch.cuda.graph(graph):
        skinny_gemm(x[:10], weight, norm_eps=1e-5, out=out, workspace=workspace)
    for _ in range(3):
        out.fill_(NAN)
        graph.replay()
        assert torch.equal(out, all_rows[:10])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("epilogue", ["none", "swiglu"])
def test_nothing_changes_a_row_of_quantised_weights(dtype: torch.dtype, epilogue: Epilogue) -> None:
    """The norm's sum of squares neither, which is added in every width of the tile."""
    x, weight = _on_gpu(256, 6144, 4096)
    rows, scale = quantize_rows(weight, dtype)
    for activations in (torch.bfloat16, torch.float16):
        own = x.to(activations)
        options: dict[str, Any] = {"scale": scale, "epilogue": epilogue, "norm_eps": 1e-5}
        together = skinny_gemm(own, rows, **options)
        for count in (1, 10, 32, 33, 64, 65, 128, 129, 200):
            found = skinny_gemm(own[:count], rows, **options)
            assert torch.equal(found, together[:count]), count


@pytest.mark.gpu
def test_overlapping_launches_on_a_gpu() -> None:
    """A chain in which each product reads what the one before wrote."""
    x, weight = _on_gpu(10, 4096, 4096)
    plain, overlapped = x, x
    for _ in range(20):
        plain = skinny_gemm(plain, weight, norm_eps=1e-5)
    workspace = Workspace.allocate([(config_for(10, weight.dtype), 4096, 4096)], x.device)
    for _ in range(20):
        overlapped = skinny_gemm(
            overlapped, weight, norm_eps=1e-5, workspace=workspace, overlap=True
        )
    assert torch.equal(plain, overlapped)
