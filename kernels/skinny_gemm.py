"""Matrix product of a few rows with a large weight: y = x W^T, 1 to 256 rows.

Decoding multiplies a handful of rows with every weight of the model, so its speed is the speed at
which weights are read. What this kernel does about that:

- *Swapped operands.* Rows of the weight fill the matrix unit's 64-row side, tokens its 8-to-256
  wide one; the other way round most of each instruction would multiply padding.
- *Stream-K.* A tile of the output is `BLOCK_N` weight rows; its products are cut into chunks of
  `CHUNK` along k. All chunks of all tiles form one line that is divided evenly among the
  programs, so every multiprocessor reads as much as any other, whatever the weight's shape.
- *One order of summation.* A chunk is summed from zero, and a tile adds its chunks in ascending
  order, whoever computed them. `CHUNK` is a constant and a step along k (`block_k`) one for each
  type of weight, so the number of programs, the GPU's number of multiprocessors and the other
  rows of the batch never change a result, the norm's sum of squares included (their number does
  choose the width of the instruction; that it makes no difference is for the GPU tests to
  say). Programs that share a tile leave their sums in a workspace; the one that arrives last
  adds them up. No floating-point atomics.
- *Fused ends.* The scale of an RMS norm of x, the scales of a quantised weight, a residual sum,
  SwiGLU, and Medusa's SiLU with residual happen before the only write.

Bytes moved: `n * k * itemsize(W)` once, `rows * k` of x from the L2 cache for each tile, and
`rows * n` of output; the shared tiles add at most `8 * BLOCK_N * TOKENS` bytes per chunk, in L2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from worldbridge.kernels.checks import (
    KernelArgumentError,
    check_device,
    check_dtype,
    check_shape,
    check_strides,
    interpreting,
)

__all__ = [
    "CHUNK",
    "MAX_ROWS",
    "Config",
    "Epilogue",
    "Workspace",
    "config_for",
    "interleave_rows",
    "reference_skinny_gemm",
    "skinny_gemm",
    "skinny_gemm_kernel",
]

CHUNK: Final = 512  # length of k that is summed at a stretch; part of what the result is
MAX_ROWS: Final = 256
ACTIVATIONS: Final = (torch.bfloat16, torch.float16, torch.float32)
QUANTIZED: Final = (torch.float8_e4m3fn, torch.int8)
Epilogue = Literal["none", "residual", "swiglu", "silu_residual"]
PARTS = tl.constexpr(8)  # of a row's squares along k: neighbours in a thread, and no further
_EPILOGUES: Final = {"none": 0, "residual": 1, "swiglu": 2, "silu_residual": 3}


# --- the kernel ------------------------------------------------------------------------------


@triton.jit
def _first_unit(program, units, programs):
    """Units are (tile, chunk) pairs in one line, divided evenly among the programs."""
    return program * units // programs


@triton.jit
def _program_of(unit, units, programs):
    return ((unit + 1) * programs - 1) // units


@triton.jit
def _folded(values, COLUMNS: tl.constexpr):
    """(rows, n) -> (rows, COLUMNS): sums of neighbours, then of neighbouring sums, and so on.

    `tl.sum` adds in an order that comes from how the compiler spreads a tile over threads, which
    the tile's size decides. This order is written down.
    """
    for _ in tl.static_range(16):
        if values.shape[1] > COLUMNS:
            pairs = tl.reshape(values, (values.shape[0], values.shape[1] // 2, 2))
            even, odd = tl.split(pairs)
            values = even + odd
    return values


@triton.jit
def _chunk(
    x_ptr,
    w_ptr,
    tile,
    chunk,
    rows,
    n,
    k,
    x_stride,
    w_stride,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr,
    TOKENS: tl.constexpr,
    EVEN_K: tl.constexpr,
    NORM: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Products of one weight tile over one chunk of k: (BLOCK_N, TOKENS), and each row's sum of
    squares over that chunk: (TOKENS,)."""
    # Beyond the last row or column the last one is read again, and never written: no masks here.
    columns = tl.minimum(tl.arange(0, BLOCK_N), n - 1 - tile * BLOCK_N)
    tokens = tl.minimum(tl.arange(0, TOKENS), rows - 1)
    ks = tl.arange(0, BLOCK_K)
    w_tile = w_ptr + (tile * BLOCK_N).to(tl.int64) * w_stride
    w_cells = columns[:, None] * w_stride + ks[None, :]
    x_cells = tokens[:, None] * x_stride + ks[None, :]  # 32 bits, which fill fewer registers
    sums = tl.zeros((BLOCK_N, TOKENS), tl.float32)
    squares = tl.zeros((TOKENS, PARTS), tl.float32)
    for start in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, k), BLOCK_K):
        if EVEN_K:
            w = tl.load(w_tile + (w_cells + start), eviction_policy="evict_first")
            x = tl.load(x_ptr + (x_cells + start), eviction_policy="evict_last")
        else:
            inside = (start + ks < k)[None, :]
            w_part = w_tile + (w_cells + start)
            w = tl.load(w_part, mask=inside, other=0.0, eviction_policy="evict_first")
            x_part = x_ptr + (x_cells + start)
            x = tl.load(x_part, mask=inside, other=0.0, eviction_policy="evict_last")
        if UPCAST:  # the interpreter computes nothing right in bfloat16
            w = w.to(tl.float32)
            x = x.to(tl.float32)
        if NORM:
            values = x.to(tl.float32)
            squares += _folded(values * values, PARTS)  # of 16 bits, their squares are exact
        sums = tl.dot(w.to(x.dtype), tl.trans(x), sums, input_precision=PRECISION)
    return sums, tl.reshape(_folded(squares, 1), (TOKENS,))


