"""Tensors that say they are on a GPU, and the rules for mixing them with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.support.fake_cuda.streams import Memory, RuleError, Timeline

__all__ = ["CudaTensor", "GpuMode", "NumberedMode", "on_cpu"]

aten = torch.ops.aten
_TIMELINES: list[Timeline] = []  # the one in use, last
# operations that take a tensor of the host beside those of the GPU
_MIXED = {aten.copy_.default}
# operations whose result the host has to know
_WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.is_nonzero.default,
}
_ATTENTION = torch.nn.functional.scaled_dot_product_attention
# what asks the driver for the device before it is dispatched
_DIRECT = {Tensor.copy_: aten.copy_.default}
_NUMBERS = {Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.__index__, Tensor.item}
_COMPOSITES = {
    _ATTENTION,
    Tensor.__getitem__,
    Tensor.__setitem__,
    Tensor.contiguous,
    Tensor.new_tensor,
    Tensor.__invert__,
    *_NUMBERS,
}


class CudaTensor(Tensor):
    """`inner` holds the numbers, `memory` who uses them."""

    inner: Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, inner: Tensor, memory: Memory) -> CudaTensor:
        with torch.inference_mode(False):  # else it could be no view of another one
            made: CudaTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device="cuda:0",
            )
        made.inner, made.memory = inner, memory
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"CudaTensor({self.inner!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _COMPOSITES:
            return _composite(func, args, kwargs or {})
        if func in _DIRECT:
            return dispatch(_DIRECT[func], args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def record_stream(self, stream: Any) -> None:
        self.memory.recorded.add(stream)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use .cpu() first")

    def pin_memory(self, *_: Any) -> Tensor:
        raise RuntimeError("cannot pin 'CudaTensor': only dense CPU tensors can be pinned")


class NumberedMode(TorchFunctionMode):
    """`cuda` becomes `cuda:0` before PyTorch asks a driver which one is meant. Of one thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        kwargs = {name: _numbered(value) for name, value in (kwargs or {}).items()}
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            device = kwargs.pop("device")  # it asks the driver for memory by itself
            return func(*args, **kwargs).to(device)
        return func(*(_numbered(value) for value in args), **kwargs)


