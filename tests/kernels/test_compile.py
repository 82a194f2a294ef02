"""The compiler's report, on kernels made to do what is asserted; and the interpreter's way back."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="needs triton: pip install triton")

import torch
import triton
import triton.language as tl

from tests.support.compile_kernels import compile_kernel
from tests.support.triton_interpreter import interpreted
from worldbridge.kernels.checks import (
    KernelArgumentError,
    check_device,
    check_dtype,
    check_shape,
    check_strides,
    interpreting,
)


@triton.jit
def _largest(values):
    return tl.max(values, axis=0)


@triton.jit
def _product(a_ptr, b_ptr, out_ptr, n, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    cells = i[:, None] * SIZE + i[None, :]
    a = tl.load(a_ptr + cells, mask=i[:, None] < n, other=0.0)
    b = tl.load(b_ptr + cells, mask=i[:, None] < n, other=0.0)
    product = tl.dot(a, b, input_precision="ieee")
    tl.store(out_ptr + cells, product + _largest(tl.sum(product, axis=1)))


POINTERS = {"a_ptr": "*bf16", "b_ptr": "*bf16", "out_ptr": "*fp32", "n": "i32"}


def test_report_tells_tensor_cores_from_the_old_path() -> None:
    wide = compile_kernel(_product, POINTERS, {"SIZE": 64}, aligned=["a_ptr", "b_ptr", "out_ptr"])
    assert wide.name == "_product" and ".target sm_90a" in wide.ptx
    assert wide.instructions("wgmma.mma_async")
    assert not wide.instructions("mma.sync")
    assert 0 < wide.registers <= 255 and wide.shared_bytes > 0 and not wide.spills
    narrow = compile_kernel(_product, POINTERS, {"SIZE": 16})
    assert narrow.instructions("mma.sync") and not narrow.instructions("wgmma")


def test_report_tells_spills() -> None:
    floats = {**POINTERS, "a_ptr": "*fp32", "b_ptr": "*fp32"}
    squeezed = compile_kernel(_product, floats, {"SIZE": 32}, num_warps=1, options={"maxnreg": 32})
    assert squeezed.registers <= 32
    assert squeezed.spills and squeezed.stack_bytes > 0


def test_arguments_have_to_be_the_kernels() -> None:
    with pytest.raises(TypeError, match="expected arguments and constexprs of _product"):
        compile_kernel(_product, {"a_ptr": "*bf16"}, {"SIZE": 16})
    with pytest.raises(TypeError, match="with .'SIZE'. aligned"):
        compile_kernel(_product, POINTERS, {"SIZE": 16}, aligned=["SIZE"])
    with pytest.raises(TypeError, match="expected a function under @triton.jit"):
        compile_kernel(_largest.fn, {"values": "fp32"}, {})


def test_interpreter_and_compiler_take_turns() -> None:
    a, b = torch.randn(16, 16), torch.randn(16, 16)
    for _ in range(2):
        with interpreted():
            assert interpreting()
            out = torch.full((16, 16), float("nan"))
            _product[(1,)](a, b, out, 16, SIZE=16)
        expected = a.double() @ b.double()
        expected = expected + expected.sum(1).max()
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
        assert not interpreting()
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.always_compile = True
            assert compile_kernel(_product, POINTERS, {"SIZE": 16}).registers


def test_checks_say_what_was_expected_what_came_and_what_to_do() -> None:
    tensor = torch.zeros(3, 4)
    with pytest.raises(KernelArgumentError, match=r"x: expected shape \(3, any, 1\), got .*3, 4"):
        check_shape("x", tensor, 3, None, 1)
    with pytest.raises(KernelArgumentError, match=r"expected shape \(any\), got shape \(0,\)"):
        check_shape("x", torch.zeros(0), None)
    with pytest.raises(KernelArgumentError, match=r"strides \(any, 1\), got strides \(1, 4\)"):
        check_strides("x", tensor.T, None, 1)
    with pytest.raises(KernelArgumentError, match="float16 or torch.int8, got torch.float32"):
        check_dtype("x", tensor, (torch.float16, torch.int8))
    with pytest.raises(KernelArgumentError, match="expected all tensors on one CUDA device") as e:
        check_device(x=tensor)
    assert e.value.message == "x" and "x on cpu" in e.value.got and e.value.remedy
    check_shape("x", tensor, None, 4)
    check_strides("x", tensor[:1, :1], 7, 7)  # never used along an axis of size 1


def test_devices_must_agree_under_the_interpreter_too(interpreter: None) -> None:
    assert check_device(x=torch.zeros(1), y=torch.zeros(2)) == torch.device("cpu")
    with pytest.raises(KernelArgumentError, match="y on meta"):
        check_device(x=torch.zeros(1), y=torch.zeros(2, device="meta"))
