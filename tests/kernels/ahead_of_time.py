"""Compiles exactly what a launcher would launch, on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import triton

from worldbridge.kernels.compile import CompiledKernel, compile_kernel

_POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
_OPTIONS = ("num_warps", "num_stages", "launch_pdl", "enable_fp_fusion", "maxnreg")


def compile_launches(
    launch: Callable[[], object], *modules: str, ones: bool = False
) -> list[CompiledKernel]:
    """Every kernel that `launch` would start, compiled for sm_90 with the launcher's own
    arguments. `modules` are those whose `check_device` lets CPU tensors pass meanwhile.

    `ones`: as if every integer were 1, which the compiler makes a constant. A constant has not all
    that a number has, so a kernel may compile for every value but this, and the interpreter does
    not tell. With all of them at once, whatever is computed from them is a constant too.
    """
    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found.append((kernel, args, kwargs))

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(
                mock.patch(f"{module}.check_device", return_value=torch.device("cpu"))
            )
        stack.enter_context(mock.patch.object(triton.JITFunction, "run", record))
        launch()
    return [_compile(*call, ones) for call in found]


def _compile(
    kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ones: bool
) -> CompiledKernel:
    options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
    constant = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    general = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    signature: dict[str, str] = {}
    constexprs: dict[str, object] = {}
    aligned = []
    for name, value in {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}.items():
        if name in constant or value is None:
            constexprs[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            aligned += [name] * (value.data_ptr() % 16 == 0)
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif (ones or value == 1) and name not in general:
            constexprs[name] = 1
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            aligned += [name] * (value % 16 == 0 and name not in general)
    return compile_kernel(
        kernel,
        signature,
        constexprs,
        aligned=aligned,
        num_warps=options.pop("num_warps"),
        num_stages=options.pop("num_stages"),
        options=options,
    )