@triton.jit
def _collect(
    partial_ptr,
    square_ptr,
    tile,
    chunks,
    units,
    programs,
    slots,
    BLOCK_N: tl.constexpr,
    TOKENS: tl.constexpr,
    NORM: tl.constexpr,
):
    """Adds up a shared tile: the first program's running sum, then every later chunk in order."""
    tokens = tl.arange(0, TOKENS)
    cells = tl.arange(0, BLOCK_N)[:, None] * TOKENS + tokens[None, :]
    first = _program_of(tile * chunks, units, programs)
    slot = first * slots + slots - 1
    # .cg: written by other multiprocessors during this launch, so not to be read through L1
    total = tl.load(partial_ptr + slot * (BLOCK_N * TOKENS) + cells, cache_modifier=".cg")
    squares = tl.zeros((TOKENS,), tl.float32)
    if NORM:
        squares = tl.load(square_ptr + slot * TOKENS + tokens, cache_modifier=".cg")
    for unit in range(_first_unit(first + 1, units, programs), (tile + 1) * chunks):
        program = _program_of(unit, units, programs)
        slot = program * slots + unit - _first_unit(program, units, programs)
        total += tl.load(partial_ptr + slot * (BLOCK_N * TOKENS) + cells, cache_modifier=".cg")
        if NORM:
            squares += tl.load(square_ptr + slot * TOKENS + tokens, cache_modifier=".cg")
    return total, squares


@triton.jit
def _silu(value):
    return value / (1.0 + tl.exp(-value))


