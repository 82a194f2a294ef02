"""Checks of launch arguments, shared by the launchers.

A kernel trusts its pointers: a wrong shape or stride reads or writes memory that is not its own.
So each launcher checks its arguments first, and its errors say what was expected, what was got and
how to fix it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor
from triton import knobs

from worldbridge.errors import StructuredError

__all__ = [
    "FLOATS",
    "KernelArgumentError",
    "check_device",
    "check_dtype",
    "check_integers",
    "check_shape",
    "check_strides",
    "check_workspace",
    "interpreting",
]

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


class KernelArgumentError(StructuredError, ValueError):
    """A launch argument that the kernel cannot take. The message is the argument's name."""


def interpreting() -> bool:
    """Return whether kernels run in Triton's interpreter on the CPU instead of on a GPU."""
    return bool(knobs.runtime.interpret)


def check_device(**tensors: Tensor | None) -> torch.device:
    """Return the device of all tensors; None stands for an argument that was left out.

    Raises KernelArgumentError unless they share one CUDA device (any device when interpreting).
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    device = next(iter(given.values())).device
    for name, tensor in given.items():
        if tensor.device != device or (device.type != "cuda" and not interpreting()):
            raise KernelArgumentError(
                name,
                expected="all tensors on one CUDA device",
                got=", ".join(f"{other} on {t.device}" for other, t in given.items()),
                remedy="move them there, or call the torch reference",
            )
    return device


def check_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """Raise KernelArgumentError unless the tensor has one of the allowed dtypes."""
    if tensor.dtype not in allowed:
        raise KernelArgumentError(
            name,
            expected=" or ".join(str(dtype) for dtype in allowed),
            got=str(tensor.dtype),
            remedy=f"convert it with .to({allowed[0]})",
        )


def check_shape(name: str, tensor: Tensor, *sizes: int | None) -> None:
    """Raise KernelArgumentError unless the shape fits; None matches any size of at least 1."""
    shape = tuple(tensor.shape)
    fits = len(shape) == len(sizes) and all(
        size > 0 if expected is None else size == expected
        for size, expected in zip(shape, sizes, strict=True)
    )
    if not fits:
        expected_text = ", ".join("any" if size is None else str(size) for size in sizes)
        raise KernelArgumentError(
            name,
            expected=f"shape ({expected_text})",
            got=f"shape {shape}",
            remedy="pass a tensor of that shape (none of its sizes may be 0)",
        )


def check_strides(name: str, tensor: Tensor, *strides: int | None) -> None:
    """Raise KernelArgumentError unless the strides fit; None matches any stride.

    Along an axis of size 1 any stride fits, because it is never used.
    """
    fits = tensor.dim() == len(strides) and all(
        expected is None or stride == expected or size == 1
        for size, stride, expected in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )
    if not fits:
        expected_text = ", ".join("any" if stride is None else str(stride) for stride in strides)
        raise KernelArgumentError(
            name,
            expected=f"strides ({expected_text})",
            got=f"strides {tensor.stride()}",
            remedy="make it contiguous first",
        )


def check_integers(name: str, tensor: Tensor, *sizes: int | None) -> None:
    """Raise KernelArgumentError unless the tensor is contiguous int64 of one or two dimensions."""
    check_dtype(name, tensor, [torch.int64])
    check_shape(name, tensor, *sizes)
    check_strides(name, tensor, *((tensor.shape[1], 1) if len(sizes) == 2 else (1,)))


def check_workspace(workspace: object, needed: object) -> None:
    """Raise KernelArgumentError if a workspace is smaller than the needed one (on any device)."""
    for field in fields(needed):  # type: ignore[arg-type]
        name = field.name
        tensor, least = getattr(workspace, name), getattr(needed, name)
        check_dtype(name, tensor, [least.dtype])
        check_strides(name, tensor, 1)
        if tensor.numel() < least.numel():
            raise KernelArgumentError(
                name,
                expected=f"at least {least.numel()} elements",
                got=str(tensor.numel()),
                remedy="allocate the workspace for the largest call",
            )
