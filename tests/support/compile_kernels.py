"""Ahead-of-time compilation of Triton kernels, for machines without a GPU.

A kernel that passes under Triton's interpreter can still fail on the device: it may not compile,
spill registers, ask for too much shared memory, or fall back to slow matrix instructions. The
compiler's output shows all of that without a device, because Triton brings its own `ptxas` and
`cuobjdump`. `compile_kernel` compiles one kernel, `compile_launches` what a launcher would launch.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = 90  # compute capability of H100 and H200
MAX_SHARED_BYTES = 227 * 1024  # what one block may ask for there
# inline assembly puts opcodes behind a brace or a semicolon, predicates stand before them
_OPCODE = re.compile(r"(?:^|[{;])\s*(?:@!?%\w+\s+)?([a-z]\w*(?:[.:]+\w+)+)", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
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


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """What the compiler says about one kernel.

    `stack_bytes` and `local_bytes` are per thread; spilled registers land in either, so both are
    zero in a kernel that does not spill. `shared_bytes` is per block.
    """

    name: str
    ptx: str
    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int

    @property
    def spills(self) -> bool:
        return self.stack_bytes > 0 or self.local_bytes > 0

    def instructions(self, pattern: str) -> list[str]:
        """Distinct PTX opcodes that `pattern` (a regular expression) matches from their start,
        for example `wgmma.mma_async` or `mma.sync`."""
        opcodes = _OPCODE.findall(self.ptx)
        return sorted({opcode for opcode in opcodes if re.match(pattern, opcode)})


def compile_kernel(
    kernel: Any,
    arguments: Mapping[str, str],
    constexprs: Mapping[str, object],
    *,
    aligned: Collection[str] = (),
    num_warps: int = 4,
    num_stages: int = 3,
    capability: int = HOPPER,
    options: Mapping[str, object] | None = None,
) -> CompiledKernel:
    """Compile a `@triton.jit` function for a GPU that need not be here.

    `arguments` gives the type of every run-time argument as Triton writes it (`*bf16`, `*fp8e4nv`,
    `i32`, `fp32`); `constexprs` the value of every compile-time one. `aligned` names the
    arguments that are multiples of 16 (a pointer: of 16 bytes), as the launcher would find out by
    itself; without it loads are not vectorised and nothing is copied asynchronously.

    Raises `TypeError` when the arguments named here are not the kernel's, or when the kernel was
    imported under TRITON_INTERPRET=1 and is therefore no compilable function.
    """
    if not hasattr(kernel, "arg_names") or not isinstance(kernel, triton.JITFunction):
        raise TypeError(
            "expected a function under @triton.jit, got "
            f"{type(kernel).__name__}; import it without TRITON_INTERPRET=1 in the environment"
        )
    names = list(kernel.arg_names)
    given = {*arguments, *constexprs}
    if given != set(names) or not set(aligned) <= set(arguments):
        raise TypeError(
            f"expected arguments and constexprs of {kernel.__name__} to be {names}, got "
            f"{sorted(given)} with {sorted(aligned)} aligned; name each once"
        )
    source = ASTSource(
        fn=kernel,
        signature={name: arguments.get(name, "constexpr") for name in names},
        constexprs=dict(constexprs),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    # Triton's default for contracting a*b+c differs between versions: the launchers pin it too.
    chosen: dict[str, object] = {"enable_fp_fusion": True, **(options or {})}
    chosen |= {"num_warps": num_warps, "num_stages": num_stages}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=chosen)
    registers, stack, local = _resource_usage(binary.asm["cubin"])
    return CompiledKernel(
        name=str(kernel.__name__),
        ptx=str(binary.asm["ptx"]),
        registers=registers,
        stack_bytes=stack,
        local_bytes=local,
        shared_bytes=int(binary.metadata.shared),
    )


def _resource_usage(cubin: bytes) -> tuple[int, int, int]:
    """Registers, stack bytes and local bytes per thread, read from the machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = _USAGE.search(report)
    if found is None:
        raise RuntimeError(f"expected a line of resource usage from cuobjdump, got {report!r}")
    registers, stack, local = (int(number) for number in found.groups())
    return registers, stack, local


def compile_launches(
    launch: Callable[[], object], *modules: str, ones: bool = False
) -> list[CompiledKernel]:
    """Compile every kernel that `launch` would start, for sm_90 and with the launcher's arguments.

    `modules` are those whose `check_device` accepts CPU tensors meanwhile. With `ones`, every
    integer is 1, which the compiler makes a constant. A constant lacks attributes of a number, so
    a kernel may compile for every other value but this one, and the interpreter does not notice.
    With all of them at once, whatever is computed from them is a constant, too.
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