@triton.jit
def _finish(
    total,
    squares,
    scale_ptr,
    residual_ptr,
    out_ptr,
    tile,
    rows,
    n,
    k,
    residual_stride,
    residual_columns,
    out_stride,
    norm_eps,
    BLOCK_N: tl.constexpr,
    TOKENS: tl.constexpr,
    EPILOGUE: tl.constexpr,
    NORM: tl.constexpr,
    COPY_RESIDUAL: tl.constexpr,
):
    """Scales, activation, residual, and the only write of a tile."""
    tokens = tl.arange(0, TOKENS)
    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    if NORM:
        total = total * (1.0 / tl.sqrt(squares / k + norm_eps))[None, :]
    if scale_ptr is not None:
        total = total * tl.load(scale_ptr + columns, mask=columns < n, other=0.0)[:, None]
    if EPILOGUE == 2:  # rows 2i and 2i+1 of the weight are gate and up of output column i
        pairs = tl.permute(tl.reshape(total, (BLOCK_N // 2, 2, TOKENS)), (0, 2, 1))
        gate, up = tl.split(pairs)
        total = _silu(gate) * up
        if out_ptr.dtype.element_ty == tl.float16:  # which has no room for some; NaN stays NaN
            total = tl.where(total > 65504.0, 65504.0, tl.where(total < -65504.0, -65504.0, total))
        columns = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        n = n // 2
    written = (columns < n)[:, None] & (tokens < rows)[None, :]
    row_starts = tokens[None, :]  # 32 bits reach every cell: see the launcher
    if EPILOGUE == 3:
        total = _silu(total)
    if (EPILOGUE == 1) | (EPILOGUE == 3):
        repeated = columns
        if EPILOGUE == 3:
            repeated = columns % residual_columns
        source = residual_ptr + (row_starts * residual_stride + repeated[:, None])
        residual = tl.load(source, mask=written, other=0.0)
        total = residual.to(tl.float32) + total
        if COPY_RESIDUAL:  # into the residual_columns in front of the output
            target = out_ptr + (row_starts * out_stride + (columns - residual_columns)[:, None])
            copied = written & (columns < residual_columns)[:, None]
            tl.store(target, residual.to(out_ptr.dtype.element_ty), mask=copied)
    target = out_ptr + (row_starts * out_stride + columns[:, None])
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=written)


@triton.jit(do_not_specialize=["rows"])
def skinny_gemm_kernel(
    x_ptr,
    w_ptr,
    scale_ptr,
    residual_ptr,
    out_ptr,
    partial_ptr,
    square_ptr,
    counter_ptr,
    rows,
    n,
    k,
    x_stride,
    w_stride,
    residual_stride,
    residual_columns,
    out_stride,
    norm_eps,
    slots,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr,
    TOKENS: tl.constexpr,
    EPILOGUE: tl.constexpr,
    NORM: tl.constexpr,
    COPY_RESIDUAL: tl.constexpr,
    EVEN_K: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """See the module. `partial_ptr` holds `slots` tiles of float32 for each program: the chunks of
    a tile that an earlier program began, and last the running sum of a tile it began itself and
    another finishes. `counter_ptr` counts arrivals, one int32 per tile, and is left at zero."""
    programs = tl.num_programs(0)
    program = tl.program_id(0)
    chunks = tl.cdiv(k, CHUNK)
    units = tl.cdiv(n, BLOCK_N) * chunks
    begin = _first_unit(program, units, programs)
    end = _first_unit(program + 1, units, programs)
    if PDL:
        # Weights do not depend on the kernel before: fetch the first ones while it still runs.
        row_starts = tl.minimum(begin // chunks * BLOCK_N + tl.arange(0, BLOCK_N), n - 1)
        line_starts = begin % chunks * CHUNK + tl.arange(0, CHUNK // BLOCK_K) * BLOCK_K
        lines = row_starts.to(tl.int64)[:, None] * w_stride + tl.minimum(line_starts, k - 1)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
            "=r,l",
            [w_ptr + lines],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()  # they too wait for this kernel's end

    cells = tl.arange(0, BLOCK_N)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
    total = tl.zeros((BLOCK_N, TOKENS), tl.float32)
    squares = tl.zeros((TOKENS,), tl.float32)
    for unit in range(begin, end):
        tile = unit // chunks
        chunk = unit % chunks
        sums, chunk_squares = _chunk(
            x_ptr,
            w_ptr,
            tile,
            chunk,
            rows,
            n,
            k,
            x_stride,
            w_stride,
            BLOCK_N,
            BLOCK_K,
            CHUNK,
            TOKENS,
            EVEN_K,
            NORM,
            UPCAST,
            PRECISION,
        )
        total = tl.where(chunk == 0, sums, total + sums)
        squares = tl.where(chunk == 0, chunk_squares, squares + chunk_squares)
        began_here = tile * chunks >= begin
        ends_tile = chunk == chunks - 1
        done = began_here & ends_tile
        if not done:
            if (not began_here) | (unit == end - 1):
                # A tile that another program began gets every chunk by itself, to be added in
                # order; a tile begun here and left unfinished its running sum.
                slot = program * slots + tl.where(began_here, slots - 1, unit - begin)
                kept = tl.where(began_here, total, sums)
                tl.store(partial_ptr + slot * (BLOCK_N * TOKENS) + cells, kept)
                if NORM:
                    kept_squares = tl.where(began_here, squares, chunk_squares)
                    tl.store(square_ptr + slot * TOKENS + tl.arange(0, TOKENS), kept_squares)
            if ends_tile | (unit == end - 1):
                first = _program_of(tile * chunks, units, programs)
                last = _program_of(tile * chunks + chunks - 1, units, programs)
                tl.debug_barrier()  # every thread's sums are written before one of them counts
                arrived = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu")
                if arrived == last - first:
                    tl.store(counter_ptr + tile, 0)  # ready for the next launch
                    total, squares = _collect(
                        partial_ptr,
                        square_ptr,
                        tile,
                        chunks,
                        units,
                        programs,
                        slots,
                        BLOCK_N,
                        TOKENS,
                        NORM,
                    )
                    done = True
        if done:
            _finish(
                total,
                squares,
                scale_ptr,
                residual_ptr,
                out_ptr,
                tile,
                rows,
                n,
                k,
                residual_stride,
                residual_columns,
                out_stride,
                norm_eps,
                BLOCK_N,
                TOKENS,
                EPILOGUE,
                NORM,
                COPY_RESIDUAL,
            )
            # nobody reads these any more, so no register holds them while a tile is finished
            total = tl.zeros((BLOCK_N, TOKENS), tl.float32)
            squares = tl.zeros((TOKENS,), tl.float32)


# --- the launcher ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Config:
    """Tile sizes and resources of one launch. Of these `block_k` is part of what the result is: it
    says which products are added first. The others change a result only if the matrix unit's own
    order of summation depends on the shape of its instruction."""

    block_n: int
    block_k: int
    tokens: int
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int = 2


def config_for(rows: int, weight_dtype: torch.dtype) -> Config:
    """The pinned configuration, chosen by what the compiler reports for sm_90 (registers, shared
    memory, spills) and not yet by measurement on a GPU."""
    quantized = weight_dtype in QUANTIZED
    tokens = max(32 if quantized else 16, triton.next_power_of_2(rows))
    # Two programs on a multiprocessor hide each other's pauses between chunks. From 64 tokens on
    # the two tiles of float32 sums leave registers for one, which gets a longer pipeline instead.
    alone = tokens > 32
    # The sums of a program: what its registers hold. float32 products take registers of their own,
    # because they are no work for the matrix unit.
    cells = 64 * 128 if weight_dtype == torch.float32 else 128 * 128
    # float8 widens in registers; shared by more warps, it still lets two programs fit
    spread = alone or weight_dtype == torch.float8_e4m3fn
    return Config(
        block_n=min(128, cells // tokens),
        block_k=128 // max(2, weight_dtype.itemsize),  # whatever the rows: see the module
        tokens=tokens,
        num_warps=8 if spread else 4,
        num_stages=5 if tokens > 128 else 6 if quantized or alone else 4,
        programs_per_multiprocessor=1 if alone else 2,
    )


@dataclass(frozen=True, slots=True)
class Workspace:
    """Memory for tiles that several programs share. One serves any number of launches on one
    stream, one after another; launches that may overlap need one each."""

    partials: torch.Tensor  # float32
    squares: torch.Tensor  # float32
    counters: torch.Tensor  # int32, zero between launches

    @classmethod
    def allocate(
        cls,
        launches: Sequence[tuple[Config, int, int]],
        device: torch.device,
        programs: int | None = None,
    ) -> Workspace:
        """Large enough for each of `launches`: its configuration, n and k. A configuration for
        more rows covers one for fewer."""
        cells = squares = tiles = 0
        for config, n, k in launches:
            division = _divide(n, k, config, device, programs)
            columns = division.programs * division.slots * config.tokens
            cells = max(cells, columns * config.block_n)
            squares = max(squares, columns)
            tiles = max(tiles, division.tiles)
        return cls(
            partials=torch.empty(cells, dtype=torch.float32, device=device),
            squares=torch.empty(squares, dtype=torch.float32, device=device),
            counters=torch.zeros(tiles, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True, slots=True)
class _Division:
    tiles: int
    programs: int
    slots: int


def _divide(
    n: int, k: int, config: Config, device: torch.device, programs: int | None
) -> _Division:
    """How many programs share the work, and how many partial tiles each may have to leave."""
    tiles, chunks = triton.cdiv(n, config.block_n), triton.cdiv(k, CHUNK)
    if programs is None:
        programs = config.programs_per_multiprocessor * _multiprocessors(device)
    programs = min(programs, tiles * chunks)
    if programs < 1 or tiles * chunks * (programs + 1) >= 2**31:
        raise KernelArgumentError(
            "programs",
            expected=f"at least 1, and {tiles * chunks} units * programs < 2^31",
            got=str(programs),
            remedy="leave it out",
        )
    slots = min(chunks - 1, triton.cdiv(tiles * chunks, programs)) + 1
    return _Division(tiles, programs, slots)


def _multiprocessors(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return 4  # the interpreter runs one program after another; a few keep tiles shared


def skinny_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    epilogue: Epilogue = "none",
    norm_eps: float | None = None,
    out: torch.Tensor | None = None,
    copy_residual: bool = False,
    workspace: Workspace | None = None,
    programs: int | None = None,
    overlap: bool = False,
    config: Config | None = None,
) -> torch.Tensor:
    """`epilogue(norm(x) @ (weight * scale).T)`, written to `out`.

    x (rows, k) of bf16, fp16 or fp32, 1 to 256 rows; weight (n, k) of x's dtype, or float8_e4m3fn
    or int8 with `scale` (n,) float32. Rows may be apart (any stride), elements of a row not.
    `norm_eps` divides each row of x by its root mean square; the norm's own weight belongs folded
    into `weight` (`quantize.fold_norm`). `out` is of x's type when left out, else of any of these
    three; what swiglu makes ends in float16 at the largest number instead of infinity.

    | epilogue | result (rows, n), of float32 sums rounded once |
    |---|---|
    | none | y |
    | residual | residual + y; `residual` (rows, n), may be `out` itself |
    | swiglu | (rows, n/2): silu(gate) * up, weight rows interleaved by `interleave_rows` |
    | silu_residual | residual + silu(y); `residual` (rows, m) with n a multiple of m, repeated |

    `copy_residual` (with silu_residual) also writes the residual into the m columns that lie in
    front of `out` in memory; `out` must then be such a view. `overlap` lets the launch begin
    while the kernel before it on the stream still runs (programmatic dependent launch); every
    kernel of such a chain must do so. Without `workspace` one is allocated, which costs a
    second launch. `programs` and `config` are for tests and tuning; no result depends on the
    former.

    Raises `KernelArgumentError` for a shape, stride, dtype or device that does not fit.
    """
    device = check_device(x=x, weight=weight, scale=scale, residual=residual, out=out)
    rows, n, k = _check_operands(x, weight, scale)
    columns = _check_epilogue(rows, n, residual, epilogue, copy_residual)
    if out is None:
        out = torch.empty(rows, columns, dtype=x.dtype, device=device)
    in_front = residual.shape[1] if residual is not None and copy_residual else 0
    _check_out(out, rows, columns, in_front)
    config = config or config_for(rows, weight.dtype)
    _check_config(config, rows)
    for name, tensor, high in (
        ("x", x, rows),
        ("weight", weight, config.block_n),
        ("residual", residual, rows),
        ("out", out, rows),
    ):
        if tensor is not None:
            _check_reach(name, tensor, high)
    division = _divide(n, k, config, device, programs)
    if workspace is None:
        workspace = Workspace.allocate([(config, n, k)], device, programs)
    _check_workspace(workspace, config, division)
    skinny_gemm_kernel[(division.programs,)](
        x,
        weight,
        scale,
        residual,
        out,
        workspace.partials,
        workspace.squares,
        workspace.counters,
        rows,
        n,
        k,
        x.stride(0),
        weight.stride(0),
        residual.stride(0) if residual is not None else 0,
        residual.shape[1] if residual is not None else 1,
        out.stride(0),
        norm_eps if norm_eps is not None else 0.0,
        division.slots,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        CHUNK=CHUNK,
        TOKENS=config.tokens,
        EPILOGUE=_EPILOGUES[epilogue],
        NORM=norm_eps is not None,
        COPY_RESIDUAL=copy_residual,
        EVEN_K=k % config.block_k == 0,
        UPCAST=interpreting(),
        PRECISION="ieee",
        PDL=overlap,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        launch_pdl=overlap,
        enable_fp_fusion=True,
    )
    return out


def _check_config(config: Config, rows: int) -> None:
    if config.tokens < rows or CHUNK % config.block_k:
        raise KernelArgumentError(
            "config",
            expected=f"at least {rows} tokens and a block_k that divides {CHUNK}",
            got=f"{config.tokens} tokens, block_k {config.block_k}",
            remedy="use config_for",
        )


def _check_reach(name: str, tensor: torch.Tensor, rows: int) -> None:
    """The kernel counts the elements of a tile's rows in 32 bits."""
    if rows * tensor.stride(0) + tensor.shape[1] >= 2**31:
        raise KernelArgumentError(
            name,
            expected=f"{rows} rows within 2^31 elements",
            got=f"strides {tensor.stride()}",
            remedy="make it contiguous first, or give the product fewer rows",
        )


def _check_operands(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None
) -> tuple[int, int, int]:
    check_dtype("x", x, ACTIVATIONS)
    check_shape("x", x, None, None)
    rows, k = x.shape
    if rows > MAX_ROWS:
        raise KernelArgumentError(
            "x",
            expected=f"at most {MAX_ROWS} rows",
            got=f"{rows} rows",
            remedy="use torch.matmul, which is better for many rows, or split them",
        )
    check_strides("x", x, None, 1)
    check_dtype("weight", weight, (x.dtype, *QUANTIZED))
    check_shape("weight", weight, None, k)
    check_strides("weight", weight, None, 1)
    if (weight.dtype in QUANTIZED) != (scale is not None):
        raise KernelArgumentError(
            "scale",
            expected="a scale exactly when the weight is float8_e4m3fn or int8",
            got=f"{'no ' if scale is None else ''}scale with {weight.dtype}",
            remedy="pass weight and scale as quantize_rows returns them",
        )
    if scale is not None:
        check_dtype("scale", scale, (torch.float32,))
        check_shape("scale", scale, weight.shape[0])
        check_strides("scale", scale, 1)
    return rows, weight.shape[0], k


def _check_epilogue(
    rows: int, n: int, residual: torch.Tensor | None, epilogue: Epilogue, copy_residual: bool
) -> int:
    """The number of output columns."""
    if epilogue not in _EPILOGUES:
        raise KernelArgumentError(
            "epilogue", expected=" or ".join(_EPILOGUES), got=repr(epilogue), remedy="choose one"
        )
    wanted = epilogue in ("residual", "silu_residual")
    if wanted != (residual is not None) or (copy_residual and epilogue != "silu_residual"):
        raise KernelArgumentError(
            "residual",
            expected="a residual exactly with epilogues residual and silu_residual, and "
            "copy_residual only with the latter",
            got=f"{'no ' if residual is None else ''}residual with epilogue {epilogue}, "
            f"copy_residual={copy_residual}",
            remedy="name the epilogue that is meant",
        )
    if residual is not None:
        check_dtype("residual", residual, ACTIVATIONS)
        check_shape("residual", residual, rows, n if epilogue == "residual" else None)
        check_strides("residual", residual, None, 1)
        if n % residual.shape[1]:
            raise KernelArgumentError(
                "residual",
                expected=f"a number of columns that divides {n}",
                got=f"{residual.shape[1]} columns",
                remedy="stack whole heads in the weight",
            )
    if epilogue == "swiglu" and n % 2:
        raise KernelArgumentError(
            "weight",
            expected="an even number of rows for swiglu",
            got=f"{n} rows",
            remedy="interleave gate and up with interleave_rows",
        )
    return n // 2 if epilogue == "swiglu" else n


def _check_out(out: torch.Tensor, rows: int, columns: int, in_front: int) -> None:
    """`in_front` columns before each row of `out` are written too."""
    check_shape("out", out, rows, columns)
    check_strides("out", out, None, 1)
    check_dtype("out", out, ACTIVATIONS)
    if out.storage_offset() < in_front or (rows > 1 and out.stride(0) < columns + in_front):
        raise KernelArgumentError(
            "out",
            expected=f"rows {columns} wide with {in_front} columns of their own before each",
            got=f"storage offset {out.storage_offset()}, strides {out.stride()}",
            remedy=f"pass buffer[:, {in_front}:] of a contiguous buffer",
        )


def _check_workspace(workspace: Workspace, config: Config, division: _Division) -> None:
    needed = {
        "partials": division.programs * division.slots * config.block_n * config.tokens,
        "squares": division.programs * division.slots * config.tokens,
        "counters": division.tiles,
    }
    for name, size in needed.items():
        found = getattr(workspace, name).numel()
        if found < size:
            raise KernelArgumentError(
                f"workspace.{name}",
                expected=f"at least {size} elements",
                got=f"{found}",
                remedy="allocate it with Workspace.allocate, naming every launch it is for",
            )


# --- the reference ---------------------------------------------------------------------------


def interleave_rows(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Gate and up, (m, k) each, as the (2m, k) weight of the swiglu epilogue."""
    return torch.stack((gate, up), dim=1).reshape(-1, gate.shape[1])


def reference_skinny_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    epilogue: Epilogue = "none",
    norm_eps: float | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """What `skinny_gemm` computes, in plain torch; in `dtype` (float64 for tests) or that of x."""
    dtype = dtype or x.dtype
    x, weight = x.to(dtype), weight.to(dtype)
    if norm_eps is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm_eps)
    if scale is not None:
        weight = weight * scale.to(dtype)[:, None]
    y = x @ weight.T
    if epilogue == "swiglu":
        return F.silu(y[:, 0::2]) * y[:, 1::2]
    if epilogue == "silu_residual":
        y = F.silu(y)
    if residual is None:
        return y
    return residual.to(dtype).repeat(1, y.shape[1] // residual.shape[1]) + y
