"""The exported graphs as modules, each with example arguments and a description."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from worldbridge.models.errors import ExportError
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.stream import FixedPass, Pass

__all__ = ["Graph", "Pixels", "Slot", "Value", "build_graphs", "memory_of", "to_bytes"]

Pixels = Literal["float", "bytes"]
Grid = tuple[int, int]  # height and width in latents


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph. An axis of any length has a name instead of a size."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor that a stream keeps: `output` of a step is `input` of the next one."""

    input: str
    output: str
    layer: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A module to export."""

    name: str
    module: nn.Module
    arguments: tuple[Tensor, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    dynamic: tuple[dict[int, Any], ...] | None = None  # torch.export's names of free axes


def to_bytes(video: Tensor) -> Tensor:
    """Convert [1, 3, T, H, W] in [-1, 1] to uint8 [1, T, H, W, 3], rounded as in served frames."""
    return video.permute(0, 2, 3, 4, 1).mul(127.5).add(128).clamp(0, 255).to(torch.uint8)


class _Decoding(nn.Module):
    def __init__(
        self, tokenizer: VideoTokenizer, pixels: Pixels, window: int | None = None
    ) -> None:
        super().__init__()
        self.quantizer, self.pixels, self.window = tokenizer.quantizer, pixels, window
        self.post_quant_conv, self.decoder = tokenizer.post_quant_conv, tokenizer.decoder

    def frames(self, codes: Tensor, run: Pass) -> Tensor:
        dtype = self.post_quant_conv.conv3d.weight.dtype
        values = self.quantizer.indices_to_codes(codes.flatten(0, 1), dtype).permute(0, 3, 1, 2)
        video: Tensor = self.decoder(self.post_quant_conv(values), run).float()
        return to_bytes(video) if self.pixels == "bytes" else video


class WholeDecoder(_Decoding):
    """Decode codes int32 [1, t, h, w] to the frames of a video from its start."""

    def forward(self, codes: Tensor) -> Tensor:
        return self.frames(codes, Pass(1))


class FirstStep(_Decoding):
    """Decode codes int32 [1, 1, h, w] to (the first frame, caches...)."""

    def forward(self, codes: Tensor) -> tuple[Tensor, ...]:
        run = FixedPass(self.window, None)
        return (self.frames(codes, run), *run.memory().values())


class NextStep(_Decoding):
    """Decode (codes int32 [1, 1, h, w], caches...) to (the next n frames, caches...)."""

    def __init__(
        self, tokenizer: VideoTokenizer, pixels: Pixels, window: int | None, layers: list[str]
    ) -> None:
        super().__init__(tokenizer, pixels, window)
        self.layers = layers

    def forward(self, codes: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        run = FixedPass(self.window, dict(zip(self.layers, past, strict=True)))
        frames = self.frames(codes, run)
        memory = run.memory()
        return (frames, *(memory[layer] for layer in self.layers))


class WholeEncoder(nn.Module):
    """Encode a video float32 [1, 3, T, H, W] to codes int32 [1, t, h, w]."""

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        super().__init__()
        self.encoder, self.quant_conv = tokenizer.encoder, tokenizer.quant_conv
        self.quantizer = tokenizer.quantizer

    def forward(self, video: Tensor) -> Tensor:
        dtype = self.quant_conv.conv3d.weight.dtype
        z: Tensor = self.quant_conv(self.encoder(video.to(dtype), Pass(1)))
        values = self.quantizer.quantize(z.permute(0, 2, 3, 1))
        return self.quantizer.codes_to_indices(values).unsqueeze(0).to(torch.int32)


def memory_of(tokenizer: VideoTokenizer, grid: Grid, window: int | None) -> tuple[Slot, ...]:
    """Return what the decoder's stream keeps. Raises ExportError for a window that does not fit."""
    if tokenizer.config.attention and (window is None or window < 1):
        raise ExportError(
            "the window does not fit the tokenizer",
            expected="at least 1 earlier latent for its temporal attention to see",
            got=f"{window}",
            remedy="choose another --window, or leave it out for the one that serving uses",
        )
    # on the meta device: only shapes are computed
    first = FirstStep(copy.deepcopy(tokenizer).to("meta"), "float", window)
    run = FixedPass(window, None)
    first.frames(torch.zeros(1, 1, *grid, dtype=torch.int32, device="meta"), run)
    return tuple(
        Slot(f"state_{i:02}", f"next_{i:02}", layer, value.dtype, tuple(value.shape))
        for i, (layer, value) in enumerate(run.memory().items())
    )


def build_graphs(
    tokenizer: VideoTokenizer, grid: Grid, window: int | None, pixels: Pixels, parts: frozenset[str]
) -> list[Graph]:
    """Return the graphs of `parts` (stream, decoder, encoder) for a latent grid."""
    graphs = []
    if "stream" in parts:
        graphs += _stream_graphs(tokenizer, grid, window, pixels)
    if "decoder" in parts:
        graphs.append(
            Graph(
                "decoder",
                WholeDecoder(tokenizer, pixels),
                (torch.zeros(1, 3, *grid, dtype=torch.int32),),
                (Value("codes", torch.int32, (1, "latents", *grid)),),
                (_frames(tokenizer, grid, pixels, "frames"),),
                ({1: Dim("latents", min=1)},),
            )
        )
    if "encoder" in parts:
        graphs.append(_encoder_graph(tokenizer, grid))
    return graphs


def _stream_graphs(
    tokenizer: VideoTokenizer, grid: Grid, window: int | None, pixels: Pixels
) -> list[Graph]:
    slots = memory_of(tokenizer, grid, window)
    codes = Value("codes", torch.int32, (1, 1, *grid))
    example = torch.zeros(1, 1, *grid, dtype=torch.int32)
    past = tuple(torch.zeros(slot.shape, dtype=slot.dtype) for slot in slots)
    states = tuple(Value(slot.input, slot.dtype, slot.shape) for slot in slots)
    after = tuple(Value(slot.output, slot.dtype, slot.shape) for slot in slots)
    later = NextStep(tokenizer, pixels, window, [slot.layer for slot in slots])
    one, more = (
        _frames(tokenizer, grid, pixels, n) for n in (1, tokenizer.config.temporal_compression)
    )
    first = FirstStep(tokenizer, pixels, window)
    return [
        Graph("decoder_first", first, (example,), (codes,), (one, *after)),
        Graph("decoder_next", later, (example, *past), (codes, *states), (more, *after)),
    ]


def _encoder_graph(tokenizer: VideoTokenizer, grid: Grid) -> Graph:
    config = tokenizer.config
    sides = tuple(side * config.spatial_compression for side in grid)
    step = config.temporal_compression
    return Graph(
        "encoder",
        WholeEncoder(tokenizer),
        (torch.zeros(1, config.in_channels, 1 + 2 * step, *sides),),
        (Value("video", torch.float32, (1, config.in_channels, "frames", *sides)),),
        (Value("codes", torch.int32, (1, "latents", *grid)),),
        ({2: step * Dim("later", min=0) + 1},),
    )


def _frames(tokenizer: VideoTokenizer, grid: Grid, pixels: Pixels, count: int | str) -> Value:
    config = tokenizer.config
    height, width = (side * config.spatial_compression for side in grid)
    if pixels == "bytes":
        return Value("frames", torch.uint8, (1, count, height, width, config.out_channels))
    return Value("video", torch.float32, (1, config.out_channels, count, height, width))
