"""Latents to I420 pictures on a GPU: on a stream of its own, copied into pinned memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from worldbridge.models.tokenizer import StreamState, VideoTokenizer
from worldbridge.runtime.i420 import i420_planes, i420_size, unit_to_bytes
from worldbridge.runtime.latent_pictures import Handed, Making

__all__ = ["CudaPictures"]

_KERNEL_PATCH = 4  # pixels and frames, what kernels/pixels.py joins


@dataclass(frozen=True, slots=True)
class _Copying:
    maker: CudaPictures
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


class CudaPictures:
    """Tokenizers with the published patches go from bands to I420 in one kernel.

    The network's features are in channels-last order by themselves (`models/tokenizer/layers.py`).
    """

    def __init__(
        self, tokenizer: VideoTokenizer, height: int, width: int, window: int, device: torch.device
    ) -> None:
        self._tokenizer, self._device = tokenizer, device
        self._shape = height, width, window
        config = tokenizer.config
        scale = config.spatial_compression
        self._size = i420_size(height * scale, width * scale)
        has_kernels = importlib.util.find_spec("triton") is not None
        fits = config.patch_time and config.patch_size == _KERNEL_PATCH
        self._in_one_kernel = has_kernels and fits
        self._stream, self._other = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._pinned: list[Tensor] = []

    def fresh(self) -> StreamState:
        return self._tokenizer.decode_stream_init(1, *self._shape)

    def aside(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._other)

    def hand_over(self, codes: Tensor) -> list[Handed]:
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(self._device))
        codes.record_stream(self._stream)  # whoever drew them may let go of them before we are done
        return [Handed(latent, ready) for latent in codes]

    @torch.inference_mode()
    def make(
        self, latents: Sequence[Handed], stream: StreamState, newest: int
    ) -> tuple[Making, StreamState]:
        parts: list[Tensor] = []
        count, codes = 0, latents[-1].codes
        with self._beside(latents) as (begun, ended):
            for number, latent in enumerate(latents):
                codes = latent.codes.to(self._device, non_blocking=True)
                planes, stream = self._planes(codes, stream)
                count += len(planes)
                left = len(latents) - 1 - number
                if left * self._tokenizer.config.temporal_compression < newest:
                    parts.append(self._to_host(planes))
            host = torch.empty(codes.shape, dtype=codes.dtype, pin_memory=True)
            host.copy_(codes, non_blocking=True)
        return _Copying(self, begun, ended, parts, host, min(newest, count)), stream

    @contextmanager
    def _beside(
        self, latents: Sequence[Handed]
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

    def _planes(self, codes: Tensor, stream: StreamState) -> tuple[Tensor, StreamState]:
        """Pictures uint8 [T, size] of one latent."""
        if self._in_one_kernel:
            # here, because only what runs on a GPU needs Triton
            from worldbridge.kernels.pixels import i420_of_patches

            first = stream.fresh
            patches, stream = self._tokenizer.decode_step_patches(codes[None, None], stream)
            return i420_of_patches(patches.contiguous(), first)[0], stream
        pixels, stream = self._tokenizer.decode_step(codes[None, None], stream, check_range=False)
        return i420_planes(unit_to_bytes(pixels[0].float()).transpose(0, 1)), stream

    def _to_host(self, planes: Tensor) -> Tensor:
        frames = self._tokenizer.config.temporal_compression
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
        frames = self._tokenizer.config.temporal_compression
        self._pinned += [part for part in parts if len(part) == frames]
