"""Latents to I420 frames: the tokenizer's decoder and what comes behind it.

On a CPU everything is done when `make` returns. On a GPU it runs on a stream of its own, beside the
sampling of other latents, and is copied into pinned memory: `make` only starts it, and only
`PendingFrames.frames` waits, for an event behind the copy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worldbridge.models.progress import Progress, silent
from worldbridge.models.tokenizer import StreamState, TokenizerConfig, VideoTokenizer
from worldbridge.runtime.config import EAGER
from worldbridge.runtime.frames.i420 import i420_planes, i420_size, unit_to_bytes
from worldbridge.runtime.frames.patch_decoders import PatchDecoder
from worldbridge.runtime.process import one_thread

__all__ = [
    "CpuDetokenizer",
    "CudaDetokenizer",
    "Detokenizer",
    "PendingFrames",
    "SampledLatent",
    "make_detokenizer",
]


@dataclass(frozen=True, slots=True)
class SampledLatent:
    """Codes [h, w] of one latent, and on a GPU when they are there."""

    codes: Tensor
    ready: torch.cuda.Event | None = None


class PendingFrames(Protocol):
    """Frames under way. Both calls wait for them."""

    def frames(self) -> list[bytes]:
        """I420, oldest first."""
        ...

    def milliseconds(self) -> float:
        """How long making them took."""
        ...

    def codes(self) -> Tensor:
        """Of the newest latent, [h, w] on the CPU."""
        ...


class Detokenizer(Protocol):
    """`fresh`, `hand_over` and `make` may be called on different threads."""

    def fresh(self) -> StreamState:
        """Of a stream that has seen no latent."""
        ...

    def aside(self) -> AbstractContextManager[object]:
        """For other work of the tokenizer, so that it waits for nothing that is drawn."""
        ...

    def hand_over(self, codes: Tensor) -> list[SampledLatent]:
        """Latents [B, h, w] that the calling thread has drawn."""
        ...

    def make(
        self, latents: Sequence[SampledLatent], stream: StreamState, newest: int
    ) -> tuple[PendingFrames, StreamState]:
        """The `newest` frames of these latents, which continue `stream`, and where it is then.

        They are decoded one by one, as they were when they were new, so that frames made again
        are the same ones.
        """
        ...


def make_detokenizer(
    tokenizer: VideoTokenizer,
    height: int,
    width: int,
    window: int,
    pixels: str = EAGER,
    progress: Progress = silent,
) -> Detokenizer:
    """For the tokenizer's device; a latent is height x width, `window` as in `StreamState`.

    `pixels`: how a GPU makes them, see `runtime/config.py`; `progress` reports compiling.
    Raises PixelsError for engines that were not made for this world.
    """
    device = tokenizer.post_quant_conv.conv3d.weight.device
    if device.type == "cuda":
        from worldbridge.runtime.frames.detokenizer import CudaDetokenizer
        from worldbridge.runtime.frames.patch_decoders import make_patch_decoder

        grid = height, width
        source = make_patch_decoder(pixels, tokenizer, grid, window, device, progress)
        return CudaDetokenizer(tokenizer.config, source, grid, device)
    return CpuDetokenizer(tokenizer, height, width, window)


@dataclass(frozen=True, slots=True)
class _Made:
    done: list[bytes]
    took_ms: float
    newest: Tensor

    def frames(self) -> list[bytes]:
        return self.done

    def milliseconds(self) -> float:
        return self.took_ms

    def codes(self) -> Tensor:
        return self.newest


class CpuDetokenizer:
    def __init__(self, tokenizer: VideoTokenizer, height: int, width: int, window: int) -> None:
        self._tokenizer = tokenizer
        self._shape = height, width, window

    def fresh(self) -> StreamState:
        return self._tokenizer.decode_stream_init(1, *self._shape)

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()

    def hand_over(self, codes: Tensor) -> list[SampledLatent]:
        return [SampledLatent(latent) for latent in codes]

    @torch.inference_mode()
    def make(
        self, latents: Sequence[SampledLatent], stream: StreamState, newest: int
    ) -> tuple[PendingFrames, StreamState]:
        begun = time.monotonic()
        done: list[bytes] = []
        with one_thread():  # the other cores draw the next tokens meanwhile
            for latent in latents:
                pixels, stream = self._tokenizer.decode_step(
                    latent.codes[None, None], stream, check_range=False
                )
                planes = i420_planes(unit_to_bytes(pixels[0].float()).transpose(0, 1))
                done = [*done, *(plane.numpy().tobytes() for plane in planes)][-newest:]
        took_ms = (time.monotonic() - begun) * 1000
        return _Made(done[len(done) - newest :], took_ms, latents[-1].codes), stream


@dataclass(frozen=True, slots=True)
class _Copying:
    maker: CudaDetokenizer
    begun: torch.cuda.Event
    ended: torch.cuda.Event
    parts: list[Tensor]  # uint8 [T, size] in pinned memory
    newest: Tensor  # in pinned memory
    count: int

    def frames(self) -> list[bytes]:
        self.ended.synchronize()
        done = [plane.numpy().tobytes() for part in self.parts for plane in part]
        self.maker.give_back(self.parts)
        self.parts.clear()
        return done[len(done) - self.count :]

    def milliseconds(self) -> float:
        self.ended.synchronize()
        return float(self.begun.elapsed_time(self.ended))

    def codes(self) -> Tensor:
        self.ended.synchronize()
        return self.newest.clone()


class CudaDetokenizer:
    """Of the tokenizer that `config` describes; `source` makes a latent's frames."""

    def __init__(
        self,
        config: TokenizerConfig,
        source: PatchDecoder,
        grid: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._config, self._source, self._device = config, source, device
        height, width = (side * config.spatial_compression for side in grid)
        self._size = i420_size(height, width)
        self._stream, self._other = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._pinned: list[Tensor] = []

    def fresh(self) -> StreamState:
        return self._source.fresh()

    def aside(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._other)

    def hand_over(self, codes: Tensor) -> list[SampledLatent]:
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(self._device))
        codes.record_stream(self._stream)  # the decoder may free them before they are decoded
        return [SampledLatent(latent, ready) for latent in codes]

    @torch.inference_mode()
    def make(
        self, latents: Sequence[SampledLatent], stream: StreamState, newest: int
    ) -> tuple[PendingFrames, StreamState]:
        parts: list[Tensor] = []
        count, codes = 0, latents[-1].codes
        with self._beside(latents) as (begun, ended):
            for number, latent in enumerate(latents):
                codes = latent.codes.to(self._device, non_blocking=True)
                planes, stream = self._source.planes(codes, stream)
                count += len(planes)
                left = len(latents) - 1 - number
                if left * self._config.temporal_compression < newest:
                    parts.append(self._to_host(planes))
            host = torch.empty(codes.shape, dtype=codes.dtype, pin_memory=True)
            host.copy_(codes, non_blocking=True)
        return _Copying(self, begun, ended, parts, host, min(newest, count)), stream

    @contextmanager
    def _beside(
        self, latents: Sequence[SampledLatent]
    ) -> Iterator[tuple[torch.cuda.Event, torch.cuda.Event]]:
        begun = torch.cuda.Event(enable_timing=True)
        ended = torch.cuda.Event(enable_timing=True, blocking=True)
        with torch.cuda.stream(self._stream):
            for latent in latents:
                if latent.ready is not None:
                    self._stream.wait_event(latent.ready)
            begun.record(self._stream)
            yield begun, ended
            ended.record(self._stream)

    def _to_host(self, planes: Tensor) -> Tensor:
        frames = self._config.temporal_compression
        full = len(planes) == frames and self._pinned
        host = (
            self._pinned.pop()
            if full
            else torch.empty((len(planes), self._size), dtype=torch.uint8, pin_memory=True)
        )
        host.copy_(planes, non_blocking=True)
        return host

    def give_back(self, parts: Sequence[Tensor]) -> None:
        """Pinned memory is slow to get, so whole latents' is used again."""
        frames = self._config.temporal_compression
        self._pinned += [part for part in parts if len(part) == frames]
