"""Matrix product of a few rows with a large weight: y = x W^T, 1 to 256 rows.

Decoding multiplies a few rows with every weight of the model, so it is as fast as weights are read:

- *Swapped operands.* Rows of the weight fill the matrix unit's 64-row side, tokens its side of 8 to
  256. The other way round, most of each instruction would multiply padding.
- *Stream-K.* A tile of the output is `BLOCK_N` weight rows; its products are cut into chunks of
  `CHUNK` along k. All chunks of all tiles form one line that is divided evenly among the programs,
  so every multiprocessor reads the same amount, whatever the weight's shape.
- *One order of summation.* A chunk is summed from zero, and a tile adds its chunks in ascending
  order, whichever program computed them. `CHUNK` is a constant, and the step along k (`block_k`)
  depends on the weight's type alone. So the number of programs, the GPU's multiprocessors and the
  other rows of the batch never change a result, including the norm's sum of squares. (The number of
  rows does choose the width of the instruction; the GPU tests check that it makes no difference.)
  Programs that share a tile leave their sums in a workspace; the last to arrive adds them up. There
  are no floating-point atomics.
- *Fused ends.* The scale of an RMS norm of x, the scales of a quantized weight, a residual sum,
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

from worldbridge.kernels.checks import check_device, check_tensor, interpreting, require

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

CHUNK: Final = 512  # length of k that is summed from zero; determines the rounding
MAX_ROWS: Final = 256
ACTIVATIONS: Final = (torch.bfloat16, torch.float16, torch.float32)
QUANTIZED: Final = (torch.float8_e4m3fn, torch.int8)
Epilogue = Literal["none", "residual", "swiglu", "silu_residual"]
PARTS = tl.constexpr(8)  # of a row's squares along k, which one thread holds
_EPILOGUES: Final = {"none": 0, "residual": 1, "swiglu": 2, "silu_residual": 3}


# --- kernel ----------------------------------------------------------------------------------


@triton.jit
def _first_unit(program, units, programs):
    """Return a program's first unit: (tile, chunk) pairs in a line, divided evenly."""
    return program * units // programs


@triton.jit
def _program_of(unit, units, programs):
    return ((unit + 1) * programs - 1) // units


@triton.jit
def _folded(values, COLUMNS: tl.constexpr):
    """Sum (rows, n) to (rows, COLUMNS) by adjacent pairs, again and again.

    The order of `tl.sum` depends on how the compiler spreads a tile over threads, and so on the
    tile's size. This order is fixed.
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
    """Return the products of a weight tile over one chunk of k, (BLOCK_N, TOKENS), and each row's
    sum of squares over that chunk, (TOKENS,)."""
    # Beyond the last row or column, the last one is read again and never written: no masks here.
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
        if UPCAST:  # the interpreter computes bfloat16 products wrongly
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
    """Add up a shared tile: the first program's running sum, then every later chunk in order."""
    tokens = tl.arange(0, TOKENS)
    cells = tl.arange(0, BLOCK_N)[:, None] * TOKENS + tokens[None, :]
    first = _program_of(tile * chunks, units, programs)
    slot = first * slots + slots - 1
    # .cg: other multiprocessors write these during this launch, so L1 must not be used
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
    """Apply scales, activation and residual, and write the tile."""
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
        if out_ptr.dtype.element_ty == tl.float16:  # some may exceed it; NaN stays NaN
            total = tl.where(total > 65504.0, 65504.0, tl.where(total < -65504.0, -65504.0, total))
        columns = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        n = n // 2
    written = (columns < n)[:, None] & (tokens < rows)[None, :]
    row_starts = tokens[None, :]  # 32-bit offsets suffice: see the launcher
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
    """Compute the units of one program.

    `partial_ptr` holds `slots` float32 tiles per program: the chunks of a tile that an earlier
    program began, and last the running sum of a tile that it begins and another one finishes.
    `counter_ptr` counts arrivals, one int32 per tile, and is left at zero.
    """
    programs = tl.num_programs(0)
    program = tl.program_id(0)
    chunks = tl.cdiv(k, CHUNK)
    units = tl.cdiv(n, BLOCK_N) * chunks
    begin = _first_unit(program, units, programs)
    end = _first_unit(program + 1, units, programs)
    if PDL:
        # Weights do not depend on the previous kernel: fetch the first ones while it runs.
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
        tl.extra.cuda.gdc_launch_dependents()  # they wait for this kernel's end, too

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
                # Keep each chunk of a tile that another program began, to be added in order, and
                # the running sum of an unfinished tile that began here.
                slot = program * slots + tl.where(began_here, slots - 1, unit - begin)
                kept = tl.where(began_here, total, sums)
                tl.store(partial_ptr + slot * (BLOCK_N * TOKENS) + cells, kept)
                if NORM:
                    kept_squares = tl.where(began_here, squares, chunk_squares)
                    tl.store(square_ptr + slot * TOKENS + tl.arange(0, TOKENS), kept_squares)
            if ends_tile | (unit == end - 1):
                first = _program_of(tile * chunks, units, programs)
                last = _program_of(tile * chunks + chunks - 1, units, programs)
                tl.debug_barrier()  # every thread must have written its sums before one counts
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
            # dead from here on: frees their registers while a tile is finished
            total = tl.zeros((BLOCK_N, TOKENS), tl.float32)
            squares = tl.zeros((TOKENS,), tl.float32)


