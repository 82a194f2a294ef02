"""Latents to I420 pictures on a GPU: on a stream of its own, copied into pinned memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from worldbridge.models.tokenizer import StreamState, TokenizerConfig
from worldbridge.runtime.frames.detokenizer import PendingFrames, SampledLatent
from worldbridge.runtime.frames.i420 import i420_size
from worldbridge.runtime.frames.patch_decoders import PatchDecoder

__all__ = ["CudaDetokenizer"]


@dataclass(frozen=True, slots=True)
class _Copying:
    maker: CudaDetokenizer
    begun: torch.cuda.Event
    ended: torch.cuda.Event
    parts: list[Tensor]  # uint8 [T, size] in pinned memory
    newest: Tensor  # in pinned memory
    count: int

    def pictures(self) -> list[bytes]:
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
    """Of the tokenizer that `config` describes; `source` makes a latent's pictures."""

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
        codes.record_stream(self._stream)  # whoever drew them may let go of them before we are done
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
