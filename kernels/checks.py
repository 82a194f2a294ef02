"""Check launch arguments, for all launchers.

A kernel trusts its pointers: a wrong shape or stride reads or writes memory that is not its own.
So each launcher checks its arguments first. Every check raises KernelArgumentError.
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
    "check_rings",
    "check_shape",
    "check_slots",
    "check_strides",
    "check_tensor",
    "check_workspace",
    "interpreting",
    "require",
]

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


class KernelArgumentError(StructuredError, ValueError):
    """A launch argument that the kernel cannot take. The message is the argument's name."""


def interpreting() -> bool:
    """Return whether kernels run in Triton's interpreter on the CPU instead of on a GPU."""
    return bool(knobs.runtime.interpret)


def require(fits: bool, name: str, expected: str, got: object, remedy: str) -> None:
    """Raise KernelArgumentError about the argument `name` unless it fits."""
    if not fits:
        raise KernelArgumentError(name, expected=expected, got=str(got), remedy=remedy)


def check_device(**tensors: Tensor | None) -> torch.device:
    """Return the device that all tensors share; None stands for an argument that was left out.

    It has to be a CUDA device, or any device when interpreting.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    device = next(iter(given.values())).device
    allowed = device.type == "cuda" or interpreting()
    if not allowed or any(tensor.device != device for tensor in given.values()):
        raise KernelArgumentError(
            next(name for name, t in given.items() if not allowed or t.device != device),
            expected="all tensors on one CUDA device",
            got=", ".join(f"{name} on {t.device}" for name, t in given.items()),
            remedy="move them there, or call the torch reference",
        )
    return device


def check_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """Check that the tensor has one of the allowed dtypes."""
    if tensor.dtype not in allowed:
        expected = " or ".join(str(dtype) for dtype in allowed)
        require(False, name, expected, tensor.dtype, f"convert it with .to({allowed[0]})")


def check_shape(name: str, tensor: Tensor, *sizes: int | None) -> None:
    """Check the shape; None matches any size of at least 1."""
    shape = tuple(tensor.shape)
    fits = len(shape) == len(sizes) and all(
        size > 0 if expected is None else size == expected
        for size, expected in zip(shape, sizes, strict=True)
    )
    if not fits:
        remedy = "pass a tensor of that shape (none of its sizes may be 0)"
        require(False, name, f"shape ({_listed(sizes)})", f"shape {shape}", remedy)


def check_strides(name: str, tensor: Tensor, *strides: int | None) -> None:
    """Check the strides; None matches any stride.

    Along an axis of size 1 any stride fits, because it is never used.
    """
    fits = tensor.dim() == len(strides) and all(
        expected is None or stride == expected or size == 1
        for size, stride, expected in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )
    if not fits:
        expected, got = f"strides ({_listed(strides)})", f"strides {tensor.stride()}"
        require(False, name, expected, got, "make it contiguous first")


def _listed(numbers: Sequence[int | None]) -> str:
    return ", ".join("any" if number is None else str(number) for number in numbers)


def check_tensor(
    name: str,
    tensor: Tensor,
    dtypes: Sequence[torch.dtype],
    sizes: Sequence[int | None],
    strides: Sequence[int | None] | None = None,
) -> None:
    """Check dtype, shape and strides; by default the last axis alone has to be dense."""
    check_dtype(name, tensor, dtypes)
    check_shape(name, tensor, *sizes)
    check_strides(name, tensor, *([None] * (len(sizes) - 1) + [1] if strides is None else strides))


def check_integers(name: str, tensor: Tensor, *sizes: int | None) -> None:
    """Check that the tensor is contiguous int64 of one or two dimensions."""
    check_dtype(name, tensor, [torch.int64])
    check_shape(name, tensor, *sizes)
    check_strides(name, tensor, *((tensor.shape[1], 1) if len(sizes) == 2 else (1,)))


def check_rings(keys: Tensor, values: Tensor, dtype: torch.dtype, size: int | None = None) -> None:
    """Check keys and values [capacity, Hkv, S, D], which must be laid out alike."""
    check_tensor("keys", keys, [dtype], (None, None, None, size))
    check_tensor("values", values, [dtype], keys.shape, keys.stride())


def check_slots(batch: int, keys: Tensor, slots: Tensor | None) -> None:
    """Check that each of `batch` sessions has a slot of keys [capacity, Hkv, S, D]."""
    if slots is not None:
        check_integers("slots", slots, batch)
        return
    expected, got = f"a slot for each of {batch} sessions", f"{len(keys)} slots"
    require(batch <= len(keys), "keys", expected, got, "allocate more slots, or pass slots")


def check_workspace(workspace: object, needed: object) -> None:
    """Check that a workspace is at least as large as the needed one (on any device)."""
    for field in fields(needed):  # type: ignore[arg-type]
        tensor, least = getattr(workspace, field.name), getattr(needed, field.name)
        check_dtype(field.name, tensor, [least.dtype])
        check_strides(field.name, tensor, 1)
        fits = tensor.numel() >= least.numel()
        expected, remedy = f"at least {least.numel()} elements", "allocate it for the largest call"
        require(fits, field.name, expected, tensor.numel(), remedy)
