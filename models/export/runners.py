"""Running exported graphs: tensors by name in, tensors by name out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from worldbridge.models.errors import ExportError
from worldbridge.models.export.manifest import Exported
from worldbridge.models.export.packages import require

__all__ = ["OnnxRunner", "Runner", "TensorRTRunner"]


class Runner(Protocol):
    """Opens a graph when it is first run."""

    device: torch.device  # where inputs are wanted and outputs are

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class OnnxRunner:
    """By onnxruntime, on the CPU. Raises ExportError without that package."""

    def __init__(self, exported: Exported, threads: int | None = None) -> None:
        self.device = torch.device("cpu")
        self._exported, self._threads = exported, threads
        self._package = require("onnxruntime", "running ONNX files", "export")
        self._sessions: dict[str, Any] = {}

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        session = self._sessions.get(graph)
        if session is None:
            session = self._sessions[graph] = self._open(graph)
        feeds = {name: value.contiguous().numpy() for name, value in inputs.items()}
        names = [value.name for value in self._exported.outputs[graph]]
        found = session.run(names, feeds)
        return {name: torch.from_numpy(x) for name, x in zip(names, found, strict=True)}

    def _open(self, graph: str) -> Any:
        options = self._package.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        path = str(self._exported.path(graph))
        return self._package.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TensorRTRunner:
    """By TensorRT, on the current GPU. Raises ExportError without the package."""

    def __init__(self, exported: Exported) -> None:
        self.device = torch.device("cuda")
        self._exported = exported
        trt = require("tensorrt", "running TensorRT engines", "tensorrt")
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._stream = torch.cuda.Stream()
        self._opened: dict[str, Any] = {}  # a context needs its engine kept: both are here

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if graph not in self._opened:
            self._opened[graph] = self._open(graph)
        _, context = self._opened[graph]
        given = {name: value.to(self.device).contiguous() for name, value in inputs.items()}
        for name, value in given.items():
            if not context.set_input_shape(name, tuple(value.shape)):
                raise ExportError(
                    f"the engine {graph} was built for other sizes",
                    expected=f"another shape of its input {name!r}",
                    got=f"{list(value.shape)}",
                    remedy="export it again with more --latents",
                )
            context.set_tensor_address(name, value.data_ptr())
        found = {}
        for wanted in self._exported.outputs[graph]:
            shape = tuple(context.get_tensor_shape(wanted.name))
            value = torch.empty(shape, dtype=wanted.dtype, device=self.device)
            context.set_tensor_address(wanted.name, value.data_ptr())
            found[wanted.name] = value
        # on a stream of its own, as TensorRT wants it, but in order with PyTorch's
        self._stream.wait_stream(torch.cuda.current_stream())
        done = context.execute_async_v3(self._stream.cuda_stream)
        torch.cuda.current_stream().wait_stream(self._stream)
        if not done:
            raise RuntimeError(f"TensorRT could not run the engine {graph}; see its messages")
        return found

    def _open(self, graph: str) -> tuple[Any, Any]:
        engine = self._runtime.deserialize_cuda_engine(self._exported.path(graph).read_bytes())
        if engine is None:
            raise ExportError(
                f"the engine {graph} does not load here",
                expected="the TensorRT version and GPU named in export.json",
                got=f"{torch.cuda.get_device_name()}",
                remedy="build it on this machine with `worldbridge export tensorrt`",
            )
        return engine, engine.create_execution_context()
