"""`fake_cuda()`: torch.cuda and Triton's launches, replaced for a part of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch.nn.attention import bias

from tests.support.fake_cuda import tensors
from tests.support.fake_cuda.streams import Event, Recorder, RuleError, Stream, Timeline
from tests.support.fake_cuda.tensors import CudaTensor, GpuMode, NumberedMode
from tests.support.fake_cuda.threads import following_threads
from tests.support.triton_interpreter import interpreted, launch_interpreted

__all__ = ["Gpu", "fake_cuda"]

_NAME = "NVIDIA H200"
_ONE_AT_A_TIME = threading.Lock()  # the interpreter replaces parts of Triton while it runs
_PROPERTIES = SimpleNamespace(
    name=_NAME,
    multi_processor_count=4,
    L2_cache_size=2**16,
    total_memory=2**37,
    major=9,
    minor=0,
    uuid="00000000-0000-0000-0000-000000000000",
)


class Gpu:
    """What was done to it."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.launches = 0
        self.recorded = 0  # graphs

    @property
    def waits(self) -> int:
        """How often the host waited."""
        return self.timeline.waits


class _Graph:
    """As torch.cuda.CUDAGraph."""

    steps: list[Callable[[], None]] | None = None
    gpu: Gpu

    def replay(self) -> None:
        if self.steps is None:
            raise RuleError("a graph is replayed that was never recorded")
        for step in self.steps:
            step()

    def reset(self) -> None:
        self.steps = None


@contextmanager
def fake_cuda() -> Iterator[Gpu]:
    """Raises RuleError at the end for rules that were broken where no one could catch the error."""
    gpu = Gpu()
    timeline = gpu.timeline
    with ExitStack() as stack:
        stack.enter_context(interpreted())
        stack.enter_context(mock.patch.object(triton.JITFunction, "run", _launching(gpu)))
        for name, replacement in _of_torch(gpu).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, replacement))
        stack.enter_context(following_threads(timeline, _modes))
        for owner, name, replacement in (
            (torch, "compile", _uncompiled),
            (torch.jit, "trace", lambda program, *_, **__: program),
            (torch, "Generator", _Generator),
            (bias, "causal_lower_right", _lower_right),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        tensors._TIMELINES.append(timeline)
        # a module that is moved gets new parameters: old ones cannot become tensors of the GPU
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with _modes():
                yield gpu
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
            tensors._TIMELINES.pop()
    if timeline.broken:
        raise RuleError("; ".join(sorted(set(timeline.broken))))


class _Generator(torch.Generator):
    """Of the GPU's random numbers, which are the CPU's here."""

    def __new__(cls, device: object = None) -> _Generator:  # type: ignore[misc]
        return super().__new__(cls, "cpu")


def _lower_right(rows: int, columns: int) -> Tensor:
    """The mask that torch's own causal bias stands for: that is no tensor a mode can see."""
    places = torch.arange(columns, device="cuda:0")
    return places <= torch.arange(columns - rows, columns, device="cuda:0")[:, None]


@contextmanager
def _modes() -> Iterator[None]:
    with torch.no_grad(), NumberedMode(), GpuMode():  # gradients have no device here
        yield


def _uncompiled(function: Any = None, **_: Any) -> Any:
    return function if function is not None else (lambda given: given)


def _of_torch(gpu: Gpu) -> dict[str, Any]:
    timeline = gpu.timeline

    def make_event(**options: Any) -> Event:
        return Event(timeline, **options)

    @contextmanager
    def graph(graph: _Graph, pool: Any = None, stream: Stream | None = None, **_: Any) -> Any:
        if timeline.recorder is not None:
            raise RuleError("two graphs are recorded at the same time")
        recorder = Recorder(stream or Stream(timeline))
        recorder.stream.wait_stream(timeline.current)
        timeline.wait_for_all()  # as torch.cuda.graph does
        with timeline.on(recorder.stream):
            timeline.recorder = recorder
            try:
                yield
            finally:
                timeline.recorder = None
        timeline.current.wait_stream(recorder.stream)
        gpu.recorded += 1
        graph.steps = recorder.steps

    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "device": lambda device: nullcontext(),
        "get_device_name": lambda device=None: _NAME,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: _PROPERTIES,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: timeline.wait_for_all(),
        "Stream": lambda device=None, **_: Stream(timeline),
        "Event": make_event,
        "stream": timeline.on,
        "current_stream": lambda device=None: timeline.current,
        "default_stream": lambda device=None: timeline.default,
        "CUDAGraph": _Graph,
        "graph": graph,
        "graph_pool_handle": lambda: (0, 1),
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "mem_get_info": lambda device=None: (2**37, 2**37),
    }


def _launching(gpu: Gpu) -> Any:
    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        given = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
        used = [value for value in given.values() if isinstance(value, CudaTensor)]
        for name, value in given.items():
            if isinstance(value, Tensor) and not isinstance(value, CudaTensor):
                raise RuleError(f"{kernel.__name__}: {name} is on the CPU")
        plain = [tensors.on_cpu(value) for value in args]
        named = {name: tensors.on_cpu(value) for name, value in kwargs.items()}

        def launch() -> None:
            before = [value.inner.clone() for value in used]
            with _ONE_AT_A_TIME:
                launch_interpreted(kernel, *plain, grid=grid, warmup=warmup, **named)
            changed = [
                value
                for value, was in zip(used, before, strict=True)
                if not torch.equal(_bytes(value.inner), _bytes(was))
            ]
            gpu.timeline.work([v.memory for v in used], [v.memory for v in changed])
            gpu.launches += 1

        launch()
        recorder = gpu.timeline.recording
        if recorder is not None:
            recorder.steps.append(launch)

    return run


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)
