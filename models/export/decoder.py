"""Run exported graphs, and use exported decoders as the tokenizer's streams are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from worldbridge.models.errors import ExportError
from worldbridge.models.export.manifest import Exported, package, read_export
from worldbridge.models.tokenizer import StreamState
from worldbridge.models.tokenizer.tokenizer import check_indices

__all__ = [
    "ExportedDecoder",
    "OnnxDecoder",
    "OnnxRunner",
    "Runner",
    "TensorRTDecoder",
    "TensorRTRunner",
]


class Runner(Protocol):
    """Runs graphs: tensors by name in, tensors by name out. A graph is opened on first use."""

    device: torch.device  # of inputs and outputs

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class OnnxRunner:
    """Run graphs with onnxruntime on the CPU. Raises ExportError without that package."""

    def __init__(self, exported: Exported, threads: int | None = None) -> None:
        self.device = torch.device("cpu")
        self._exported, self._threads = exported, threads
        self._package = package("onnxruntime", "running ONNX files", "export")
        self._sessions: dict[str, Any] = {}

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        feeds = {name: value.contiguous().numpy() for name, value in inputs.items()}
        names = [value.name for value in self._exported.outputs[graph]]
        found = self._sessions[graph].run(names, feeds)
        return {name: torch.from_numpy(x) for name, x in zip(names, found, strict=True)}

    def _open(self, graph: str) -> Any:
        options = self._package.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        path = str(self._exported.path(graph))
        return self._package.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TensorRTRunner:
    """Run graphs with TensorRT on the current GPU. Raises ExportError without the package.

    An engine is code for the GPU: run only engines from a source that you trust.
    """

    def __init__(self, exported: Exported) -> None:
        self.device = torch.device("cuda")
        self._exported = exported
        trt = package("tensorrt", "running TensorRT engines", "tensorrt")
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._stream = torch.cuda.Stream()
        self._opened: dict[str, Any] = {}  # the engine too: a context does not keep it alive

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
        # TensorRT wants a stream of its own; the waits keep PyTorch's order.
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


class ExportedDecoder:
    """`decode_stream_init` and `decode_step` of `VideoTokenizer`, by graphs of fixed shapes.

    Streams and latents of one call run one after the other. The states are `StreamState`s, which
    can be kept, selected and joined.
    """

    def __init__(self, exported: Exported, runner: Runner) -> None:
        self.config, self.exported, self.runner = exported.config, exported, runner
        self._time_axis = 1 if exported.pixels == "bytes" else 2

    def decode_stream_init(
        self, batch: int, height: int, width: int, window: int | None = None
    ) -> StreamState:
        """Return fresh streams. Raises ValueError for another grid or window than exported."""
        ours = (self.exported.height, self.exported.width, self.exported.window)
        if (height, width, window) != ours:
            raise ValueError(
                f"stream: expected the exported grid and window {ours}, "
                f"got {(height, width, window)}; export it again with --resolution and --window"
            )
        return StreamState.start(batch, height, width, window)

    def decode_step(
        self, indices: Tensor, state: StreamState, check_range: bool = True
    ) -> tuple[Tensor, StreamState]:
        """Decode the next latents [B, t, h, w]; return (frames, the next state).

        Frames are float32 [B, C, T, H, W] in [-1, 1], not clamped, or uint8 [B, T, H, W, C] if
        the graphs were exported with `--frame-type bytes`.
        """
        if check_range:
            check_indices(self.config, indices)
        state.check(len(indices), *indices.shape[2:])
        codes = indices.to(self.runner.device, torch.int32)
        streams = [
            self._stream(codes[row : row + 1], state.select([row])) for row in range(len(codes))
        ]
        frames = torch.cat([frames for frames, _ in streams])
        return frames, StreamState.concat([after for _, after in streams])

    def _stream(self, codes: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        frames = []
        for latent in codes.split(1, dim=1):
            graph = "decoder_first" if state.fresh else "decoder_next"
            found = self.runner.run(graph, {"codes": latent, **state.cache})
            frames.append(found[self.exported.outputs[graph][0].name])
            cache = {slot.input: found[slot.output] for slot in self.exported.slots}
            state = replace(state, counts=(state.counts[0] + 1,), cache=cache)
        return torch.cat(frames, dim=self._time_axis), state


class OnnxDecoder(ExportedDecoder):
    """Run the decoder in a folder of `worldbridge export onnx`. Raises ExportError."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        exported = _read(folder, "onnx")
        super().__init__(exported, OnnxRunner(exported, threads))


class TensorRTDecoder(ExportedDecoder):
    """Run the decoder in a folder of `worldbridge export tensorrt`. Raises ExportError."""

    def __init__(self, folder: Path) -> None:
        exported = _read(folder, "tensorrt")
        super().__init__(exported, TensorRTRunner(exported))


def _read(folder: Path, kind: str) -> Exported:
    exported = read_export(folder)
    if exported.kind != kind:
        raise ExportError(
            f"{folder} holds files of another kind",
            expected=kind,
            got=exported.kind,
            remedy=f"make them with `worldbridge export {kind}`",
        )
    return exported