def _numbered(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda" and value.index is None:
        return torch.device("cuda:0")
    return "cuda:0" if isinstance(value, str) and value == "cuda" else value


class GpuMode(TorchDispatchMode):
    """Sees what makes tensors out of nothing. Of one thread."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return value.inner if isinstance(value, CudaTensor) else value


def wrapped(inner: Tensor, known: dict[int, CudaTensor] | None = None) -> CudaTensor:
    """With the memory of those in `known` (by storage) that it is a view of."""
    timeline = _TIMELINES[-1]
    origin = (known or {}).get(inner.untyped_storage()._cdata)
    if origin is not None:
        return CudaTensor(inner, origin.memory)
    return CudaTensor(inner, timeline.allocated())


def dispatch(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation that may have to do with the GPU."""
    flat, shape = tree_flatten((tuple(args), kwargs))
    gpu = [value for value in flat if isinstance(value, CudaTensor)]
    place = next((value for value in flat if isinstance(value, torch.device)), None)
    to_gpu = place is not None and place.type == "cuda"
    if not gpu and not to_gpu:
        return func(*args, **{k: v for k, v in kwargs.items() if k != "pin_memory"})
    host = any(_of_host(value) for value in flat)
    moves = place is not None and place.type != "meta" and bool(gpu) != to_gpu
    crosses = bool(gpu and host) or (bool(gpu or host) and moves)
    timeline = _TIMELINES[-1]
    _check(func, timeline, mixed=bool(gpu and host), crosses=crosses)
    args, kwargs = tree_unflatten([on_cpu(value) for value in flat], shape)
    kwargs.pop("pin_memory", None)
    written = _written(func, args, kwargs)
    mutated = [value for value in gpu if id(value.inner) in written]
    timeline.work([v.memory for v in gpu], [v.memory for v in mutated])
    blocks = crosses and not _non_blocking(func, args, kwargs)
    if func is aten.copy_.default and not isinstance(flat[0], CudaTensor):
        result = _to_host(timeline, func, args, kwargs, blocks)
    else:
        done = func(*args, **kwargs)
        if moves and any(done is value for value in args):
            done = done.clone()  # on a GPU it is somewhere else
        stays = to_gpu or place is None
        result = _on_gpu(timeline, func, args, kwargs, done, gpu, mutated) if stays else done
    boolean = func is aten.index.Tensor and any(v.dtype == torch.bool for v in gpu[1:])
    if func in _WAITS or boolean or blocks:
        timeline.wait(timeline.now)
    return result


def _on_gpu(
    timeline: Timeline,
    func: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    done: Any,
    gpu: list[CudaTensor],
    mutated: list[CudaTensor],
) -> Any:
    """Results as tensors of the GPU: arguments themselves, views of them, or new memory."""
    same = {id(value.inner): value for value in gpu}
    views = {value.inner.untyped_storage()._cdata: value for value in gpu}
    if timeline.recording is not None:
        again = _repeat(timeline, func, args, kwargs, done, gpu, mutated)
        timeline.recording.steps.append(again)

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return same[id(value)] if id(value) in same else wrapped(value, views)

    return tree_map(wrap, done)


def _of_host(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and not isinstance(value, CudaTensor)
        and value.device.type == "cpu"
        and value.dim() > 0
    )


def _check(func: Any, timeline: Timeline, *, mixed: bool, crosses: bool) -> None:
    if mixed and func not in _MIXED:
        raise RuleError(f"{func}: expected all tensors on cuda:0, found some on the CPU")
    if timeline.recording is not None and crosses:
        raise RuleError(f"{func}: copies between host and GPU while a graph is recorded")


def _non_blocking(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if func is aten.copy_.default and len(args) > 2:
        return args[2] is True
    return kwargs.get("non_blocking") is True


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> set[int]:
    """Which tensors (by id) an operation changes."""
    found: set[int] = set()
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = (
                args[position]
                if not argument.kwarg_only and position < len(args)
                else kwargs.get(argument.name)
            )
            found |= {id(v) for v in (value if isinstance(value, list | tuple) else [value])}
    return found


def _to_host(
    timeline: Timeline, func: Any, args: Sequence[Any], kwargs: dict[str, Any], blocks: bool
) -> Any:
    """A copy that is not waited for is there when somebody has waited."""
    if blocks:
        return func(*args, **kwargs)
    target, kept = args[0], args[1].clone()

    @torch.inference_mode()
    def arrive() -> None:
        target.copy_(kept)

    timeline.later(arrive)
    return target


def _repeat(
    timeline: Timeline,
    func: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    done: Any,
    used: list[CudaTensor],
    mutated: list[CudaTensor],
) -> Callable[[], None]:
    """The same operation on the same memory, results into the memory of the first ones."""
    reads, writes = [v.memory for v in used], [v.memory for v in mutated]
    views = {value.inner.untyped_storage()._cdata for value in used}

    def again() -> None:
        timeline.work(reads, writes)
        new = func(*args, **kwargs)
        for old, fresh in zip(tree_flatten(done)[0], tree_flatten(new)[0], strict=True):
            if isinstance(old, Tensor) and old.untyped_storage()._cdata not in views:
                old.copy_(fresh)

    return again


def _composite(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What PyTorch picks a kernel or a guard for by the device's type before it dispatches."""
    flat, shape = tree_flatten((tuple(args), kwargs))
    gpu = [value for value in flat if isinstance(value, CudaTensor)]
    writes = func is Tensor.__setitem__
    timeline = _TIMELINES[-1]
    indexes = func in (Tensor.__getitem__, Tensor.__setitem__) and timeline.recording is None
    if any(_of_host(value) for value in flat) and not indexes:  # an index is copied to the GPU
        raise RuleError(f"{func.__name__}: expected all tensors on cuda:0, found some on the CPU")
    chosen = func is not _ATTENTION and any(v.dtype == torch.bool for v in gpu[1:])
    if chosen or func in _NUMBERS:  # by how many are true, a result has its size
        timeline.wait(timeline.now)
    args, kwargs = tree_unflatten([on_cpu(value) for value in flat], shape)
    mutated = gpu[:1] if writes else []
    timeline.work([value.memory for value in gpu], [value.memory for value in mutated])
    done = func(*args, **kwargs)
    views = {value.inner.untyped_storage()._cdata: value for value in gpu}
    if timeline.recording is not None:
        timeline.recording.steps.append(_repeat(timeline, func, args, kwargs, done, gpu, mutated))
    return wrapped(done, views) if isinstance(done, Tensor) else done
