"""Exported decoders behind the interface of `VideoTokenizer`'s streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from worldbridge.models.errors import ExportError
from worldbridge.models.export.manifest import Exported, read_export
from worldbridge.models.export.runners import OnnxRunner, Runner, TensorRTRunner
from worldbridge.models.tokenizer import StreamState
from worldbridge.models.tokenizer.tokenizer import check_indices

__all__ = ["ExportedDecoder", "OnnxDecoder", "TensorRTDecoder"]


class ExportedDecoder:
    """`decode_stream_init` and `decode_step` as of `VideoTokenizer`, by graphs of fixed shapes.

    Several streams and several latents of one call run one after the other. States are plain
    `StreamState`s: they can be kept, selected and joined.
    """

    def __init__(self, exported: Exported, runner: Runner) -> None:
        self.config, self.exported, self.runner = exported.config, exported, runner
        self._time_axis = 1 if exported.pixels == "bytes" else 2

    def decode_stream_init(
        self, batch: int, height: int, width: int, window: int | None = None
    ) -> StreamState:
        """Raises ValueError for another grid or window than was exported."""
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
        """The next latents [B, t, h, w] -> (frames, state after them).

        Frames are float32 [B, C, T, H, W] in [-1, 1], not clamped, or, of an export with
        `--pixels bytes`, uint8 [B, T, H, W, C].
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
            pictures, state = self._latent(latent, state)
            frames.append(pictures)
        return torch.cat(frames, dim=self._time_axis), state

    def _latent(self, codes: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        graph = "decoder_first" if state.fresh else "decoder_next"
        found = self.runner.run(graph, {"codes": codes, **state.cache})
        (pictures,) = (found[name] for name in ("video", "pictures") if name in found)
        cache = {slot.input: found[slot.output] for slot in self.exported.slots}
        return pictures, replace(state, counts=(state.counts[0] + 1,), cache=cache)


class OnnxDecoder(ExportedDecoder):
    """A folder of `worldbridge export onnx`, run by onnxruntime. Raises ExportError."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        exported = _read(folder, "onnx")
        super().__init__(exported, OnnxRunner(exported, threads))


class TensorRTDecoder(ExportedDecoder):
    """A folder of `worldbridge export tensorrt`, run on the current GPU. Raises ExportError."""

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
