"""Latents to I420 pictures: the tokenizer's decoder and what comes behind it.

On a CPU everything is done when `make` returns. On a GPU it runs on a stream of its own, beside the
drawing of other latents: `make` only starts it, and only `PendingFrames.pictures` waits, for an
event behind the copy into pinned memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worldbridge.models.progress import Progress, silent
from worldbridge.models.tokenizer import StreamState, VideoTokenizer
from worldbridge.runtime.frames.i420 import i420_planes, unit_to_bytes
from worldbridge.runtime.frames.options import EAGER
from worldbridge.runtime.threads import one_thread

__all__ = ["CpuDetokenizer", "SampledLatent", "PendingFrames", "Detokenizer", "make_detokenizer"]


@dataclass(frozen=True, slots=True)
class SampledLatent:
    """Codes [h, w] of one latent, and on a GPU when they are there."""

    codes: Tensor
    ready: torch.cuda.Event | None = None


class PendingFrames(Protocol):
    """Pictures under way. Both calls wait for them."""

    def pictures(self) -> list[bytes]:
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
        """The `newest` pictures of these latents, which continue `stream`, and where it is then.

        They are decoded one by one, as they were when they were new, so that pictures made again
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

    `pixels`: how a GPU makes them, see `runtime/frames/options.py`; `progress` reports compiling.
    Raises PixelsError for engines that were not made for this world.
    """
    device = tokenizer.post_quant_conv.conv3d.weight.device
    if device.type == "cuda":
        from worldbridge.runtime.frames.cuda_stream import CudaDetokenizer
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

    def pictures(self) -> list[bytes]:
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