# --- launcher --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Config:
    """Tile sizes and resources of one launch.

    `block_k` determines which products are added first, and so the result's rounding. The others
    change a result only if the matrix unit's order of summation depends on the instruction's shape.
    """

    block_n: int
    block_k: int
    tokens: int
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int = 2


def config_for(rows: int, weight_dtype: torch.dtype) -> Config:
    """Return the configuration, chosen by what the compiler reports for sm_90: registers, shared
    memory and spills. No measurement on a GPU has confirmed it yet."""
    quantized = weight_dtype in QUANTIZED
    tokens = max(32 if quantized else 16, triton.next_power_of_2(rows))
    # Two programs on a multiprocessor hide each other's pauses between chunks. From 64 tokens on,
    # the float32 sums leave registers for one program only, which gets a longer pipeline instead.
    alone = tokens > 32
    # The sums that a program's registers hold. float32 products need registers of their own: the
    # matrix unit does not compute them.
    cells = 64 * 128 if weight_dtype == torch.float32 else 128 * 128
    # float8 is widened in registers; with more warps, two programs still fit
    spread = alone or weight_dtype == torch.float8_e4m3fn
    return Config(
        block_n=min(128, cells // tokens),
        block_k=128 // max(2, weight_dtype.itemsize),  # for any number of rows: see the module
        tokens=tokens,
        num_warps=8 if spread else 4,
        num_stages=5 if tokens > 128 else 6 if quantized or alone else 4,
        programs_per_multiprocessor=1 if alone else 2,
    )


@dataclass(frozen=True, slots=True)
class Workspace:
    """Memory for tiles that several programs share.

    One serves all launches on one stream; launches that may overlap need one each.
    """

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
        """Allocate for the largest of `launches`, each a configuration, n and k.

        A configuration for more rows covers those for fewer.
        """
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
    """Return how many programs share the work, and how many partial tiles each may leave."""
    tiles, chunks = triton.cdiv(n, config.block_n), triton.cdiv(k, CHUNK)
    if programs is None:
        programs = config.programs_per_multiprocessor * _multiprocessors(device)
    programs = min(programs, tiles * chunks)
    fits = programs >= 1 and tiles * chunks * (programs + 1) < 2**31
    expected = f"at least 1, and {tiles * chunks} units * programs < 2^31"
    require(fits, "programs", expected, programs, "leave it out")
    slots = min(chunks - 1, triton.cdiv(tiles * chunks, programs)) + 1
    return _Division(tiles, programs, slots)


def _multiprocessors(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return 4  # for the interpreter: enough that programs share tiles


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
    """Return `epilogue(norm(x) @ (weight * scale).T)`.

    | epilogue | result (rows, n), of float32 sums rounded once |
    |---|---|
    | none | y |
    | residual | residual + y; `residual` (rows, n), may be `out` itself |
    | swiglu | (rows, n/2): silu(gate) * up, weight rows interleaved by `interleave_rows` |
    | silu_residual | residual + silu(y); `residual` (rows, m) with n a multiple of m, repeated |

    Args:
        x: (rows, k) of bfloat16, float16 or float32, 1 to 256 rows of any stride.
        weight: (n, k) of x's dtype, or float8_e4m3fn or int8; rows of any stride.
        scale: float32 (n,), of a quantized weight.
        residual: See the table.
        epilogue: See the table.
        norm_eps: Divides each row of x by its root mean square. Fold the norm's own weight into
            `weight` (`quantize.fold_norm`).
        out: Of any of x's dtypes; allocated with x's if left out. With swiglu float16 saturates.
        copy_residual: With silu_residual, also write the residual into the m columns in front of
            `out` in memory; `out` must be such a view.
        workspace: Allocated if left out, which costs a second launch.
        programs: For tests and tuning; never changes the result.
        overlap: Start while the previous kernel on the stream still runs (programmatic dependent
            launch). Every kernel of such a chain must set it.
        config: For tests and tuning.

    Raises:
        KernelArgumentError: A shape, stride, dtype or device does not fit.
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
            _check_offsets(name, tensor, high)
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
    fits = config.tokens >= rows and CHUNK % config.block_k == 0
    expected = f"at least {rows} tokens and a block_k that divides {CHUNK}"
    got = f"{config.tokens} tokens, block_k {config.block_k}"
    require(fits, "config", expected, got, "use config_for")


def _check_offsets(name: str, tensor: torch.Tensor, rows: int) -> None:
    """Check that 32-bit offsets address all elements of `rows` rows."""
    fits = rows * tensor.stride(0) + tensor.shape[1] < 2**31
    expected, got = f"{rows} rows within 2^31 elements", f"strides {tensor.stride()}"
    require(fits, name, expected, got, "make it contiguous first, or pass fewer rows")


def _check_operands(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None
) -> tuple[int, int, int]:
    check_tensor("x", x, ACTIVATIONS, (None, None))
    rows, k = x.shape
    remedy = "use torch.matmul, which is better for many rows, or split them"
    require(rows <= MAX_ROWS, "x", f"at most {MAX_ROWS} rows", f"{rows} rows", remedy)
    check_tensor("weight", weight, (x.dtype, *QUANTIZED), (None, k))
    require(
        (weight.dtype in QUANTIZED) == (scale is not None),
        "scale",
        "a scale exactly when the weight is float8_e4m3fn or int8",
        f"{'no ' if scale is None else ''}scale with {weight.dtype}",
        "pass weight and scale as quantize_rows returns them",
    )
    if scale is not None:
        check_tensor("scale", scale, (torch.float32,), (weight.shape[0],))
    return rows, weight.shape[0], k


def _check_epilogue(
    rows: int, n: int, residual: torch.Tensor | None, epilogue: Epilogue, copy_residual: bool
) -> int:
    """Return the number of output columns."""
    known = epilogue in _EPILOGUES
    require(known, "epilogue", " or ".join(_EPILOGUES), repr(epilogue), "choose one")
    wanted = epilogue in ("residual", "silu_residual")
    require(
        wanted == (residual is not None) and (epilogue == "silu_residual" or not copy_residual),
        "residual",
        "a residual exactly with epilogues residual and silu_residual, and copy_residual only "
        "with the latter",
        f"{'no ' if residual is None else ''}residual with epilogue {epilogue}, "
        f"copy_residual={copy_residual}",
        "name the epilogue that is meant",
    )
    if residual is not None:
        columns = n if epilogue == "residual" else None
        check_tensor("residual", residual, ACTIVATIONS, (rows, columns))
        expected, got = f"a number of columns that divides {n}", f"{residual.shape[1]} columns"
        fits = n % residual.shape[1] == 0
        require(fits, "residual", expected, got, "stack whole heads in the weight")
    expected, remedy = "an even number of rows for swiglu", "interleave them with interleave_rows"
    require(epilogue != "swiglu" or n % 2 == 0, "weight", expected, f"{n} rows", remedy)
    return n // 2 if epilogue == "swiglu" else n


def _check_out(out: torch.Tensor, rows: int, columns: int, in_front: int) -> None:
    """Check the output; `in_front` columns before each of its rows are written, too."""
    check_tensor("out", out, ACTIVATIONS, (rows, columns))
    enough = rows == 1 or out.stride(0) >= columns + in_front
    require(
        out.storage_offset() >= in_front and enough,
        "out",
        f"rows {columns} wide with {in_front} columns of their own before each",
        f"storage offset {out.storage_offset()}, strides {out.stride()}",
        f"pass buffer[:, {in_front}:] of a contiguous buffer",
    )


def _check_workspace(workspace: Workspace, config: Config, division: _Division) -> None:
    needed = {
        "partials": division.programs * division.slots * config.block_n * config.tokens,
        "squares": division.programs * division.slots * config.tokens,
        "counters": division.tiles,
    }
    for name, size in needed.items():
        found = getattr(workspace, name).numel()
        remedy = "allocate it with Workspace.allocate for every launch that uses it"
        require(found >= size, f"workspace.{name}", f"at least {size} elements", found, remedy)


# --- reference -------------------------------------------------------------------------------


def interleave_rows(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Interleave gate and up, (m, k) each, to the (2m, k) weight of the swiglu epilogue."""
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
    """Compute `skinny_gemm` in plain torch, in `dtype` (float64 in tests) or that of x."""
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
