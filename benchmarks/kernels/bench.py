"""`worldbridge bench kernels`: every kernel at the shapes of the 4B model, beside torch.

`bench_kernels` times them on a GPU. `check_kernels` compares them with their references, on a GPU
or, slowly and at small shapes, in Triton's interpreter on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy
import torch
import triton
from torch import Tensor

from worldbridge.benchmarks.kernels.attention_cases import attention_cases, norm_cases, rope_cases
from worldbridge.benchmarks.kernels.case import CHECKED, PUBLISHED, Case, Maker, Operands, Sizes
from worldbridge.benchmarks.kernels.gemm_cases import gemm_cases, medusa_cases
from worldbridge.benchmarks.kernels.token_cases import code_cases, detokenize_cases, token_cases
from worldbridge.benchmarks.machine import (
    datasheet_bandwidth,
    describe,
    describe_gpu,
    need_device,
    percent,
)
from worldbridge.benchmarks.timing import ColdLaunches, read_bandwidth
from worldbridge.kernels.checks import interpreting
from worldbridge.runtime.errors import NoDeviceError
from worldbridge.runtime.worlds.contract import Progress

__all__ = ["KERNELS", "bench_kernels", "check_kernels"]

KERNELS: Final = (
    "skinny_gemm",
    "medusa_heads",
    "decode_attention",
    "rope_write",
    "rms_norm",
    "sample_and_verify",
    "patches_to_i420",
    "indices_to_codes",
)
_QUICK_ROWS = (1, 10)


def bench_kernels(
    device: str, *, only: Collection[str], quick: bool, progress: Progress
) -> dict[str, Any]:
    """Time the kernels in `only` (all when empty) and return what `bench kernels --json` prints.

    Raises NoDeviceError without a GPU, as Triton compiles nothing for a CPU, and ValueError for an
    unknown kernel.
    """
    _check_names(only)
    gpu = torch.device(device)
    if gpu.type != "cuda" or not torch.cuda.is_available():
        raise NoDeviceError(
            "kernels can only be timed on a GPU",
            expected="an NVIDIA GPU, its driver, and a PyTorch built for CUDA",
            got=f"device {device}, PyTorch {torch.__version__}"
            + ("" if torch.cuda.is_available() else ", no CUDA device"),
            remedy="run this where a GPU is; --check compares every kernel with its reference on "
            "this machine, without timing it",
        )
    progress("measuring how fast memory is read", 0.0)
    measured = read_bandwidth(gpu, quick)
    sizes, maker = PUBLISHED, Maker(gpu)
    if quick:
        sizes = _quicker(sizes)
    weights = (torch.bfloat16, torch.float8_e4m3fn, torch.int8)
    cases = list(_cases(maker, sizes, torch.bfloat16, weights, only))
    rows = []
    for number, case in enumerate(cases):
        progress(_title(case), (number + 1) / (len(cases) + 1))
        rows.append(_timed(case, gpu, measured, 10 if quick else 50))
        torch.cuda.empty_cache()
    progress("done", 1.0)
    return {
        "environment": describe(),
        "device": device,
        "gpu": describe_gpu(gpu),
        "shapes": "cosmos-4b",
        "measured_read_bandwidth_gb_s": round(measured / 1e9, 1),
        "method": "means over the launches of a CUDA graph, operands not in the L2 cache: each "
        "launch reads memory of its own, and small operands are flushed before every sample",
        "cases": rows,
    }


def check_kernels(device: str, *, only: Collection[str], progress: Progress) -> dict[str, Any]:
    """Return errors against float64 in the kernels' own types, as `--check --json` prints them.

    Raises NoDeviceError if neither a GPU nor the interpreter can run the kernels, and ValueError
    for an unknown kernel.
    """
    _check_names(only)
    place = need_device(device)
    if place.type == "cpu":
        _need_interpreter()
    cases = [
        case
        for dtype, weights in _checked_types(place)
        for case in _cases(Maker(place), CHECKED, dtype, weights, only)
    ]
    rows = []
    for number, case in enumerate(cases):
        progress(_title(case), number / len(cases))
        rows.append(_checked(case))
    progress("done", 1.0)
    return {
        "environment": describe(),
        "device": device,
        "gpu": describe_gpu(place),
        "runs_in": "Triton's interpreter" if interpreting() else "native code",
        "within_limits": all(row["within_limit"] for row in rows),
        "cases": rows,
    }


def _check_names(only: Collection[str]) -> None:
    for name in only:
        if name not in KERNELS:
            raise ValueError(
                f"there is no kernel {name!r}: expected one of {', '.join(KERNELS)}; choose one of "
                "these, or leave --kernel out"
            )


def _checked_types(device: torch.device) -> list[tuple[torch.dtype, tuple[torch.dtype, ...]]]:
    """Return types of activations and weights. The interpreter is wrong in bfloat16."""
    half = torch.bfloat16 if device.type == "cuda" else torch.float16
    return [(torch.float32, (torch.float32,)), (half, (half, torch.float8_e4m3fn, torch.int8))]


def _need_interpreter() -> None:
    remedy = "use `worldbridge bench kernels --check`, which starts it, or run on a GPU"
    if not interpreting():
        raise NoDeviceError(
            "kernels cannot run here",
            expected="a GPU, or TRITON_INTERPRET=1 from before triton was imported",
            got="neither",
            remedy=remedy,
        )
    versions = triton.__version__, numpy.__version__
    if _release(versions[0]) < (3, 8) and _release(versions[1]) >= (2, 4):
        raise NoDeviceError(
            "Triton's interpreter does not run here",
            expected="triton 3.8 or newer, or NumPy before 2.4",
            got="triton {} and NumPy {}".format(*versions),
            remedy="install one of these",
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _quicker(sizes: Sizes) -> Sizes:
    return replace(
        sizes, rows=_QUICK_ROWS, medusa_rows=(1,), tokens=_QUICK_ROWS, contexts=sizes.contexts[:1]
    )


def _cases(
    maker: Maker,
    sizes: Sizes,
    dtype: torch.dtype,
    weights: tuple[torch.dtype, ...],
    only: Collection[str],
) -> Iterator[Case]:
    """Yield the cases in the order of `KERNELS`."""
    makers: dict[str, Callable[[], Iterator[Case]]] = {
        "skinny_gemm": lambda: gemm_cases(maker, sizes, dtype, weights),
        "medusa_heads": lambda: medusa_cases(maker, sizes, dtype, weights),
        "decode_attention": lambda: attention_cases(maker, sizes, dtype),
        "rope_write": lambda: rope_cases(maker, sizes, dtype),
        "rms_norm": lambda: norm_cases(maker, sizes, dtype),
        "sample_and_verify": lambda: token_cases(maker, sizes),
        "patches_to_i420": lambda: detokenize_cases(maker, sizes, dtype),
        "indices_to_codes": lambda: code_cases(maker, sizes, dtype),
    }
    for name in KERNELS:
        if not only or name in only:
            yield from makers[name]()


# --- one case ------------------------------------------------------------------------------------


def _timed(case: Case, device: torch.device, measured: float, samples: int) -> dict[str, Any]:
    timer = ColdLaunches(device, case.bytes_moved, samples)
    sets = [case.make() for _ in range(timer.copies)]
    ours = timer.time([operands.ours for operands in sets])
    baselines = []
    for name in sets[0].baselines:
        times = timer.time([operands.baselines[name] for operands in sets])
        ratio = round(times["p50"] / ours["p50"], 3)
        baselines.append({"name": name, "ms": _rounded(times), "times_ours": ratio})
    rate = case.bytes_moved / (ours["p50"] / 1000)
    peak = datasheet_bandwidth(torch.cuda.get_device_name(device))
    return {
        **_described(case),
        "bytes_moved": case.bytes_moved,
        "formula": case.formula,
        "launches_per_sample": timer.launches,
        "ms": _rounded(ours),
        "gb_per_second": round(rate / 1e9, 1),
        "percent_of_measured_bandwidth": percent(rate, measured),
        "percent_of_datasheet": percent(rate, peak),
        "baselines": baselines,
        "error": _errors(case, sets[0]),
    }


def _checked(case: Case) -> dict[str, Any]:
    error = _errors(case, case.make())
    limit = case.limit(error["torch"])
    return {
        **_described(case),
        "error": error,
        "limit": limit,
        "within_limit": error["ours"] <= limit,
    }


def _errors(case: Case, operands: Operands) -> dict[str, Any]:
    expected = operands.reference()
    first = next(iter(operands.baselines.values()))
    ours, theirs = operands.ours(), first()
    return {
        "measure": case.measure,
        "ours": case.error(_gathered(ours, operands.ours_left), expected),
        "torch": case.error(_gathered(theirs, operands.torch_left), expected),
    }


def _gathered(result: Tensor, left: Sequence[Tensor]) -> Tensor:
    """Return everything that a launch wrote, flat if that is more than its result."""
    return torch.cat([part.flatten() for part in (result, *left)]) if left else result


def _described(case: Case) -> dict[str, Any]:
    return {
        "kernel": case.kernel,
        "what": case.what,
        "shape": case.shape,
        "weights": case.weights,
        "activations": case.activations,
    }


def _title(case: Case) -> str:
    shape = ", ".join(f"{name} {size}" for name, size in case.shape.items())
    return f"{case.kernel}, {case.what}, {case.weights}, {shape}"


def _rounded(times: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in times.items()}
