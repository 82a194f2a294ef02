"""Checks of launch arguments, shared by the launchers.

A kernel trusts its pointers: a wrong shape or stride reads or writes memory that is not its own.
So each launcher proves its arguments first, and says what was expected, what came and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from triton import knobs

from worldbridge.errors import StructuredError

__all__ = [
    "KernelArgumentError",
    "check_device",
    "check_dtype",
    "check_shape",
    "check_strides",
    "check_workspace",
    "interpreting",
]


class KernelArgumentError(StructuredError, ValueError):
    """A launch argument that the kernel cannot take. The message is the argument's name."""


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU, instead of on a GPU."""
    return bool(knobs.runtime.interpret)


def check_device(**tensors: torch.Tensor) -> torch.device:
    """All on one CUDA device (any one device under the interpreter). Returns it."""
    device = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if tensor.device != device or (device.type != "cuda" and not interpreting()):
            raise KernelArgumentError(
                name,
                expected="all tensors on one CUDA device",
                got=", ".join(f"{other} on {t.device}" for other, t in tensors.items()),
                remedy="move them there, or call the torch reference",
            )
    return device


def check_dtype(name: str, tensor: torch.Tensor, allowed: Sequence[torch.dtype]) -> None:
    if tensor.dtype not in allowed:
        raise KernelArgumentError(
            name,
            expected=" or ".join(str(dtype) for dtype in allowed),
            got=str(tensor.dtype),
            remedy=f"convert it with .to({allowed[0]})",
        )


def check_shape(name: str, tensor: torch.Tensor, *sizes: int | None) -> None:
    """`None` stands for any size of at least 1."""
    shape = tuple(tensor.shape)
    fits = len(shape) == len(sizes) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(shape, sizes, strict=True)
    )
    if not fits:
        wanted_text = ", ".join("any" if size is None else str(size) for size in sizes)
        raise KernelArgumentError(
            name,
            expected=f"shape ({wanted_text})",
            got=f"shape {shape}",
            remedy="pass a tensor of that shape (none of its sizes may be 0)",
        )


def check_strides(name: str, tensor: torch.Tensor, *strides: int | None) -> None:
    """`None` stands for any stride. A stride along an axis of size 1 is never used: any will do."""
    fits = tensor.dim() == len(strides) and all(
        wanted is None or stride == wanted or size == 1
        for size, stride, wanted in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )
    if not fits:
        wanted_text = ", ".join("any" if stride is None else str(stride) for stride in strides)
        raise KernelArgumentError(
            name,
            expected=f"strides ({wanted_text})",
            got=f"strides {tensor.stride()}",
            remedy="make it contiguous first",
        )


def check_workspace(have: object, need: object) -> None:
    """Tensors of a dataclass against those of one that is just large enough (any device)."""
    for field in fields(need):  # type: ignore[arg-type]
        name = field.name
        tensor, least = getattr(have, name), getattr(need, name)
        check_dtype(name, tensor, [least.dtype])
        check_strides(name, tensor, 1)
        if tensor.numel() < least.numel():
            raise KernelArgumentError(
                name,
                expected=f"at least {least.numel()} elements",
                got=str(tensor.numel()),
                remedy="allocate the workspace for the largest call",
            )
